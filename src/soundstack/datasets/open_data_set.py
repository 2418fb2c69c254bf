"""A configured data set loaded, scanned and checked: how every step begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from soundstack.audio.containers import SUFFIXES
from soundstack.audio.decode import AudioSpec
from soundstack.datasets.catalogue import data_sets
from soundstack.datasets.clips import Clip, ClipTable, check_splits
from soundstack.datasets.data_set import DataSet
from soundstack.datasets.scan import Listener, Scan, Spread, scan_files
from soundstack.utils import object_store
from soundstack.utils.errors import DataError
from soundstack.utils.folds import TEST
from soundstack.utils.progress import bar, say_once

if TYPE_CHECKING:
    from soundstack.config.steps import DataConfig

#: Larger files, in bytes, are no lists of clips: archives that were left beside them.
LARGEST_LIST = 1 << 26
#: A longest clip beyond this is cropped unless ``clip_seconds`` says otherwise.
LONGEST_AUTO_SECONDS = 10.0


class AudioSoFar:
    """The audio spec as the usable files suggest that are scanned so far; final when all are.

    It is ``settled`` where length and rate are given by the parameters or by the publishers of the data set: then the
    first files tell what holds for all.
    """

    def __init__(self, table: ClipTable, config: DataConfig) -> None:
        self._config = config
        self._seconds = table.seconds if config.clip_seconds == "auto" else config.clip_seconds
        self._longest = 0.0
        self._rates: Counter[int] = Counter()
        self.settled = bool(self._seconds) and bool(config.sample_rate != "auto" or table.sample_rate)

    def add(self, scan: Scan) -> None:
        """Count a usable file."""
        self._longest = max(self._longest, scan.seconds)
        self._rates[scan.sample_rate] += 1

    def spec(self) -> AudioSpec | None:
        """The spec; None where no file is counted yet."""
        if not self._rates:
            return None
        given, common = self._config.sample_rate, max(self._rates, key=lambda value: (self._rates[value], value))
        rate = common if given == "auto" else given
        return AudioSpec(rate, self._seconds or min(LONGEST_AUTO_SECONDS, self._longest), self._config.channels)


class Ahead(Listener, AbstractContextManager[object], Protocol):
    """Who makes features of the clips while they are scanned; entered before the scan and left after it.

    With ``spread``, the files are not scanned here at all.
    """

    @property
    def spread(self) -> Spread | None: ...

    def start(self, so_far: AudioSoFar, *, strict: bool) -> None:
        """Begin; ``strict``: with an unusable file, all is over."""


def open_data_set(config: DataConfig, ahead: Ahead | None = None) -> DataSet:
    """Load, scan and check the configured data set.

    ``ahead`` gets what is decoded on the way, in data set order.

    Raises:
        DataError: It is missing or malformed, a file is damaged (unless ``on_error=skip``), or a split leaks.
    """
    if config.data_store[0]:
        _bring(config)
    table = data_sets()[config.dataset].load(config)
    if table.understood:
        say_once(table.understood)
    if config.cluster != "none" and config.dataset == "demo":  # made here, it is read by all
        object_store.send((clip.path for clip in table.clips), config.cache_path, config.cache_uri)
    # Development first: the order of every table and array.
    listed = sorted(table.clips, key=lambda clip: (clip.fold == TEST, clip.id))
    with bar("scan", len(listed), "clips") as advance, ahead or nullcontext():
        if ahead:
            ahead.start(AudioSoFar(table, config), strict=config.on_error == "fail")
        paths = [clip.path for clip in listed]
        scanned = scan_files(
            paths,
            config.cache_path,
            jobs=config.workers,
            progress=advance,
            listener=ahead,
            spread=ahead.spread if ahead else None,
        )
    skipped = _damaged(listed, scanned, config.on_error)
    places = tuple(place for place, scan in enumerate(scanned) if not scan.problem)
    clips, scans = tuple(listed[place] for place in places), tuple(scanned[place] for place in places)
    if skipped:
        check_splits(clips)
    copies = _copies(clips, scans)
    if copies and table.own:
        raise DataError(f"{copies[0]}: a copy would cross the split. Remove one, or give both the same group.")
    # A published data set is used as it is published; its reader is told.
    notes = (*filter(None, [table.understood]), *table.notes, *(f"{copy}." for copy in copies))
    so_far = AudioSoFar(table, config)
    for scan in scans:
        so_far.add(scan)
    audio = so_far.spec()
    assert audio is not None  # there are usable files
    table = replace(table, clips=clips, seconds=audio.seconds, sample_rate=audio.sample_rate, notes=notes)
    return DataSet(table, scans, audio, places, skipped)


def _bring(config: DataConfig) -> None:
    """Show a data set in an object store as a folder: its lists are fetched, and its sounds if they are read here.

    Else they are empty files of the right names, sizes and times.
    """
    uri, folder = config.data_store
    found = object_store.listed(uri)
    if not found:
        raise DataError(f"data_dir: {uri} holds nothing, or cannot be listed; copy the data set there first.")
    here = config.cluster == "none"
    fetched = {
        name: stored
        for name, stored in found.items()
        if (here if Path(name).suffix.lower() in SUFFIXES else stored.size <= LARGEST_LIST)
    }
    object_store.fetch(uri, fetched, folder)
    object_store.outline({name: stored for name, stored in found.items() if name not in fetched}, folder)
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in found:
            path.unlink()


def _damaged(clips: Sequence[Clip], scans: Sequence[Scan], on_error: str) -> tuple[str, ...]:
    """The clips that cannot be used, each with what is wrong with it."""
    bad = [(clip, scan.problem) for clip, scan in zip(clips, scans, strict=True) if scan.problem]
    if bad and on_error == "fail":
        clip, problem = bad[0]
        more = f" ({len(bad) - 1} more damaged clips)" if len(bad) > 1 else ""
        raise DataError(f"{clip.path}: {problem}{more}. Mend or remove it, or go on without: on_error=skip.")
    if len(bad) == len(clips):
        raise DataError(f"None of the {len(clips)} clips can be used; the first: {clips[0].path} {bad[0][1]}")
    return tuple(f"{clip.id}: {problem}" for clip, problem in bad)


def _copies(clips: Sequence[Clip], scans: Sequence[Scan]) -> list[str]:
    """The same sounds in two folds, in words; silence is no copy of silence."""
    first: dict[str, Clip] = {}
    found = []
    for clip, scan in zip(clips, scans, strict=True):
        other = first.setdefault(scan.content, clip)
        if other.fold != clip.fold and not scan.silent:
            found.append(f"{other.id!r} (fold {other.fold}) and {clip.id!r} (fold {clip.fold}) are the same sound file")
    return found
