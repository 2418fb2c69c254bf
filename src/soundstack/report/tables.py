"""Tables 1-3 of the paper with our runs beside the paper's figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soundstack.evaluation.statistics import few_groups
from soundstack.report import paper
from soundstack.report.collect import DataSetResults, Score, System, off_default
from soundstack.report.document import Cell, Column, Commands, Section, Table
from soundstack.report.rows import MEASURES, Layout, Row, command, layouts, table_3

#: What is scored, as in the metrics' names, and how it is called; those after the first two only where logged.
PARTS = {
    "devel": "Devel",
    "devel_nested": "Devel, nested",
    "test": "Test",
    "test_known": "Test, known nodes",
    "test_unknown": "Test, unknown nodes",
}
_ALWAYS = ("devel", "test")
_ABSENT = "–"
_NOT_RUN = "not run"
_NOT_IN_PAPER = "not in the paper"
_OTHERS = "Other systems of ours"
CSV_COLUMNS = (
    "table", "dataset", "group", "row", "model", "part", "measure", "value", "ci_low", "ci_high", "sd", "seeds",
    "paper", "paper_dataset", "difference_points", "run_ids",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A row of a table on a data set: our runs, the paper's figures, both or neither."""

    row: Row
    group: str
    system: System | None
    published: paper.Published | None

    def published_score(self, part: str) -> float | None:
        """The paper's figure in per cent; it has one for devel and one for test."""
        return getattr(self.published, part, None) if self.published else None


