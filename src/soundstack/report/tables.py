"""Tables 1-3 of the paper with our runs beside the paper's figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from soundstack.evaluation.statistics import few_groups
from soundstack.report import paper
from soundstack.report.collect import DataSetResults, Score, SystemRuns, off_default
from soundstack.report.document import Cell, Column, Commands, Line, Table, text_columns
from soundstack.report.rows import MEASURES, Layout, TableRow, command, layouts

#: What is scored, as in the metrics' names, and how it is called; those after the first two only where logged.
PARTS = {
    "devel": "Devel",
    "devel_nested": "Devel, nested",
    "test": "Test",
    "test_known": "Test, known nodes",
    "test_unknown": "Test, unknown nodes",
}
_ALWAYS = ("devel", "test")
_NO_FIGURE = Cell("–", muted=True)
_OTHERS = "Other systems of ours"
#: A cell's part, and what it holds: ``ours``, ``paper`` or their ``difference``.
Place = tuple[str, str]


@dataclass(frozen=True)
class FilledRow:
    """A row of a table on a data set: our runs, the paper's figures in per cent, or both."""

    row: TableRow
    system: SystemRuns | None
    published: paper.Published | None

    def score(self, part: str, measure: str) -> Score | None:
        """Our score; None where no run logged it."""
        return self.system.score(f"{part}_{measure}") if self.system else None

    def published_score(self, part: str) -> float | None:
        """The paper's figure in per cent; it has one for devel and one for test."""
        return getattr(self.published, part, None)

    @property
    def extra(self) -> str:
        """A remark on a row that stands among the paper's without being one of them."""
        return "(not in the paper)" if self.row.name not in paper.ROWS and self.row.group != _OTHERS else ""


@dataclass(frozen=True)
class ResultTable:
    """One of the paper's tables filled in for one data set."""

    layout: Layout
    results: DataSetResults

    @cached_property
    def rows(self) -> list[FilledRow]:
        """The paper's rows, even where nothing was run, and rows of ours that were."""
        published = paper.TABLES[self.layout.number].get(self.results.paper_dataset or "", {})
        systems = self.results.systems
        every = (FilledRow(row, systems.get(row.name), published.get(row.name)) for row in self.layout.rows)
        return [each for each in every if each.system or each.published]

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The parts that get columns: devel and test, and what some run logged besides."""
        measure = self.results.measure
        return tuple(p for p in PARTS if p in _ALWAYS or any(each.score(p, measure) for each in self.rows))

    @property
    def has_paper(self) -> bool:
        """Whether the paper has figures for this table and data set, or for one to set beside it."""
        return any(each.published for each in self.rows)

    @property
    def differences(self) -> bool:
        """Whether ours and the paper's may be subtracted."""
        return self.has_paper and self.results.comparable


def result_tables(results: DataSetResults) -> list[ResultTable]:
    """Fill in the tables that concern a data set.

    Table 3 always; Tables 1 and 2 where the paper has them (DCASE 2018) or where runs of theirs exist. Models that no
    table has a row for follow in Table 3.
    """
    *others, last = layouts(results.dataset)
    systems = results.systems.keys() - {row.name for row in last.rows}
    shown = []
    for layout in others:
        names = {row.name for row in layout.rows}
        if results.dataset in paper.TABLES[layout.number] or systems & names:
            shown.append(layout)
            systems -= names
    more = (TableRow(name, (name, ""), _OTHERS) for name in sorted(systems))
    return [ResultTable(layout, results) for layout in (*shown, replace(last, rows=(*last.rows, *more)))]


def table(filled: ResultTable) -> Table:
    """A filled-in table for readers: scores in per cent with 95 % intervals, the paper's, and the differences."""
    results, layout = filled.results, filled.layout
    kinds = ("ours", *(["paper"] if filled.has_paper else []), *(["difference"] if filled.differences else []))
    places = [(part, kind) for part in filled.parts for kind in (kinds if part in _ALWAYS else kinds[:1])]
    kind_of_paper = "paper" if results.paper_dataset == results.dataset else "paper, on ESC-50"
    lines: list[Line] = []
    for each, cells in zip(filled.rows, _score_cells(filled), strict=True):
        first, *labels = each.row.labels
        remark = each.extra if filled.has_paper else ""
        lines.append((each.row.group, [Cell(first, remark), *labels, *(cells[place] for place in places)]))
    return Table(
        key=f"table{layout.number}-{results.dataset}",
        title=f"Table {layout.number}, {results.title}: {layout.title} ({MEASURES[results.measure]}, %)",
        columns=[
            *text_columns(*layout.labels),
            *(Column(kind_of_paper if kind == "paper" else kind, PARTS[part]) for part, kind in places),
        ],
        lines=lines,
        notes=list(_notes(filled)),
    )


