"""The clip table: what a data set is to the rest of the project, and the checks that no split leaks.

A data set is a tuple of clips. Folds ``"1"``, ``"2"``, ... are the development set, used for cross-validation;
fold ``"test"`` is held out (paper section 2). A *group* is what must never be torn apart by a split: a
recording, a location, a session, a source on Freesound.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from soundstack.utils.errors import DataError
from soundstack.utils.folds import TEST, fold_order

NO_TAGS: Mapping[str, str] = MappingProxyType({})


def ungrouped(clips: Sequence[str], of: int, what: str) -> list[str]:
    """A note on the clips, out of ``of``, whose group (``what``: their recording, say) nothing tells; none if none."""
    if not clips:
        return []
    return [
        f"{what} is not known of {len(clips):,} of {of:,} clips (first: {clips[0]}): each counts as a group of its "
        "own, and intervals are too narrow where several belong together."
    ]


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled sound file.

    ``id`` is unique in the data set and stable across machines (the file name below the audio folder);
    ``fold`` is ``"1"``, ``"2"``, ... or ``"test"``; ``tags`` hold what only some data sets know (a node, a channel).
    """

    id: str
    path: Path
    label: str
    fold: str
    group: str
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)

    def __post_init__(self) -> None:
        # What looks the same is the same: "é" may be one character (NFC) or two (NFD).
        for name in ("label", "group"):
            object.__setattr__(self, name, unicodedata.normalize("NFC", getattr(self, name)))


@dataclass(frozen=True)
class ClipTable:
    """Clips with what holds for all of them.

    ``seconds`` is the nominal clip length: shorter clips are zero-padded at the end, longer ones cropped to it.
    ``sample_rate`` in Hz is the rate at which spectrograms are made. ``notes`` collects what the reader should be told
    (skipped clips, drawn folds), one sentence each. ``own`` marks a table of the user's own, whose name does not say
    what is in it; ``understood`` says in one line what was read from it.
    """

    name: str
    clips: tuple[Clip, ...]
    seconds: float
    sample_rate: int
    licence: str = ""
    citation: str = ""
    notes: tuple[str, ...] = ()
    own: bool = False
    understood: str = ""

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The classes in alphabetical order; every score column and model output uses this order."""
        return tuple(sorted({clip.label for clip in self.clips}))

    @cached_property
    def folds(self) -> tuple[str, ...]:
        """The development folds in order, without ``"test"``."""
        return tuple(fold_order(clip.fold for clip in self.devel))

    @cached_property
    def devel(self) -> tuple[Clip, ...]:
        """The clips of the development folds."""
        return tuple(clip for clip in self.clips if clip.fold != TEST)

    @cached_property
    def test(self) -> tuple[Clip, ...]:
        """The held-out clips."""
        return tuple(clip for clip in self.clips if clip.fold == TEST)


def check_splits(clips: Iterable[Clip], called: Callable[[Clip], str] = lambda clip: repr(clip.id)) -> None:
    """Refuse a clip table whose splits leak or cannot be learnt from.

    Checked: every id is unique, no group lies in two folds, there are at least two development folds and a test
    part, every class has clips in at least two development folds, and the test part names no unknown class.
    ``called`` is how a message names a clip. A DataError names the first offending clip, group or class.
    """
    clips = tuple(clips)
    if not clips:
        raise DataError("The data set has no clips.")
    seen: set[str] = set()
    first_of_group: dict[str, Clip] = {}
    folds_of_label: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        if clip.id in seen:
            raise DataError(f"Clip {called(clip)} is listed twice: every clip may stand in the table once.")
        seen.add(clip.id)
        first = first_of_group.setdefault(clip.group, clip)
        if first.fold != clip.fold:
            raise DataError(
                f"Group {clip.group!r} crosses folds: {called(first)} is in fold {first.fold}, {called(clip)} in "
                f"fold {clip.fold}. Clips of one group (recording, session, source) must share a fold."
            )
        folds_of_label[clip.label].add(clip.fold)
    folds = {clip.fold for clip in clips}
    devel_folds = folds - {TEST}
    if len(devel_folds) < 2:
        raise DataError(f"Cross-validation needs at least two development folds; found {fold_order(devel_folds)}.")
    if TEST not in folds:
        raise DataError("The data set has no test clips: mark a held-out part with fold 'test'.")
    if len(folds_of_label) < 2:
        raise DataError(f"Classification needs at least two classes; found only {next(iter(folds_of_label))!r}.")
    for label, its_folds in sorted(folds_of_label.items()):
        if len(its_folds - {TEST}) < 2:
            where = ", ".join(fold_order(its_folds))
            raise DataError(
                f"Class {label!r} is too small to split: its clips lie in fold {where} only, and every class needs "
                "clips in at least two development folds. Add clips of it, or leave the class out."
            )