@dataclass(frozen=True)
class ResultTable:
    """One of the paper's tables filled in for one data set."""

    layout: Layout
    results: DataSetResults
    entries: tuple[Entry, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that get columns: devel and test, and what some run logged besides."""
        metric = self.results.measure
        systems = [entry.system for entry in self.entries if entry.system]
        logged = {part for part in PARTS if any(system.score(f"{part}_{metric}") for system in systems)}
        return tuple(part for part in PARTS if part in logged.union(_ALWAYS))

    @property
    def has_paper(self) -> bool:
        """Whether the paper has figures for this table and data set, or for one to set beside it."""
        return any(entry.published for entry in self.entries)

    @property
    def paper_dataset(self) -> str | None:
        """The data set of the paper's figures."""
        return self.results.paper_dataset if self.layout.number == 3 else self.results.dataset

    @property
    def differences(self) -> bool:
        """Whether ours and the paper's may be subtracted."""
        return self.has_paper and self.results.comparable


def result_tables(results: DataSetResults) -> list[ResultTable]:
    """Fill in the tables that concern a data set.

    Table 3 always; Tables 1 and 2 where the paper has them (DCASE 2018) or where runs of theirs exist. Models that no
    table has a row for follow in Table 3.
    """
    filled = []
    used: set[str] = set()
    for layout in layouts(results.dataset):
        own = {row.name for row in layout.rows} - {row.name for row in table_3(results.dataset).rows}
        wanted = layout.number == 3 or results.dataset in paper.TABLES[layout.number] or own & results.systems.keys()
        if wanted:
            used |= {row.name for row in layout.rows}
            filled.append(ResultTable(layout, results, tuple(_entries(layout, results))))
    others = sorted(results.systems.keys() - used)
    if others:
        last = filled[-1]
        more = (Entry(Row(name, (name, ""), ""), _OTHERS, results.systems[name], None) for name in others)
        filled[-1] = ResultTable(last.layout, results, (*last.entries, *more))
    return filled


def table(filled: ResultTable) -> Table:
    """A filled-in table for readers: scores in per cent with 95 % intervals, the paper's, and the differences."""
    results = filled.results
    foreign = filled.paper_dataset not in (None, results.dataset)
    words = "paper, on ESC-50" if foreign else "paper"
    columns = [Column(title, number=False) for title in filled.layout.labels]
    for part in filled.parts:
        columns.append(Column("ours", PARTS[part]))
        if filled.has_paper and part in _ALWAYS:
            columns.append(Column(words, PARTS[part]))
            if filled.differences:
                columns.append(Column("difference", PARTS[part]))
    sections = []
    for title in dict.fromkeys(entry.group for entry in filled.entries):
        entries = [entry for entry in filled.entries if entry.group == title]
        sections.append(Section(title, tuple(_cells(filled, entries))))
    return Table(
        key=f"table{filled.layout.number}-{results.dataset}",
        title=f"Table {filled.layout.number}, {results.title}: {filled.layout.title} ({MEASURES[results.measure]}, %)",
        columns=tuple(columns),
        sections=tuple(sections),
        notes=tuple(_notes(filled)),
    )


def overview(filled: Sequence[ResultTable]) -> Table:
    """Table 3 over all data sets in the paper's form: one line a system, ours and the paper's side by side."""
    columns = [Column("System", number=False), Column("Pre-training", number=False)]
    for each in filled:
        group = f"{each.results.title} ({MEASURES[each.results.measure]}, %)"
        for part in _ALWAYS:
            columns.append(Column(PARTS[part], group))
            if each.has_paper and each.paper_dataset == each.results.dataset:
                columns.append(Column("paper", group))
    groups: dict[str, dict[tuple[str, ...], None]] = {}
    for each in filled:
        for entry in each.entries:
            groups.setdefault(entry.group, {})[_overview_labels(entry)] = None
    sections = []
    for title, labels in groups.items():
        best = {each.results.dataset: _best(each, title) for each in filled}
        rows = []
        for label in labels:
            cells = [_first_label(label[0], label[2]), Cell(label[1])]
            for each in filled:
                found = (e for e in each.entries if e.group == title and _overview_labels(e) == label)
                here: Entry | None = next(found, None)
                with_paper = each.has_paper and each.paper_dataset == each.results.dataset
                for part in _ALWAYS:
                    score = here.system.score(f"{part}_{each.results.measure}") if here and here.system else None
                    ours, published = best[each.results.dataset][part]
                    cells.append(_ours(score, ours, here, detail=False))
                    if with_paper:
                        cells.append(_paper(here.published_score(part) if here else None, published))
            rows.append(tuple(cells))
        sections.append(Section(title, tuple(rows)))
    return Table(
        key="table3-overview",
        title="Table 3: all systems on all data sets",
        columns=tuple(columns),
        sections=tuple(sections),
        notes=(
            f"Columns headed paper: {paper.source(3)}. Bold: best of its group. Intervals and differences stand in the "
            "data sets' own tables.",
        ),
    )


def not_run(filled: ResultTable) -> Commands | None:
    """The commands that would make the rows that were not run; None where all were."""
    results = filled.results
    items = tuple(
        (entry.row.label, command(entry.row, results.dataset, results.data_dir))
        for entry in filled.entries
        if entry.system is None and entry.row.step
    )
    if not items:
        return None
    return Commands(f"Table {filled.layout.number}, {results.title}: commands for the rows that were not run", items)


def csv_rows(filled: ResultTable) -> Iterator[tuple[object, ...]]:
    """Every figure of a table, both measures: scores in 0..1 as logged, differences in points, empty where unknown."""
    results = filled.results
    for entry in filled.entries:
        for part in PARTS:
            for measure in MEASURES:
                score = entry.system.score(f"{part}_{measure}") if entry.system else None
                published = entry.published_score(part) if measure == results.measure else None
                if score is None and published is None and not (entry.system is None and part in _ALWAYS):
                    continue
                difference = None
                if filled.differences and score is not None and published is not None:
                    difference = 100 * score.value - published
                yield (
                    filled.layout.number,
                    results.dataset,
                    entry.group,
                    entry.row.label,
                    entry.row.name if entry.row.step or entry.system else "",
                    part,
                    measure,
                    *((score.value, score.low, score.high, score.deviation, score.seeds) if score else [None] * 5),
                    None if published is None else round(published / 100, 6),
                    None if published is None else filled.paper_dataset,
                    difference,
                    " ".join(run.id for run in entry.system.runs) if entry.system and score else None,
                )


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
    if score.low is None or score.high is None:
        return ""
    return f"[{percent(score.low)}, {percent(score.high)}]"


def _entries(layout: Layout, results: DataSetResults) -> Iterator[Entry]:
    source = results.paper_dataset if layout.number == 3 else results.dataset
    for group in layout.groups:
        for row in group.rows:
            published = paper.published(layout.number, source or "", row.paper_name) if row.paper_name else None
            system = results.systems.get(row.name)
            # The paper's rows stand even where nothing was run; rows of ours once there is a run.
            if system or published:
                yield Entry(row, group.title, system, published)


def _cells(filled: ResultTable, entries: Sequence[Entry]) -> Iterator[tuple[Cell, ...]]:
    best = _best(filled, entries[0].group)
    for entry in entries:
        own = filled.has_paper and _is_extra(entry)
        first, *labels = entry.row.labels + ("",) * (len(filled.layout.labels) - len(entry.row.labels))
        cells = [_first_label(first, _NOT_IN_PAPER if own else ""), *map(Cell, labels)]
        for part in filled.parts:
            score = entry.system.score(f"{part}_{filled.results.measure}") if entry.system else None
            ours, published = best[part]
            # "not run" once for devel and once for test is enough.
            run = entry.system is not None or part in _ALWAYS
            cells.append(_ours(score, ours, entry if run else None, detail=True))
            if filled.has_paper and part in _ALWAYS:
                figure = entry.published_score(part)
                cells.append(_paper(figure, published))
                if filled.differences:
                    cells.append(_difference(score, figure))
        yield tuple(cells)


def _is_extra(entry: Entry) -> bool:
    """Whether the row stands among the paper's without being one of them."""
    return entry.row.paper_name is None and entry.group != _OTHERS


def _first_label(text: str, remark: str) -> Cell:
    return Cell(text, f"({remark})" if remark else "")


def _ours(score: Score | None, best: str | None, entry: Entry | None, *, detail: bool) -> Cell:
    if score is not None:
        text = percent(score.value)
        return Cell(text, interval(score) if detail else "", best=text == best)
    if entry is None or (entry.system is None and not entry.row.step):
        return Cell("")  # others' work, or a row that this data set does not have
    return Cell(_NOT_RUN if entry.system is None else _ABSENT, muted=True)


def _paper(figure: float | None, best: str | None) -> Cell:
    text = _ABSENT if figure is None else f"{figure:.1f}"
    return Cell(text, best=text == best, muted=figure is None)


def _difference(score: Score | None, figure: float | None) -> Cell:
    """Of the figures as shown, so that the line adds up."""
    return Cell("" if score is None or figure is None else points(float(percent(score.value)) - figure))


def _best(filled: ResultTable, group: str) -> dict[str, tuple[str | None, str | None]]:
    """The best of ours and of the paper's in a group, as shown, by part; None where there is no choice."""
    entries = [entry for entry in filled.entries if entry.group == group]
    found = {}
    for part in filled.parts:
        scores = [e.system.score(f"{part}_{filled.results.measure}") for e in entries if e.system]
        ours = [score.value for score in scores if score is not None]
        figures = [figure for e in entries if e.row.step and (figure := e.published_score(part)) is not None]
        found[part] = (
            percent(max(ours)) if len(ours) > 1 else None,
            f"{max(figures):.1f}" if len(figures) > 1 else None,
        )
    return found


def _overview_labels(entry: Entry) -> tuple[str, str, str]:
    name = "Proposed CRNN" if entry.row.paper_name == "crnn" else entry.row.labels[0]
    return name, entry.row.labels[1], _NOT_IN_PAPER if _is_extra(entry) else ""


def _notes(filled: ResultTable) -> Iterator[str]:
    results, number = filled.results, filled.layout.number
    systems = [entry.system for entry in filled.entries if entry.system]
    shown = [
        score for system in systems for part in filled.parts if (score := system.score(f"{part}_{results.measure}"))
    ]
    if any(score.low is not None for score in shown):
        yield "In brackets: 95 % interval, by groups of clips."
        if few := few_groups(
            {PARTS[part].lower(): results.newest.metrics.get(f"groups_{part}") for part in filled.parts}
        ):
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
    for entry in filled.entries:
        if entry.system:
            yield from _row_notes(entry.system, entry.row)


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
        part = f" ({results.newest.subset})" if results.newest.subset else ""
        yield (
            f"Paper: {source}, on the whole data set ({expected} clips). Our runs used {devel:,} + {test:,}{part}: "
            "no differences."
        )
    remark = paper.REMARKS.get(results.paper_dataset or "")
    if remark and filled.layout.number != 2:
        yield remark


def _row_notes(system: System, row: Row) -> Iterator[str]:
    changed = off_default(system, row)
    if changed:
        settings = ", ".join(f"{name}={value}" for name, value in changed.items())
        yield f"{row.label}: run with {settings}, which is not the default."
    if row.members and system.members and system.members != set(row.members):
        without, besides = sorted(set(row.members) - system.members), sorted(system.members - set(row.members))
        words = [f"without {', '.join(without)}"] if without else []
        words += [f"with {', '.join(besides)}"] if besides else []
        yield f"{row.label}: stacks other members than the paper, {' and '.join(words)}."
    elif not row.members and system.members:
        yield f"{row.label}: stacks {', '.join(sorted(system.members))}."
