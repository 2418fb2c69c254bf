"""Coverage-guided fuzzing of one target: atheris mutates the bytes that Hypothesis makes its examples of.

    python -m soak_bench.guided TARGET SECONDS SEED FOLDER

A process of its own, because libFuzzer ends it: with status 0 when the time is up, with another one at the first
failure. What it says at the end is read by :func:`run`. atheris is not part of the environment, as it has no wheels
for every system.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from soak_bench.outcome import Part

INSTALL = "atheris is not installed: pip install atheris"
#: Beyond its time, for imports and the last example.
GRACE = 120.0


def available() -> bool:
    """Tell whether atheris is there."""
    return importlib.util.find_spec("atheris") is not None


def run(target: str, seconds: float, seed: int) -> tuple[int, int, list[str]]:
    """Fuzz a target in a process of its own.

    Returns:
        How many examples it was given, how many edges of this project's code they reached, and what failed.
    """
    words = ["-m", "soak_bench.guided", target, str(max(1, round(seconds))), str(seed)]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(prefix="soundstack-fuzz-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, *words, folder],
                env=os.environ | {"PYTHONPATH": path},
                capture_output=True,
                timeout=seconds + GRACE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 0, 0, [f"still at one example {GRACE:g} s after its time"]
    return read(done.returncode, (done.stdout + done.stderr).decode(errors="replace"))


def extend(part: Part, targets: Sequence[str], seconds: float, seed: int, say: Callable[[str], object]) -> None:
    """Add checks of all targets to those of the plain fuzzing."""
    for target in targets:
        what = f"{target}, guided by coverage: a result or an error in one line"
        if not available():
            part.skip(what, INSTALL)
            continue
        count, edges, failures = run(target, seconds, seed)
        part.check(what, failures, f"{count:,} examples, {edges} edges")
        part.figures[f"{target}_guided_examples"] = count
        say(f"fuzz: {target}, guided: {count} examples, {len(failures)} failures")


def read(status: int, said: str) -> tuple[int, int, list[str]]:
    """Read what libFuzzer said: examples, edges, failures."""
    count = max([0, *map(int, re.findall(r"^(?:#|stat::number_of_executed_units:\s+)(\d+)", said, re.MULTILINE))])
    edges = max([0, *map(int, re.findall(r"cov: (\d+)", said))])
    if not status:
        return count, edges, []
    errors = re.findall(r"^(?:[A-Za-z_.]*(?:Error|Exception|Interrupt)\b.*|==\d+== ?ERROR.*)$", said, re.MULTILINE)
    return count, edges, [(errors or [f"status {status}: {said[-200:]}"])[0][:400]]


def main(name: str, seconds: int, seed: int, folder: Path) -> None:
    """Fuzz until the time is up; does not return."""
    import atheris

    with atheris.instrument_imports(include=["soundstack"]):
        from soak_bench import fuzz

    from hypothesis import HealthCheck, given, settings

    corpus = folder / "corpus"
    corpus.mkdir()
    (target,) = [target for target in fuzz.targets(folder) if target.what == name]

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(target.strategy)
    def example(value: object) -> None:
        target.holds(value)

    limits = [f"-max_total_time={seconds}", f"-seed={seed % 2**31 + 1}", "-max_len=4096", "-print_final_stats=1"]
    fuzz_one_input = example.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={folder}/", str(corpus)], fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
