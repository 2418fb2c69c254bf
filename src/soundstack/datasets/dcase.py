"""What DCASE 2017 task 1 and DCASE 2018 task 5 have in common: two folders, official folds, labelled lists.

Each folder has ``meta.txt``, ``audio/`` and ``evaluation_setup/``; all lists are tab separated without a header.
Folds are ``fold{n}_train.txt`` and ``fold{n}_evaluate.txt`` in ``evaluation_setup/`` of the development set, and a
clip's fold is the one that evaluates it. As in the paper (section 2), the four official folds are the development set
and the evaluation set is the test set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from soundstack.datasets.clips import Clip, ClipTable, check_splits
from soundstack.datasets.lists import (
    AGAIN,
    ListRow,
    incomplete,
    labelled,
    read_list,
    require_folder,
    require_one_label,
    require_sounds,
)
from soundstack.utils.errors import DataError
from soundstack.utils.folds import TEST

FOLDS = ("1", "2", "3", "4")


def parts_of(folder: Path, task: str, development: str, evaluation: str) -> tuple[Path, Path]:
    """The folders of both parts; a DataError if one is missing."""
    require_folder(folder, task)
    require_folder(folder / development, f"development set of {task}")
    require_folder(folder / evaluation, f"evaluation set of {task}")
    return folder / development, folder / evaluation


def joined(
    empty: ClipTable, devel: Sequence[Clip], test: Sequence[Clip], notes: Iterable[str], published: tuple[int, int]
) -> ClipTable:
    """The data set of both parts, with a note on each that has fewer than ``published``; a DataError if folds leak."""
    clips = (*devel, *test)
    check_splits(clips)
    few = incomplete(len(devel), published[0], "development") + incomplete(len(test), published[1], "evaluation")
    return replace(empty, clips=clips, notes=(*notes, *few))


def clips_of(
    rows: Mapping[str, ListRow],
    root: Path,
    part: str,
    folds: Mapping[str, str],
    described: Callable[[str], tuple[str, Mapping[str, str]]],
) -> tuple[list[Clip], list[str]]:
    """The clips of a part, and the file names of those whose group is not known, so that each counts as its own.

    ``rows`` (file, label, ...) and ``folds`` (those without one are the test part) are by file name; ``part``
    (``development`` or ``evaluation``) begins ids and groups; ``described`` tells group and tags from a file name.
    """
    clips, alone = [], []
    for name, row in rows.items():
        group, tags = described(name)
        if not group:
            alone.append(name)
        group = f"{part}/{group or Path(name).stem}"
        clips.append(Clip(f"{part}/{name}", root / "audio" / name, row.cells[1], folds.get(name, TEST), group, tags))
    return clips, alone


def development_rows(root: Path) -> tuple[dict[str, ListRow], dict[str, str], list[str]]:
    """The row (file, label) and the fold ``"1"`` to ``"4"`` of each development clip by its file name, and notes.

    Raises:
        DataError: a clip is evaluated in two folds, or trained on and evaluated in one, or in ``meta.txt`` alone; a
            list is malformed, or a sound file is missing.
    """
    setup = root / "evaluation_setup"
    rows: dict[str, ListRow] = {}
    fold_of: dict[str, str] = {}
    for fold in FOLDS:
        for row in read_list(setup / f"fold{fold}_evaluate.txt", columns=2):
            first = rows.setdefault(row.sound, row)
            if fold_of.setdefault(row.sound, fold) != fold:
                raise DataError(
                    f"Clip {row.sound!r} leaks: {row.where} evaluates it, and so does {first.where}. "
                    f"Each clip belongs to one fold. {AGAIN}"
                )
            require_one_label(row, first)
    notes = []
    for fold in FOLDS:
        trained = set()
        for row in read_list(setup / f"fold{fold}_train.txt", columns=1):
            if fold_of.get(row.sound) == fold:
                raise DataError(
                    f"Clip {row.sound!r} leaks: {row.where} trains on it, and {rows[row.sound].where} "
                    f"evaluates it. {AGAIN}"
                )
            trained.add(row.sound)
        notes += _train_notes(fold, trained, {name for name, its_fold in fold_of.items() if its_fold != fold})
    notes += _meta_notes(rows, labelled(root / "meta.txt"))
    require_sounds(root / "audio", ((name, row.where) for name, row in rows.items()))
    return rows, fold_of, notes


def _train_notes(fold: str, trained: set[str], expected: set[str]) -> list[str]:
    """What tells a fold's train list from the clips of the other folds, all of which are trained on in any case."""
    notes = []
    if lacking := sorted(expected - trained):
        notes.append(
            f"The train list of fold {fold} lacks {len(lacking):,} clips of the other folds (first: "
            f"{lacking[0]}); they are trained on all the same."
        )
    if unknown := sorted(trained - expected):
        notes.append(
            f"The train list of fold {fold} names {len(unknown):,} clips that no fold evaluates (first: "
            f"{unknown[0]}); they are left out."
        )
    return notes


def _meta_notes(rows: Mapping[str, ListRow], meta: Mapping[str, ListRow]) -> list[str]:
    """What tells ``meta.txt`` from the folds' lists: clips it does not have, and labels it has otherwise."""
    if homeless := [row for name, row in meta.items() if name not in rows]:
        raise DataError(
            f"{len(homeless):,} development clips are in no fold's evaluate list; the first is "
            f"{homeless[0].sound!r}, named in {homeless[0].where}. {AGAIN}"
        )
    notes = []
    if unknown := sorted(rows.keys() - meta.keys()):
        notes.append(f"{len(unknown):,} clips of the folds' lists are not in meta.txt (first: {unknown[0]}).")
    if other := [name for name, row in meta.items() if rows[name].cells[1] != row.cells[1]]:
        name = other[0]
        notes.append(
            f"{len(other):,} clips have another label in meta.txt than in the folds' lists, which are "
            f"used (first: {name}, {meta[name].cells[1]!r} and {rows[name].cells[1]!r})."
        )
    return notes
