"""What a report is made of, before it is Markdown, HTML, LaTeX or plain text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, a lesser ``detail`` after it (an interval), and how it stands out."""

    text: str
    detail: str = ""
    best: bool = False
    muted: bool = False


@dataclass(frozen=True)
class Column:
    """A column's heading; neighbours of the same ``group`` stand under a common one."""

    title: str
    group: str = ""
    number: bool = True


@dataclass(frozen=True)
class Section:
    """Rows of a table under a heading of their own, which may be empty."""

    title: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Table:
    """A table; ``key`` names it in files and references, ``notes`` stand below it."""

    key: str
    title: str
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Heading:
    """A heading of level 2 or 3; level 1 is the report's title."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences; ``title`` introduces it, ``folded`` hides it behind the title where that can be done."""

    items: tuple[str, ...]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Commands:
    """Commands to type, each with what it is for."""

    title: str
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Picture:
    """A figure, drawn to the file ``name`` when the report is written."""

    name: str
    caption: str
    figure: Figure = field(repr=False, compare=False)


Block = Heading | Paragraph | Bullets | Commands | Picture | Table


@dataclass(frozen=True)
class Report:
    """A whole report; ``data`` are the CSV files that go with it: their columns' names, then their rows."""

    title: str
    subtitle: str
    blocks: tuple[Block, ...]
    data: Mapping[str, tuple[tuple[str, ...], list[tuple[object, ...]]]] = field(default_factory=dict)

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables, in order."""
        return tuple(block for block in self.blocks if isinstance(block, Table))


def plain(cells: tuple[Cell, ...] | list[Cell]) -> list[str]:
    """The texts of cells with their details."""
    return [f"{cell.text} {cell.detail}".strip() for cell in cells]
