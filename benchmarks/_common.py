"""What the benchmarks share: contenders that take turns, their medians and ratios, and the machine they ran on.

Other work disturbs a shared machine, so absolute times are worth little. Contenders therefore do the same piece of
work in turns, and a ratio is that of their medians. Each is timed on the clock and in processor time; processor time
(of all threads of the process) suffers less from others, the clock shows what threads bring.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "tests", ROOT / "src"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

import numpy as np  # noqa: E402

from soundstack.utils.project import cores, processor  # noqa: E402

#: Does the piece of work of this number.
Step = Callable[[int], Any]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        stage: what is measured.
        baseline: what a user would take otherwise.
        unit: of ``theirs`` and ``ours``, e.g. ``ms/clip``.
        theirs: the baseline's median on the clock.
        ours: the median on the clock.
        clock: how many times faster on the clock.
        cpu: how many times less processor time; None where that was not measured.
        target: for ``clock``; None where there is none.
        equality: how far the results are from each other.
        note: what else was found: the floor, the share of a part.
    """

    stage: str
    baseline: str
    unit: str
    theirs: float
    ours: float
    clock: float
    cpu: float | None = None
    target: float | None = None
    equality: str = ""
    note: str = ""

    def __str__(self) -> str:
        cpu = "" if self.cpu is None else f", processor time {self.cpu:.2f}x"
        target = "" if self.target is None else f" (target {self.target:g}x)"
        return (
            f"{self.stage}: {self.theirs:.3g} -> {self.ours:.3g} {self.unit}, {self.clock:.2f}x{target}{cpu}"
            + "".join(f"; {text}" for text in (self.equality, self.note) if text)
        )


@dataclass(frozen=True)
class Timing:
    """Seconds of each turn, on the clock and in processor time."""

    clock: list[float]
    processor: list[float]

    @property
    def median(self) -> tuple[float, float]:
        """Medians: clock, processor."""
        return float(np.median(self.clock)), float(np.median(self.processor))


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds on the clock and of this process's processors, and the result."""
    started = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - started[0], time.process_time() - started[1], result


def take_turns(
    contenders: dict[str, Step | Rival], turns: int, *, warm: int = 1
) -> tuple[dict[str, Timing], dict[str, list[Any]]]:
    """Let the contenders do pieces 0, 1, ... in turns; the first ``warm`` rounds are not counted.

    Returns:
        Timings, and the results in the order of the pieces, by contender.
    """
    timings = {name: Timing([], []) for name in contenders}
    results: dict[str, list[Any]] = {name: [] for name in contenders}
    for turn in range(-warm, turns):
        piece = max(turn, 0)
        for name, contender in contenders.items():
            if isinstance(contender, Rival):
                clock, processor, result = contender.step(piece)
            else:
                clock, processor, result = timed(lambda contender=contender, piece=piece: contender(piece))  # type: ignore[misc]
            if turn >= 0:
                timings[name].clock.append(clock)
                timings[name].processor.append(processor)
                results[name].append(result)
    return timings, results


class Rival:
    """A contender in a process of its own: for what holds for a whole process, as an allocator's settings do.

    Args:
        make: called there with ``arguments`` once; returns the step. A top-level function.
        arguments: of ``make``.
    """

    def __init__(self, make: Callable[..., Step], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments))
        self._process.start()

    def step(self, piece: int) -> tuple[float, float, Any]:
        """Seconds on the clock, processor seconds and result of a step, measured where it ran.

        Raises:
            RuntimeError: The process has died.
        """
        try:
            self._ours.send(piece)
            answer: tuple[float, float, Any] = self._ours.recv()
        except (EOFError, OSError):
            self._process.join()
            raise RuntimeError(f"a contender's process ended with {self._process.exitcode}") from None
        return answer

    def __enter__(self) -> Rival:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # it may be dead
            self._ours.send(None)
        self._process.join()


def _serve(connection: Any, make: Callable[..., Step], arguments: tuple[Any, ...]) -> None:
    step = make(*arguments)
    while (piece := connection.recv()) is not None:
        connection.send(timed(lambda piece=piece: step(piece)))


def cosine(one: Any, other: Any) -> float:
    """The smallest cosine of the angle between rows of the same number."""
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / norms).min())


def machine() -> dict[str, str]:
    """What a reader must know about the machine: no names, no paths."""
    import torch

    name = processor()
    with suppress(OSError):  # Linux
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        flags = set(next((line for line in info.splitlines() if line.startswith("flags")), "").split())
        known = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")
        name += f" ({', '.join(flag for flag in known if flag in flags) or 'no vector extensions known here'})"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    return {
        "processor": name,
        "cores": str(cores()),
        "memory": f"{memory:.0f} GiB",
        "GPU": gpu,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "torch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        "load average at the start": load,
    }


def parser(description: str | None, **options: tuple[int, str]) -> argparse.ArgumentParser:
    """A command line with whole numbers for sizes, ``--name default``, and ``--json FILE``."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (default, text) in options.items():
        made.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: {default})")
    made.add_argument("--json", type=Path, help="also write the rows to this file")
    return made


def show(rows: Iterable[Row], file: Path | None) -> None:
    """Print the rows as they come, and write all of them."""
    done = []
    for row in rows:
        print(row, flush=True)
        done.append(asdict(row))
        if file:  # after each row: what was measured before a crash is kept
            file.write_text(json.dumps(done, indent=1))
