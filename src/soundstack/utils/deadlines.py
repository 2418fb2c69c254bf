"""A time after which nobody waits for an answer any more, asked about in the middle of long computations.

Whoever computes in parts calls :func:`check` before each: the parts are those that it computes in anyway, so that a
deadline changes no number. Where none is set, nothing is ever late.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


class LateError(Exception):
    """The deadline has passed."""


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Let the block, in this thread, end by a LateError soon after a time on the clock of :func:`time.monotonic`."""
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def check() -> None:
    """Raise a LateError if the deadline has passed."""
    if time.monotonic() > _deadline.get():
        raise LateError
