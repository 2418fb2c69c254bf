"""The published data sets brought onto the disk: fetched, verified, unpacked.

In the folder of a data set, :func:`download` keeps archives in ``archives/`` until they are unpacked, and
unpacks them beside it; what was unpacked is remembered (see :mod:`soundstack.datasets.archives`), so a second call
fetches only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

from soundstack.datasets.archives import extract_zip, is_unpacked
from soundstack.datasets.catalogue import Archive, Source, data_sets
from soundstack.utils.download import fetch
from soundstack.utils.errors import ConfigError, DataError
from soundstack.utils.locks import exclusive
from soundstack.utils.progress import human
from soundstack.utils.remote_file import ELSEWHERE, RemoteFile, digest


class Downloaded(NamedTuple):
    """The archives that were fetched and those that were there already, by file name."""

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

    Every archive is fetched, verified, unpacked and, unless ``keep_archives``, removed, ``jobs`` at a time. What was
    interrupted is resumed, what is there already is not fetched again. Archives that were fetched by other means are
    taken from ``folder/archives/``. ``base_url`` is a mirror that has all archives under their published names, and
    ``parts`` are such as ``development`` or ``evaluation/meta``; default: all.

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
    print(source.title, f"Licence: {source.licence}", f"Cite: {source.citation}", sep="\n")
    store = folder / "archives"
    with exclusive(folder / ".download.lock", f"downloading to {folder}", ELSEWHERE):
        missing, files = [], []
        for archive in chosen:
            # What moves has another checksum now and then.
            file = replace(archive.file, md5=None) if source.moving else archive.file
            if not is_unpacked(folder, file.name, file.md5):
                missing.append(archive)
                files.append(replace(file, url=f"{base_url.rstrip('/')}/{file.name}") if base_url is not None else file)
        if missing:
            sizes = sorted((packed(archive, source) for archive in missing), reverse=True)
            known = all(file.size is not None for file in files)
            amount = (
                f"{'' if known else 'about '}{human(sum(sizes))}" if any(sizes) else "of unpublished size, but small"
            )
            print(f"{len(missing)} of {len(chosen)} archives are missing in {folder}, {amount}.")
            # All that is unpacked, and the archives that exist at a time.
            needed = int(source.growth * sum(sizes)) + sum(sizes if keep_archives else sizes[:jobs])
            fetch(files, store, jobs, needed=needed, then=_unpacker(source, folder, keep_archives))
        # Nothing left but locks, which no one holds: the folder's lock is ours.
        if store.is_dir() and all(path.suffix == ".lock" for path in store.iterdir()):
            rmtree(store)
    fetched = tuple(archive.file.name for archive in missing)
    present = tuple(archive.file.name for archive in chosen if archive not in missing)
    print(f"{source.name} is in {folder}: {len(fetched)} archives fetched, {len(present)} were there already.")
    return Downloaded(fetched, present)


def _chosen(source: Source, parts: Collection[str] | None) -> tuple[Archive, ...]:
    """The archives of the wanted parts; a part's first word stands for all that begins with it."""
    if parts is None:
        return source.archives
    names = {archive: {archive.part, archive.part.split("/")[0]} for archive in source.archives}
    known = set().union(*names.values())
    if unknown := sorted(set(parts) - known):
        raise ConfigError(f"{source.name} has no part {unknown[0]!r}: use {', '.join(sorted(known))}.")
    return tuple(archive for archive in source.archives if names[archive] & set(parts))


def packed(archive: Archive, source: Source) -> int:
    """The size of an archive in bytes, published or typical."""
    if archive.file.size is not None:
        return archive.file.size
    # All but sound is small.
    return source.typical_bytes if archive.part.split("/")[-1] in ("audio", "clips") else 0


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