def overview(filled: Sequence[ResultTable]) -> Table:
    """Table 3 over all data sets in the paper's form: one line a system, ours and the paper's side by side."""
    columns = text_columns("System", "Pre-training")
    # By section, system and pre-training, in order.
    lines: dict[tuple[str, Cell, Cell], list[Cell]] = {_overview_line(row): [] for each in filled for row in each.rows}
    for each in filled:
        own_paper = each.has_paper and each.results.paper_dataset == each.results.dataset
        places = [(part, kind) for part in _ALWAYS for kind in (("ours", "paper") if own_paper else ("ours",))]
        group = f"{each.results.title} ({MEASURES[each.results.measure]}, %)"
        columns += [Column(PARTS[part] if kind == "ours" else kind, group) for part, kind in places]
        filled_in = dict(zip(map(_overview_line, each.rows), _score_cells(each), strict=True))
        absent = {(part, kind): Cell("") if kind == "ours" else _NO_FIGURE for part, kind in places}
        for line, cells in lines.items():
            cells += [filled_in.get(line, absent)[place]._replace(detail="") for place in places]
    return Table(
        key="table3-overview",
        title="Table 3: all systems on all data sets",
        columns=columns,
        lines=[(section, [*names, *cells]) for (section, *names), cells in lines.items()],
        notes=(
            f"Columns headed paper: {paper.source(3)}. Bold: best of its group. Intervals and differences stand in the "
            "data sets' own tables.",
        ),
    )


def not_run(filled: ResultTable) -> Commands | None:
    """The commands that would make the rows that were not run; None where all were."""
    results = filled.results
    rows = [each.row for each in filled.rows if each.system is None and each.row.step]
    items = [(row.label, command(row, results.dataset, results.data_dir)) for row in rows]
    title = f"Table {filled.layout.number}, {results.title}: commands for the rows that were not run"
    return Commands(title, items) if items else None


def results_frame(filled: Iterable[ResultTable]) -> pd.DataFrame:
    """Every figure of tables, both measures: scores in 0..1 as logged, differences in points, empty where unknown."""
    records = [
        _record(each, row, part, measure)
        for each in filled
        for row in each.rows
        for part in PARTS
        for measure in MEASURES
        if row.score(part, measure)
        or (row.published_score(part) is not None and measure == each.results.measure)
        or (row.system is None and part in _ALWAYS)
    ]
    return pd.DataFrame(records).astype({"seeds": "Int64"})


def _record(filled: ResultTable, each: FilledRow, part: str, measure: str) -> dict[str, object]:
    score = each.score(part, measure)
    figure = each.published_score(part) if measure == filled.results.measure else None
    return {
        "table": filled.layout.number,
        "dataset": filled.results.dataset,
        "group": each.row.group,
        "row": each.row.label,
        "model": each.row.name if each.row.step or each.system else "",
        "part": part,
        "measure": measure,
        "value": score and score.value,
        "ci_low": score and score.low,
        "ci_high": score and score.high,
        "sd": score and score.deviation,
        "seeds": score and score.seeds,
        "paper": None if figure is None else round(figure / 100, 6),
        "paper_dataset": None if figure is None else filled.results.paper_dataset,
        "difference_points": 100 * score.value - figure
        if score and figure is not None and filled.differences
        else None,
        "run_ids": " ".join(run.id for run in each.system.runs) if each.system and score else None,
    }


def percent(value: float) -> str:
    """A share in per cent with one decimal."""
    return f"{100 * value:.1f}"


def points(difference: float) -> str:
    """A difference in points with its sign.

    >>> points(-0.72), points(0.04)
    ('−0.7', '0.0')
    """
    text = f"{difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def interval(score: Score) -> str:
    """What is known of a score's uncertainty: its 95 % interval, or its deviation over seeds."""
    if score.deviation is not None:
        return f"± {percent(score.deviation)} ({score.seeds} seeds)"
    return "" if score.low is None or score.high is None else f"[{percent(score.low)}, {percent(score.high)}]"


