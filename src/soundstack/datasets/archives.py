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
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath

from soundstack.utils import signals
from soundstack.utils.errors import DataError
from soundstack.utils.locks import exclusive
from soundstack.utils.progress import bytes_bar, human
from soundstack.utils.remote_file import ELSEWHERE, digest, require_space

_CHUNK = 1 << 20
_STATE = ".unpacked"


@dataclass(frozen=True)
class UnpackLimits:
    """What an archive may unpack to. The defaults are far above every archive of the published data sets.

    ``ratio`` is that of all unpacked bytes to the archive's size, judged once more than ``ratio_from`` bytes
    have been unpacked: a few silent clips compress very well, a whole data set does not.
    """

    members: int = 200_000
    total_bytes: int = 100_000_000_000
    ratio: float = 50.0
    ratio_from: int = 100_000_000


DEFAULT_LIMITS = UnpackLimits()


def extract_zip(
    path: Path,
    folder: Path,
    *,
    limits: UnpackLimits = DEFAULT_LIMITS,
    md5: str | None = None,
) -> tuple[Path, ...]:
    """Unpack the zip archive ``path`` into ``folder``, or skip it if that was done before (see above).

    A file that is there already is replaced.

    Args:
        path: the archive.
        folder: where its members go; made if need be.
        limits: beyond which it is taken for a bomb and refused.
        md5: the archive's MD5, if known; else it is computed.

    Returns:
        The unpacked files, in the archive's order.

    Raises:
        DataError: the archive is missing, damaged or encrypted, a member would leave ``folder`` or is a link,
            or a limit is exceeded (none of its files is in ``folder`` then); or ``folder`` cannot be written.
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
                    files = _unpack(path, folder, temporary, limits)
                    _move(path, md5, files, folder)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"Archive {path} cannot be unpacked into {folder}: {error}. Choose a folder that is writable and has space."
        ) from error
    return tuple(folder / name for name, _ in _marked_files(folder, path.name, md5))


def is_unpacked(folder: Path, name: str, md5: str | None = None) -> bool:
    """Whether the archive called ``name`` was unpacked into ``folder`` and all its files are still there.

    Args:
        folder: as given to :func:`extract_zip`.
        name: the archive's file name; the archive itself is not needed.
        md5: the checksum it must have had; ``None`` takes any.
    """
    files = _marked_files(folder, name, md5)
    try:
        return bool(files) and all((folder / file).stat().st_size == size for file, size in files)
    except OSError:
        return False


def _marked_files(folder: Path, name: str, md5: str | None) -> list[tuple[str, int]]:
    """The files and sizes that the marker names; none if there is no marker, or another archive's."""
    try:
        marker = json.loads((folder / _STATE / f"{name}.json").read_text(encoding="utf-8"))
        if md5 is not None and marker["md5"] != md5.lower():
            return []
        return [(str(file), int(size)) for file, size in marker["files"]]
    except (OSError, ValueError, TypeError, KeyError):  # none, or not ours
        return []


def _unpack(path: Path, folder: Path, temporary: Path, limits: UnpackLimits) -> dict[PurePosixPath, int]:
    """Write all members below ``temporary``, their CRCs checked on the way; their names and sizes in order."""
    most = min(limits.total_bytes, max(limits.ratio_from, int(limits.ratio * path.stat().st_size)))
    files: dict[PurePosixPath, int] = {}
    unpacked = 0
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked_members(archive, path, limits)
            declared = sum(info.file_size for info in members.values())
            if declared > most:  # an honest bomb need not be begun
                raise _bomb(path, most)
            require_space(folder, declared)
            with bytes_bar(f"unpacking {path.name}", declared) as bar:
                for name, info in members.items():
                    target = temporary / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    files[name] = 0
                    with archive.open(info) as source, target.open("xb") as sink:
                        while chunk := source.read(_CHUNK):
                            if signals.interrupted():  # of a thread that unpacks, Ctrl-C reaches the main one alone
                                raise KeyboardInterrupt
                            if (unpacked := unpacked + len(chunk)) > most:
                                raise _bomb(path, most)
                            files[name] += sink.write(chunk)
                            bar.update(len(chunk))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError is what zipfile raises for a member that needs a password.
        raise DataError(
            f"Archive {path} is damaged or no zip archive that can be read ({error}); nothing was unpacked. "
            "Delete it and download it again."
        ) from error
    return files


def _checked_members(
    archive: zipfile.ZipFile, path: Path, limits: UnpackLimits
) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files of the archive by the place they go to, folders left out."""
    infos = archive.infolist()
    if len(infos) > limits.members:
        raise _refused(path, f"it has {len(infos):,} members, more than {limits.members:,}")
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
    undo = ExitStack()
    undo.callback(_put_back, old, folder)
    try:
        for name in files:
            _place(temporary / name, folder / name, old / name, undo)
        content = {"md5": md5, "files": [(str(name), size) for name, size in files.items()]}
        draft.write_text(json.dumps(content), encoding="utf-8")
        draft.replace(state / f"{path.name}.json")
    except BaseException:
        with signals.put_off():
            undo.close()
        raise
    shutil.rmtree(old, ignore_errors=True)


def _place(source: Path, target: Path, old: Path, undo: ExitStack) -> None:
    """Move one file to its target, and what is there to ``old``; ``undo`` learns what takes it away again."""
    for parent in reversed([*takewhile(lambda parent: not parent.exists(), target.parents)]):
        undo.callback(_quietly, parent.rmdir)
        parent.mkdir(exist_ok=True)  # another archive, unpacked beside this one, may be quicker
    if target.is_dir() and not target.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if os.path.lexists(target):
        old.parent.mkdir(parents=True, exist_ok=True)
        target.replace(old)
    undo.callback(_quietly, target.unlink)
    source.replace(target)


def _quietly(step: Callable[[], object]) -> None:
    with suppress(OSError):
        step()


def _put_back(old: Path, folder: Path) -> None:
    """Give back to ``folder`` the files that were to be replaced."""
    for path in list(old.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            target = folder / path.relative_to(old)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def _bomb(path: Path, most: int) -> DataError:
    return _refused(path, f"it unpacks to more than {human(most)}, as archive bombs do")


def _refused(path: Path, why: str) -> DataError:
    return DataError(
        f"Archive {path} is refused: {why}. Nothing was unpacked; get the archive from its publisher again."
    )
