"""How much faster the closed form of DEEP SPECTRUM's picture is than the figure it stands for.

    python benchmarks/picture.py [--clips 20]

Both start from the same spectrograms (dB) and end with 224 x 224 pixels; they take turns, clip by clip, in one thread,
so that a busy machine slows both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _common import Row, parser, show, take_turns  # isort: skip  (first: makes src importable)

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soundstack.devices import keep_pages
from soundstack.picture import DeepSpectrumPicture
from toolkit_figure import draw_figure


def draw_and_resize(db: NDArray[np.float32], rate: int, hop: int) -> NDArray[np.uint8]:
    """The toolkit's way; the figure before the resize is returned."""
    figure = draw_figure(db, sample_rate=rate, hop=hop)
    Image.fromarray(figure).resize((224, 224), Image.Resampling.BICUBIC)
    return figure


def compare(rate: int, seconds: float, clips: int) -> Row:
    """Draw clips both ways."""
    picture = DeepSpectrumPicture(rate)
    random = np.random.default_rng(0)
    swell = np.linspace(0.05, 1, round(rate * seconds))
    waves = [(0.2 * swell * random.standard_normal(len(swell))).astype(np.float32) for _ in range(clips)]
    spectrograms = [picture.decibel(wave) for wave in waves]
    timings, results = take_turns(
        {
            "figure": lambda clip: draw_and_resize(spectrograms[clip], rate, picture.hop),
            "closed form": lambda clip: picture.resized(spectrograms[clip]),
            "spectrogram": lambda clip: picture.decibel(waves[clip]),
        },
        clips,
        warm=2,  # fonts, caches
    )
    drawn, computed, spectrum = (np.array(timing.median) * 1000 for timing in timings.values())
    equal = [
        (picture.db_to_picture(db) == figure).all(axis=-1).mean()
        for db, figure in zip(spectrograms, results["figure"], strict=True)
    ]
    return Row(
        f"DEEP SPECTRUM picture, {rate / 1000:g} kHz, {seconds:g} s",
        "matplotlib figure, as DeepSpectrum draws it",
        "ms/clip",
        drawn[0],
        computed[0],
        drawn[0] / computed[0],
        drawn[1] / computed[1],
        60.0,
        f"{np.mean(equal):.2%} of pixels equal before the resize",
        f"its spectrogram takes {spectrum[1]:.1f} ms of processor time, in both ways",
    )


def rows(clips: int) -> Iterator[Row]:
    """Measure two kinds of clips."""
    keep_pages()  # as every entry point does
    for rate, seconds in ((44_100, 5), (16_000, 10)):
        yield compare(rate, seconds, clips)


if __name__ == "__main__":
    given = parser(__doc__, clips=(20, "clips of each kind")).parse_args()
    show(rows(given.clips), given.json)
