"""A report as HTML, Markdown, LaTeX (booktabs), CSV and plain text, and all its files in a folder."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from soundstack.report.document import Cell, Picture, Report, Table
from soundstack.utils import markdown
from soundstack.utils.files import save_figure

FIGURES = "figures"
_ASCII = str.maketrans({"−": "-", "–": "-", "±": "+/-"})
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
        "|": r"\textbar{}", "−": r"$-$", "±": r"$\pm$", "–": "--", "…": r"\ldots{}", "\n": " ",
    }
)  # fmt: skip
#: LaTeX is full of braces: its template has other signs.
_LATEX_SYNTAX = {
    "block_start_string": "<%", "block_end_string": "%>", "variable_start_string": "<<", "variable_end_string": ">>",
    "comment_start_string": "<#", "comment_end_string": "#>",
}  # fmt: skip


def write(report: Report, folder: Path) -> list[Path]:
    """Write all files of a report, and return them, relative to the folder, the HTML first."""
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    images = {}
    for picture in (block for block in report.blocks if isinstance(block, Picture)):
        save_figure(picture.figure, folder / FIGURES / picture.name)
        images[picture.name] = (folder / FIGURES / picture.name).read_bytes()
    texts = {
        "report.html": to_html(report, images),
        "report.md": to_markdown(report),
        "tables.tex": to_latex(report),
    } | {f"{name}.csv": frame.to_csv(index=False, lineterminator="\n") for name, frame in report.data.items()}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return [*map(Path, texts), *(Path(FIGURES) / name for name in images)]


def to_html(report: Report, images: Mapping[str, bytes]) -> str:
    """The whole report as one file; ``images`` are PNG bytes by the name of their `Picture`."""
    encoded = {name: base64.b64encode(content).decode() for name, content in images.items()}
    return _rendered("report.html.j2", escape, report, images=encoded)


def to_markdown(report: Report) -> str:
    """The whole report; pictures are the files in ``figures``."""
    return _rendered("report.md.j2", markdown.escape, report, figures=FIGURES)


def to_latex(report: Report) -> str:
    """The result tables for a paper: one ``table`` each, to be used with ``\\usepackage{booktabs}``."""
    tables = [table for table in report.tables if not table.key.startswith("runs")]
    return _rendered("tables.tex.j2", lambda text: text.translate(_LATEX), report, tables=tables, syntax=_LATEX_SYNTAX)


def _rendered(
    template: str,
    escaped: Callable[[str], str],
    report: Report,
    *,
    syntax: Mapping[str, Any] | None = None,
    **more: Any,
) -> str:
    """Fill in a template; every value goes through ``escaped`` but what the template marks as safe."""

    def finalize(value: object) -> Markup:
        return value if isinstance(value, Markup) else Markup(escaped(str(value)))

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **(syntax or {}),
    )
    environment.filters["anchor"] = lambda text: re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    blocks = [(type(block).__name__, block) for block in report.blocks]
    return environment.get_template(template).render(report=report, blocks=blocks, **more)


def text_table(table: Table) -> str:
    """A table for the terminal: aligned, ASCII but for names, the best with an asterisk."""

    def text(cell: Cell) -> str:
        return ("*" if cell.best else "") + f"{cell.text} {cell.detail}".strip().translate(_ASCII)

    def line(cells: Sequence[str]) -> str:
        aligned = zip(cells, widths, table.columns, strict=True)
        return "  ".join(cell.rjust(w) if column.number else cell.ljust(w) for cell, w, column in aligned).rstrip()

    header = [column.title.translate(_ASCII) for column in table.columns]
    sections = {title: [[text(cell) for cell in row] for row in rows] for title, rows in table.sections.items()}
    widths = [max(map(len, cells)) for cells in zip(header, *chain.from_iterable(sections.values()), strict=True)]
    groups = _group_line(table, widths)
    lines = [table.title, "", *filter(None, [groups]), line(header), "  ".join("-" * width for width in widths)]
    for title, rows in sections.items():
        lines += [*filter(None, [title and f"{title}:"]), *map(line, rows)]
    notes = [note.replace("Bold:", "*:") for note in table.notes]
    return "\n".join([*lines, "", *notes, ""]).translate(_ASCII)


def _group_line(table: Table, widths: list[int]) -> str:
    """The groups' titles, each amid dashes over its columns; widens the last column of a group that is too narrow."""
    words = []
    for title, first, count in table.spans:
        last, gaps = first + count - 1, 2 * (count - 1)
        widths[last] += max(0, len(title) - sum(widths[first : last + 1]) - gaps)
        width = sum(widths[first : last + 1]) + gaps
        words.append(f" {title} ".center(width, "-") if title and len(title) + 2 <= width else title.center(width))
    return "  ".join(words).rstrip()
