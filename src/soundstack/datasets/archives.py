"""Zip archives unpacked safely: all of an archive or nothing, nothing outside its folder, and no bombs.

What is on disk while and after ``x.zip`` is unpacked into ``folder``:

- ``folder/.unpacked/x.zip.tmp/`` gets the members first. Only when all are there and their CRCs are right are
  they moved into ``folder``, file by file with ``os.replace``; what a killed process left is removed by the next one.
- ``folder/.unpacked/x.zip.old/`` keeps the files that they replace until all are moved. If anything fails before,
  ``folder`` is as it was; of a process that was killed, the next one puts them back, and unpacks again.
- ``folder/.unpacked/x.zip.json`` is written last: it names the archive's checksum and every file with its
  size. An archive whose marker is there and whose files all are is skipped, also when the archive is gone.

The size an archive unpacks to is counted while it is unpacked: what its headers declare may be a lie. The standard
library does none of this: ``extractall`` and ``unpack_archive`` rename what would leave the folder instead of refusing
it, know no bound, and leave half an archive behind.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath

from soundstack.utils import signals
from soundstack.utils.errors import DataError
from soundstack.utils.locks import exclusive
from soundstack.utils.progress import bytes_bar, human
from soundstack.utils.remote_file import ELSEWHERE, digest, require_space

_CHUNK = 1 << 20
_STATE = ".unpacked"
#: What an archive may unpack to, far above every archive of the published data sets. The ratio of all unpacked bytes to
#: the archive's size is judged from so many bytes on: a few silent clips compress very well, a whole data set does not.
MOST_MEMBERS, MOST_BYTES, MOST_RATIO, RATIO_FROM = 200_000, 100_000_000_000, 50, 100_000_000


def extract_zip(path: Path, folder: Path, md5: str | None = None) -> None:
    """Unpack a zip archive into ``folder``, which is made if need be, or skip it if that was done before (see above).

    A file that is there already is replaced. ``md5`` is the archive's, if known; else it is computed.

    Raises:
        DataError: the archive is missing, damaged or encrypted, a member would leave ``folder`` or is a link,
            or it looks like a bomb (none of its files is in ``folder`` then); or ``folder`` cannot be written.
        DownloadError: the disk has too little space.
    """
    if not path.is_file():
        raise DataError(f"There is no archive {path}: download it first.")
    md5 = (md5 or digest(path)).lower()
    state = folder / _STATE
    temporary, old = state / f"{path.name}.tmp", state / f"{path.name}.old"
    try:
        state.mkdir(parents=True, exist_ok=True)
        with exclusive(state / f"{path.name}.lock", f"unpacking {path}", ELSEWHERE):
            if not is_unpacked(folder, path.name, md5):
                shutil.rmtree(temporary, ignore_errors=True)
                _put_back(old, folder)
                try:
                    files = _unpack(path, folder, temporary)
                    _move(path, md5, files, folder)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"Archive {path} cannot be unpacked into {folder}: {error}. Choose a folder that is writable and has space."
        ) from error


def is_unpacked(folder: Path, name: str, md5: str | None = None) -> bool:
    """Whether the archive of this name (and MD5) was unpacked into ``folder`` and all its files are still there."""
    try:
        marker = json.loads((folder / _STATE / f"{name}.json").read_text(encoding="utf-8"))
        files = [(folder / file, size) for file, size in marker["files"]]
        is_same = md5 is None or marker["md5"] == md5.lower()
        return is_same and bool(files) and all(file.stat().st_size == size for file, size in files)
    except (OSError, ValueError, TypeError, KeyError):  # no marker, not ours, or a file is gone
        return False


def _unpack(path: Path, folder: Path, temporary: Path) -> dict[PurePosixPath, int]:
    """Write all members below ``temporary``, their CRCs checked on the way; their names and sizes in order."""
    most = min(MOST_BYTES, max(RATIO_FROM, MOST_RATIO * path.stat().st_size))
    bomb = _refused(path, f"it unpacks to more than {human(most)}, as archive bombs do")
    files: dict[PurePosixPath, int] = {}
    unpacked = 0
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked_members(archive, path)
            declared = sum(info.file_size for info in members.values())
            if declared > most:  # an honest bomb need not be begun
                raise bomb
            require_space(folder, declared)
            with bytes_bar(f"unpacking {path.name}", declared) as bar:
                for name, info in members.items():
                    target = temporary / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(info) as source, target.open("xb") as sink:
                        while chunk := source.read(_CHUNK):
                            if signals.interrupted():  # of a thread that unpacks, Ctrl-C reaches the main one alone
                                raise KeyboardInterrupt
                            unpacked += sink.write(chunk)
                            if unpacked > most:
                                raise bomb
                            bar.update(len(chunk))
                        files[name] = sink.tell()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError is what zipfile raises for a member that needs a password.
        raise DataError(
            f"Archive {path} is damaged or no zip archive that can be read ({error}); nothing was unpacked. "
            "Delete it and download it again."
        ) from error
    return files


def _checked_members(archive: zipfile.ZipFile, path: Path) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files of the archive by the place they go to, folders left out."""
    infos = archive.infolist()
    if len(infos) > MOST_MEMBERS:
        raise _refused(path, f"it has {len(infos):,} members, more than {MOST_MEMBERS:,}")
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in infos:
        # The Windows flavour knows all that is dangerous anywhere: both separators, drives, and roots.
        place = PureWindowsPath(info.filename)
        if place.drive or place.root or ".." in place.parts:
            raise _refused(path, f"its member {info.filename!r} would be written outside the folder")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(path, f"its member {info.filename!r} is a link or a device, not a file")
        if info.filename.endswith(("/", "\\")):
            continue
        name = PurePosixPath(*place.parts)
        if not place.parts or name.parts[0] == _STATE:
            raise _refused(path, f"its member {info.filename!r} has a name that is not allowed")
        if name in members:
            raise _refused(path, f"it has two members called {info.filename!r}")
        members[name] = info
    if not members:
        raise _refused(path, "it has no files")
    return members


