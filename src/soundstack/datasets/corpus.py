"""A data set made ready: its clips loaded, scanned and checked, with the audio spec and the fingerprint."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Protocol

from soundstack.audio.decode import AudioSpec
from soundstack.config.base import DataConfig
from soundstack.datasets.clips import TEST, Clip, DataSet, check_splits
from soundstack.datasets.scan import Listener, Scan, scan_files
from soundstack.utils import slices
from soundstack.utils.code_versions import code_version
from soundstack.utils.errors import DataError
from soundstack.utils.progress import bar
from soundstack.utils.project import fingerprint

#: A longest clip beyond this is cropped unless ``clip_seconds`` says otherwise.
LONGEST_AUTO_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Example:
    """What a network is fed: a clip, or one channel of it with ``channels=each``."""

    clip: int
    channel: int
    key: str


class OpenRun(Protocol):
    """The run that a corpus is logged to; see :class:`soundstack.tracking.run.Run`."""

    @property
    def folder(self) -> Path: ...

    def metrics(self, values: Mapping[str, float]) -> None: ...

    def dataset(self, name: str, data_fingerprint: str, counts: Mapping[str, int]) -> None: ...


@dataclass(frozen=True)
class Corpus:
    """The usable clips of a data set, what they hold, and how they are brought to equal length and rate.

    ``places`` are the clips' places among all clips of the data set, the unusable ones too, by which slices are cut.
    """

    dataset: DataSet
    scans: tuple[Scan, ...]
    audio: AudioSpec
    places: tuple[int, ...]
    skipped: tuple[str, ...] = ()

    @property
    def clips(self) -> tuple[Clip, ...]:
        """The usable clips, development first."""
        return self.dataset.clips

    @cached_property
    def fingerprint(self) -> str:
        """Changes when a clip, its sound, its label, its fold or its group changes; not with paths or order."""
        rows = [
            [clip.id, scan.content, clip.label, clip.fold, clip.group]
            for clip, scan in zip(self.clips, self.scans, strict=True)
        ]
        return fingerprint(sorted(rows))

    @cached_property
    def table(self) -> str:
        """Identifies the sounds and their labels, whatever their folds and groups, and the names of files."""
        rows = [[scan.content, clip.label] for clip, scan in zip(self.clips, self.scans, strict=True)]
        return fingerprint(sorted(rows))

    @property
    def tags(self) -> dict[str, str]:
        """What a registered model says of its data; ``table`` and ``clips`` only where the name belongs to a table."""
        tags = {"dataset": self.dataset.name, "data_fingerprint": self.fingerprint}
        return tags | ({"table": self.table, "clips": str(len(self.clips))} if self.dataset.own else {})

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        """All examples in clip order."""
        return tuple(
            Example(index, channel, key)
            for index, scan in enumerate(self.scans)
            for channel, key in enumerate(example_keys(scan, self.audio))
        )

    def slices(self) -> list[list[Example]]:
        """The examples of each fixed slice of clips."""
        return [
            list(part)
            for _, part in groupby(self.examples, key=lambda example: self.places[example.clip] // slices.SLICE)
        ]

    @cached_property
    def silent(self) -> tuple[str, ...]:
        """Ids of the clips that are digital silence."""
        return tuple(clip.id for clip, scan in zip(self.clips, self.scans, strict=True) if scan.silent)

    def counts(self) -> dict[str, dict[str, int]]:
        """Clips per class and fold: ``{label: {fold: count}}``."""
        table = Counter((clip.label, clip.fold) for clip in self.clips)
        folds = (*self.dataset.folds, TEST)
        return {label: {fold: table[label, fold] for fold in folds} for label in self.dataset.labels}

    def manifest(self) -> str:
        """The clip table as CSV: what the run was trained and scored on, with the folds as they were used."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        tags = sorted({tag for clip in self.clips for tag in clip.tags})
        writer.writerow(["filename", "label", "fold", "group", "seconds", "content", *tags])
        for clip, scan in zip(self.clips, self.scans, strict=True):
            row = [clip.id, clip.label, clip.fold, clip.group, f"{scan.seconds:.3f}", scan.content]
            writer.writerow([*row, *(clip.tags.get(tag, "") for tag in tags)])
        return text.getvalue()

    def log(self, run: OpenRun) -> None:
        """Log what data goes into a run: fingerprint, clip table, counts, notes."""
        dataset = self.dataset
        counts = {
            "clips_devel": len(dataset.devel),
            "clips_test": len(dataset.test),
            "clips_skipped": len(self.skipped),
            "clips_silent": len(self.silent),
            "classes": len(dataset.labels),
        }
        run.dataset(dataset.name, self.fingerprint, counts)
        run.metrics(counts)
        content = {
            "dataset": dataset.name,
            "fingerprint": self.fingerprint,
            "audio": self.audio.to_json(),
            "folds": dataset.folds,
            "counts": self.counts(),
            "notes": dataset.notes,
            "skipped": self.skipped,
            "silent": self.silent,
            "licence": dataset.licence,
            "citation": dataset.citation,
        }
        folder = run.folder / "data"
        folder.mkdir(exist_ok=True)
        (folder / "clips.csv").write_text(self.manifest(), encoding="utf-8")
        (folder / "data.json").write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")


def example_keys(scan: Scan, audio: AudioSpec) -> list[str]:
    """The keys of a clip's examples, by which their features are kept."""
    return [f"{scan.content}:{channel}" for channel in range(scan.channels if audio.channels == "each" else 1)]


