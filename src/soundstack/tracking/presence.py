"""A process's sign of life: a lock file that it holds for as long as it lives, however it ends.

It says more than a process number, which is given again, differs between containers, and whose starting time moves
with the clock. A process leaves its file behind; whoever can lock that file knows that it is dead.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

#: What a process writes elsewhere while it runs is named so, followed by its token.
PREFIX = "soundstack-"
_KEPT_SECONDS = 30 * 24 * 3600.0


class Presence:
    """The sign of life of this process; made by :func:`announce`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.token = uuid.uuid4().hex[:12]
        self.path = folder / self.token
        self._lock = FileLock(self.path)
        self._lock.acquire(timeout=0)

    @property
    def mark(self) -> str:
        """What others need to know to find out whether this process lives: host, process number, file."""
        return f"{socket.gethostname()}|{os.getpid()}|{self.path}"

    def temporary_folder(self) -> Path:
        """Make a temporary folder that a later process removes if this one is killed."""
        return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{self.token}-"))


@cache
def announce(folder: Path) -> Presence:
    """Put up this process's sign of life in a folder, once.

    Raises:
        OSError: The folder cannot be written.
    """
    return Presence(folder)


def is_dead(mark: str, folder: Path) -> bool:
    """Tell whether the process of a mark is known to be dead; what cannot be known from here counts as living.

    A sign that is not in its place any more is looked for in our own folder: it may have been moved here.
    """
    host, _, rest = mark.partition("|")
    path = Path(rest.partition("|")[2])
    if host != socket.gethostname() or not path.is_absolute():
        return False
    return _is_left(path if path.exists() else folder / path.name)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary folders of dead processes, and signs so old that no run can still be open under them."""
    for path in folder.glob("*"):
        if not _is_left(path):
            continue
        for temporary in Path(tempfile.gettempdir()).glob(f"{PREFIX}{path.name}-*"):
            shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                path.unlink()


def _is_left(path: Path) -> bool:
    """Tell whether a file of a dead process is there; it is dead if its lock can be had."""
    if not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError, RuntimeError):  # RuntimeError: it is our own
        return False
    lock.release()
    return True
