"""Waiting for something to happen, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Only what will never happen takes so long.
PATIENCE = 600.0


def until(happened: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return as soon as something has happened; fail when it has not after so many seconds."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.005)
