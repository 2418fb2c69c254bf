"""Kill `main` at random times, start it again, and compare what it finds in the end with a run that nobody disturbed.

Chains run side by side. A link of a chain is a fresh store and cache in which `main` is started, killed and started
again until it is done. One time of a kill in four is uniform over the duration of an undisturbed run that has the same
company; as half of so small a `main` is imports, the others are uniform over what is left once it has opened a run.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from soak_bench.outcome import Part
from soak_bench.workplace import Result, Template, Undisturbed, Workplace, end_group, last_line
from soundstack.utils.errors import SoakError

CHAINS = 2
#: One kill in so many is polite.
POLITE = 4
#: One kill in so many may fall before the first run is open.
ANY_TIME = 4
#: A process that is asked to end has this long.
PATIENCE = 60.0


@dataclass
class Ledger:
    """What the chains share: how many kills are left, and what was seen."""

    left: int
    #: Seconds that a whole `main` takes.
    duration: float
    kills: list[dict[str, object]] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    completed: int = 0
    leftovers: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> bool:
        """Take one kill, if there is one left."""
        with self.lock:
            if self.left <= 0:
                return False
            self.left -= 1
            return True

    def give_back(self) -> None:
        """Return a kill that came too late: its process was done."""
        with self.lock:
            self.left += 1

    def note(self, kind: str, problems: Sequence[str]) -> None:
        """Add problems of a kind."""
        with self.lock:
            self.problems.setdefault(kind, []).extend(problems)


def run(
    template: Template,
    reference: Undisturbed,
    kills: int,
    seed: int,
    say: Callable[[str], object],
    chains: int = CHAINS,
) -> Part:
    """Make so many kills in chains side by side, and compare with an undisturbed run that had the same company."""
    started = time.monotonic()
    ledger = Ledger(kills, reference.seconds)
    say(f"kills: an undisturbed main takes {reference.seconds:.1f} s")
    with ThreadPoolExecutor(chains) as pool:
        for chain in [pool.submit(_chain, template, number, seed, reference, ledger, say) for number in range(chains)]:
            chain.result()
    part = Part("kills")
    for what, kind in (
        ("every start but the killed ones ends with status 0", "status"),
        ("final scores and predictions equal the undisturbed run's", "scores"),
        ("a later start closes every run that was left RUNNING", "running"),
        ("every shard and checkpoint in the cache loads", "cache"),
        ("no temporary file stays in the cache", "temporary"),
        ("a later start removes the temporary folders of killed processes", "folders"),
        ("a polite kill ends main within a minute", "polite"),
    ):
        part.check(what, ledger.problems.get(kind, []))
    part.figures |= {
        "kills": len(ledger.kills),
        "sigterm": sum(kill["signal"] == "SIGTERM" for kill in ledger.kills),
        "mains_completed": ledger.completed,
        "undisturbed_seconds": reference.seconds,
        "temporary_entries_left_per_workplace": float(np.mean(ledger.leftovers)),
        "seconds": time.monotonic() - started,
    }
    phases = Counter((str(kill["phase"]), str(kill["signal"])) for kill in ledger.kills)
    part.tables["Kills by phase"] = [
        {
            "phase": phase,
            **{name: phases[phase, name] for name in ("SIGKILL", "SIGTERM")},
        }
        for phase in sorted({phase for phase, _ in phases})
    ]
    part.tables["Kills"] = ledger.kills
    return part


def _chain(
    template: Template, number: int, seed: int, reference: Undisturbed, ledger: Ledger, say: Callable[[str], object]
) -> None:
    rng = np.random.default_rng([seed, number])
    for link in itertools.count():
        if ledger.left <= 0:
            return
        place = Workplace(template, f"chain-{number}-{link}", **reference.place.extra)
        _until_done(place, rng, ledger, say)
        _judge(place, reference.result, ledger)
        shutil.rmtree(place.folder / "artifacts", ignore_errors=True)  # models of some megabytes a run


def _until_done(place: Workplace, rng: np.random.Generator, ledger: Ledger, say: Callable[[str], object]) -> None:
    """Start, kill and start again; once no kill is left, let it run."""
    fresh = True
    while ledger.take():
        started = time.monotonic()
        process = place.start()
        share, polite, any_time = rng.uniform(), rng.integers(POLITE) == 0, rng.integers(ANY_TIME) == 0
        begun = 0.0 if any_time else _first_run(place, process)
        try:
            status = process.wait(share * max(ledger.duration - begun, 1.0))
        except subprocess.TimeoutExpired:
            after = time.monotonic() - started
            # Reaped by us alone, so the group still exists and nobody else's can be meant.
            signals = (signal.SIGTERM, signal.SIGKILL) if polite else (signal.SIGKILL,)
            in_time = end_group(process, signals, PATIENCE)
            if polite and not in_time:
                ledger.note("polite", [f"{place.folder.name}: not ended {PATIENCE:g} s after SIGTERM"])
            if polite and outlived(process):
                ledger.note("polite", [f"{place.folder.name}: processes outlive their main"])
            with ledger.lock:
                ledger.kills.append(
                    {
                        "seconds": round(after, 2),
                        "signal": "SIGTERM" if polite else "SIGKILL",
                        "phase": phase(place, process.pid),
                        "workplace": place.folder.name,
                        "status": process.returncode,
                    }
                )
                say(f"kills: {len(ledger.kills)} made, the last one in {ledger.kills[-1]['phase']}")
            fresh = False
        else:
            end_group(process)
            ledger.give_back()
            if fresh and not status:  # the company changes, and with it the pace
                ledger.duration = time.monotonic() - started
            if status:
                ledger.note(
                    "status",
                    [f"{place.folder.name}: status {status}: {last_line(place.output)}"],
                )
            return
    done = place.main()
    if done.returncode:
        ledger.note("status", [f"{place.folder.name}: status {done.returncode}: {last_line(done.stderr)}"])


def _first_run(place: Workplace, process: subprocess.Popen[str]) -> float:
    """Wait until a process has opened a run or has ended; returns the seconds that took."""
    started = time.monotonic()
    while process.poll() is None and all(run.process != process.pid for run in place.runs()):
        time.sleep(0.1)
    return time.monotonic() - started


def outlived(process: subprocess.Popen[str], patience: float = 10.0) -> bool:
    """Tell whether a process that has ended leaves others of its group behind; they are killed."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    end_group(process)
    return True


