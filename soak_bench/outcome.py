"""What a part of the bench found: checks that hold or not, figures, tables and curves; and how they are written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from soundstack.utils.files import save_figure, write_json

#: Rows of a table in Markdown; the JSON has all.
SHOWN = 50


@dataclass(frozen=True)
class Check:
    """Something that must hold; ``skipped`` says why it could not be tried."""

    what: str
    holds: bool
    detail: str = ""
    skipped: str = ""


@dataclass
class Part:
    """The outcome of one part."""

    name: str
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    #: Tables by title: rows of equal columns.
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    #: Curves by title: name of the axes, and x and y of each line.
    curves: dict[str, Curves] = field(default_factory=dict)

    def check(self, what: str, problems: Sequence[object] | bool, detail: str = "") -> None:
        """Add a check that holds if there are no problems; the first few are named."""
        if isinstance(problems, bool):
            self.checks.append(Check(what, problems, detail))
        else:
            shown = "; ".join(map(str, problems[:5])) + (f"; and {len(problems) - 5} more" if problems[5:] else "")
            self.checks.append(Check(what, not problems, shown or detail))

    def skip(self, what: str, why: str) -> None:
        """Add a check that cannot be tried here."""
        self.checks.append(Check(what, True, skipped=why))

    @property
    def failed(self) -> list[Check]:
        """The checks that do not hold."""
        return [check for check in self.checks if not check.holds]


@dataclass(frozen=True)
class Curves:
    """Lines over one x axis."""

    x_axis: str
    y_axis: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]

    def figure(self, title: str) -> Figure:
        """Draw them."""
        figure = Figure(figsize=(7, 3.6), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        for name, (x, y) in self.lines.items():
            axes.plot(x, y, marker="." if len(x) < 30 else None, label=name)
        axes.set(xlabel=self.x_axis, ylabel=self.y_axis)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_ylim(bottom=0)
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if len(self.lines) > 1:
            axes.legend(frameon=False)
        return figure


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds; NaN where there is nothing."""
    values = np.percentile(seconds, (50, 95, 99)) if len(seconds) else np.full(3, math.nan)
    return {f"p{rank}_ms": round(float(value) * 1000, 2) for rank, value in zip((50, 95, 99), values, strict=True)}


def write(parts: Sequence[Part], folder: Path) -> list[Path]:
    """Write ``soak.json``, ``soak.md`` and a PNG a set of curves; return their paths relative to the folder."""
    content = [{key: value for key, value in asdict(part).items() if key != "curves"} for part in parts]
    write_json(folder / "soak.json", json.loads(json.dumps(content, default=str)))
    files = [Path("soak.md"), Path("soak.json")]
    lines = ["# Soak bench", ""]
    for part in parts:
        lines += [f"## {part.name}", "", "| | check | detail |", "|---|---|---|"]
        lines += [f"| {_mark(check)} | {_cell(check.what)} | {_cell(check.skipped or check.detail)} |"
                  for check in part.checks]  # fmt: skip
        if part.figures:
            lines += ["", "| figure | value |", "|---|---:|"]
            lines += [f"| {name.replace('_', ' ')} | {value:g} |" for name, value in part.figures.items()]
        for title, rows in part.tables.items():
            lines += ["", f"**{title}**", "", *_table(rows)]
        for title, curves in part.curves.items():
            name = Path(f"{part.name}-{title.replace(' ', '-')}.png")
            save_figure(curves.figure(title), folder / name)
            files.append(name)
            lines += ["", f"![{title}]({name})"]
        lines.append("")
    (folder / "soak.md").write_text("\n".join(lines), encoding="utf-8")
    return files


def _mark(check: Check) -> str:
    return "skipped" if check.skipped else "ok" if check.holds else "**FAILED**"


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return ["none"]
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(row.get(name, "")) for name in names) + " |" for row in rows[:SHOWN]]
    return lines + ([f"\n{len(rows) - SHOWN} more rows are in soak.json."] if rows[SHOWN:] else [])


def _cell(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
