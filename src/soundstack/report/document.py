"""What a report is made of, before it is HTML, Markdown, LaTeX or plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure


class Cell(NamedTuple):
    """A table's cell: its text, a lesser ``detail`` after it (an interval), and how it stands out."""

    text: str
    detail: str = ""
    best: bool = False
    muted: bool = False


class Column(NamedTuple):
    """A column's heading; neighbours of the same ``group`` stand under a common one."""

    title: str
    group: str = ""
    number: bool = True


class Span(NamedTuple):
    """A common heading over columns: their first one's number, and how many they are."""

    title: str
    first: int
    width: int


#: A line of a table: the heading of its section, which may be empty, and its cells.
Line = tuple[str, list[Cell | str]]


@dataclass(frozen=True)
class Table:
    """A table: columns, lines in sections, notes below; ``folded`` hides it behind its title where that can be done."""

    key: str
    title: str
    columns: Sequence[Column]
    lines: Sequence[Line]
    notes: Sequence[str] = ()
    folded: bool = False

    @property
    def sections(self) -> dict[str, list[list[Cell]]]:
        """The cells of the lines by the headings of their sections."""
        found: dict[str, list[list[Cell]]] = {section: [] for section, _ in self.lines}
        for section, cells in self.lines:
            found[section].append([cell if isinstance(cell, Cell) else Cell(cell) for cell in cells])
        return found

    @property
    def spans(self) -> list[Span]:
        """The common headings from left to right, columns of no group one by one; empty where there is no group."""
        found: list[Span] = []
        for group, members in groupby(enumerate(self.columns), key=lambda pair: pair[1].group):
            numbers = [number for number, _ in members]
            found += [Span(group, numbers[0], len(numbers))] if group else [Span("", number, 1) for number in numbers]
        return found if any(span.title for span in found) else []


class Heading(NamedTuple):
    """A heading of level 2 or 3; level 1 is the report's title."""

    level: int
    text: str


class Bullets(NamedTuple):
    """A list of sentences under a title."""

    title: str
    items: Sequence[str]


class Commands(NamedTuple):
    """Commands to type, each with what it is for."""

    title: str
    items: Sequence[tuple[str, str]]


class Picture(NamedTuple):
    """A figure, drawn to the file ``name`` when the report is written."""

    name: str
    caption: str
    figure: Figure


#: Running text is a block by itself.
Block = str | Heading | Bullets | Commands | Picture | Table


@dataclass(frozen=True)
class Report:
    """A whole report; ``data`` are the CSV files that go with it, by their names without ``.csv``."""

    title: str
    subtitle: str
    blocks: Sequence[Block]
    data: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def tables(self) -> list[Table]:
        """All tables, in order."""
        return [block for block in self.blocks if isinstance(block, Table)]


def text_columns(*titles: str) -> list[Column]:
    """Columns of words, which stand to the left."""
    return [Column(title, number=False) for title in titles]
