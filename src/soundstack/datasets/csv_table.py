"""The user's own data: a CSV of clips.

Columns ``filename,label``, and optionally ``fold``, ``split``, ``group``. File names are relative to the CSV's
folder, and each file stands there once, however its name is spelt. ``fold`` is 1, 2, ... or ``test``; ``split`` is
``devel`` (or train, dev) or ``test`` (or eval); ``group`` marks clips that belong together (one recording, one speaker)
and must never be torn apart by a split.

What is not given is drawn from the seed: without folds, four stratified group folds; without a test part, a fifth
of the clips; with folds but no test part, the last fold is held out, as the paper does with ESC-50.
"""

from __future__ import annotations

import io
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from soundstack.audio.find import on_disk
from soundstack.datasets.clips import TEST, Clip, DataSet, check_splits, ungrouped
from soundstack.utils.errors import DataError

REQUIRED = ("filename", "label")
OPTIONAL = ("fold", "split", "group")
_DEVEL_WORDS = {"devel", "dev", "development", "train", "training"}
_TEST_WORDS = {"test", "eval", "evaluation"}
FOLDS = 4
#: Length and rate are not known from the table; the scan of the files fills them in.
UNKNOWN = 0


def load(table: Path, *, seed: int) -> DataSet:
    """Read a table of clips and complete its splits.

    Raises:
        DataError: a missing file, column, label or value, a duplicate, a class too small to split, or a group that
            crosses folds, each with its row (counted as a spreadsheet does, the header being row 1).
    """
    frame = _read(table)
    folder = table.parent
    clips: list[Clip] = []
    notes: list[str] = []
    first_row: dict[str, int] = {}
    listed: dict[str, list[Clip]] = {}
    for position, record in enumerate(frame.to_dict("records")):
        values = {str(name): str(value) for name, value in record.items()}
        row = frame.index[position] + 2
        name = values["filename"]
        if not name:
            raise DataError(f"{table.name} row {row}: the filename is empty.")
        if not values["label"]:
            raise DataError(f"{table.name} row {row}: {name!r} has no label.")
        path = on_disk(folder, name)
        if not _is_file(path):
            raise DataError(
                f"{table.name} row {row}: there is no file {name!r} in {folder}; "
                "file names are relative to the table's folder."
            )
        clip = Clip(
            id=name,
            path=path,
            label=values["label"],
            fold=_fold(values, f"{table.name} row {row}"),
            group=values.get("group") or name,
        )
        for other in listed.setdefault(_place(path), []):
            if path.samefile(other.path):
                spelt = "" if other.id == name else f", as {other.id!r}"
                raise DataError(f"{table.name} row {row}: {name!r} stands in row {first_row[other.id]} already{spelt}.")
        listed[_place(path)].append(clip)
        first_row[name] = row
        clips.append(clip)
    notes += _joined(frame["label"])
    alone = [clip.id for clip, group in zip(clips, frame.get("group", [""] * len(clips)), strict=True) if not group]
    clips = _complete(clips, seed, notes, first_row, table.name)
    notes += ungrouped(alone, len(clips), "The group")
    _check_labels(clips, first_row, table.name)
    _check_groups(clips, first_row, table.name)
    check_splits(clips)
    return DataSet(
        "csv", tuple(clips), seconds=UNKNOWN, sample_rate=UNKNOWN, measure="macro_f1", notes=tuple(notes), own=True
    )


def _place(path: Path) -> str:
    """What all spellings of one file's path have in common; some disks tell neither case nor Unicode forms apart."""
    place = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118  (much faster, a file a clip)
    return unicodedata.normalize("NFC", place).casefold()


def _joined(labels: Iterable[str]) -> list[str]:
    """A note on labels that are spelt in two Unicode forms, which look alike and are one label to us."""
    spellings = Counter(unicodedata.normalize("NFC", label) for label in set(labels))
    if several := sorted(label for label, count in spellings.items() if count > 1):
        return [f"{', '.join(map(repr, several))}: spelt in several Unicode forms (NFC, NFD), taken for one label."]
    return []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _read(table: Path) -> pd.DataFrame:
    if table.is_dir():
        raise DataError(f"{table} is a folder; data_dir takes the path of the CSV file for dataset=csv.")
    try:
        text = table.read_text(encoding="utf-8-sig").lstrip("\r\n")
        frame = pd.read_csv(
            io.StringIO(text), dtype=str, keep_default_na=False, skipinitialspace=True, skip_blank_lines=False
        )
    except OSError as error:
        raise DataError(f"{table} cannot be read ({error.strerror}).") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{table} is not a readable CSV ({reason}); save it as comma-separated UTF-8.") from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(f"{table.name}: the rows have more values than there are columns: {', '.join(frame.columns)}.")
    frame.columns = [str(column).strip().lower() for column in frame.columns]
    if missing := [column for column in REQUIRED if column not in frame.columns]:
        raise DataError(
            f"{table.name}: column {', '.join(missing)} is missing; found {', '.join(frame.columns)}. "
            f"Needed: {', '.join(REQUIRED)}; optional: {', '.join(OPTIONAL)}."
        )
    if frame.empty:
        raise DataError(f"{table.name} lists no clips.")
    frame = frame.map(str.strip)
    return frame[(frame != "").any(axis=1)]  # blank lines keep their place in the count of rows


