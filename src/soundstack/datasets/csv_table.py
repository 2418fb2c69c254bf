"""The user's own data: a CSV of clips.

Columns ``filename,label``, and optionally ``fold``, ``split``, ``group``. File names are relative to the CSV's
folder, and each file stands there once, however its name is spelt. ``fold`` is 1, 2, ... or ``test``; ``split`` is
``devel`` (or train, dev) or ``test`` (or eval); ``group`` marks clips that belong together (one recording, one speaker)
and must never be torn apart by a split.

What is not given is drawn from the seed: without folds, four stratified group folds; without a test part, a fifth
of the clips; with folds but no test part, the last fold is held out, as the paper does with ESC-50.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from soundstack.audio.find import on_disk, read_table
from soundstack.datasets.catalogue import data_set
from soundstack.datasets.clips import Clip, ClipTable, check_splits, ungrouped
from soundstack.evaluation.none_rule import NONE
from soundstack.utils.errors import DataError
from soundstack.utils.folds import TEST

if TYPE_CHECKING:
    import pandas as pd

    from soundstack.config.steps import DataConfig

REQUIRED = ("filename", "label")
OPTIONAL = ("fold", "split", "group")
_DEVEL_WORDS = {"devel", "dev", "development", "train", "training"}
_TEST_WORDS = {"test", "eval", "evaluation"}
FOLDS = 4


@data_set("csv")
def configured(config: DataConfig) -> ClipTable:
    """The user's data set as a run has it, under its own name."""
    negatives = config.none_rate != "off"
    return replace(load(config.data_path, seed=config.drawn_with, negatives=negatives), name=config.data_name)


def load(table: Path, *, seed: int, negatives: bool = False) -> ClipTable:
    """Read a table of clips and complete its splits; with ``negatives``, clips may be of no class.

    Raises:
        DataError: a missing file, column, label or value, a duplicate, a class too small to split, or a group that
            crosses folds, each with its row (counted as a spreadsheet does, the header being row 1).
    """
    if table.is_dir():
        raise DataError(f"{table} is a folder; data_dir takes the path of the CSV file for dataset=csv.")
    frame = read_table(table)
    if missing := [column for column in REQUIRED if column not in frame.columns]:
        raise DataError(
            f"{table.name}: column {', '.join(missing)} is missing; found {', '.join(frame.columns)}. "
            f"Needed: {', '.join(REQUIRED)}; optional: {', '.join(OPTIONAL)}."
        )
    if frame.empty:
        raise DataError(f"{table.name} lists no clips.")
    if negatives:
        frame["label"] = [_or_none(str(label)) for label in frame["label"]]
    clips, place = _listed(frame, table)
    alone = [clip.id for clip, group in zip(clips, frame.get("group", [""] * len(clips)), strict=True) if not group]
    notes = []
    # Labels that are spelt in two Unicode forms look alike and are one label to us.
    spellings = Counter(unicodedata.normalize("NFC", label) for label in set(frame["label"]))
    if several := sorted(label for label, count in spellings.items() if count > 1):
        notes.append(
            f"{', '.join(map(repr, several))}: spelt in several Unicode forms (NFC, NFD), taken for one label."
        )
    clips = _complete(clips, seed, notes, place)
    notes += ungrouped(alone, len(clips), "The group")
    known = {clip.label for clip in clips if clip.fold != TEST}
    for clip in clips:
        if clip.label not in known:
            raise DataError(
                f"{place[clip.id]}: label {clip.label!r} occurs in the test part only; "
                "a model cannot know it. Add development clips of it, or mend the spelling."
            )
    check_splits(clips, called=lambda clip: f"{clip.id!r} ({place[clip.id]})")
    # Length and rate are not known from the table; the scan of the files fills them in.
    return ClipTable("csv", tuple(clips), seconds=0, sample_rate=0, notes=tuple(notes), own=True)


