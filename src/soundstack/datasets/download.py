"""Where the published data sets come from, and how they are brought onto the disk.

``published_archives.csv`` beside this module lists every archive with its size (where known) and MD5. In
the folder of a data set, :func:`download` keeps archives in ``archives/`` until they are unpacked, and
unpacks them beside it; what was unpacked is remembered (see :mod:`soundstack.datasets.archives`), so a second call
fetches only what is missing.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

from soundstack.datasets import dcase2017, dcase2018, esc50
from soundstack.datasets.archives import extract_zip, is_unpacked
from soundstack.utils.download import ELSEWHERE, RemoteFile, digest, fetch_all, human
from soundstack.utils.errors import ConfigError, DataError, DownloadError
from soundstack.utils.locks import exclusive

logger = logging.getLogger(__name__)

STORE = "archives"


@dataclass(frozen=True)
class Archive:
    """One published archive and the part of the data set that it holds, such as ``development/audio``."""

    part: str
    file: RemoteFile


@dataclass(frozen=True)
class Source:
    """A published data set.

    ``growth`` is how many times larger the data set is than its archives, from the number, length and
    format of its clips; ``typical_bytes`` stands in for the size of an archive whose size was not
    published. ``moving`` means that the archive is made anew from a branch now and then: another checksum
    is then a warning, not an error.
    """

    name: str
    title: str
    licence: str
    citation: str
    archives: tuple[Archive, ...] = field(repr=False)
    growth: float
    typical_bytes: int
    moving: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that can be fetched by themselves, without repetition."""
        return tuple(dict.fromkeys(archive.part for archive in self.archives))


@dataclass(frozen=True)
class Downloaded:
    """The archives that were fetched and those that were there already, by file name."""

    name: str
    folder: Path
    fetched: tuple[str, ...]
    present: tuple[str, ...]
    warnings: tuple[str, ...]


def _archives(name: str, urls: dict[str, str]) -> tuple[Archive, ...]:
    """The archives of a data set in the list beside this module; ``urls`` by the first word of the part."""
    text = resources.files(__package__).joinpath("published_archives.csv").read_text(encoding="utf-8")
    archives = []
    for row in csv.DictReader(text.splitlines()):
        if row["data_set"] == name:
            url = urls[row["part"].split("/")[0]].format(file=row["file"])
            size = int(row["bytes"]) if row["bytes"] else None
            archives.append(Archive(row["part"], RemoteFile(url, row["file"], size=size, md5=row["md5"])))
    return tuple(archives)


ESC50 = Source(
    "esc50",
    "ESC-50, with ESC-10 as a part of it",
    f"{esc50.LICENCES['esc50']}; the ESC-10 subset {esc50.LICENCES['esc10']}",
    esc50.CITATION,
    _archives("esc50", {"clips": esc50.URL}),
    growth=1.5,  # 2000 clips of 441,044 bytes
    typical_bytes=600_000_000,
    moving=True,
)
DCASE2017 = Source(
    "dcase2017",
    "DCASE 2017 task 1: TUT Acoustic Scenes 2017, development and evaluation",
    dcase2017.LICENCE,
    dcase2017.CITATION,
    _archives("dcase2017", dcase2017.URLS),
    growth=1.2,  # 6300 clips of 2.65 MB
    typical_bytes=1_100_000_000,
)
DCASE2018 = Source(
    "dcase2018",
    "DCASE 2018 task 5: domestic activities, development and evaluation",
    dcase2018.LICENCE,
    dcase2018.CITATION,
    _archives("dcase2018", dcase2018.URLS),
    growth=2.1,  # 145,956 clips of 1.28 MB
    typical_bytes=2_000_000_000,
)
SOURCES = {"esc10": ESC50, "esc50": ESC50, "dcase2017": DCASE2017, "dcase2018": DCASE2018}
"""What can be downloaded, by the value of the parameter ``dataset``."""


