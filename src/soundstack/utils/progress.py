"""Progress bars and durations: one look for all long work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from tqdm import tqdm


def duration(seconds: float) -> str:
    """Seconds for a reader.

    >>> duration(0.34), duration(42.0), duration(250), duration(7530)
    ('0.3 s', '42 s', '4 min 10 s', '2 h 06 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


@cache
def say_once(text: str) -> None:
    """Say a line on stderr, however often it is said."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def bar(what: str, total: int, unit: str) -> Iterator[Callable[[int], Any]]:
    """Show a progress bar on stderr and yield the function that advances it.

    In a log file, where a bar cannot move, a line is written every half minute, and none for shorter work.
    """
    wait = 0.2 if sys.stderr.isatty() else 30.0
    with tqdm(
        total=total, desc=what, unit=f" {unit}", mininterval=wait, delay=wait, dynamic_ncols=True, leave=False
    ) as shown:
        yield shown.update


def human(count: int) -> str:
    """A number of bytes for people: ``1.07GB``."""
    return tqdm.format_sizeof(count, suffix="B")


def bytes_bar(what: str, total: int | None, initial: int = 0) -> tqdm:
    """A bar that counts bytes; drawn on a terminal only."""
    return tqdm(desc=what, total=total, initial=initial, unit="B", unit_scale=True, leave=False, disable=None)
