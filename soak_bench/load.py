"""Requests a second and latencies of the served model at several numbers of clients, beside the bare forward pass.

The floor is what the members of the model cost on the same windows of the same decoded clips in this process, with the
server idle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import requests

from soak_bench import hostile, server
from soak_bench.outcome import Curves, Part, percentiles
from soak_bench.workplace import CLASSES, RATE, sound
from soundstack.fusion.recogniser import FusionRecogniser
from soundstack.recognisers.base import Recogniser, load
from soundstack.recognisers.timelines import read, timelines
from soundstack.utils import devices

CLIENTS = (1, 4, 16)
SECONDS = 5.0
CLIPS = 12
TIMEOUT = 300.0


def run(model: str, store: str, recogniser: Path, seconds: float, folder: Path, say: Callable[[str], object]) -> Part:
    """Measure the floor, then serve a model and load it.

    Args:
        model: ``models:/...``
        store: The tracking store that has it.
        recogniser: The folder of the model's recogniser.
        seconds: How long each level lasts.
        folder: Where the server works and logs.
        say: Called with progress.
    """
    rng = np.random.default_rng(0)
    encoded = [hostile.encoded(sound(CLASSES[n % len(CLASSES)], rng, SECONDS), RATE, "WAV") for n in range(CLIPS)]
    part = Part("load")
    part.tables["Bare forward pass, one clip of 5 s a call"] = floor = _floors(
        load(recogniser, devices.choose("auto")), encoded, seconds / 2
    )
    rows: list[dict[str, float]] = []
    with server.scoring(model, store, folder, folder / "load.log") as served:
        bodies = [hostile.records(hostile.base64_of(clip)) for clip in encoded]
        _level(served, bodies, 1, min(2.0, seconds))  # the first answers pay for what is loaded late
        for clients in CLIENTS:
            latencies, bad, elapsed = _level(served, bodies, clients, seconds)
            row = {"clients": clients, "requests": len(latencies), "requests/s": round(len(latencies) / elapsed, 2)}
            rows.append({**row, **percentiles(latencies), "refused": len(bad)})
            part.check(f"every request of {clients} clients is answered", bad, f"{len(latencies)} requests")
            say(f"load: {clients} clients, {row['requests/s']} requests/s")
    part.tables["Load, one clip of 5 s a request"] = rows
    bare = float(floor[0]["clips/s"])
    part.figures["floor_clips_per_second"] = bare
    for row in rows:
        part.figures[f"clients_{row['clients']}_requests_per_second"] = row["requests/s"]
        part.figures[f"clients_{row['clients']}_p99_ms"] = row["p99_ms"]
    levels = [row["clients"] for row in rows]
    part.curves["requests per second"] = Curves(
        "clients",
        "per second",
        {
            "served": (levels, [row["requests/s"] for row in rows]),
            "bare forward pass": (levels, [bare] * len(rows)),
        },
    )
    return part


def _floors(recogniser: Recogniser, encoded: Sequence[bytes], seconds: float) -> list[dict[str, float | str]]:
    """Clips a second of all members together, then of each."""
    members = recogniser.members if isinstance(recogniser, FusionRecogniser) else {"": recogniser}
    each = {name: _pace(member, encoded, seconds) for name, member in members.items()}
    total = 1 / sum(1 / pace for pace in each.values())
    rows = {"all members": total, **(each if len(each) > 1 else {})}
    return [
        {"what": name, "clips/s": round(pace, 2), "ms a clip": round(1000 / pace, 2)} for name, pace in rows.items()
    ]


def _pace(recogniser: Recogniser, encoded: Sequence[bytes], seconds: float) -> float:
    clips = [list(read(number, clip, recogniser)) for number, clip in enumerate(encoded)]
    list(timelines(clips[0], recogniser))
    done, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or not done:
        list(timelines(clips[done % len(clips)], recogniser))
        done += 1
    return done / elapsed if elapsed else float("inf")


def _level(
    served: server.Server, bodies: Sequence[bytes], clients: int, seconds: float
) -> tuple[list[float], list[str], float]:
    """Latencies of answered requests, what was not answered, and the time it took; each client waits for its answer."""
    latencies: list[float] = []
    bad: list[str] = []
    lock = threading.Lock()
    started = time.monotonic()

    def client(number: int) -> None:
        with requests.Session() as session:
            turn = number
            while time.monotonic() - started < seconds:
                begun = time.monotonic()
                try:
                    answer = session.post(
                        f"{served.address}/invocations",
                        data=bodies[turn % len(bodies)],
                        headers={"Content-Type": hostile.JSON},
                        timeout=TIMEOUT,
                    )
                    problem = "" if answer.ok else f"{answer.status_code}: {answer.text[:100]}"
                except requests.RequestException as error:
                    problem = f"{type(error).__name__}: {error}"[:200]
                took = time.monotonic() - begun
                with lock:
                    if problem:
                        bad.append(problem)
                    else:
                        latencies.append(took)
                turn += clients

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client, number) for number in range(clients)]:
            done.result()
    return latencies, bad, time.monotonic() - started