def _listed(frame: pd.DataFrame, table: Path) -> tuple[list[Clip], dict[str, str]]:
    """The clips of the table, with the folds it gives, and the place where each stands by its name."""
    clips: list[Clip] = []
    place: dict[str, str] = {}
    same: dict[str, list[Clip]] = defaultdict(list)
    for index, record in zip(frame.index, frame.to_dict("records"), strict=True):
        values = {str(column): str(value) for column, value in record.items()}
        name, where = values["filename"], f"{table.name} row {index + 2}"
        if not name:
            raise DataError(f"{where}: the filename is empty.")
        if not values["label"]:
            raise DataError(
                f"{where}: {name!r} has no label; give it one, or with none_rate=0.05, say, it is a negative."
            )
        path = on_disk(table.parent, name)
        if not os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises for a name that no file can have)
            raise DataError(
                f"{where}: there is no file {name!r} in {table.parent}; file names are relative to the table's folder."
            )
        clip = Clip(name, path, values["label"], _fold(values, where), values.get("group") or name)
        for other in same[_spelling(path)]:
            if path.samefile(other.path):
                spelt = "" if other.id == name else f", as {other.id!r}"
                row = place[other.id].rpartition(" ")[2]
                raise DataError(f"{where}: {name!r} stands in row {row} already{spelt}.")
        same[_spelling(path)].append(clip)
        place[name] = where
        clips.append(clip)
    return clips, place


def _or_none(label: str) -> str:
    """A label; of a clip of no class, which has none or is called so, ``none``."""
    return NONE if label.strip().casefold() in {"", NONE} else label


def _spelling(path: Path) -> str:
    """What all spellings of one file's path have in common; some disks tell neither case nor Unicode forms apart."""
    place = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118  (much faster, a file a clip)
    return unicodedata.normalize("NFC", place).casefold()


def _fold(values: dict[str, str], where: str) -> str:
    """Return the fold a row names, ``"test"``, or ``""`` where it has to be drawn."""
    split, fold = values.get("split", "").lower(), values.get("fold", "").lower()
    if split and split not in _DEVEL_WORDS | _TEST_WORDS:
        raise DataError(f"{where}: split {split!r} is not known; write devel or test.")
    if fold in _TEST_WORDS and split in _DEVEL_WORDS:
        raise DataError(f"{where}: the fold says test, the split says {split!r}.")
    if fold in _TEST_WORDS or split in _TEST_WORDS:
        return TEST
    if fold and not (fold.isdecimal() and int(fold) > 0):
        raise DataError(f"{where}: fold {fold!r} is not known; write 1, 2, 3, ... or test.")
    return str(int(fold)) if fold else ""


def _complete(clips: list[Clip], seed: int, notes: list[str], place: dict[str, str]) -> list[Clip]:
    """Draw the folds and the test part that the table does not give."""
    undecided = [clip for clip in clips if not clip.fold]
    named = {clip.fold for clip in clips}
    folds, has_test = named - {"", TEST}, TEST in named
    if undecided and folds:
        first = undecided[0].id
        raise DataError(f"{place[first]}: {first!r} has no fold, but others have: give all development clips one.")
    if undecided:
        parts = FOLDS if has_test else FOLDS + 1
        names = [*map(str, range(1, FOLDS + 1)), TEST]
        drawn = {clip.id: names[part] for clip, part in zip(undecided, _draw(undecided, parts, seed), strict=True)}
        both = "" if has_test else " and a held-out test part"
        notes.append(f"{FOLDS} stratified group folds{both} were drawn with seed {seed}.")
        return [replace(clip, fold=drawn.get(clip.id, clip.fold)) for clip in clips]
    if not has_test and len(folds) > 2:
        last = max(folds, key=int)
        notes.append(f"The table marks no test clips: fold {last} is held out as the test part.")
        return [replace(clip, fold=TEST) if clip.fold == last else clip for clip in clips]
    return clips


def _draw(clips: list[Clip], parts: int, seed: int) -> list[int]:
    """Spread clips over ``parts`` stratified parts, whole groups together; 0-based part of each clip."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups_of: dict[str, list[str]] = defaultdict(list)
    for clip in clips:
        groups_of[clip.label].append(clip.group)
    for label, groups in sorted(groups_of.items()):
        if (several := len(set(groups))) < parts:
            raise DataError(
                f"Class {label!r} is too small to split: {len(groups)} clips in {several} groups, and {parts} parts "
                f"need at least {parts} groups of every class. Add clips of it, leave it out, or give your own folds."
            )
    splitter = StratifiedGroupKFold(n_splits=parts, shuffle=True, random_state=seed)
    split = splitter.split([0] * len(clips), [clip.label for clip in clips], [clip.group for clip in clips])
    part_of = {position: part for part, (_, held_out) in enumerate(split) for position in held_out}
    return [part_of[position] for position in range(len(clips))]
