"""Files that are written whole or not at all, whatever becomes of the process that writes them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from soundstack.utils.errors import StoreError

#: Letters of a file's name that its temporary name begins with: a name may be as long as names can be.
_BEGINNING = 50


@contextmanager
def replaced(path: Path, *, instead: str = "folder") -> Iterator[BinaryIO]:
    """Open a file that takes a path's place once all of it is written; until then, and on any error, nothing changes.

    ``instead`` is what the user may choose another of where it cannot be written. What writes to paths alone is given
    the file's ``name``.

    Raises:
        StoreError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name[:_BEGINNING]}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        # NumPy tells a short write by the numbers of bytes alone.
        reason = os.strerror(errno.ENOSPC) if "requested and" in str(error) else error.strerror or error
        raise StoreError(f"Cannot write {path} ({reason}); free space or choose another {instead}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_atomically(path: Path, content: bytes | str | memoryview, *, instead: str = "folder") -> None:
    """Write a file so that it either exists whole or not at all; see :func:`replaced`."""
    with replaced(path, instead=instead) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON, making the folder where needed; what JSON does not know is written as text."""
    write_atomically(path, json.dumps(content, indent=1, default=str))


def save_figure(figure: Any, path: Path) -> None:
    """Save a matplotlib figure as PNG, making the folder where needed."""
    with replaced(path) as file:
        figure.savefig(file, dpi=120, format="png")


def copy_files(folder: Path, files: Sequence[Path], output: Path) -> None:
    """Copy files, given relative to their folder, to a user's output folder; a StoreError if it cannot be written."""
    try:
        for file in files:
            (output / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, output / file)
    except OSError as error:
        raise StoreError(
            f"output_dir: {output} cannot be written ({error.strerror or error}); give another folder."
        ) from None


def remove_unfinished(folder: Path, name: str = "") -> None:
    """Remove what a killed process had begun to write; only who holds the folder's lock knows that nobody is at it."""
    for orphan in folder.glob(f".{name[:_BEGINNING]}*.tmp"):
        orphan.unlink(missing_ok=True)