def download(
    name: str,
    folder: Path,
    *,
    base_url: str | None = None,
    keep_archives: bool = False,
    jobs: int = 4,
    parts: Collection[str] | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
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
        progress: draw progress bars where standard error is a terminal.
        say: told licence, citation and progress, line by line.

    Raises:
        ConfigError: an unknown data set or part.
        DownloadError: too little disk space, or an archive that cannot be fetched or is not the published
        one. DataError: an archive that cannot be unpacked safely.
    """
    if name not in SOURCES:
        raise ConfigError(f"Nothing can be downloaded for dataset={name}: use one of {', '.join(SOURCES)}.")
    source = SOURCES[name]
    chosen = _chosen(source, parts)
    if base_url is not None:
        chosen = tuple(
            replace(archive, file=replace(archive.file, url=f"{base_url.rstrip('/')}/{archive.file.name}"))
            for archive in chosen
        )
    say(source.title)
    say(f"Licence: {source.licence}")
    say(f"Cite: {source.citation}")
    store = folder / STORE
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"{store} cannot be made ({error}): choose another folder.") from error
    with exclusive(folder / ".download.lock", f"downloading to {folder}", ELSEWHERE):
        missing = tuple(archive for archive in chosen if not _is_there(archive, source, folder))
        present = tuple(archive.file.name for archive in chosen if archive not in missing)
        warnings: list[str] = []
        if missing:
            say(f"{len(missing)} of {len(chosen)} archives are missing in {folder}, {_amount(missing, source)}.")
            _fetch(missing, source, folder, keep_archives, jobs, progress, warnings)
        _tidy(store)
    for warning in warnings:
        say(f"Warning: {warning}")
    say(f"{source.name} is in {folder}: {len(missing)} archives fetched, {len(present)} were there already.")
    return Downloaded(source.name, folder, tuple(archive.file.name for archive in missing), present, tuple(warnings))


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


def _packed(archive: Archive, source: Source) -> int:
    """The size of an archive in bytes, published or typical."""
    if archive.file.size is not None:
        return archive.file.size
    # All but sound is small.
    return source.typical_bytes if archive.part.split("/")[-1] in ("audio", "clips") else 0


def _amount(archives: tuple[Archive, ...], source: Source) -> str:
    known = all(archive.file.size is not None for archive in archives)
    total = sum(_packed(archive, source) for archive in archives)
    return f"{'' if known else 'about '}{human(total)}" if total else "of unpublished size, but small"


def _needed(missing: tuple[Archive, ...], source: Source, keep_archives: bool, jobs: int) -> int:
    """The bytes that the disk must have free: all that is unpacked, and the archives that exist at a time."""
    packed = sorted((_packed(archive, source) for archive in missing), reverse=True)
    return int(source.growth * sum(packed)) + sum(packed if keep_archives else packed[:jobs])


def _fetch(
    missing: tuple[Archive, ...],
    source: Source,
    folder: Path,
    keep_archives: bool,
    jobs: int,
    progress: bool,
    warnings: list[str],
) -> None:
    """Fetch archives, and unpack and remove each as soon as it is there: the disk never holds them all."""

    def unpack(file: RemoteFile, path: Path) -> None:
        md5 = published[file.name]
        if source.moving:
            found = digest(path)
            if found != md5:
                warnings.append(f"{file.name} has the MD5 {found}, not {md5} as it once had: its branch has moved on.")
            md5 = found
        try:
            extract_zip(path, folder, md5=md5, progress=progress)
        except DataError:
            if not file.has_checksum:
                path.unlink(missing_ok=True)  # nothing but unpacking could tell that it is damaged
            raise
        if not keep_archives:
            path.unlink()
        logger.info("%s is unpacked.", file.name)

    published = {archive.file.name: archive.file.md5 for archive in missing}
    files = [replace(archive.file, md5=None) if source.moving else archive.file for archive in missing]
    needed = _needed(missing, source, keep_archives, jobs)
    fetch_all(files, folder / STORE, jobs, progress=progress, needed=needed, then=unpack)


def _tidy(store: Path) -> None:
    """Remove the store if it has nothing left but locks, which no one holds: the folder's lock is ours."""
    if all(path.suffix == ".lock" for path in store.iterdir()):
        for path in store.iterdir():
            path.unlink()
        store.rmdir()
