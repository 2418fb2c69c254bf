"""Figures taken on a driver's host, as ``python benchmarks/scale_out/inside.py sleeping|processor ADDRESS SLOTS``.

What is sent to hosts is of this script, which Ray sends along; the package travels as it does with every command.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from soundstack.utils.cluster import Cluster

FIGURE = "figure: "
TASKS = (2, 4, 8, 16, 32)
_SLICES = 7


def tell(said: str) -> None:
    """Print a figure, apart from what Ray prints."""
    print(f"{FIGURE}{said}", flush=True)


def nap(seconds: float) -> tuple[str, int]:
    """Sleep, and tell in which process."""
    time.sleep(seconds)
    return os.uname().nodename, os.getpid()


def sleeping(address: str, slots: int) -> None:
    """Tasks of 1 s, so many at a time, in processes that are there already.

    Raises:
        SystemExit: There are no such processes, or a figure is not what it must be.
    """
    warm: set[tuple[str, int]] = set()
    started, wave = time.monotonic(), 2.0
    while time.monotonic() - started < 400:  # a slot is warm once a process of its own has done a task
        warm = {where for _, where in Cluster(address).run(nap, [wave] * slots)}
        if len(warm) == slots:
            break
        wave = min(2 * wave, 30.0)
    print(f"{len(warm)} processes for {slots} slots after {time.monotonic() - started:.0f} s", file=sys.stderr)
    if len(warm) != slots:
        raise SystemExit("the processes of the slots did not get warm")
    wrong = []
    for tasks in (each for each in TASKS if each <= slots):
        rounds = max(4, 32 // tasks)
        clock, processor = time.monotonic(), time.process_time()
        there = {where for _, where in Cluster(address, slots // tasks).run(nap, [1.0] * (rounds * tasks))}
        efficiency = rounds / (time.monotonic() - clock)
        spent = 1000 * (time.process_time() - processor) / (rounds * tasks)
        cold = len(there - warm)
        said = f"{tasks} at a time: efficiency {efficiency:.3f}, driver {spent:.1f} ms a task"
        tell(f"{said}, {cold} processes cold" if cold else said)
        if efficiency < 0.9 or spent > 5 or cold:
            wrong.append(tasks)
    if wrong:
        raise SystemExit(f"not as wanted: {wrong}")


def counted(job: Any) -> tuple[int, float]:
    """Make a slice; the process, and the processor time that it has spent since it began."""
    from soundstack.features.hosts import do_slice

    do_slice(job)
    return os.getpid(), time.process_time()


def processor(address: str, slots: int) -> None:
    """Processor time of slices as tasks and in this process, in turns, each with what goes on between two slices.

    Raises:
        SystemExit: A task costs too much.
    """
    wrong = []
    for name, jobs in _jobs(address).items():
        plain: list[float] = []
        tasks: list[float] = []
        for turn in range(3):
            plain += _steps([counted(job) for job in jobs(f"plain-{turn}")])
            tasks += _steps([done for _, done in Cluster(address).run(counted, jobs(f"tasks-{turn}"))])
        ratio = median(tasks) / median(plain)
        tell(
            f"{name}: {median(plain):.3f} s of processor time a slice plain, {median(tasks):.3f} s as a task, "
            f"{ratio:.2f} (medians of {len(plain)} and {len(tasks)})"
        )
        if ratio > 1.1:
            wrong.append(name)
    if wrong:
        raise SystemExit(f"tasks cost too much: {', '.join(wrong)}")


def _steps(done: list[tuple[int, float]]) -> list[float]:
    """Processor time from the end of a slice to that of the next one in the same process."""
    spent: dict[int, list[float]] = {}
    for process, until in done:
        spent.setdefault(process, []).append(until)
    return [later - earlier for times in spent.values() for earlier, later in pairwise(times)]


def _jobs(address: str) -> dict[str, Callable[[str], list[Any]]]:
    """By a kind of features, what gives the slices of ESC-10 to be made into a new place of a name."""
    import torch

    from soundstack.config.steps import DeepSpectrumConfig, ExtractConfig
    from soundstack.datasets.open_data_set import open_data_set
    from soundstack.deepspectrum import extract as deepspectrum
    from soundstack.features.hosts import Hosts
    from soundstack.spectrograms import extract as spectrograms

    now = f"{time.time():.0f}"
    common = {"dataset": "esc10", "data_dir": "s3://sounds/esc10", "cluster": address}
    first = ExtractConfig(cache_dir=f"s3://cache/processor-{now}", **common)
    data_set, hosts = open_data_set(first, spectrograms.extraction(first)), Hosts.of(first)
    assert hosts

    def made_by(extraction: Callable[[Any], Any], kind: type[Any]) -> Callable[[str], list[Any]]:
        def jobs(name: str) -> list[Any]:
            config = kind(cache_dir=f"s3://cache/processor-{now}-{name}", **common)
            recipe = extraction(config).recipe(data_set.audio)
            return list(hosts._missing(recipe, data_set))[:_SLICES]

        return jobs

    def network(config: Any) -> Any:
        return deepspectrum.extraction(config, torch.device("cpu"))

    return {
        "log-mel": made_by(spectrograms.extraction, ExtractConfig),
        "EfficientNet-Lite0": made_by(network, DeepSpectrumConfig),
    }


if __name__ == "__main__":
    {"sleeping": sleeping, "processor": processor}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
