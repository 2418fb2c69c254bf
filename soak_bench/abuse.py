"""Thousands of hostile requests to the real scoring server, with correct ones in between that must be answered right.

What must hold: every answer is one of the client's (4xx) or a success, the same worker processes live on, memory stays
flat, and correct clips get the probabilities that the offline prediction gave them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import requests

from soak_bench import hostile, server
from soak_bench.outcome import Curves, Part, percentiles
from soak_bench.workplace import CLASSES, MODEL, Workplace

CLIENTS = 3
#: One request in so many is a correct one.
CORRECT = 50
#: Probabilities served and predicted offline; the batch they were computed in may differ.
TOLERANCE = 1e-4
#: Measurements of the memory.
SAMPLES = 200
#: What the second half of the requests may add: an allocator's slack, in megabytes and as a share.
SLACK_MB, SLACK = 32.0, 0.05
TIMEOUT = 120.0


@dataclass
class Seen:
    """What the clients saw, shared among them."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: list[dict[str, object]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    hostile_seconds: list[float] = field(default_factory=list)
    correct_seconds: list[float] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)
    details: set[str] = field(default_factory=set)
    sent: int = 0
    reconnected: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Known:
    """A clip and the probabilities, by column, that were predicted for it."""

    name: str
    body: bytes
    probabilities: dict[str, float]

    def fault(self, answer: requests.Response) -> str:
        """Say what is wrong with an answer, or nothing."""
        if answer.status_code != 200:
            return f"{self.name}: status {answer.status_code}: {answer.text[:200]}"
        (row,) = answer.json()["predictions"]
        worst = max(abs(row[name] - value) for name, value in self.probabilities.items())
        return f"{self.name}: a probability differs by {worst:.2g}" if worst > TOLERANCE else ""


def known(place: Workplace) -> list[Known]:
    """The test clips of a workplace with their predicted probabilities."""
    table = pd.read_parquet(place.artifact(place.newest(MODEL), "predictions/test_probability.parquet"))
    folder = place.template.table.parent
    return [
        Known(
            str(row["clip"]),
            hostile.records(hostile.base64_of((folder / str(row["clip"])).read_bytes())),
            {f"p_{label}": float(row[f"score_{label}"]) for label in CLASSES},
        )
        for row in table.to_dict("records")
    ]


def run(place: Workplace, count: int, seed: int, say: Callable[[str], object]) -> Part:
    """Serve the fused model of a workplace, send so many requests, and report."""
    clips = known(place)
    log = place.folder / "server.log"
    with server.scoring(f"models:/{MODEL}@champion", place.uri, place.folder, log) as served:
        workers = served.workers()
        started = time.monotonic()
        seen = send(served, clips, count, seed, say)
        elapsed = time.monotonic() - started
        lost = [f"pid {pid}" for pid, began in workers.items() if served.workers().get(pid) != began]
    part = Part("requests")
    part.check("no answer is a 5xx, none is missing", [f"{row['kind']}: {row['answer']}" for row in seen.errors])
    part.check("the same server processes live on", lost, f"{len(workers)} processes")
    part.check("correct clips in between are answered right", seen.wrong, f"{len(seen.correct_seconds)} of them")
    growth, slope = _growth(seen.memory)
    part.check("memory stays flat", growth <= SLACK_MB + SLACK * seen.memory[0][1], f"{growth:+.0f} MB in the 2nd half")
    truncated = sum(detail.endswith("bytes of a WAV") for detail in seen.details)
    part.figures |= {
        "requests": seen.sent,
        "correct_requests": len(seen.correct_seconds),
        "answers_5xx_or_none": len(seen.errors),
        "connections_closed_by_the_server": seen.reconnected,
        "truncations_sent": truncated,
        "truncations_there_are": hostile.truncations(),
        "requests_per_second": seen.sent / elapsed,
        "memory_first_mb": seen.memory[0][1],
        "memory_last_mb": seen.memory[-1][1],
        "memory_mb_per_1000_requests": slope * 1000,
        "seconds": elapsed,
    }
    part.figures |= {f"hostile_{name}": value for name, value in percentiles(seen.hostile_seconds).items()}
    part.figures |= {f"correct_{name}": value for name, value in percentiles(seen.correct_seconds).items()}
    statuses = sorted({status for _, status in seen.statuses})
    part.tables["Answers by kind"] = [
        {"kind": kind, **{status: seen.statuses[kind, status] for status in statuses}}
        for kind in sorted({kind for kind, _ in seen.statuses})
    ]
    part.tables["Requests answered with 5xx or not at all"] = seen.errors
    line = ([float(sent) for sent, _ in seen.memory], [held for _, held in seen.memory])
    part.curves["memory"] = Curves("requests", "resident memory (MB)", {"server": line})
    return part


