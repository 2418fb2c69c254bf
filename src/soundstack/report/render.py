"""A report as Markdown, LaTeX (booktabs), CSV and plain text, and all its files in a folder; HTML is in `html`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from soundstack.report.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Commands,
    Heading,
    Paragraph,
    Picture,
    Report,
    Table,
    plain,
)
from soundstack.report.html import to_html
from soundstack.utils.files import save_figure
from soundstack.utils.markdown import escape

FIGURES = "figures"
_ASCII = str.maketrans({"−": "-", "–": "-", "±": "+/-"})
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
        "|": r"\textbar{}", "−": r"$-$", "±": r"$\pm$", "–": "--", "…": r"\ldots{}", "\n": " ",
    }
)  # fmt: skip


def write(report: Report, folder: Path) -> list[Path]:
    """Write all files of a report: ``report.md``, ``report.html``, ``tables.tex``, one CSV a topic, the figures.

    Returns the files, relative to the folder, the HTML first.
    """
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    files = [Path("report.html"), Path("report.md"), Path("tables.tex")]
    images = {}
    for block in report.blocks:
        if isinstance(block, Picture):
            path = Path(FIGURES) / block.name
            save_figure(block.figure, folder / path)
            images[block.name] = (folder / path).read_bytes()
            files.append(path)
    (folder / "report.html").write_text(to_html(report, images), encoding="utf-8")
    (folder / "report.md").write_text(to_markdown(report), encoding="utf-8")
    (folder / "tables.tex").write_text(to_latex(report), encoding="utf-8")
    for name, (columns, rows) in report.data.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
        files.append(Path(f"{name}.csv"))
    return files


def to_markdown(report: Report) -> str:
    """The whole report; pictures are the files in ``figures``."""
    parts = [f"# {escape(report.title)}\n", f"{escape(report.subtitle)}\n", *map(_markdown_block, report.blocks)]
    return "\n".join(parts)


def to_latex(report: Report) -> str:
    """The result tables for a paper: one ``table`` each, to be used with ``\\usepackage{booktabs}``."""
    tables = [table for table in report.tables if not table.key.startswith("runs")]
    head = f"% {report.title}. {report.subtitle}\n% Needs \\usepackage{{booktabs}}.\n"
    return "\n".join([head, *map(latex_table, tables)])


def latex_table(table: Table) -> str:
    """A table with booktabs' rules; details in script size, the best in bold."""
    width = len(table.columns)
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{_tex(table.title)}}}",
        rf"\label{{tab:{table.key}}}",
        rf"\begin{{tabular}}{{{''.join('r' if column.number else 'l' for column in table.columns)}}}",
        r"\toprule",
    ]
    if any(column.group for column in table.columns):
        groups: list[str] = []
        rules: list[str] = []
        start = 1
        for title, span in _spans(table.columns):
            groups.append(rf"\multicolumn{{{span}}}{{c}}{{{_tex(title)}}}" if title else "")
            rules += [rf"\cmidrule(lr){{{start}-{start + span - 1}}}"] if title else []
            start += span
        lines += [" & ".join(groups) + r" \\", " ".join(rules)]
    lines.append(" & ".join(_tex(column.title) for column in table.columns) + r" \\")
    for section in table.sections:
        lines.append(r"\midrule")
        if section.title:
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{_tex(section.title)}}}}} \\")
        lines += [_latex_row(row) for row in section.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        lines += [r"\par\smallskip", rf"\parbox{{\linewidth}}{{\footnotesize {_tex(' '.join(table.notes))}}}"]
    return "\n".join([*lines, r"\end{table}", ""])


def text_table(table: Table) -> str:
    """A table for the terminal: aligned, ASCII but for names, the best with an asterisk."""
    header = [column.title.translate(_ASCII) for column in table.columns]
    bodies = [[_text_cells(row) for row in section.rows] for section in table.sections]
    widths = [max(map(len, column)) for column in zip(header, *(row for body in bodies for row in body), strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if column.number else cell.ljust(width)
            for cell, width, column in zip(cells, widths, table.columns, strict=True)
        )
        return "  ".join(aligned).rstrip()

    lines = [table.title.translate(_ASCII), ""]
    if any(column.group for column in table.columns):
        lines.append(_group_line(table.columns, widths).translate(_ASCII))
    lines += [line(header), "  ".join("-" * width for width in widths)]
    for section, body in zip(table.sections, bodies, strict=True):
        lines += [f"{section.title}:".translate(_ASCII)] if section.title else []
        lines += map(line, body)
    return "\n".join([*lines, "", *(note.translate(_ASCII).replace("Bold:", "*:") for note in table.notes), ""])


def _markdown_block(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {escape(text)}\n"
        case Paragraph(text):
            return f"{escape(text)}\n"
        case Bullets(items, title, _):
            return "\n".join(
                [*([f"**{escape(title)}**\n"] if title else []), *(f"- {escape(item)}" for item in items), ""]
            )
        case Commands(title, items):
            lines = [line for purpose, command in items for line in (f"# {purpose}", command)]
            return "\n".join([f"**{escape(title)}**\n", "```sh", *lines, "```", ""])
        case Picture(name, caption, _):
            return f"![{escape(caption)}]({FIGURES}/{name})\n\n{escape(caption)}\n"
        case Table():
            return "\n".join(_markdown_table(block))


def _markdown_table(table: Table) -> Iterator[str]:
    yield f"**{escape(table.title)}**\n"
    yield f"| {' | '.join(escape(_joined(column)) for column in table.columns)} |"
    yield f"| {' | '.join('--:' if column.number else ':--' for column in table.columns)} |"
    for section in table.sections:
        if section.title:
            yield f"| *{escape(section.title)}* |{' |' * (len(table.columns) - 1)}"
        for row in section.rows:
            yield f"| {' | '.join(map(_markdown_cell, row))} |"
    yield ""
    for note in table.notes:
        yield f"- {escape(note)}"
    yield ""


def _markdown_cell(cell: Cell) -> str:
    text = f"**{escape(cell.text)}**" if cell.best else escape(cell.text)
    return f"{text} {cell.detail}".strip()  # a detail is numbers, e.g. [72.0, 78.9], and stays readable in the file


def _latex_row(row: tuple[Cell, ...]) -> str:
    line = " & ".join(map(_latex_cell, row)) + r" \\"
    # After the \\ of the line before, a bracket or an asterisk would be its argument.
    return "{}" + line if line.startswith(("[", "*")) else line


def _latex_cell(cell: Cell) -> str:
    text = rf"\textbf{{{_tex(cell.text)}}}" if cell.best else _tex(cell.text)
    return text + (rf" {{\scriptsize {_tex(cell.detail)}}}" if cell.detail else "")


def _text_cells(row: tuple[Cell, ...]) -> list[str]:
    texts = [text.translate(_ASCII) for text in plain(row)]
    return [f"*{text}" if cell.best else text for text, cell in zip(texts, row, strict=True)]


def _group_line(columns: Sequence[Column], widths: list[int]) -> str:
    """The columns' groups, each a dashed line over its columns; widens the last column of a group that is too short."""
    words, start = [], 0
    for group, span in _spans(columns):
        end = start + span
        missing = len(group) - (sum(widths[start:end]) + 2 * (span - 1))
        widths[end - 1] += max(0, missing)
        width = sum(widths[start:end]) + 2 * (span - 1)
        words.append(f" {group} ".center(width, "-")[:width] if group and missing < -1 else group.center(width))
        start = end
    return "  ".join(words).rstrip()


def _joined(column: Column) -> str:
    """A heading for forms with one line of headings."""
    return f"{column.group}: {column.title}" if column.group else column.title


def _spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """The groups of columns and how many columns each has; columns of no group one by one."""
    spans: list[tuple[str, int]] = []
    for group, members in groupby(columns, key=lambda column: column.group):
        count = len(list(members))
        spans += [(group, count)] if group else [("", 1)] * count
    return spans


def _tex(text: str) -> str:
    return text.translate(_LATEX)
