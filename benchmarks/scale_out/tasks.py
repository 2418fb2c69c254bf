"""Figures of tasks: how well many that sleep fill their slots, and what a slice costs as a task."""

from __future__ import annotations

from bed import CHECKOUT, BedError
from inside import FIGURE
from machines import Setup
from services import ADDRESS


def sleeping(setup: Setup) -> str:
    """2 to 32 sleeping tasks at a time in warm processes: efficiency at least 0.9, driver at most 5 ms a task."""
    setup.workers(cores=16)
    return _inside(setup, "sleeping", 32)


def processor(setup: Setup) -> str:
    """Processor time of a warm slice as a task, at most 1.1 of that of the plain function in a plain process."""
    setup.workers()
    return _inside(setup, "processor", 2)


def _inside(setup: Setup, what: str, slots: int) -> str:
    script = str(CHECKOUT / "benchmarks" / "scale_out" / "inside.py")
    done = setup.hosts["a"].run([setup.python, script, what, ADDRESS, str(slots)], 580)
    setup.say(done.stderr.strip()[-600:])
    if done.returncode:
        raise BedError(f"{what}: {done.stdout}{done.stderr[-1500:]}")
    return "; ".join(line.removeprefix(FIGURE) for line in done.stdout.splitlines() if line.startswith(FIGURE))
