"""What a user waits for help and for an error message: every entry point, in processes of their own.

    python benchmarks/startup.py [--turns 5]

``--help``, and a parameter that does not exist, in turns with Python doing nothing. The limit is a second of the clock
for the slowest; on a busy machine look at the processor time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from _common import ROOT, Row, parser, show  # isort: skip

import numpy as np


def spent(*arguments: str, expected: int) -> tuple[float, float]:
    """Seconds on the clock and processor seconds of a Python process.

    Raises:
        RuntimeError: It ended otherwise than expected.
    """
    before, started = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, check=False, cwd=ROOT)
    clock, after = time.perf_counter() - started, os.times()
    if done.returncode != expected:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr.decode()[-500:]}")
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return clock, processor


def rows(turns: int) -> Iterator[Row]:
    """Measure."""
    names = sorted(path.stem for path in (ROOT / "entrypoints").glob("[!_]*.py"))
    cases: dict[tuple[str, str], tuple[list[str], int]] = {("python", "nothing"): (["-c", "pass"], 0)}
    for name in names:
        cases[name, "--help"] = ([f"entrypoints/{name}.py", "--help"], 0)
        cases[name, "a wrong parameter"] = ([f"entrypoints/{name}.py", "--no_such_parameter", "1"], 2)
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {case: [] for case in cases}
    for turn in range(-1, turns):
        for case, (arguments, expected) in cases.items():
            found = spent(*arguments, expected=expected)
            if turn >= 0:
                seconds[case].append(found)
    medians = {case: np.median(found, axis=0) for case, found in seconds.items()}
    nothing = medians.pop(("python", "nothing"))
    slowest = max(medians, key=lambda case: medians[case][1])
    clock, processor = medians[slowest]
    yield Row(
        "start-up: --help and parameter errors",
        "one second",
        "s",
        1.0,
        float(clock),
        1.0 / float(clock),
        1.0 / float(processor),
        1.0,
        "",
        f"the slowest of {len(medians)}: {' '.join(slowest)}, {processor:.2f} s of processor time; "
        f"Python alone {nothing[0]:.2f} s on the clock, {nothing[1]:.2f} s of processor time",
    )


if __name__ == "__main__":
    given = parser(__doc__, turns=(5, "turns")).parse_args()
    show(rows(given.turns), given.json)
