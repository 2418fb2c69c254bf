"""A data set made ready: its usable clips with what they hold, the audio spec and the fingerprint."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from soundstack.audio.decode import AudioSpec
from soundstack.audio.sound import shown
from soundstack.datasets.clips import Clip, ClipTable
from soundstack.datasets.scan import Scan
from soundstack.utils import slices
from soundstack.utils.files import write_atomically, write_json
from soundstack.utils.folds import TEST
from soundstack.utils.project import fingerprint


@dataclass(frozen=True, slots=True)
class Example:
    """What a network is fed: a clip, or one channel of it with ``channels=each``."""

    clip: int
    channel: int
    key: str


class OpenRun(Protocol):
    """The run that a data set is logged to; see :class:`soundstack.tracking.run.Run`."""

    @property
    def folder(self) -> Path: ...

    def metrics(self, values: Mapping[str, float]) -> None: ...

    def dataset(self, name: str, data_fingerprint: str, counts: Mapping[str, int]) -> None: ...


@dataclass(frozen=True)
class DataSet:
    """The usable clips of a data set, what they hold, and how they are brought to equal length and rate.

    ``places`` are the clips' places among all clips of the data set, the unusable ones too, by which slices are cut.
    """

    clip_table: ClipTable
    scans: tuple[Scan, ...]
    audio: AudioSpec
    places: tuple[int, ...]
    skipped: tuple[str, ...] = ()

    @property
    def clips(self) -> tuple[Clip, ...]:
        """The usable clips, development first."""
        return self.clip_table.clips

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
        tags = {"dataset": self.clip_table.name, "data_fingerprint": self.fingerprint}
        return tags | ({"table": self.table, "clips": str(len(self.clips))} if self.clip_table.own else {})

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        """All examples in clip order."""
        return tuple(
            Example(index, channel, key)
            for index, scan in enumerate(self.scans)
            for channel, key in enumerate(example_keys(scan, self.audio))
        )

    @cached_property
    def clip_targets(self) -> NDArray[np.intp]:
        """Class index of each clip (N,)."""
        index = {label: number for number, label in enumerate(self.clip_table.labels)}
        return np.array([index[clip.label] for clip in self.clips], dtype=np.intp)

    @cached_property
    def example_targets(self) -> NDArray[np.int64]:
        """Class index of each example (E,)."""
        return self.clip_targets[[example.clip for example in self.examples]].astype(np.int64)

    @cached_property
    def example_folds(self) -> NDArray[np.str_]:
        """Fold of each example (E,)."""
        return np.array([self.clips[example.clip].fold for example in self.examples])

    def clip_means(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Average the scores of a clip's examples: (E, K) -> (N, K)."""
        owner = np.array([example.clip for example in self.examples])
        if len(owner) == len(self.clips):
            return scores
        sums = np.zeros((len(self.clips), scores.shape[1]), dtype=np.float64)
        np.add.at(sums, owner, scores)
        return sums / np.bincount(owner, minlength=len(self.clips))[:, None]

    def slices(self) -> list[list[Example]]:
        """The examples of each fixed slice of clips."""
        grouped = groupby(self.examples, key=lambda example: self.places[example.clip] // slices.SLICE)
        return [list(part) for _, part in grouped]

    @cached_property
    def silent(self) -> tuple[str, ...]:
        """Ids of the clips that are digital silence."""
        return tuple(clip.id for clip, scan in zip(self.clips, self.scans, strict=True) if scan.silent)

    def counts(self) -> dict[str, dict[str, int]]:
        """Clips per class and fold: ``{label: {fold: count}}``."""
        table = Counter((clip.label, clip.fold) for clip in self.clips)
        folds = (*self.clip_table.folds, TEST)
        return {label: {fold: table[label, fold] for fold in folds} for label in self.clip_table.labels}

    def manifest(self) -> str:
        """The clip table as CSV: what the run was trained and scored on, with the folds as they were used.

        Where there are stretches, it has columns ``start`` and ``end``, and the ids of its rows are what
        :func:`soundstack.datasets.clips.listed_id` gives.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        tags = sorted({tag for clip in self.clips for tag in clip.tags})
        columns = ["start", "end"] if any(clip.stretch for clip in self.clips) else []
        writer.writerow(["filename", *columns, "label", "fold", "group", "seconds", "content", *tags])
        for clip, scan in zip(self.clips, self.scans, strict=True):
            times = [shown(time) for time in clip.stretch] if clip.stretch else [""] * len(columns)
            row = [clip.file, *times, clip.label, clip.fold, clip.group, f"{scan.seconds:.3f}", scan.content]
            writer.writerow([*row, *(clip.tags.get(tag, "") for tag in tags)])
        return text.getvalue()

    def devel_counts(self) -> Counter[str]:
        """Development clips of each class."""
        return Counter(clip.label for clip in self.clip_table.devel)

    def log(self, run: OpenRun, *notes: str) -> None:
        """Log what data goes into a run: fingerprint, clip table, counts, and the table's notes with further ones."""
        table = self.clip_table
        counts = {
            "clips_devel": len(table.devel),
            "clips_test": len(table.test),
            "clips_skipped": len(self.skipped),
            "clips_silent": len(self.silent),
            "classes": len(table.labels),
        }
        run.dataset(table.name, self.fingerprint, counts)
        run.metrics(counts)
        content = {
            "dataset": table.name,
            "fingerprint": self.fingerprint,
            "audio": self.audio.to_json(),
            "folds": table.folds,
            "counts": self.counts(),
            "notes": [*table.notes, *notes],
            "skipped": self.skipped,
            "silent": self.silent,
            "licence": table.licence,
            "citation": table.citation,
        }
        write_atomically(run.folder / "data" / "clips.csv", self.manifest())
        write_json(run.folder / "data" / "data.json", content)


def example_keys(scan: Scan, audio: AudioSpec) -> list[str]:
    """The keys of a clip's examples, by which their features are kept."""
    return [f"{scan.content}:{channel}" for channel in range(scan.channels if audio.channels == "each" else 1)]