def _fold(values: dict[str, str], where: str) -> str:
    """Return the fold a row names, ``"test"``, or ``""`` where it has to be drawn."""
    split, fold = values.get("split", "").lower(), values.get("fold", "").lower()
    if split and split not in _DEVEL_WORDS | _TEST_WORDS:
        raise DataError(f"{where}: split {split!r} is not known; write devel or test.")
    if fold in _TEST_WORDS or split in _TEST_WORDS:
        if fold in _TEST_WORDS and split in _DEVEL_WORDS:
            raise DataError(f"{where}: the fold says test, the split says {split!r}.")
        return TEST
    if fold and not (fold.isdecimal() and int(fold) > 0):
        raise DataError(f"{where}: fold {fold!r} is not known; write 1, 2, 3, ... or test.")
    return str(int(fold)) if fold else ""


def _complete(clips: list[Clip], seed: int, notes: list[str], rows: dict[str, int], table: str) -> list[Clip]:
    """Draw the folds and the test part that the table does not give."""
    open_rows = [clip for clip in clips if not clip.fold]
    folds = {clip.fold for clip in clips} - {"", TEST}
    has_test = any(clip.fold == TEST for clip in clips)
    if open_rows and folds:
        first = open_rows[0].id
        raise DataError(
            f"{table} row {rows[first]}: {first!r} has no fold, but others have: give all development clips one."
        )
    if not open_rows:
        if not has_test and len(folds) > 2:
            last = max(folds, key=int)
            notes.append(f"The table marks no test clips: fold {last} is held out as the test part.")
            return [_with_fold(clip, TEST if clip.fold == last else clip.fold) for clip in clips]
        return clips
    parts = FOLDS if has_test else FOLDS + 1
    drawn = _draw(open_rows, parts, seed)
    names = {clip.id: str(part + 1) if part < FOLDS else TEST for clip, part in zip(open_rows, drawn, strict=True)}
    notes.append(
        f"{FOLDS} stratified group folds{'' if has_test else ' and a held-out test part'} were drawn with seed {seed}."
    )
    return [_with_fold(clip, names.get(clip.id, clip.fold)) for clip in clips]


def _draw(clips: list[Clip], parts: int, seed: int) -> list[int]:
    """Spread clips over ``parts`` stratified parts, whole groups together; 0-based part of each clip."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups_of: dict[str, set[str]] = {}
    for clip in clips:
        groups_of.setdefault(clip.label, set()).add(clip.group)
    for label, groups in sorted(groups_of.items()):
        if len(groups) < parts:
            count = sum(clip.label == label for clip in clips)
            raise DataError(
                f"Class {label!r} is too small to split: {count} clips in {len(groups)} groups, and {parts} parts "
                f"need at least {parts} groups of every class. Add clips of it, leave it out, or give your own folds."
            )
    splitter = StratifiedGroupKFold(n_splits=parts, shuffle=True, random_state=seed)
    part_of = [0] * len(clips)
    split = splitter.split([0] * len(clips), [clip.label for clip in clips], [clip.group for clip in clips])
    for part, (_, held_out) in enumerate(split):
        for position in held_out:
            part_of[position] = part
    return part_of


def _with_fold(clip: Clip, fold: str) -> Clip:
    return Clip(clip.id, clip.path, clip.label, fold, clip.group, clip.tags)


def _check_labels(clips: list[Clip], rows: dict[str, int], table: str) -> None:
    known = Counter(clip.label for clip in clips if clip.fold != TEST)
    for clip in clips:
        if clip.label not in known:
            raise DataError(
                f"{table} row {rows[clip.id]}: label {clip.label!r} occurs in the test part only; "
                "a model cannot know it. Add development clips of it, or mend the spelling."
            )


def _check_groups(clips: list[Clip], rows: dict[str, int], table: str) -> None:
    first: dict[str, Clip] = {}
    for clip in clips:
        other = first.setdefault(clip.group, clip)
        if other.fold != clip.fold:
            raise DataError(
                f"{table} row {rows[clip.id]}: group {clip.group!r} crosses folds: {clip.id!r} is in fold {clip.fold}, "
                f"{other.id!r} (row {rows[other.id]}) in fold {other.fold}. A group must stay in one fold."
            )
