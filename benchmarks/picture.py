"""How much faster the closed form of DEEP SPECTRUM's picture is than the figure it stands for.

    python benchmarks/picture.py [--clips 8] [--turns 10]

Both start from the same spectrograms (dB) and end with 224 x 224 pixels. They take turns in one thread, so that a busy
machine slows both; a turn is several clips in a row, as they come in a run: after a single figure of matplotlib's the
processor's caches hold nothing of ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _common import Row, parser, show, take_turns  # isort: skip  (first: makes src importable)

import numpy as np

import _plain
from soundstack.spectrograms.picture import DeepSpectrumPicture
from soundstack.utils.devices import keep_pages


def compare(rate: int, seconds: float, clips: int, turns: int) -> Row:
    """Draw the same clips both ways."""
    picture = DeepSpectrumPicture(rate)
    random = np.random.default_rng(0)
    swell = np.linspace(0.05, 1, round(rate * seconds))
    waves = [(0.2 * swell * random.standard_normal(len(swell))).astype(np.float32) for _ in range(clips)]
    spectrograms = [picture.decibel(wave) for wave in waves]
    timings, results = take_turns(
        {
            "figure": lambda turn: [_plain.picture(db, rate, picture.hop)[0] for db in spectrograms],
            "closed form": lambda turn: [picture.resized(db) for db in spectrograms],
            "spectrogram": lambda turn: [picture.decibel(wave) for wave in waves],
        },
        turns,
    )
    drawn, computed, spectrum = (np.array(timing.median) / clips * 1000 for timing in timings.values())
    equal = [
        (picture.db_to_picture(db) == figure).all(axis=-1).mean()
        for db, figure in zip(spectrograms, results["figure"][0], strict=True)
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


def rows(clips: int, turns: int) -> Iterator[Row]:
    """Measure two kinds of clips."""
    keep_pages()  # as every entry point does
    for rate, seconds in ((44_100, 5), (16_000, 10)):
        yield compare(rate, seconds, clips, turns)


if __name__ == "__main__":
    given = parser(__doc__, clips=(8, "clips of each kind, in a row"), turns=(10, "turns of each")).parse_args()
    show(rows(given.clips, given.turns), given.json)