def phase(place: Workplace, process: int) -> str:
    """Name where a process of a pid was when it was killed: its youngest run that had not finished."""
    own = [run for run in place.runs() if run.process == process]
    unfinished = [run for run in own if run.status != "FINISHED"]
    if unfinished:
        return unfinished[-1].name
    return "after the last run" if own else "before the first run"


def _judge(place: Workplace, reference: Result, ledger: Ledger) -> None:
    name = place.folder.name
    with ledger.lock:
        ledger.completed += 1
    try:
        ledger.note("scores", [f"{name}: {text}" for text in place.result().differences(reference)])
    except SoakError as error:
        ledger.note("scores", [str(error)])
    if any(run.status == "RUNNING" for run in place.runs()):
        place.main()  # only a later start can close them
    ledger.note("running", [f"{name}: {run.name} {run.id}" for run in place.runs() if run.status == "RUNNING"])
    ledger.note("cache", [f"{name}: {text}" for text in damaged(place.cache)])
    ledger.note("temporary", [f"{name}: {path.name}" for path in place.cache.rglob("*.tmp")])
    ledger.note("folders", [f"{name}: {path.name}" for path in place.temporary.glob("soundstack-*")])
    with ledger.lock:  # what the compiler of torch keeps there is a cache
        ledger.leftovers.append(sum(not path.name.startswith("torch") for path in place.temporary.iterdir()))


def damaged(cache: Path) -> list[str]:
    """Name the finished entries of a cache that cannot be loaded: shards and checkpoints."""
    found = []
    for index in cache.glob("features/*/*.json"):
        if index.name == "spec.json":
            continue
        try:
            rows = np.load(index.with_suffix(".npy"), allow_pickle=False)
            if len(rows) != len(json.loads(index.read_text(encoding="utf-8"))):
                raise ValueError("its keys and rows differ in number")
        except (OSError, ValueError, EOFError) as error:
            found.append(f"{index}: {error}")
    for path in cache.glob("training/**/*.pt"):
        try:
            torch.load(path, weights_only=True)
        except Exception as error:  # torch and its unpickler raise many kinds
            found.append(f"{path}: {error}")
    return found