def _move(path: Path, md5: str, files: dict[PurePosixPath, int], folder: Path) -> None:
    """Move what is unpacked into ``folder`` and write the marker; if anything fails, ``folder`` is left as it was."""
    inside, state = folder.resolve(), folder / _STATE
    for parent in {folder / name.parent for name in files}:
        # A link that lies in the folder already, not one of the archive's: those were refused.
        if not parent.resolve().is_relative_to(inside):
            raise _refused(path, f"{parent} is a link that leads out of {folder}")
    temporary, old, draft = (state / f"{path.name}.{suffix}" for suffix in ("tmp", "old", "json.tmp"))
    undo: list[Callable[[], object]] = []
    try:
        for name in files:
            target, kept = folder / name, old / name
            for parent in reversed([*takewhile(lambda parent: not parent.exists(), target.parents)]):
                undo.append(parent.rmdir)
                parent.mkdir(exist_ok=True)  # another archive, unpacked beside this one, may be quicker
            if target.is_dir() and not target.is_symlink():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
            if os.path.lexists(target):
                kept.parent.mkdir(parents=True, exist_ok=True)
                target.replace(kept)
            undo.append(target.unlink)
            (temporary / name).replace(target)
        content = {"md5": md5, "files": [(str(name), size) for name, size in files.items()]}
        draft.write_text(json.dumps(content), encoding="utf-8")
        draft.replace(state / f"{path.name}.json")
    except BaseException:
        with signals.put_off():
            for step in reversed(undo):
                with suppress(OSError):
                    step()
            _put_back(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _put_back(old: Path, folder: Path) -> None:
    """Give back to ``folder`` the files that were to be replaced."""
    for path in list(old.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            target = folder / path.relative_to(old)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def _refused(path: Path, why: str) -> DataError:
    return DataError(
        f"Archive {path} is refused: {why}. Nothing was unpacked; get the archive from its publisher again."
    )
