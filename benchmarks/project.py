"""The project as a whole: `main` on the demo data set, first and again, and the fusion that it makes, served.

    python benchmarks/project.py [--epochs 100] [--seconds 10]

`main` works in a store and a cache of its own; the second run finds everything done and must print the same table. Then
`mlflow models serve` answers one client that posts clips of 5 s one after the other, and the floor is the bare forward
pass of the fusion's members on the windows of the same clips, one clip a call, with the server idle.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from _common import ROOT, Row, parser, show  # isort: skip

from soak_bench import bench
from soak_bench.config import SoakConfig
from soak_bench.workplace import plain_environment

MODEL = "demo-fusion"


def main_run(folder: Path, epochs: int) -> tuple[float, list[str]]:
    """Run `main`: seconds on the clock, and the lines of its table.

    Raises:
        RuntimeError: It failed.
    """
    words = ["--cache_dir", str(folder / "cache"), *(["--epochs", str(epochs)] if epochs else [])]
    environment = plain_environment(f"sqlite:///{folder / 'mlflow.db'}")
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "entrypoints" / "main.py"), *words], env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"main ended with {done.returncode}: {done.stderr[-500:]}")
    whole = done.stdout[done.stdout.rindex("system ") :]
    return seconds, re.findall(r"^demo-.*$", whole, re.MULTILINE)


def served(folder: Path, seconds: int) -> Row:
    """Load the served fusion, beside its floor."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    part = bench.load_registered(SoakConfig(model=MODEL, load_seconds=seconds), folder)
    if part.failed:
        raise RuntimeError("; ".join(f"{check.what}: {check.detail}" for check in part.failed))
    floor = 1000 / part.figures["floor_clips_per_second"]
    levels = part.tables["Load, one clip of 5 s a request"]
    alone = float(levels[0]["p50_ms"])
    many = ", ".join(
        f"{row['clients']} clients {row['requests/s']} a second (p99 {row['p99_ms']} ms)" for row in levels
    )
    return Row(
        "served fusion of three, one clip of 5 s, p50",
        "bare forward passes of its members",
        "ms",
        floor,
        alone,
        floor / alone,
        target=0.8,
        equality="served and offline scores equal to 1e-5 (tests/test_end_to_end.py)",
        note=f"{alone / floor:.2f} times the floor; {many}",
    )


def rows(epochs: int, seconds: int) -> Iterator[Row]:
    """Measure."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        first, table = main_run(folder, epochs)
        second, again = main_run(folder, epochs)
        yield Row(
            "main on demo, second run",
            "first run",
            "s",
            first,
            second,
            first / second,
            target=first / 30,
            equality="same scores" if table == again else "OTHER scores",
            note="the target is 30 s",
        )
        yield served(folder, seconds)


if __name__ == "__main__":
    given = parser(
        __doc__, epochs=(0, "of the CRNN; 0: the paper's"), seconds=(10, "of each level of load")
    ).parse_args()
    show(rows(given.epochs, given.seconds), given.json)
