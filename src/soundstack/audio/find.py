"""The sound files that a person means by a folder, a glob, a file, or a table of file names."""

from __future__ import annotations

import errno
import glob
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from soundstack.audio.containers import SUFFIXES
from soundstack.audio.tables import TABLE_SUFFIXES, read_table
from soundstack.utils.errors import DataError


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
        found = _described((str(path.relative_to(place)), path) for path in walk(place))
        if not found:
            raise DataError(
                f"input: {place} and its folders hold no sound files "
                f"({', '.join(sorted(SUFFIXES))}); give another folder, or a glob."
            )
        return found
    if place.suffix.lower() in TABLE_SUFFIXES and stat.S_ISREG(mode):
        return _described((name, located(place.parent, name)[1]) for name in listed_names(place))
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


def located(folder: Path, name: str) -> tuple[str, Path]:
    """The name and the place of a file that a table in a folder names, as it stands there or as another machine says.

    Of a path with backslashes, or from the root of another machine, the file counts that lies below the folder under
    the end of that path; its name is then the one below the folder.

    Raises:
        DataError: Several files may be meant.
    """
    path = on_disk(folder, name)
    if os.path.exists(path):  # noqa: PTH110
        return name, path
    found = chosen(name, [tail for tail in tails(name) if os.path.exists(on_disk(folder, tail))])  # noqa: PTH110
    return (found, on_disk(folder, found)) if found else (name, path)


def tails(name: str) -> list[str]:
    r"""The names below a folder that a path of another machine may have there, from the longest to the shortest.

    >>> tails(r"C:\dogs\a.wav"), tails("/home/ann/a.wav"), tails("dogs/a.wav")
    (['dogs/a.wav', 'a.wav'], ['home/ann/a.wav', 'ann/a.wav', 'a.wav'], [])
    """
    windows = PureWindowsPath(name)
    pure = windows if "\\" in name or windows.drive else PurePosixPath(name)
    if not (pure is windows or pure.anchor):
        return []
    parts = pure.parts[1:] if pure.anchor else pure.parts
    # Of a path from the root, no end leads out of the folder; one that is relative may, as the table says so itself.
    return ["/".join(parts[at:]) for at in range(len(parts)) if ".." not in parts[at:] or (at == 0 and not pure.anchor)]


def chosen(name: str, found: Sequence[str]) -> str:
    """Choose, of the tails of a name that are there, the one that is meant; empty where none is there.

    Raises:
        DataError: Several may be meant.
    """
    if len(found) > 1 and found[0] != name.replace("\\", "/"):
        raise DataError(
            f"which file is {name!r}, {' or '.join(map(repr, found))}? Write it relative to the table's folder, with /."
        )
    return found[0] if found else ""


def walk(folder: Path) -> Iterator[Path]:
    """The sound files of a folder and its folders, in order; without what is hidden; links are followed once."""
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


def listed_names(table: Path) -> list[str]:
    """The names in the column of file names of a table; see :data:`soundstack.audio.tables.NAMES`.

    Raises:
        DataError: It cannot be read, or has no such column or nothing in it.
    """
    read = read_table(table, "input: ")
    column = read.column_of("filename", "input: ")
    if column is None:
        raise DataError(f"input: {table.name} has no column filename; found {', '.join(read.header)}.")
    names = [name for name in read.cells[column] if name]
    if not names:
        raise DataError(f"input: {table.name} lists no files; its column {read.header[column]} is empty.")
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
