"""Progress bars: one look for all long work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


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
