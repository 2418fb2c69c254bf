"""The sound files that a person means by a folder, a glob, a file, or a table with a ``filename`` column."""

from __future__ import annotations

import errno
import glob
import io
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soundstack.audio.containers import SUFFIXES
from soundstack.utils.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SoundFile:
    """A file to be recognised.

    ``name`` is what tables call it, ``path`` is absolute; ``size`` in bytes and ``modified`` in nanoseconds tell
    whether it changed; ``problem`` says why it cannot be opened at all, else it is empty. Of a file in an object store,
    ``uri`` tells the place, and ``path`` is the same as a path, which tells it from others and opens nothing.
    """

    name: str
    path: Path
    size: int = 0
    modified: int = 0
    problem: str = ""
    uri: str = ""


def find(wanted: str) -> list[SoundFile]:
    """List the files of a folder (searched through), of a glob, of a table, or one file, each once.

    Files are named relative to the folder; in a table, as it names them (relative to its folder); else as matched.
    What a table names and is not there is listed with its problem. For URIs, see
    :func:`soundstack.audio.find_stored.find_stored`.

    Raises:
        DataError: There is nothing of that name, the table cannot be read, or no sound file is found.
    """
    place = Path(wanted).expanduser()
    try:
        mode = place.stat().st_mode
    except (OSError, ValueError) as error:
        mode = 0
        if getattr(error, "errno", None) not in (errno.ENOENT, errno.ENOTDIR) and not glob.has_magic(wanted):
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"input: {place} cannot be read ({reason}); give another, or mend its rights.") from None
    if stat.S_ISDIR(mode):
        found = _described((str(path.relative_to(place)), path) for path in _walk(place))
        if not found:
            raise DataError(
                f"input: {place} and its folders hold no sound files "
                f"({', '.join(sorted(SUFFIXES))}); give another folder, or a glob."
            )
        return found
    if place.suffix.lower() == ".csv" and stat.S_ISREG(mode):
        return _described((name, on_disk(place.parent, name)) for name in listed_names(place))
    if stat.S_ISREG(mode):
        return _described([(place.name, place)])
    if mode:
        raise DataError(f"input: {place} is not a regular file; give a folder, a glob, a sound file, or a CSV.")
    if glob.has_magic(wanted):
        matched = sorted(glob.glob(str(place), recursive=True))  # noqa: PTH207  (the pattern may be absolute)
        found = _described((name, Path(name)) for name in matched if Path(name).is_file())
        if not found:
            raise DataError(f"input: no file fits the glob {wanted}; quote it, and write ** to search through folders.")
        return found
    raise DataError(f"input: {place} does not exist; give a folder, a glob, a sound file, or a CSV.")


def on_disk(folder: Path, name: str) -> Path:
    """The file that a table names, as its folder spells it; as it is named where there is none.

    A name can be there in another Unicode form: macOS and what was packed there write "é" as two characters (NFD).
    """
    named, place = folder / name, folder
    if os.path.exists(named):  # noqa: PTH110  (Path.exists raises for a name that no file can have)
        return named
    for part in Path(name).parts:
        forms = (part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD")))
        found = [place / form for form in forms if os.path.exists(place / form)]  # noqa: PTH110
        if not found:
            return named
        place = found[0]
    return place


def _walk(folder: Path) -> Iterator[Path]:
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        place = os.stat(parent)  # noqa: PTH116
        if (place.st_dev, place.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            # Hidden files are an operating system's notes on sound ("._take1.wav"), not sound.
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(parent, name)


def read_table(table: Path, about: str = "") -> pd.DataFrame:
    """Read the cells of a CSV as text without surrounding spaces; names of columns are in lower case.

    The index counts rows from 0, blank lines too, which are left out. Messages begin with ``about``.

    Raises:
        DataError: It cannot be read, is no CSV, or has rows that are longer than its header.
    """
    import pandas as pd

    try:
        text = table.read_text(encoding="utf-8-sig").lstrip("\r\n")
        frame = pd.read_csv(
            io.StringIO(text), dtype=str, keep_default_na=False, skipinitialspace=True, skip_blank_lines=False
        )
    except OSError as error:
        raise DataError(f"{about}{table} cannot be read ({error.strerror}).") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{about}{table} is not a readable CSV ({reason}); save it as comma-separated UTF-8.") from None
    columns = ", ".join(frame.columns)
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(f"{about}{table.name}: the rows have more values than there are columns: {columns}.")
    frame.columns = [str(column).strip().lower() for column in frame.columns]
    frame = frame.map(str.strip)
    return frame[(frame != "").any(axis=1)]


def listed_names(table: Path) -> list[str]:
    """The names in the column ``filename`` of a table.

    Raises:
        DataError: It cannot be read, or has no such column or nothing in it.
    """
    frame = read_table(table, "input: ")
    if "filename" not in frame.columns:
        raise DataError(f"input: {table.name} has no column filename; found {', '.join(frame.columns)}.")
    names = [name for name in frame["filename"] if name]
    if not names:
        raise DataError(f"input: {table.name} lists no files; its column filename is empty.")
    return names


def _described(named: Iterable[tuple[str, Path]]) -> list[SoundFile]:
    found: dict[Path, SoundFile] = {}
    for name, named_path in named:
        path = Path(os.path.abspath(named_path))  # noqa: PTH100  (resolve() would follow links, and ask the disk)
        if path in found:
            continue
        # Names that are no valid text come back from the disk as lone surrogates, which no table can hold.
        shown = name.encode("utf-8", "replace").decode()
        try:
            status = path.stat()
            found[path] = SoundFile(shown, path, status.st_size, status.st_mtime_ns)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            found[path] = SoundFile(shown, path, problem=f"cannot be read ({reason})")
    return list(found.values())
