"""What the loaders of published data sets share: lists read row by row, and files that must be there.

The DCASE lists are tab separated without a header (:func:`read_list`); both challenges lay out folds the
same way: ``fold{n}_train.txt`` and ``fold{n}_evaluate.txt`` in ``evaluation_setup/``. A clip's fold is the
one that evaluates it (:func:`read_folds`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from soundstack.utils.errors import DataError

FOLDS = ("1", "2", "3", "4")
AGAIN = "Run the download again, or unpack the meta archive once more."


@dataclass(frozen=True)
class Row:
    """One row of a list: its cells without surrounding spaces, and where it stands."""

    cells: tuple[str, ...]
    file: Path
    line: int

    @property
    def where(self) -> str:
        return f"{self.file} row {self.line}"

    def cell(self, index: int) -> str:
        """The cell at ``index``, or ``""`` where the row has fewer."""
        return self.cells[index] if index < len(self.cells) else ""

    @cached_property
    def sound(self) -> str:
        """The sound file that the first cell names; see :meth:`sound_in`."""
        return self.sound_in(0)

    def sound_in(self, column: int) -> str:
        """The name of the sound file in a cell, without ``audio/``.

        Raises:
            DataError: it is not the name of a file in the audio folder.
        """
        name = self.cells[column].replace("\\", "/").removeprefix("audio/")
        if not name or "/" in name or name in (".", ".."):
            raise DataError(f"{self.cells[column]!r} in {self.where} is no file of the audio folder. {AGAIN}")
        return name


def require_folder(folder: Path, what: str) -> None:
    """Refuse a data folder that is not there.

    Raises:
        DataError: ``folder`` is missing or not a folder; the message calls it ``what``.
    """
    if not folder.is_dir():
        raise DataError(
            f"There is no folder {folder} ({what}): run the download for this data set, or give the "
            "folder that the archives were unpacked into as data_dir."
        )


def read_text(path: Path) -> str:
    """The text of a list.

    Raises:
        DataError: the file is missing or not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"There is no file {path}: it belongs to the data set's meta archive. {AGAIN}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error}). {AGAIN}") from error


def read_list(path: Path, columns: int) -> list[Row]:
    """The rows of a tab-separated list without a header.

    Empty lines, trailing tabs and carriage returns do not count, and further columns do no harm.

    Args:
        path: the list.
        columns: how many cells a row must have at least, all of them not empty.

    Raises:
        DataError: the list is missing, empty or not text, or a row has too few cells.
    """
    rows = []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        cells = tuple(cell.strip() for cell in text.rstrip().split("\t"))
        if cells == ("",):
            continue
        row = Row(cells, path, line)
        if len(cells) < columns or not all(cells[:columns]):
            raise DataError(
                f"{row.where} has {len([cell for cell in cells if cell])} of the {columns} "
                f"tab-separated values it needs: {text.strip()!r}. {AGAIN}"
            )
        rows.append(row)
    if not rows:
        raise DataError(f"{path} is empty. {AGAIN}")
    return rows


def by_sound(rows: Iterable[Row]) -> dict[str, Row]:
    """The rows (file, label, ...) of a list by the sound file they name.

    Raises:
        DataError: two rows give one file different labels.
    """
    table: dict[str, Row] = {}
    for row in rows:
        _check_label(row, table.setdefault(row.sound, row))
    return table


def third_cells(lists: Iterable[Path]) -> dict[str, str]:
    """What stands in the third column (recording or session), by sound file; the first list that tells it counts.

    Lists that are not there, or are empty, tell nothing.
    """
    told: dict[str, str] = {}
    for path in lists:
        if path.is_file() and path.stat().st_size:
            for row in read_list(path, columns=1):
                if row.cell(2):
                    told.setdefault(row.sound, row.cell(2))
    return told


def _check_label(row: Row, first: Row) -> None:
    if row.cells[1] != first.cells[1]:
        raise DataError(
            f"Clip {row.sound!r} is {first.cells[1]!r} in {first.where} and {row.cells[1]!r} in "
            f"{row.where}. Each clip has one label. {AGAIN}"
        )


def require_sounds(folder: Path, listed: Iterable[tuple[str, str]]) -> None:
    """Refuse a data set some of whose sound files are missing.

    Args:
        folder: where the sound files are.
        listed: the name of each file, and the place of the list that names it.

    Raises:
        DataError: with the number of missing files, and the first of them with its row.
    """
    there = set(os.listdir(folder)) if folder.is_dir() else set()  # noqa: PTH208 - names alone, of 73,000 files
    listed = list(listed)
    missing = [(name, where) for name, where in listed if name not in there]
    if missing:
        name, where = missing[0]
        raise DataError(
            f"{len(missing):,} of {len(listed):,} sound files are missing in {folder}; the first is "
            f"{name!r}, named in {where}. Run the download again, or unpack the audio archives that are "
            "not unpacked yet."
        )


def read_folds(setup: Path) -> tuple[dict[str, Row], dict[str, str], list[str]]:
    """The development clips of a DCASE data set, by the fold that evaluates them.

    Args:
        setup: the folder ``evaluation_setup``.

    Returns:
        The row (file, label) of each clip by its file name, the fold ``"1"`` to ``"4"`` of each clip by its
        file name, and what the reader should be told: a train list need not be complete, since training
        uses all clips of the other folds.

    Raises:
        DataError: a clip is evaluated in two folds, or trained on and evaluated in one, or a list is
            malformed.
    """
    rows: dict[str, Row] = {}
    fold_of: dict[str, str] = {}
    for fold in FOLDS:
        for row in read_list(setup / f"fold{fold}_evaluate.txt", columns=2):
            first = rows.setdefault(row.sound, row)
            if fold_of.setdefault(row.sound, fold) != fold:
                raise DataError(
                    f"Clip {row.sound!r} leaks: {row.where} evaluates it, and so does {first.where}. "
                    f"Each clip belongs to one fold. {AGAIN}"
                )
            _check_label(row, first)
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
    return rows, fold_of, notes


def _train_notes(fold: str, trained: set[str], expected: set[str]) -> list[str]:
    """What tells a fold's train list from the clips of the other folds."""
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


def check_against_meta(rows: dict[str, Row], meta: dict[str, Row]) -> list[str]:
    """Hold the folds' lists against ``meta.txt``.

    Args:
        rows: the rows of the evaluate lists by file name.
        meta: the rows of ``meta.txt`` by file name.

    Returns:
        What the reader should be told: clips that ``meta.txt`` does not have, and labels it has otherwise.

    Raises:
        DataError: ``meta.txt`` has a clip that no fold evaluates.
    """
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


def incomplete(found: int, published: int, what: str) -> list[str]:
    """A note if there are fewer clips than were published."""
    return [f"These are {found:,} of the {published:,} published {what} clips."] if found < published else []
