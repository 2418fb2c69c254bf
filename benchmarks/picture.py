"""How much faster the closed form of DEEP SPECTRUM's picture is than the figure it stands for.

    python benchmarks/picture.py [--clips 20]

Both start from the same spectrograms (dB) and end with 224 x 224 pixels; they take turns, clip by clip, in
one thread, so that a busy machine slows both. Printed for two kinds of clips: the median milliseconds of
each, their ratio, the share of equal pixels before the resize, and what the spectrogram itself costs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT / "src"), str(_ROOT / "tests")]

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from PIL import Image  # noqa: E402

from soundstack.picture import DeepSpectrumPicture  # noqa: E402
from toolkit_figure import draw_figure  # noqa: E402


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call and its milliseconds."""
    started = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - started) * 1000


def draw_and_resize(db: NDArray[np.float32], rate: int, hop: int) -> NDArray[np.uint8]:
    """The toolkit's way; the figure before the resize is returned."""
    figure = draw_figure(db, sample_rate=rate, hop=hop)
    Image.fromarray(figure).resize((224, 224), Image.Resampling.BICUBIC)
    return figure


def compare(rate: int, seconds: float, clips: int) -> str:
    """Draw clips both ways, and tell the outcome in a line."""
    picture = DeepSpectrumPicture(rate)
    random = np.random.default_rng(0)
    milliseconds = np.empty((clips, 3))
    equal = np.empty(clips)
    for clip in range(clips):
        swell = np.linspace(0.05, 1, round(rate * seconds))
        wave = (0.2 * swell * random.standard_normal(len(swell))).astype(np.float32)
        db, milliseconds[clip, 0] = timed(partial(picture.decibel, wave))
        figure, milliseconds[clip, 1] = timed(partial(draw_and_resize, db, rate, picture.hop))
        _, milliseconds[clip, 2] = timed(partial(picture.resized, db))
        equal[clip] = (picture.db_to_picture(db) == figure).all(axis=-1).mean()
    spectrogram, drawn, computed = np.median(milliseconds, axis=0)
    return (
        f"{rate:6d} Hz {seconds:4.0f} s {drawn:9.2f} {computed:12.3f} {drawn / computed:6.0f} "
        f"{equal.mean():13.2%} {spectrogram:12.2f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=20, help="clips of each kind")
    clips = parser.parse_args().clips
    compare(16_000, 1, 2)  # fonts, caches
    print("clip            figure  closed form  ratio  equal pixels  spectrogram")
    for rate, seconds in ((44_100, 5), (16_000, 10)):
        print(compare(rate, seconds, clips))


if __name__ == "__main__":
    main()