def send(served: server.Server, clips: list[Known], count: int, seed: int, say: Callable[[str], object]) -> Seen:
    """Send so many requests from ``CLIENTS`` clients that keep their connections."""
    seen = Seen()
    queue = _queue(clips, count, seed)
    lock = threading.Lock()

    def client() -> None:
        with requests.Session() as session:
            while True:
                with lock:
                    item = next(queue, None)
                if item is None:
                    return
                _one(session, served, item, seen)
                with seen.lock:
                    if seen.sent % max(1, count // SAMPLES) == 0:
                        seen.memory.append((seen.sent, served.memory()))
                    if seen.sent % 1000 == 0:
                        say(f"requests: {seen.sent} sent, {len(seen.errors)} answered with 5xx or not at all")

    for clip in clips:  # what loads with the first requests is no leak
        _one(requests.Session(), served, clip, Seen())
    seen.memory.append((0, served.memory()))
    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(client) for _ in range(CLIENTS)]:
            done.result()
    return seen


def _queue(clips: list[Known], count: int, seed: int) -> Iterator[hostile.Hostile | Known]:
    bad = hostile.stream(seed)
    for number in range(1, count + 1):
        yield clips[number // CORRECT % len(clips)] if number % CORRECT == 0 else next(bad)


def _one(session: requests.Session, served: server.Server, item: hostile.Hostile | Known, seen: Seen) -> None:
    kind, detail = (item.kind, item.detail) if isinstance(item, hostile.Hostile) else ("correct", item.name)
    content_type = item.content_type if isinstance(item, hostile.Hostile) else hostile.JSON
    headers = {} if content_type is None else {"Content-Type": content_type}
    started = time.monotonic()
    error = ""

    def post(by: requests.Session) -> requests.Response:
        return by.post(f"{served.address}/invocations", data=item.body, headers=headers, timeout=TIMEOUT)

    try:
        try:
            answer = post(session)
        except requests.ConnectionError:
            # A server may close a kept connection after any answer; a client then sends again on a new one.
            with seen.lock:
                seen.reconnected += 1
            with requests.Session() as fresh:
                answer = post(fresh)
        status = str(answer.status_code)
        if answer.status_code >= 500:
            error = f"{status}: {answer.text[:300]}"
    except requests.RequestException as problem:
        status, error = "none", f"{type(problem).__name__}: {problem}"[:300]
    seconds = time.monotonic() - started
    wrong = item.fault(answer) if isinstance(item, Known) and status != "none" else ""
    with seen.lock:
        seen.sent += 1
        seen.statuses[kind, status] += 1
        seen.details.add(detail)
        (seen.correct_seconds if isinstance(item, Known) else seen.hostile_seconds).append(seconds)
        if wrong:
            seen.wrong.append(wrong)
        if error:
            body = item.body[:120].decode("utf-8", "backslashreplace")
            seen.errors.append({"kind": kind, "detail": detail, "answer": error, "body begins": body})


def _growth(memory: list[tuple[int, float]]) -> tuple[float, float]:
    """Megabytes that the second half of the requests added, and megabytes a request as a fitted line has it."""
    sent, held = np.array(sorted(memory), dtype=float).T
    late = sent >= sent[-1] / 2
    if late.sum() < 4:
        return float(held[-1] - held[0]), 0.0
    slope = float(np.polyfit(sent[late], held[late], 1)[0])
    return slope * float(np.ptp(sent[late])), slope
