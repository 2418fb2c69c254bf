"""The sound files that a person means by the URI of a folder, a glob, a file or a table in an object store.

They have the names and the order that :func:`soundstack.audio.find.find` gives the same files on a disk.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from soundstack.audio.containers import SUFFIXES
from soundstack.audio.find import SoundFile, chosen, listed_names, tails
from soundstack.audio.tables import TABLE_SUFFIXES
from soundstack.utils import object_store
from soundstack.utils.errors import DataError
from soundstack.utils.object_store import Stored

_MISSING = f"cannot be read ({os.strerror(errno.ENOENT)})"


def find_stored(uri: str) -> list[SoundFile]:
    """List the files of a folder (searched through), of a glob, of a table, or one file, each once.

    Files are named relative to the folder; in a table, as it names them (they must lie below its folder); of a glob, by
    their URIs. What a table names and is not there is listed with its problem.

    Raises:
        DataError: There is nothing of that name, the table cannot be read, or no sound file is found.
        StoreError: The store cannot be asked.
    """
    if (stored := object_store.stored(uri)) is not None:
        if PurePosixPath(uri).suffix.lower() in TABLE_SUFFIXES:
            return _of_table(uri)
        return [_file(uri.rpartition("/")[2], uri, stored)]
    if glob.has_magic(uri):
        if not (found := _fitting(uri)):
            raise DataError(f"input: no file fits the glob {uri}; quote it, and write ** to search through folders.")
        return found
    files = object_store.listed(uri)
    sounds = [name for name in sorted(files, key=_in_order) if _is_sound(name)]
    if not sounds:
        raise DataError(
            f"input: {uri} holds no sound files ({', '.join(sorted(SUFFIXES))}), or is not there; give another folder, "
            "a glob, a sound file, or a CSV."
        )
    return [_file(name, f"{uri}/{name}", files[name]) for name in sounds]


def _file(name: str, uri: str, stored: Stored) -> SoundFile:
    return SoundFile(_shown(name), Path(uri), stored.size, stored.modified, uri=uri)


def _shown(name: str) -> str:
    return name.encode("utf-8", "replace").decode()  # no table can hold lone surrogates


def _in_order(name: str) -> list[tuple[bool, str]]:
    """The files of a folder before those of its folders, as a walk through a disk meets them."""
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]


def _is_sound(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _fitting(uri: str) -> list[SoundFile]:
    scheme, _, rest = uri.partition("://")
    parts = rest.split("/")
    fixed = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    if fixed == 0:
        raise DataError(f"input: {uri}: the bucket itself must be named; give {scheme}://bucket/ and then a glob.")
    top = f"{scheme}://{'/'.join(parts[:fixed])}"
    files, wanted = object_store.listed(top), parts[fixed:]
    found = sorted(name for name in files if _fits(name.split("/"), wanted))
    return [_file(f"{top}/{name}", f"{top}/{name}", files[name]) for name in found]


def _fits(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether a name fits a pattern, part by part, as :mod:`glob` has it: ``**`` is any number of folders."""
    if not wanted or not parts:
        return not parts and all(part == "**" for part in wanted)
    hidden = parts[0].startswith(".")
    if wanted[0] == "**":
        return _fits(parts, wanted[1:]) or (not hidden and _fits(parts[1:], wanted))
    fits = fnmatch.fnmatchcase(parts[0], wanted[0]) and (not hidden or wanted[0].startswith("."))
    return fits and _fits(parts[1:], wanted[1:])


def _of_table(uri: str) -> list[SoundFile]:
    folder, _, name = uri.rpartition("/")
    with TemporaryDirectory() as place:
        table = Path(place, name)
        object_store.download(uri, table)
        names = listed_names(table)
    found: dict[Path, SoundFile] = {}
    for file in _named(names, folder, object_store.listed(folder)):
        found.setdefault(file.path, file)
    return list(found.values())


def _named(names: Iterable[str], folder: str, files: Mapping[str, Stored]) -> Iterator[SoundFile]:
    for name in names:
        plain = posixpath.normpath(name)
        there = _there(plain, files)
        if there not in files:
            there = chosen(name, [tail for each in tails(name) if (tail := _there(each, files)) in files]) or plain
        uri = f"{folder}/{there}"
        if there in files:
            yield _file(name, uri, files[there])
        elif plain.startswith(("/", "../")):
            yield SoundFile(_shown(name), Path(uri), problem=f"lies outside of {folder}, the folder of the table")
        else:
            yield SoundFile(_shown(name), Path(uri), problem=_MISSING, uri=uri)


def _there(name: str, files: Mapping[str, Stored]) -> str:
    forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    return next((form for form in forms if form in files), name)
