"""The published data sets brought onto the disk: fetched, verified, unpacked.

In the folder of a data set, :func:`download` keeps archives in ``archives/`` until they are unpacked, and
unpacks them beside it; what was unpacked is remembered (see :mod:`soundstack.datasets.archives`), so a second call
fetches only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soundstack.datasets.archives import extract_zip, is_unpacked
from soundstack.datasets.catalogue import Archive, Source, data_sets
from soundstack.utils.download import fetch
from soundstack.utils.errors import ConfigError, DataError
from soundstack.utils.locks import exclusive
from soundstack.utils.progress import human
from soundstack.utils.remote_file import ELSEWHERE, RemoteFile, digest

STORE = "archives"


@dataclass(frozen=True)
class Downloaded:
    """The archives that were fetched and those that were there already, by file name."""

    folder: Path
    fetched: tuple[str, ...]
    present: tuple[str, ...]


def download(
    name: str,
    folder: Path,
    *,
    base_url: str | None = None,
    keep_archives: bool = False,
    jobs: int = 4,
    parts: Collection[str] | None = None,
) -> Downloaded:
    """Bring a published data set into ``folder``, which is then its ``data_dir``.

    Every archive is fetched, verified, unpacked and, unless ``keep_archives``, removed. What was
    interrupted is resumed, what is there already is not fetched again. Archives that were fetched by other
    means are taken from ``folder/archives/``.

    Args:
        name: ``esc50`` (or ``esc10``), ``dcase2017`` or ``dcase2018``.
        folder: where to; made if need be.
        base_url: a mirror that has all archives under their published names, instead of the publisher.
        keep_archives: keep them after they were unpacked.
        jobs: how many archives are fetched and unpacked at a time.
        parts: only these, such as ``development`` or ``evaluation/meta``; default: all.

    Raises:
        ConfigError: an unknown data set or part.
        DownloadError: too little disk space, or an archive that cannot be fetched or is not the published one.
        DataError: an archive that cannot be unpacked safely.
        StoreError: the folder cannot be written.
    """
    sources = {known: entry.source for known, entry in data_sets().items() if entry.source}
    if name not in sources:
        raise ConfigError(f"Nothing can be downloaded for dataset={name}: use one of {', '.join(sources)}.")
    source = sources[name]
    chosen = _chosen(source, parts)
    print(source.title)
    print(f"Licence: {source.licence}")
    print(f"Cite: {source.citation}")
    store = folder / STORE
    with exclusive(folder / ".download.lock", f"downloading to {folder}", ELSEWHERE):
        missing = [archive for archive in chosen if not _is_there(archive, source, folder)]
        if missing:
            print(f"{len(missing)} of {len(chosen)} archives are missing in {folder}, {_amount(missing, source)}.")
            needed = _needed(missing, source, keep_archives, jobs)
            unpack = _unpacker(source, folder, keep_archives)
            files = [_at(archive.file, base_url, source) for archive in missing]
            fetch(files, store, jobs, needed=needed, then=unpack)
        _tidy(store)
    fetched = tuple(archive.file.name for archive in missing)
    present = tuple(archive.file.name for archive in chosen if archive not in missing)
    print(f"{source.name} is in {folder}: {len(fetched)} archives fetched, {len(present)} were there already.")
    return Downloaded(folder, fetched, present)


def _chosen(source: Source, parts: Collection[str] | None) -> tuple[Archive, ...]:
    """The archives of the wanted parts; a part's first word stands for all that begins with it."""
    if parts is None:
        return source.archives
    known = {*source.parts, *(part.split("/")[0] for part in source.parts)}
    if unknown := sorted(set(parts) - known):
        raise ConfigError(f"{source.name} has no part {unknown[0]!r}: use {', '.join(sorted(known))}.")
    return tuple(archive for archive in source.archives if {archive.part, archive.part.split("/")[0]} & set(parts))


def _is_there(archive: Archive, source: Source, folder: Path) -> bool:
    return is_unpacked(folder, archive.file.name, None if source.moving else archive.file.md5)


def _at(file: RemoteFile, base_url: str | None, source: Source) -> RemoteFile:
    """The file as it is fetched: from the mirror, if there is one, and unchecked where its contents move."""
    url = file.url if base_url is None else f"{base_url.rstrip('/')}/{file.name}"
    return replace(file, url=url, md5=None if source.moving else file.md5)


def packed(archive: Archive, source: Source) -> int:
    """The size of an archive in bytes, published or typical."""
    if archive.file.size is not None:
        return archive.file.size
    # All but sound is small.
    return source.typical_bytes if archive.part.split("/")[-1] in ("audio", "clips") else 0


def _amount(archives: Sequence[Archive], source: Source) -> str:
    known = all(archive.file.size is not None for archive in archives)
    total = sum(packed(archive, source) for archive in archives)
    return f"{'' if known else 'about '}{human(total)}" if total else "of unpublished size, but small"


def _needed(missing: Sequence[Archive], source: Source, keep_archives: bool, jobs: int) -> int:
    """The bytes that the disk must have free: all that is unpacked, and the archives that exist at a time."""
    sizes = sorted((packed(archive, source) for archive in missing), reverse=True)
    return int(source.growth * sum(sizes)) + sum(sizes if keep_archives else sizes[:jobs])


def _unpacker(source: Source, folder: Path, keep_archives: bool) -> Callable[[RemoteFile, Path], None]:
    """What unpacks and removes an archive as soon as it is there: the disk never holds them all."""
    published = {archive.file.name: archive.file.md5 for archive in source.archives}

    def unpack(file: RemoteFile, path: Path) -> None:
        md5 = published[file.name]
        if source.moving and (found := digest(path)) != md5:
            print(f"Warning: {file.name} has the MD5 {found}, not {md5} as it once had: its branch has moved on.")
            md5 = found
        try:
            extract_zip(path, folder, md5=md5)
        except DataError:
            if not file.checksums:
                path.unlink(missing_ok=True)  # nothing but unpacking could tell that it is damaged
            raise
        if not keep_archives:
            path.unlink()

    return unpack


def _tidy(store: Path) -> None:
    """Remove the store if it has nothing left but locks, which no one holds: the folder's lock is ours."""
    if store.is_dir() and all(path.suffix == ".lock" for path in store.iterdir()):
        for path in store.iterdir():
            path.unlink()
        store.rmdir()
