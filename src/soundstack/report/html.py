"""A report as one HTML file that holds its style and pictures and asks no server for anything."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from html import escape
from itertools import groupby

from soundstack.report.document import Block, Bullets, Cell, Commands, Heading, Paragraph, Picture, Report, Table

# The browser itself is told to load nothing from elsewhere.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { --ink: #1d2129; --soft: #667085; --line: #d5d9e0; --faint: #f5f6f8; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1500px; margin: 0 auto; padding: 2.2rem 1.5rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.45rem; margin: 3.2rem 0 .6rem; padding-bottom: .3rem; border-bottom: 2px solid var(--ink); }
h3 { font-size: 1.1rem; margin: 2.4rem 0 .5rem; }
p { max-width: 50rem; margin: .5rem 0; }
a { color: var(--accent); }
.subtitle, .note, figcaption { color: var(--soft); font-size: .9rem; }
.short { background: var(--faint); border-left: 4px solid var(--accent); padding: .7rem 1rem; margin: 1.4rem 0; }
.short strong { display: block; }
ul { margin: .3rem 0; padding-left: 1.2rem; max-width: 56rem; }
nav { margin: 1rem 0; font-size: .95rem; }
nav a { margin-right: 1.2rem; white-space: nowrap; }
.wide { overflow-x: auto; margin: 1.6rem 0 .4rem; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums;
  border: solid var(--ink); border-width: 2px 0; }
caption { text-align: left; font-weight: 600; font-size: 1rem; padding-bottom: .5rem; }
th, td { padding: .22rem .5rem; text-align: left; vertical-align: baseline; white-space: nowrap; }
td.wrap { white-space: normal; min-width: 15rem; }
th.number, td.number { text-align: right; }
thead th { font-weight: 600; }
thead tr:last-child th { border-bottom: 1px solid var(--ink); }
th.group { text-align: center; border-bottom: 1px solid var(--line); }
tbody th.section { font-weight: 600; font-style: italic; padding-top: .7rem; border-top: 1px solid var(--line); }
tbody:first-of-type th.section { border-top: 0; }
tbody tr:hover td { background: var(--faint); }
td .detail { color: var(--soft); font-size: .92em; font-weight: 400; margin-left: .25em; }
td.muted { color: #98a1ae; }
td.first, th.first { border-left: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; }
.wide td:first-child { position: sticky; left: 0; background: #fff; }
details { margin: .7rem 0 1.4rem; }
summary { cursor: pointer; color: var(--accent); }
pre { background: var(--faint); padding: .8rem 1rem; font-size: .82rem; line-height: 1.55; white-space: pre-wrap;
  overflow-wrap: anywhere; }
pre .comment { color: var(--soft); }
figure { margin: 1rem 0; }
figure .frame { overflow: auto; }
figure input { position: absolute; opacity: 0; }
figure img { max-width: min(100%, 1180px); max-height: 94vh; cursor: zoom-in; }
figure input:checked + img { max-width: none; max-height: none; cursor: zoom-out; }
@media print { main { max-width: none; padding: 0; } h2 { break-before: page; } table, figure { break-inside: avoid; } }
"""


def to_html(report: Report, images: Mapping[str, bytes]) -> str:
    """The whole report as one file.

    Args:
        images: PNG bytes by the name of their `Picture`
    """
    headings = [block.text for block in report.blocks if isinstance(block, Heading) and block.level == 2]
    links = "".join(f'<a href="#{_anchor(text)}">{escape(text)}</a>' for text in headings)
    body = "\n".join(_block(block, images) for block in report.blocks)
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(report.title)}</h1>\n<p class="subtitle">{_linked(report.subtitle)}</p>\n'
        f"<nav>{links}</nav>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _block(block: Block, images: Mapping[str, bytes]) -> str:
    match block:
        case Heading(level, text):
            return f'<h{level} id="{_anchor(text)}">{escape(text)}</h{level}>'
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Bullets(items, title, _):
            listed = "".join(f"<li>{escape(item)}</li>" for item in items)
            head = f"<strong>{escape(title)}</strong>" if title else ""
            return f'<div class="short">{head}<ul>{listed}</ul></div>'
        case Commands(title, items):
            lines = "\n".join(
                f'<span class="comment"># {escape(purpose)}</span>\n{escape(command)}' for purpose, command in items
            )
            return f"<details><summary>{escape(title)} ({len(items)})</summary><pre>{lines}</pre></details>"
        case Picture(name, caption, _):
            source = "data:image/png;base64," + base64.b64encode(images[name]).decode()
            image = f'<input type="checkbox"><img alt="{escape(caption)}" src="{source}">'
            return (
                f'<figure><div class="frame"><label title="click to enlarge">{image}</label></div>'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    body = "\n".join(_table_lines(table))
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    under = f'<ul class="note">{notes}</ul>' if notes else ""
    if table.folded:
        rows = sum(len(section.rows) for section in table.sections)
        summary = f"<summary>{escape(table.title)} ({rows} rows)</summary>"
        return f'<details>{summary}<div class="wide">{body}</div>{under}</details>'
    return f'<div class="wide">{body}</div>{under}'


def _table_lines(table: Table) -> Iterator[str]:
    # A line stands left of each group of columns.
    starts = {
        number
        for number, column in enumerate(table.columns)
        if column.group and (number == 0 or table.columns[number - 1].group != column.group)
    }
    yield f'<table id="{escape(table.key)}">'
    if not table.folded:
        yield f"<caption>{escape(table.title)}</caption>"
    yield "<thead>"
    if starts:
        yield "<tr>"
        for group, members in groupby(table.columns, key=lambda column: column.group):
            look = "group first" if group else ""
            yield f'<th class="{look}" colspan="{len(list(members))}">{escape(group)}</th>'
        yield "</tr>"
    yield "<tr>"
    for number, column in enumerate(table.columns):
        yield f'<th class="{_look(column.number, number in starts)}">{escape(column.title)}</th>'
    yield "</tr></thead>"
    for section in table.sections:
        yield "<tbody>"
        if section.title:
            yield f'<tr><th class="section" colspan="{len(table.columns)}">{escape(section.title)}</th></tr>'
        for row in section.rows:
            cells = (
                _cell(cell, _look(table.columns[number].number, number in starts)) for number, cell in enumerate(row)
            )
            yield f"<tr>{''.join(cells)}</tr>"
        yield "</tbody>"
    yield "</table>"


def _cell(cell: Cell, look: str) -> str:
    if cell.muted:
        look += " muted"
    if len(cell.text) > 60:
        look += " wrap"
    text = f"<b>{escape(cell.text)}</b>" if cell.best else escape(cell.text)
    detail = f' <span class="detail">{escape(cell.detail)}</span>' if cell.detail else ""
    return f'<td class="{look.strip()}">{text}{detail}</td>'


def _look(number: bool, first: bool) -> str:
    return " ".join(word for word, holds in (("number", number), ("first", first)) if holds)


def _linked(text: str) -> str:
    """Escaped text with its web addresses as links, which load nothing until they are clicked."""
    return re.sub(r"(https://[^\s<]+[^\s<.,;])", r'<a href="\1" rel="noreferrer">\1</a>', escape(text))


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
