"""Signals that ask for an end: what has to be whole is finished first, and no library makes them something else."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_POLITE = (signal.SIGINT, signal.SIGTERM)
#: Who asks again after so many seconds is obeyed at once. Sooner means nothing: a terminal and `mlflow run` both pass
#: on one Ctrl-C.
INSIST_SECONDS = 5.0
_asked = threading.Event()


def interrupt(number: int, frame: object) -> None:
    """End by KeyboardInterrupt: the handler of an entry point, for Ctrl-C and a polite kill."""
    _asked.set()
    raise KeyboardInterrupt


def interrupted() -> bool:
    """Tell whether an end was asked for.

    An interrupt that strikes in a library's compiled code may come out as any error, or be lost there.
    """
    return _asked.is_set()


@contextmanager
def handled() -> Iterator[None]:
    """Let both signals interrupt the block, where they are not ignored as in a shell's background job."""
    before = _handlers()
    for number in before:  # SIGTERM not by way of SIGINT: that one may be ignored
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked.clear()


def _handlers() -> dict[int, Any]:
    found = {number: signal.getsignal(number) for number in _POLITE}
    return {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}


class _Held:
    """What keeps signals waiting now, which came meanwhile, and what they would have met."""

    def __init__(self) -> None:
        self.depth = 0
        self.waiting: list[int] = []
        self.since = 0.0
        self.before: dict[int, Any] = {}

    def note(self, number: int, frame: object) -> None:
        if self.waiting and time.monotonic() - self.since > INSIST_SECONDS:
            self.restore()
            self.waiting.clear()
            signal.raise_signal(number)
            return
        if not self.waiting:
            self.since = time.monotonic()
        self.waiting.append(number)

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before.clear()


_held = _Held()


@contextmanager
def put_off() -> Iterator[None]:
    """Keep Ctrl-C and SIGTERM waiting until the block, and those around it, have ended; they then take effect.

    For blocks that are short and half worse than not at all. Other threads than the main one, which no signal
    interrupts, hold nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _held.before:
        _held.waiting.clear()
        _held.before = _handlers()
        for number in _held.before:
            signal.signal(number, _held.note)
    _held.depth += 1
    try:
        yield
    finally:
        _held.depth -= 1
        if not _held.depth:
            _held.restore()
            if _held.waiting:
                number = _held.waiting[0]
                _held.waiting.clear()
                signal.raise_signal(number)
