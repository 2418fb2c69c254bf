"""Zip archives unpacked safely: all of an archive or nothing, nothing outside its folder, and no bombs.

What is on disk while and after ``x.zip`` is unpacked into ``folder``:

- ``folder/.unpacked/x.zip.tmp/`` gets the members first. Only when all are there and their CRCs are right are
  they moved into ``folder``, file by file with ``os.replace``; what a killed process left is removed by the next one.
- ``folder/.unpacked/x.zip.old/`` keeps the files that they replace until all are moved. If anything fails before,
  ``folder`` is as it was; of a process that was killed, the next one puts them back, and unpacks again.
- ``folder/.unpacked/x.zip.json`` is written last: it names the archive's checksum and every file with its
  size. An archive whose marker is there and whose files all are is skipped, also when the archive is gone.

The size an archive unpacks to is counted while it is unpacked: what its headers declare may be a lie.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm import tqdm

from soundstack.utils import signals
from soundstack.utils.download import ELSEWHERE, digest, human, require_space
from soundstack.utils.errors import DataError
from soundstack.utils.locks import exclusive

_CHUNK = 1 << 20
_STATE = ".unpacked"


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to. The defaults are far above every archive of the published data sets.

    ``ratio`` is that of all unpacked bytes to the archive's size, judged once more than ``ratio_from`` bytes
    have been unpacked: a few silent clips compress very well, a whole data set does not.
    """

    members: int = 200_000
    total_bytes: int = 100_000_000_000
    ratio: float = 50.0
    ratio_from: int = 100_000_000


DEFAULT_LIMITS = Limits()


def extract_zip(
    path: Path,
    folder: Path,
    *,
    limits: Limits = DEFAULT_LIMITS,
    md5: str | None = None,
    progress: bool = False,
) -> tuple[Path, ...]:
    """Unpack the zip archive ``path`` into ``folder``, or skip it if that was done before (see above).

    A file that is there already is replaced.

    Args:
        path: the archive.
        folder: where its members go; made if need be.
        limits: beyond which it is taken for a bomb and refused.
        md5: the archive's MD5, if known; else it is computed.
        progress: draw a progress bar where standard error is a terminal.

    Returns:
        The unpacked files, in the archive's order.

    Raises:
        DataError: the archive is missing, damaged or encrypted, a member would leave ``folder`` or is a link,
            or a limit is exceeded (none of its files is in ``folder`` then); or ``folder`` cannot be written.
        DownloadError: the disk has too little space.
    """
    if not path.is_file():
        raise DataError(f"There is no archive {path}: download it first.")
    if md5 is None:
        md5 = digest(path, "md5")
    state = folder / _STATE
    temporary, old = state / f"{path.name}.tmp", state / f"{path.name}.old"
    try:
        state.mkdir(parents=True, exist_ok=True)
        with exclusive(state / f"{path.name}.lock", f"unpacking {path}", ELSEWHERE):
            if not is_unpacked(folder, path.name, md5):
                shutil.rmtree(temporary, ignore_errors=True)
                _put_back(old, folder)
                try:
                    names = _unpack(path, folder, temporary, limits, progress=progress)
                    with _all_or_nothing(folder, old) as place:
                        _write_marker(folder, path.name, md5, _move(names, temporary, folder, path, place))
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
    return bool(files) and all(_size(folder / file) == size for file, size in files)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _marked_files(folder: Path, name: str, md5: str | None) -> list[tuple[str, int]]:
    try:
        marker = json.loads((folder / _STATE / f"{name}.json").read_text(encoding="utf-8"))
        if md5 is not None and marker["md5"] != md5.lower():
            return []
        return [(str(file), int(size)) for file, size in marker["files"]]
    except (OSError, ValueError, TypeError, KeyError):  # none, or not ours
        return []


def _write_marker(folder: Path, name: str, md5: str, files: Iterable[tuple[str, int]]) -> None:
    marker = folder / _STATE / f"{name}.json"
    draft = marker.with_suffix(".json.tmp")
    draft.write_text(json.dumps({"md5": md5.lower(), "files": list(files)}), encoding="utf-8")
    draft.replace(marker)


