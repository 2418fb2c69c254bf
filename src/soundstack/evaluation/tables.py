"""The table of systems: devel and test scores with their intervals, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soundstack.evaluation.statistics import Interval, few_groups

COLUMNS = (
    ("devel_accuracy", "devel accuracy"),
    ("devel_macro_f1", "devel macro-F1"),
    ("test_accuracy", "test accuracy"),
    ("test_macro_f1", "test macro-F1"),
)


@dataclass(frozen=True)
class SystemScores:
    """One system's scores, in 0..1; None where it was not scored."""

    name: str
    devel_accuracy: Interval | None = None
    devel_macro_f1: Interval | None = None
    test_accuracy: Interval | None = None
    test_macro_f1: Interval | None = None


def summary_table(rows: Sequence[SystemScores], *, markdown: bool = False) -> str:
    """Systems by row, scores in per cent with their 95 % intervals; the best of each column is marked.

    The mark is an asterisk, in Markdown bold type; a system alone has none. The plain form is ASCII but for the names.
    """
    header = ["system", *(title for _, title in COLUMNS)]
    names = [row.name.replace("|", "\\|") if markdown else row.name for row in rows]
    columns = [names, *(_cells(rows, column, markdown) for column, _ in COLUMNS)]
    body = [list(cells) for cells in zip(*columns, strict=True)]
    if markdown:
        lines = [header, [":--", *["--:"] * len(COLUMNS)], *body]
        return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = [header, ["-" * width for width in widths], *body]
    scored = [{"devel": row.devel_accuracy, "test": row.test_accuracy} for row in rows]
    notes = dict.fromkeys(
        few_groups({part: each.groups if each else None for part, each in row.items()}) for row in scored
    )
    best = "* best of its column; " if len(rows) > 1 else ""
    legend = [f"{best}in brackets: 95 % interval\n", *(f"{note}\n" for note in notes if note)]
    # Names to the left, numbers to the right.
    aligned = [[f"{cell:{'>' if at else '<'}{widths[at]}}" for at, cell in enumerate(cells)] for cells in lines]
    return "".join("  ".join(cells) + "\n" for cells in aligned) + "".join(legend)


def percent(interval: Interval) -> str:
    """A score and its interval in per cent.

    >>> percent(Interval(0.8234, 0.781, 0.86))
    '82.3 [78.1, 86.0]'
    """
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _cells(rows: Sequence[SystemScores], column: str, markdown: bool) -> list[str]:
    intervals: list[Interval | None] = [getattr(row, column) for row in rows]
    # Compared as shown: two systems that both read 82.3 are equally good to the reader.
    shown = [None if interval is None else round(100 * interval.value, 1) for interval in intervals]
    best = max((value for value in shown if value is not None), default=None)
    cells = []
    for interval, value in zip(intervals, shown, strict=True):
        text = "-" if interval is None else percent(interval)
        if value is not None and value == best and len(rows) > 1:  # alone, it is the best of nothing
            text = f"**{text}**" if markdown else f"*{text}"
        cells.append(text)
    return cells
