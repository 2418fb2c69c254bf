"""What is meant by a sound: a file, or a stretch of one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


def shown(seconds: float) -> str:
    """Seconds to the microsecond, as short as they can be written."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


class Stretch(NamedTuple):
    """A part of a recording, from ``start`` to ``end`` in seconds, whole microseconds."""

    start: float
    end: float

    def __str__(self) -> str:
        return "-".join(map(shown, self))


class Sound(NamedTuple):
    """A sound file, or a stretch of it."""

    path: Path
    stretch: Stretch | None = None