class AudioSoFar:
    """The audio spec as the usable files suggest that are scanned so far; final when all are.

    Attributes:
        settled: Length and rate are given by the parameters or by the publishers of the data set, so that the first
            files tell what holds for all.
    """

    def __init__(self, dataset: DataSet, config: DataConfig) -> None:
        self._config = config
        self._seconds = dataset.seconds if config.clip_seconds == "auto" else config.clip_seconds
        self._longest = 0.0
        self._rates: Counter[int] = Counter()
        self.settled = bool(self._seconds) and bool(config.sample_rate != "auto" or dataset.sample_rate)

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


class Ahead(Listener, Protocol):
    """Who makes features of the clips while they are scanned; entered before the scan and left after it."""

    def __enter__(self) -> object: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...

    def start(self, so_far: AudioSoFar, *, strict: bool) -> None:
        """Begin; ``strict``: with an unusable file, all is over."""


def load_dataset(config: DataConfig) -> DataSet:
    """Load the clip table of the configured data set.

    Raises:
        DataError: The data set is missing, malformed, or its splits leak.
    """
    if config.dataset == "demo":
        from soundstack.datasets.demo import dataset as demo

        folder = config.cache_path / f"demo-{code_version('datasets.demo.dataset')}"
        with bar("demo", demo.CLIPS, "clips") as advance:
            demo.write(folder, jobs=config.workers, progress=advance)
        return demo.load(folder)
    if config.dataset == "csv":
        from soundstack.datasets import csv_table as custom

        return replace(custom.load(config.data_path, seed=config.drawn_with), name=config.data_name)
    if config.dataset == "dcase2017":
        from soundstack.datasets import dcase2017

        return dcase2017.load(config.data_path)
    if config.dataset == "dcase2018":
        from soundstack.datasets import dcase2018

        return dcase2018.load(config.data_path)
    from soundstack.datasets import esc50

    return esc50.load(config.data_path, subset=config.dataset)


def open_corpus(config: DataConfig, ahead: Ahead | None = None) -> Corpus:
    """Load, scan and check the configured data set.

    ``ahead`` gets what is decoded on the way, in corpus order.

    Raises:
        DataError: The table is wrong, a file is damaged (unless ``on_error=skip``), or a split leaks.
    """
    dataset = load_dataset(config)
    # Development first: the order of every table and array.
    dataset = replace(dataset, clips=tuple(sorted(dataset.clips, key=lambda clip: (clip.fold == TEST, clip.id))))
    paths = [clip.path for clip in dataset.clips]
    with bar("scan", len(paths), "clips") as advance, ahead or nullcontext():
        if ahead:
            ahead.start(AudioSoFar(dataset, config), strict=config.on_error == "fail")
        scans = scan_files(paths, config.cache_path, jobs=config.workers, progress=advance, listener=ahead)
    good, skipped = _sort_out(dataset, scans, config.on_error)
    places = tuple(place for place, scan in enumerate(scans) if not scan.problem)
    clips = tuple(clip for clip, _ in good)
    if skipped:
        check_splits(clips)
    kept = tuple(scan for _, scan in good)
    notes = list(dataset.notes)
    if dataset.own:
        _refuse_copies(good)
    else:
        notes += _report_copies(good)
    so_far = AudioSoFar(dataset, config)
    for scan in kept:
        so_far.add(scan)
    audio = so_far.spec()
    assert audio is not None  # there are usable files
    dataset = replace(dataset, clips=clips, seconds=audio.seconds, sample_rate=audio.sample_rate, notes=tuple(notes))
    return Corpus(dataset, kept, audio, places, skipped)


def _sort_out(
    dataset: DataSet, scans: Sequence[Scan], on_error: str
) -> tuple[list[tuple[Clip, Scan]], tuple[str, ...]]:
    pairs = list(zip(dataset.clips, scans, strict=True))
    bad = [(clip, scan) for clip, scan in pairs if scan.problem]
    if bad and on_error == "fail":
        clip, scan = bad[0]
        more = f" ({len(bad) - 1} more damaged clips)" if len(bad) > 1 else ""
        raise DataError(f"{clip.path}: {scan.problem}{more}. Mend or remove it, or go on without: on_error=skip.")
    if len(bad) == len(pairs):
        raise DataError(
            f"None of the {len(pairs)} clips can be used; the first: {pairs[0][0].path} {bad[0][1].problem}"
        )
    good = [(clip, scan) for clip, scan in pairs if not scan.problem]
    return good, tuple(f"{clip.id}: {scan.problem}" for clip, scan in bad)


def _copies(pairs: Sequence[tuple[Clip, Scan]]) -> list[tuple[Clip, Clip]]:
    first: dict[str, Clip] = {}
    found = []
    for clip, scan in pairs:
        other = first.setdefault(scan.content, clip)
        if other.fold != clip.fold and not scan.silent:
            found.append((other, clip))
    return found


def _refuse_copies(pairs: Sequence[tuple[Clip, Scan]]) -> None:
    for first, second in _copies(pairs):
        raise DataError(
            f"{first.id!r} (fold {first.fold}) and {second.id!r} (fold {second.fold}) are the same sound file: a copy "
            "would cross the split. Remove one, or give both the same group."
        )


def _report_copies(pairs: Sequence[tuple[Clip, Scan]]) -> list[str]:
    # A published data set is used as it is published; its reader is told.
    return [
        f"{first.id} (fold {first.fold}) and {second.id} (fold {second.fold}) are the same sound file."
        for first, second in _copies(pairs)
    ]
