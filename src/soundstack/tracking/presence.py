"""Which process a run or a temporary folder belongs to, and whether it still lives.

A process is told by its number and its start: the number alone is given again. What is left of one that was killed is
closed or removed by a later one.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from functools import cache
from pathlib import Path

import psutil

_PREFIX = "soundstack-"
#: Start times are told by the clock, which may be set meanwhile.
_CLOCK_SECONDS = 60.0


@cache
def mark() -> str:
    """What others need to know to find out whether this process lives: ``host|number|start|namespace``."""
    process = psutil.Process()
    return f"{socket.gethostname()}|{process.pid}|{process.create_time():.2f}|{_namespace()}"


def is_dead(mark: str) -> bool:
    """Tell whether the process of a mark is known to be dead; what cannot be known from here counts as living."""
    try:
        host, number, start, namespace = mark.split("|")
        if (host, namespace) != (socket.gethostname(), _namespace()):
            return False
        process = psutil.Process(int(number))
        again = abs(process.create_time() - float(start)) > _CLOCK_SECONDS
        return again or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError):
        return False


@cache
def _namespace() -> str:
    """Tells containers apart that share a host's name, but not its process numbers; empty but on Linux."""
    try:
        return Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    except OSError:
        return ""


def temporary_folder() -> Path:
    """Make a temporary folder that a later process removes if this one is killed."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{mark().replace('|', ',')}-"))


def remove_leftovers() -> None:
    """Remove the temporary folders of dead processes."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*,*,*,*-*"):
        if is_dead(folder.name.removeprefix(_PREFIX).rpartition("-")[0].replace(",", "|")):
            shutil.rmtree(folder, ignore_errors=True)
