"""Locks between processes: files that one process holds at a time, and that are free again once it is dead."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from soundstack.utils.errors import StoreError


@contextmanager
def exclusive(
    path: Path, what: str, remedy: str = "or choose another cache_dir", *, refusal: str = ""
) -> Iterator[None]:
    """Hold a lock file; while another process holds it, say that ``what`` is under way there, and wait.

    The file stays: removing it would let a third process lock another file of the same name.

    Raises:
        StoreError: The folder of the file cannot be written; or, with a ``refusal``, that another process holds it.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if refusal:
                raise StoreError(refusal) from None
            print(f"{what}: under way in another process; waiting for what it makes.", file=sys.stderr, flush=True)
            lock.acquire()
    except OSError as error:
        raise StoreError(
            f"{path.parent} cannot be written ({error.strerror or error}); free space, mend its rights, {remedy}."
        ) from error
    try:
        yield
    finally:
        lock.release()
