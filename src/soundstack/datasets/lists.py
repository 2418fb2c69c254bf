"""What the loaders of published data sets share: lists read row by row, and files that must be there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from soundstack.utils.errors import DataError

AGAIN = "Run the download again, or unpack the meta archive once more."


@dataclass(frozen=True)
class ListRow:
    """One row of a list: its cells without surrounding spaces, and where it stands."""

    cells: tuple[str, ...]
    where: str

    def cell(self, index: int) -> str:
        """The cell at ``index``, or ``""`` where the row has fewer."""
        return self.cells[index] if index < len(self.cells) else ""

    @cached_property
    def sound(self) -> str:
        """The sound file that the first cell names."""
        return self.sound_in(0)

    def sound_in(self, column: int) -> str:
        """The name of the sound file in a cell, without ``audio/``; a DataError if it is of no file of that folder."""
        name = self.cells[column].replace("\\", "/").removeprefix("audio/")
        if not is_file_name(name):
            raise DataError(f"{self.cells[column]!r} in {self.where} is no file of the audio folder. {AGAIN}")
        return name


def is_file_name(name: str) -> bool:
    """Whether a name leads to a file of its folder, and nowhere else."""
    return bool(name) and name not in (".", "..") and not {"/", "\\"} & set(name)


def require_folder(folder: Path, what: str) -> None:
    """Raise a DataError, which calls it ``what``, for a data folder that is missing."""
    if not folder.is_dir():
        raise DataError(
            f"There is no folder {folder} ({what}): run the download for this data set, or give the "
            "folder that the archives were unpacked into as data_dir."
        )


def read_text(path: Path) -> str:
    """The text of a list; a DataError if it is missing or not UTF-8 text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"There is no file {path}: it belongs to the data set's meta archive. {AGAIN}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error}). {AGAIN}") from error


def read_list(path: Path, columns: int) -> list[ListRow]:
    """The rows of a tab-separated list without a header; of each, the first so many ``columns`` must not be empty.

    Empty lines, trailing tabs and carriage returns do not count, and further columns do no harm.

    Raises:
        DataError: the list is missing, empty or not text, or a row has too few cells.
    """
    rows = []
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        cells = tuple(cell.strip() for cell in text.rstrip().split("\t"))
        if cells == ("",):
            continue
        row = ListRow(cells, f"{path} row {line}")
        if len(cells) < columns or not all(cells[:columns]):
            raise DataError(
                f"{row.where} has {len([cell for cell in cells if cell])} of the {columns} "
                f"tab-separated values it needs: {text.strip()!r}. {AGAIN}"
            )
        rows.append(row)
    if not rows:
        raise DataError(f"{path} is empty. {AGAIN}")
    return rows


def labelled(path: Path) -> dict[str, ListRow]:
    """The rows (file, label, ...) of a list by the sound file they name; a DataError if two label it differently."""
    table: dict[str, ListRow] = {}
    for row in read_list(path, columns=2):
        require_one_label(row, table.setdefault(row.sound, row))
    return table


def require_one_label(row: ListRow, first: ListRow) -> None:
    """Refuse a sound file that two rows label differently."""
    if row.cells[1] != first.cells[1]:
        raise DataError(
            f"Clip {row.sound!r} is {first.cells[1]!r} in {first.where} and {row.cells[1]!r} in "
            f"{row.where}. Each clip has one label. {AGAIN}"
        )


def third_cells(lists: Iterable[Path]) -> dict[str, str]:
    """What stands in the third column (recording or session), by sound file; the first list that tells it counts.

    Lists that are not there, or are empty, tell nothing.
    """
    told: dict[str, str] = {}
    for row in chain.from_iterable(map(optional_list, lists)):
        if row.cell(2):
            told.setdefault(row.sound, row.cell(2))
    return told


def optional_list(path: Path) -> list[ListRow]:
    """As :func:`read_list`; no rows where the list is not there, or is empty."""
    return read_list(path, columns=1) if path.is_file() and path.stat().st_size else []


def require_sounds(folder: Path, listed: Iterable[tuple[str, str]]) -> None:
    """Raise a DataError if sound files are missing; ``listed`` are their names and the places that name them."""
    there = set(os.listdir(folder)) if folder.is_dir() else set()  # noqa: PTH208 - names alone, of 73,000 files
    listed = list(listed)
    missing = [(name, where) for name, where in listed if name not in there]
    if missing:
        name, where = missing[0]
        raise DataError(
            f"{len(missing):,} of {len(listed):,} sound files are missing in {folder}; the first is {name!r}, named in "
            f"{where}. Run the download again, or unpack the audio archives that are not unpacked yet."
        )


def incomplete(found: int, published: int, what: str) -> list[str]:
    """A note if there are fewer clips than were published."""
    return [f"These are {found:,} of the {published:,} published {what} clips."] if found < published else []
