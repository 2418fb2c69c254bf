"""Tables as spreadsheets write them: separators, encodings, and columns by the names that people give them.

Excel writes UTF-8 with a byte order mark ("CSV UTF-8"), Windows-1252 ("CSV"; with ``;`` where the comma is the decimal
sign) or UTF-16 with tabs ("Unicode text"). LibreOffice writes what it is asked for.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from soundstack.utils.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

#: What files of tables end in.
TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".txt"})
#: The names that columns have. The first is what we call a column: a table that has it needs no other.
NAMES = {
    "filename": ("filename", "file", "file_name", "fname", "filepath", "file_path", "path", "audio", "audio_file"),
    "label": ("label", "class", "category", "class_name", "class_label"),
    "fold": ("fold",),
    "split": ("split", "subset", "set", "partition"),
    "start": ("start", "onset", "begin", "start_time"),
    "end": ("end", "offset", "end_time"),
    "group": ("group", "speaker", "speaker_id", "recording", "recording_id"),
}
_SEPARATORS = {",": "", ";": "separated by ';'", "\t": "separated by tabs"}
_MARKS = {codecs.BOM_UTF8: ("utf-8-sig", ""), codecs.BOM_UTF16_LE: ("utf-16", "UTF-16"),
          codecs.BOM_UTF16_BE: ("utf-16", "UTF-16")}  # fmt: skip
_SEP_LINE = re.compile(r'"?sep=([^\r\n"])"?[,;\t ]*(\r\n|\r|\n)', re.IGNORECASE)
_TOO_LONG = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")


@dataclass(frozen=True)
class Table:
    """The cells of a table as text without surrounding spaces, under a header in its own spelling.

    The index of ``cells`` are the rows as a spreadsheet counts them: the header is row 1 if no blank line is above it.
    Empty rows are left out. ``form`` says in words how it was read, and is empty for a plain CSV in UTF-8.
    ``decimal_comma``: the separator leaves the comma to numbers.
    """

    name: str
    header: tuple[str, ...]
    cells: pd.DataFrame
    form: str
    decimal_comma: bool = False

    def column_of(self, role: str, about: str = "") -> int | None:
        """The place of the column of a role (a key of ``NAMES``); None where there is none.

        A column that has our own name for it counts, whatever other columns are called.

        Raises:
            DataError: Several columns may be meant.
        """
        keys = [re.sub(r"[\s_-]+", "_", name.casefold()) for name in self.header]
        for names in (NAMES[role][:1], NAMES[role]):
            found = [place for place, key in enumerate(keys) if key in names]
            if len(found) > 1:
                which = " or ".join(repr(self.header[place]) for place in found)
                raise DataError(
                    f"{about}{self.name}: which column is the {role}, {which}? "
                    f"Call that one {role}, and no other, and run again."
                )
            if found:
                return found[0]
        return None

    def columns_of(self, roles: Iterable[str]) -> dict[str, int]:
        """The places of the columns of those roles that the table has."""
        places = {role: self.column_of(role) for role in roles}
        return {role: place for role, place in places.items() if place is not None}


def read_table(path: Path, about: str = "") -> Table:
    """Read a table with a header, separated by ``,`` ``;`` or tabs, in UTF-8, UTF-16 or Windows-1252.

    The separator is the one that makes the most of the header, or what a first line ``sep=;`` says, which Excel heeds
    and does not show. Messages begin with ``about``.

    Raises:
        DataError: It cannot be read, is no such table, or has rows that are longer than its header.
    """
    import pandas as pd

    text, encoding = _text(path, about)
    given = _SEP_LINE.match(text)
    text = text[given.end() :] if given else text
    body = text.lstrip("\r\n")
    above = len(text[: len(text) - len(body)].splitlines())
    separator = given[1] if given else _separator(body)
    try:
        cells = pd.read_csv(
            io.StringIO(body), sep=separator, header=None, dtype=str, keep_default_na=False,
            skipinitialspace=separator != "\t", skip_blank_lines=False,
        )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        reason = " ".join(str(error).split())
        if found := _TOO_LONG.search(reason):
            columns, row, values = map(int, found.groups())
            raise DataError(
                f"{about}{path.name} row {row + above}: {values} values for {columns} columns; put quotes around a "
                f"value that holds {separator!r}."
            ) from None
        raise DataError(
            f"{about}{path} is not a readable table ({reason}); save it as CSV, comma-separated, in UTF-8."
        ) from None
    cells = cells.fillna("").map(str.strip)
    cells.index = pd.RangeIndex(above + 1, above + 1 + len(cells))
    cells = cells[(cells != "").any(axis=1)]
    if cells.empty:
        raise DataError(f"{about}{path.name} is empty: a header and rows are needed.")
    header, cells = tuple(" ".join(name.split()) for name in cells.iloc[0]), cells.iloc[1:]  # a name may hold line ends
    if any(not name and (cells[place] != "").any() for place, name in enumerate(header)):
        raise DataError(f"{about}{path.name}: a column without a name holds values; give it a name, or empty it.")
    how = _SEPARATORS.get(separator, f"separated by {separator!r}")
    return Table(path.name, header, cells, ", ".join(filter(None, (how, encoding))), separator != ",")


def _text(path: Path, about: str) -> tuple[str, str]:
    """The text of a table, and the name of its encoding, which is empty for UTF-8."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{about}{path} cannot be read ({error.strerror}).") from None
    if raw.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"{about}{path} is a workbook; save its sheet as CSV (in Excel: CSV UTF-8) and give that.")
    encoding, called = next((found for mark, found in _MARKS.items() if raw.startswith(mark)), ("utf-8", ""))
    try:
        try:
            text = raw.decode(encoding).removeprefix("\ufeff")
        except UnicodeDecodeError:
            if encoding != "utf-8":
                raise
            text, called = raw.decode("cp1252"), "read as Windows-1252, since it is no UTF-8"
    except UnicodeDecodeError:
        raise DataError(f"{about}{path} is no text in UTF-8, UTF-16 or Windows-1252; save it as CSV UTF-8.") from None
    if "\0" in text:
        raise DataError(f"{about}{path} is no text, or UTF-16 without a byte order mark; save it as CSV UTF-8.")
    return text, called


def _separator(text: str) -> str:
    """The separator that finds the most columns that we know in the header, or else the most columns."""
    known = {name for names in NAMES.values() for name in names}

    def found(separator: str) -> tuple[int, int]:
        try:
            rows = csv.reader(io.StringIO(text, newline=None), delimiter=separator, skipinitialspace=True)
            header = next((row for row in rows if any(cell.strip() for cell in row)), [])
        except csv.Error:
            return 0, 0
        return len({cell.strip().casefold() for cell in header} & known), len(header)

    return max(_SEPARATORS, key=found)