def _unpack(path: Path, folder: Path, temporary: Path, limits: Limits, *, progress: bool) -> tuple[PurePosixPath, ...]:
    """Write all members below ``temporary``; their CRCs are checked on the way."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked_members(archive, path, limits)
            declared = sum(info.file_size for info in members.values())
            with _Meter(path, limits, declared, progress=progress) as meter:
                require_space(folder, declared)
                for name, info in members.items():
                    target = temporary / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(info) as source, target.open("xb") as sink:
                        while chunk := source.read(_CHUNK):
                            meter.count(len(chunk))
                            sink.write(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError is what zipfile raises for a member that needs a password.
        raise DataError(
            f"Archive {path} is damaged or no zip archive that can be read ({error}); nothing was unpacked. "
            "Delete it and download it again."
        ) from error
    return tuple(members)


def _checked_members(archive: zipfile.ZipFile, path: Path, limits: Limits) -> dict[PurePosixPath, zipfile.ZipInfo]:
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


class _Meter:
    """Counts what is unpacked, shows it, and stops what is too much."""

    def __init__(self, path: Path, limits: Limits, declared: int, *, progress: bool) -> None:
        by_ratio = max(limits.ratio_from, int(limits.ratio * path.stat().st_size))
        self._path = path
        self._most = min(limits.total_bytes, by_ratio)
        self._unpacked = 0
        self._check(declared)  # an honest bomb need not be begun
        self._bar = tqdm(
            total=declared,
            unit="B",
            unit_scale=True,
            desc=f"unpacking {path.name}",
            leave=False,
            disable=None if progress else True,  # None: drawn on a terminal only
        )

    def __enter__(self) -> _Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def count(self, received: int) -> None:
        if signals.interrupted():  # of a thread that unpacks, Ctrl-C reaches the main one alone
            raise KeyboardInterrupt
        self._unpacked += received
        self._check(self._unpacked)
        self._bar.update(received)

    def _check(self, unpacked: int) -> None:
        if unpacked > self._most:
            raise _refused(self._path, f"it unpacks to more than {human(self._most)}, as archive bombs do")


def _move(
    names: Iterable[PurePosixPath],
    temporary: Path,
    folder: Path,
    path: Path,
    place: Callable[[Path, PurePosixPath], object],
) -> list[tuple[str, int]]:
    """Move the unpacked files into ``folder`` by ``place``; the names and sizes of what was moved."""
    names = tuple(names)
    inside = folder.resolve()
    for parent in {folder / name.parent for name in names}:
        # A link that lies in the folder already, not one of the archive's: those were refused.
        if not parent.resolve().is_relative_to(inside):
            raise _refused(path, f"{parent} is a link that leads out of {folder}")
    moved = []
    for name in names:
        moved.append((str(name), (temporary / name).stat().st_size))
        place(temporary / name, name)
    return moved


@contextmanager
def _all_or_nothing(folder: Path, old: Path) -> Iterator[Callable[[Path, PurePosixPath], object]]:
    """Yield what puts a file into ``folder`` under a name; if the block fails, ``folder`` is left as it was."""
    made: list[Path] = []
    placed: list[Path] = []

    def place(source: Path, name: PurePosixPath) -> None:
        target = folder / name
        for parent in reversed([*takewhile(lambda parent: not parent.exists(), target.parents)]):
            try:
                parent.mkdir()
            except FileExistsError:  # another archive, unpacked beside this one, was quicker
                if not parent.is_dir():
                    raise
            else:
                made.append(parent)
        if target.is_dir() and not target.is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if os.path.lexists(target):
            (old / name).parent.mkdir(parents=True, exist_ok=True)
            target.replace(old / name)
        placed.append(target)
        source.replace(target)

    try:
        yield place
    except BaseException:
        with signals.put_off():
            for target in placed:
                with suppress(OSError):
                    target.unlink()
            _put_back(old, folder)
            for parent in reversed(made):
                with suppress(OSError):
                    parent.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def _put_back(old: Path, folder: Path) -> None:
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
