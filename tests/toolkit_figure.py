"""The figure that the DEEP SPECTRUM toolkit draws of a spectrogram: the oracle of the closed form."""

from __future__ import annotations

import librosa.display
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray


def draw_figure(db: NDArray[np.float32], *, sample_rate: int, hop: int, colour_map: str = "magma") -> NDArray[np.uint8]:
    """A spectrogram (128, frames) in dB, drawn by librosa and matplotlib: uint8 (227, 227, 3), RGB."""
    figure = Figure(figsize=(1, 1), dpi=227)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    librosa.display.specshow(
        db,
        sr=sample_rate,
        hop_length=hop,
        x_axis="time",
        y_axis="mel",
        fmin=0,
        fmax=sample_rate / 2,
        cmap=colour_map,
        ax=axes,
    )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
