"""How fast `predict` is, and what memory it takes, beside the bare forward pass on arrays that are ready.

    python benchmarks/predict.py --model demo-fusion [--clips 1000] [--hours 2] [--folder FOLDER]

Sounds are the demo's, synthesised: clips of 5 s (16 kHz, WAV), and one stereo recording of some hours (FLAC). Each
prediction runs in a process of its own, whose peak memory is told. The forward pass scores 64 of the clips, decoded
beforehand, in batches of the same size; the memory beside it is that of a process that only loads the model.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT / "src"), str(_ROOT / "entrypoints")]

import numpy as np  # noqa: E402
import soundfile  # noqa: E402

import _project  # noqa: E402, F401

RATE, SECONDS = 16_000, 5


def sounds(count: int) -> list[Any]:
    """Different synthesised sounds of five seconds."""
    from soundstack.datasets.demo.synthesis import SOUNDS, synthesise

    kinds = sorted(SOUNDS)
    draws = [(np.random.default_rng(n), np.random.default_rng(count + n)) for n in range(count)]
    return [synthesise(kinds[n % len(kinds)], *draw, SECONDS, RATE) for n, draw in enumerate(draws)]


def write(folder: Path, clips: int, hours: float) -> tuple[Path, Path]:
    """Write the clips and the recording."""
    made = sounds(40)
    many, long = folder / "clips", folder / "recording.flac"
    many.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(clips):  # no two files alike
        soundfile.write(many / f"{number:05}.wav", made[number % len(made)] * random.uniform(0.5, 1), RATE)
    with soundfile.SoundFile(long, "w", RATE, 2) as file:
        for _ in range(round(hours * 3600 / SECONDS)):
            left, right = (made[at] for at in random.integers(len(made), size=2))
            file.write(np.stack([left, right], axis=1))
    return many, long


def measured(work: str, model: str, source: Path, output: Path) -> tuple[float, float, Any]:
    """Run a piece of work in its own process: seconds, peak MiB, and what it returns."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (work, model, source, output))  # type: ignore[no-any-return]


def _measure(work: str, model: str, source: Path, output: Path) -> tuple[float, float, Any]:
    seconds, result = {"predict": _predict, "forward": _forward}[work](model, source, output)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, else KiB
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, result


def _predict(model: str, source: Path, output: Path) -> tuple[float, Any]:
    import predict
    from soundstack.config.tools import PredictConfig

    config = PredictConfig(model=model, input=str(source), output_dir=str(output))
    started = time.perf_counter()
    totals = predict.run(config)
    return time.perf_counter() - started, (totals.files, totals.windows, totals.seconds)


def _forward(model: str, source: Path, output: Path) -> tuple[float, Any]:
    from soundstack.audio.decode import decode
    from soundstack.recognisers import base as recognisers
    from soundstack.recognisers.timelines import BATCH
    from soundstack.tracking import registered_models
    from soundstack.utils import devices

    recogniser = recognisers.load(registered_models.find_model(model).folder, devices.choose("auto"))
    clips = [decode(path) for path in sorted(source.glob("*.wav"))[: 2 * BATCH]]
    if not clips:
        return 0.0, 0
    recogniser.scores(clips[:2])
    started = time.perf_counter()
    for start in range(0, len(clips), BATCH):
        recogniser.scores(clips[start : start + BATCH])
    return time.perf_counter() - started, len(clips)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo-fusion", help="as in -e predict")
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, help="keep sounds and tables here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).absolute()
        many, long = write(folder, given.clips, given.hours)
        _, loaded, _ = measured("forward", given.model, folder / "none", folder)
        seconds, _, count = measured("forward", given.model, many, folder)
        rows = [("bare forward pass", count, count, seconds, count * SECONDS, loaded)]
        for name, source in ((f"{given.clips} clips", many), (f"{given.hours:g} h recording", long)):
            tables = folder / "tables" / source.stem
            seconds, peak, (files, windows, length) = measured("predict", given.model, source, tables)
            rows.append((name, files, windows, seconds, length, peak))
    print("\n                        files  windows  seconds  windows/s  x real time  peak MiB")
    for name, files, windows, seconds, length, peak in rows:
        speed = f"{windows / seconds:10.1f} {length / seconds:12.0f}"
        print(f"{name:22} {files:6} {windows:8} {seconds:8.1f} {speed} {peak:9.0f}")


if __name__ == "__main__":
    main()
