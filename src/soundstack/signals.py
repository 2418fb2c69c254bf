"""Signals that ask for an end: what has to be whole is finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_POLITE = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def put_off() -> Iterator[None]:
    """Keep Ctrl-C and SIGTERM waiting until the block has ended; they then take effect.

    For blocks that are short and half worse than not at all. In other threads than the main one, which no signal
    interrupts, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = {
        number: handler
        for number in _POLITE
        if (handler := signal.getsignal(number))
        not in (signal.SIG_IGN, None)  # a shell's background job ignores SIGINT
    }
    for number in before:
        signal.signal(number, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if waiting:
        signal.raise_signal(waiting[0])