def _score_cells(filled: ResultTable) -> Iterator[dict[Place, Cell]]:
    """For each row its cells; the best of ours and of the paper's in its group is marked, where there is a choice."""
    measure = filled.results.measure
    shown: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for each in filled.rows:
        for part in filled.parts:
            if score := each.score(part, measure):
                shown[each.row.group, part, "ours"].append(100 * score.value)
            if each.row.step and (figure := each.published_score(part)) is not None:
                shown[each.row.group, part, "paper"].append(figure)
    best = {key: f"{max(values):.1f}" for key, values in shown.items() if len(values) > 1}
    for each in filled.rows:
        # "not run" once for devel and once for test is enough; others' work is never run.
        not_run = dict.fromkeys(_ALWAYS, Cell("not run", muted=True)) if each.row.step else {}
        cells: dict[Place, Cell] = {}
        for part in filled.parts:
            score, figure = each.score(part, measure), each.published_score(part)
            cells[part, "ours"] = _NO_FIGURE if each.system else not_run.get(part, Cell(""))
            cells[part, "paper"] = _NO_FIGURE
            cells[part, "difference"] = Cell("")
            if score:
                text = percent(score.value)
                cells[part, "ours"] = Cell(text, interval(score), best=text == best.get((each.row.group, part, "ours")))
            if figure is not None:
                text = f"{figure:.1f}"
                cells[part, "paper"] = Cell(text, best=text == best.get((each.row.group, part, "paper")))
            if score and figure is not None:  # of the figures as shown, so that the line adds up
                cells[part, "difference"] = Cell(points(float(percent(score.value)) - figure))
        yield cells


def _overview_line(each: FilledRow) -> tuple[str, Cell, Cell]:
    name, pretraining = each.row.labels
    return each.row.group, Cell(name.removesuffix(" (3 thresholds)"), each.extra), Cell(pretraining)


def _notes(filled: ResultTable) -> Iterator[str]:
    results, number = filled.results, filled.layout.number
    shown = [score for each in filled.rows for part in filled.parts if (score := each.score(part, results.measure))]
    if any(score.low is not None for score in shown):
        yield "In brackets: 95 % interval, by groups of clips."
        groups = {PARTS[part].lower(): results.newest.metrics.get(f"groups_{part}") for part in filled.parts}
        if few := few_groups(groups):
            yield few
    if shown:
        yield "Bold: best of its group of rows."
    if any(score.deviation is not None for score in shown):
        yield "±: standard deviation over seeds; the uncertainty from the limited number of clips comes on top."
    if filled.has_paper:
        yield from _paper_notes(filled)
    else:
        yield f"Rows of {paper.source(number)}, that were run; the paper has no figures for {results.title}."
    if "devel_nested" in filled.parts:
        yield (
            "Devel, nested: for each fold, C, members and stack are chosen and trained on the other folds alone. Plain "
            "devel chooses C on the folds that it scores and stacks members that saw them, as the paper does, and is a "
            "little optimistic."
        )
    for each in filled.rows:
        if each.system:
            yield from _row_notes(each.system, each.row)


def _paper_notes(filled: ResultTable) -> Iterator[str]:
    results, source = filled.results, paper.source(filled.layout.number)
    if results.dataset == "esc10":
        yield f"Paper: {source}, ESC-50 with its 50 classes. ESC-10 is 10 of them, another task: no differences."
    elif results.comparable:
        yield f"Paper: {source}. Difference: ours minus the paper's, in points."
    elif results.clips is None:
        yield f"Paper: {source}. No differences: the runs do not tell how many clips they used."
    else:
        devel, test = results.clips
        expected = " + ".join(f"{max(numbers):,}" for numbers in paper.CLIPS[results.dataset])
        yield (
            f"Paper: {source}, on the whole data set ({expected} clips). Our runs used {devel:,} + {test:,}: "
            "no differences."
        )
    remark = paper.REMARKS.get(results.paper_dataset or "")
    if remark and filled.layout.number != 2:
        yield remark


def _row_notes(system: SystemRuns, row: TableRow) -> Iterator[str]:
    if settings := ", ".join(f"{name}={value}" for name, value in off_default(system, row).items()):
        yield f"{row.label}: run with {settings}, which is not the default."
    if row.members and system.members and system.members != set(row.members):
        apart = {"without": set(row.members) - system.members, "with": system.members - set(row.members)}
        words = [f"{how} {', '.join(sorted(names))}" for how, names in apart.items() if names]
        yield f"{row.label}: stacks other members than the paper, {' and '.join(words)}."
    elif not row.members and system.members:
        yield f"{row.label}: stacks {', '.join(sorted(system.members))}."
