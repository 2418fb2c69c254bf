"""Decoding 44.1 kHz OGG and its log-mel spectrogram: the project's way beside librosa's, clip by clip.

    python benchmarks/logmel.py [--clips 32] [--turns 5]

librosa as its documentation shows it, at the paper's window and hop: ``load``, ``feature.melspectrogram``,
``power_to_db``, one clip after the other. Ours: the same clips in one thread, and in as many as there are cores. They
take turns over the same clips. The clips are those of ``SOUNDSTACK_ESC10`` (the folder of the recordings) where that
is set, else synthesised.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the threads here are ours

from _common import Row, cores, parser, show, take_turns  # isort: skip  (first: makes src importable)

import numpy as np
import soundfile

import _plain
from soundstack.audio import decode as audio
from soundstack.spectrograms.log_mel import LogMel, SpectrogramSpec
from soundstack.utils.devices import keep_pages

RATE, SECONDS = 44_100, 5.0
SPEC = SpectrogramSpec(RATE)
AUDIO = audio.AudioSpec(RATE, SECONDS)


def recordings(folder: Path, clips: int) -> list[Path]:
    """OGG files of 5 s: real ones where there are, or noise that swells and a gliding tone."""
    given = os.environ.get("SOUNDSTACK_ESC10")
    if given:
        return sorted((Path(given) / "audio").glob("*.ogg"))[:clips]
    random = np.random.default_rng(0)
    time = np.arange(round(RATE * SECONDS)) / RATE
    paths = []
    for number in range(clips):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 40 * number + 100 * time) * time)
        noise = 0.1 * random.standard_normal(len(time)) * np.linspace(0.1, 1, len(time))
        paths.append(folder / f"{number}.ogg")
        soundfile.write(paths[-1], tone + noise, RATE, format="OGG", subtype="VORBIS")
    return paths


def rows(clips: int, turns: int) -> Iterator[Row]:
    """Measure."""
    keep_pages()
    transform = LogMel(SPEC)

    def ours(path: Path) -> Any:
        return transform(audio.prepare(*audio.decode(path), AUDIO))[0]

    blocks = [bytes(8_000_000)] * 8 * cores()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cores()) as pool:
        paths = recordings(Path(folder), clips)
        timings, results = take_turns(
            {
                "librosa": lambda turn: [_plain.log_mel(path, SPEC, AUDIO) for path in paths],
                "one thread": lambda turn: [ours(path) for path in paths],
                "all cores": lambda turn: list(pool.map(ours, paths)),
                "hashing": lambda turn: [sha256(block).digest() for block in blocks],
                "hashing, all cores": lambda turn: list(pool.map(sha256, blocks)),
                "decoding alone": lambda turn: [soundfile.read(path, dtype="float32")[0].sum() for path in paths],
            },
            turns,
        )
    per_clip = {name: np.array(timing.median) / len(paths) * 1000 for name, timing in timings.items()}
    theirs, one, all_cores = (per_clip[name] for name in ("librosa", "one thread", "all cores"))
    difference = max(np.abs(a - b).max() for a, b in zip(results["librosa"][0], results["one thread"][0], strict=True))
    floor = per_clip["decoding alone"]
    yield Row(
        f"decode + log-mel, {cores()} cores",
        "librosa, clip by clip",
        "ms/clip",
        theirs[0],
        all_cores[0],
        theirs[0] / all_cores[0],
        theirs[1] / all_cores[1],
        5.0,
        f"largest difference {difference:.4f} dB",
        f"decoding alone (libsndfile) takes {floor[1]:.1f} of our {one[1]:.1f} ms of processor time: with "
        f"spectrograms for nothing, {cores()} cores would reach {cores() * theirs[1] / floor[1]:.1f}x; "
        f"{cores()} threads are {one[0] / all_cores[0]:.2f} times as fast as one; at hashing, which shares nothing, "
        f"{per_clip['hashing'][0] / per_clip['hashing, all cores'][0]:.2f} times: what other work left them",
    )
    yield Row(
        "decode + log-mel, one thread",
        "librosa, clip by clip",
        "ms/clip",
        theirs[0],
        one[0],
        theirs[0] / one[0],
        theirs[1] / one[1],
    )
    yield Row(
        "log-mel without decoding, one thread",
        "librosa, clip by clip",
        "ms/clip",
        theirs[0] - floor[0],
        one[0] - floor[0],
        (theirs[0] - floor[0]) / (one[0] - floor[0]),
        (theirs[1] - floor[1]) / (one[1] - floor[1]),
    )


if __name__ == "__main__":
    given = parser(__doc__, clips=(32, "clips"), turns=(5, "turns of each")).parse_args()
    show(rows(given.clips, given.turns), given.json)
