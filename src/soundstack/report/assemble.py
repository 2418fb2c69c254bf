"""The report itself: which tables, figures and remarks, in which order, in which words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import numpy as np

import soundstack
from soundstack.config.report import ReportConfig
from soundstack.evaluation import plots
from soundstack.evaluation.statistics import PairedDifference
from soundstack.report import paper, tables
from soundstack.report.collect import DataSetResults, LeftOut, System, data_notes, off_default
from soundstack.report.comparisons import Comparison, Predictions, best, best_fusion, compare, label, predictions
from soundstack.report.document import Block, Bullets, Cell, Column, Heading, Paragraph, Picture, Report, Section, Table
from soundstack.report.figures import per_class_figure
from soundstack.report.rows import MEASURES, is_fusion
from soundstack.tracking.reader import ModelRun
from soundstack.utils.errors import SoundstackError

_FOLD_BEYOND = 20
_LEVEL = 0.05
_NOTES = 5


def assemble(
    results: Sequence[DataSetResults],
    systems: Mapping[str, Sequence[System]],
    config: ReportConfig,
    *,
    made: datetime,
    commit: str = "",
) -> Report:
    """Make the report of chosen runs; fetches the predictions of ``systems`` and of the best fusions.

    Args:
        systems: by data set, those to look at class by class and to test against each other
        made: when the report is made, as it will say
        commit: the version of the code that makes it
    """
    filled = {each.dataset: tables.result_tables(each) for each in results}
    table_3 = [layouts[-1] for layouts in filled.values()]
    blocks: list[Block] = [Bullets(tuple(_in_short(each) for each in table_3), title="In short")]
    if len(results) > 1:
        blocks.append(tables.overview(table_3))
    seen: dict[str, list[Predictions]] = {}
    for each in results:
        seen[each.dataset], problems = _fetch(each, systems[each.dataset])
        blocks += _data_set(each, filled[each.dataset], seen[each.dataset], problems)
    compared, failed = compare(seen, config.swaps, config.seed)
    blocks += _paired_tests(results, compared, failed, config.swaps)
    blocks += _runs(results)
    version = f"soundstack {soundstack.__version__}" + (f", commit {_short_commit(commit)}" if commit else "")
    count = sum(len(system.runs) for each in results for system in each.systems.values())
    return Report(
        title="Results beside the paper's",
        subtitle=f"{_number(count, 'run')} on {_listed([each.title for each in results])}. Paper: {paper.SOURCE}, "
        f"{paper.DOI}. Made {made:%Y-%m-%d %H:%M} UTC by {version}.",
        blocks=tuple(blocks),
        data={
            "results": (
                tables.CSV_COLUMNS,
                [row for rows in filled.values() for each in rows for row in tables.csv_rows(each)],
            ),
            "per_class": (
                ("dataset", "model", "seed", "class", "clips", "f1"),
                [row for dataset, shown in seen.items() for row in _per_class_rows(dataset, shown)],
            ),
            "paired_tests": _test_rows(compared),
            "runs": _run_rows(results),
        },
    )


def _in_short(filled: tables.ResultTable) -> str:
    results = filled.results
    head = f"{results.title} ({MEASURES[results.measure]}, %)"
    planned = [entry for entry in filled.entries if entry.row.paper_name and entry.row.step]
    run = sum(entry.system is not None for entry in planned)
    rows = f" {run} of the {len(planned)} rows of Table 3 were run." if filled.has_paper else ""
    top = best(results.systems.values(), results.measure)
    if top is None:
        return f"{head}: no devel scores.{rows}"
    entry = next((entry for entry in filled.entries if entry.system == top), None)
    words = []
    for part in ("devel", "test"):
        score = top.score(f"{part}_{results.measure}")
        if score is not None:
            figure = entry.published_score(part) if entry and filled.differences else None
            beside = "" if figure is None else f" (paper: {figure:.1f})"
            words.append(f"{part} {tables.percent(score.value)} {tables.interval(score)}".strip() + beside)
    return f"{head}: best on devel is {label(results, top.name)}: {', '.join(words)}.{rows}"


def _fetch(results: DataSetResults, systems: Sequence[System]) -> tuple[list[Predictions], list[str]]:
    fetched, problems = [], []
    for system in systems:
        try:
            fetched.append(predictions(results, system))
        except SoundstackError as error:
            problems.append(f"{label(results, system.name)} is left out of figures and tests: {error}")
    return fetched, problems


def _data_set(
    results: DataSetResults, filled: Sequence[tables.ResultTable], seen: Sequence[Predictions], problems: Sequence[str]
) -> Iterator[Block]:
    yield Heading(2, results.title)
    yield Paragraph(_what_data(results))
    if notes := data_notes(results.newest):
        if rest := notes[_NOTES:]:
            notes = [*notes[:_NOTES], f"{_number(len(rest), 'more note')} in data/data.json of the newest run."]
        yield Bullets(tuple(notes), title="Notes on the data")
    for each in filled:
        yield tables.table(each)
        commands = tables.not_run(each)
        if commands:
            yield commands
    if problems:
        yield Bullets(tuple(problems), title="Missing")
    yield from _confusion(results, seen)
    if seen:
        yield Heading(3, f"F1 by class, {results.title}")
        yield Picture(
            f"f1-by-class-{results.dataset}.png",
            f"F1 of each class on the test clips; the hardest for {seen[-1].label} on top.",
            per_class_figure({each.label: each.f1 for each in seen}, seen[0].table.classes),
        )
        yield _per_class_table(results, seen)


def _what_data(results: DataSetResults) -> str:
    newest = results.newest
    size = "" if results.clips is None else f" {results.clips[0]:,} development and {results.clips[1]:,} test clips."
    part = f" Part of the data set: {newest.subset}." if newest.subset else ""
    text = (
        f"Measure: {MEASURES[results.measure]}.{size}{part} Data fingerprint {newest.data_fingerprint}, "
        f"that of the newest run ({newest.name}, {_when(newest)})."
    )
    other = sum(left.run.data_fingerprint != newest.data_fingerprint for left in results.left_out)
    if other:
        text += f" {_number(other, 'run')} on other data left out: see the end."
    commits = {_version(run) for system in results.systems.values() for run in system.runs} - {""}
    if len(commits) > 1:
        text += f" The runs were made by {len(commits)} versions of the code: rows may differ by that too."
    return text


def _confusion(results: DataSetResults, seen: Sequence[Predictions]) -> Iterator[Block]:
    system = best_fusion(results)
    if system is None:
        return
    shown = next((each for each in seen if each.name == system.name), None)
    if shown is None:
        fetched, problems = _fetch(results, [system])
        if problems:
            yield Bullets(tuple(problems), title="Missing")
            return
        shown = fetched[0]
    figure = {"dcase2018": 2, "dcase2017": 3, "esc50": 4}.get(results.dataset)
    like = f" Like Fig. {figure} of the paper." if figure else ""
    kind = "fusion" if is_fusion(system.name) else "system"
    yield Heading(3, f"Confusion matrix, {results.title}")
    yield Picture(
        f"confusion-{results.dataset}.png",
        f"{shown.label} (best {kind} on devel, seed {shown.seed}) on the {len(shown.table.clips):,} test clips, in per "
        f"cent of the true class.{like}",
        plots.confusion_figure(shown.confusion, shown.table.classes, f"{results.title}: {shown.label}"),
    )


def _per_class_table(results: DataSetResults, seen: Sequence[Predictions]) -> Table:
    classes, clips = seen[0].table.classes, seen[0].confusion.sum(axis=1)
    scores = np.stack([each.f1 for each in seen], axis=1)  # (K, systems)
    rows = []
    for name, number, values in zip(classes, clips, scores, strict=True):
        shown = [tables.percent(value) for value in values]
        top = tables.percent(max(values)) if len(set(shown)) > 1 else None
        rows.append(
            (Cell(name.replace("_", " ")), Cell(str(number)), *(Cell(text, best=text == top) for text in shown))
        )
    seeds = _listed(sorted({each.seed for each in seen}))
    return Table(
        key=f"per-class-{results.dataset}",
        title=f"F1 by class on the test clips, {results.title} (%)",
        columns=(Column("Class", number=False), Column("Clips"), *(Column(each.label) for each in seen)),
        sections=(Section("", tuple(rows)),),
        notes=(f"Newest run of each system (seed {seeds}). Bold: best of the class.",),
        folded=len(classes) > _FOLD_BEYOND,
    )


def _paired_tests(
    results: Sequence[DataSetResults], compared: Sequence[Comparison], failed: Sequence[str], n_swaps: int
) -> Iterator[Block]:
    if not compared and not failed:
        return
    yield Heading(2, "Which differences are real?")
    if failed:
        yield Bullets(tuple(failed), title="Missing")
    if not compared:
        return
    sections = []
    for each in results:
        rows = [_test_cells(comparison) for comparison in compared if comparison.dataset == each.dataset]
        if rows:
            sections.append(Section(each.title, tuple(rows)))
    yield Table(
        key="paired-tests",
        title="Paired tests on the test clips",
        columns=(
            Column("A", number=False),
            Column("B", number=False),
            Column("A − B, points", "Accuracy"),
            Column("only A / only B", "Accuracy"),
            Column("p", "Accuracy"),
            Column("corrected", "Accuracy"),
            Column("A − B, points", "Macro-F1"),
            Column("p", "Macro-F1"),
            Column("corrected", "Macro-F1"),
        ),
        sections=tuple(sections),
        notes=(
            f"Corrected: after Holm, over all {2 * len(compared)} tests of this table; bold below {_LEVEL}. Only A / "
            "only B: clips that one of the two recognises.",
            f"p: how often a difference is as large when A and B are swapped at random ({n_swaps:,} times), all clips "
            "of a group together. Accuracy of clips without groups: McNemar, mid-p. In brackets: 95 % interval, by "
            "groups of clips. Newest run of each system.",
        ),
    )


def _test_cells(comparison: Comparison) -> tuple[Cell, ...]:
    tests = comparison.tests
    return (
        Cell(comparison.a.label),
        Cell(comparison.b.label),
        _difference(tests.accuracy),
        Cell(f"{tests.only_a} / {tests.only_b}"),
        Cell(_p(tests.accuracy.p_value)),
        Cell(_p(comparison.corrected_accuracy), best=comparison.corrected_accuracy < _LEVEL),
        _difference(tests.macro_f1),
        Cell(_p(tests.macro_f1.p_value)),
        Cell(_p(comparison.corrected_macro_f1), best=comparison.corrected_macro_f1 < _LEVEL),
    )


def _difference(found: PairedDifference) -> Cell:
    value, low, high = (
        tables.points(100 * end) for end in (found.interval.value, found.interval.low, found.interval.high)
    )
    return Cell(value, f"[{low}, {high}]")


def _runs(results: Sequence[DataSetResults]) -> Iterator[Block]:
    yield Heading(2, "Runs")
    sections = []
    for each in results:
        rows = [_run_cells(run, system) for system in each.systems.values() for run in system.runs]
        sections.append(Section(each.title, tuple(rows)))
    titles = ("Model", "Run", "Started (UTC)", "Seed", "Code", "Settings off the defaults")
    yield Table(
        key="runs",
        title="Runs shown",
        columns=tuple(Column(title, number=False) for title in titles),
        sections=tuple(sections),
        notes=("The newest run of each name, and runs of other seeds with the same data and setting.",),
        folded=True,
    )
    sections = [Section(each.title, tuple(_left_out_cells(each.left_out))) for each in results if each.left_out]
    if sections:
        yield Table(
            key="runs-left-out",
            title="Runs left out",
            columns=tuple(Column(title, number=False) for title in ("Model", "Runs", "Newest (UTC)", "Why")),
            sections=tuple(sections),
            notes=("Scores on different data, or of different settings, never stand in one column or row.",),
            folded=sum(len(section.rows) for section in sections) > _FOLD_BEYOND,
        )


def _run_cells(run: ModelRun, system: System) -> tuple[Cell, ...]:
    changed = ", ".join(f"{name}={value}" for name, value in off_default(system).items())
    return (
        Cell(run.name), Cell(run.id[:8]), Cell(f"{run.started:%Y-%m-%d %H:%M}"), Cell(run.seed), Cell(_version(run)),
        Cell(changed or "none", muted=not changed),
    )  # fmt: skip


def _left_out_cells(left_out: Sequence[LeftOut]) -> Iterator[tuple[Cell, ...]]:
    """One line for all runs of a name that are left out for the same reason."""
    counts = Counter((left.run.name, left.reason) for left in left_out)
    for (name, reason), count in counts.items():
        newest = max(left.run.started for left in left_out if (left.run.name, left.reason) == (name, reason))
        yield Cell(name), Cell(str(count)), Cell(f"{newest:%Y-%m-%d %H:%M}"), Cell(reason)


def _per_class_rows(dataset: str, seen: Sequence[Predictions]) -> Iterator[tuple[object, ...]]:
    for each in seen:
        clips = each.confusion.sum(axis=1).tolist()
        for name, number, f1 in zip(each.table.classes, clips, each.f1.tolist(), strict=True):
            yield dataset, each.name, each.seed, name, number, f1


def _test_rows(compared: Sequence[Comparison]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    scores = ("accuracy", "macro_f1")
    ends = ("difference", "ci_low", "ci_high", "p", "holm_p")
    columns = (
        "dataset",
        "a",
        "b",
        "clips",
        "groups",
        "only_a",
        "only_b",
        *(f"{x}_{end}" for x in scores for end in ends),
    )
    rows = []
    for each in compared:
        tests = each.tests
        row: list[object] = [each.dataset, each.a.name, each.b.name, len(each.a.table.clips)]
        row += [tests.accuracy.interval.groups, tests.only_a, tests.only_b]
        corrected = (each.corrected_accuracy, each.corrected_macro_f1)
        for found, p_value in zip((tests.accuracy, tests.macro_f1), corrected, strict=True):
            row += [found.interval.value, found.interval.low, found.interval.high, found.p_value, p_value]
        rows.append(tuple(row))
    return columns, rows


def _run_rows(results: Sequence[DataSetResults]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    rows: list[tuple[object, ...]] = []
    for each in results:
        shown = [(run, "") for system in each.systems.values() for run in system.runs]
        for run, reason in [*shown, *((left.run, left.reason) for left in each.left_out)]:
            started = f"{run.started:%Y-%m-%dT%H:%M:%SZ}"
            values = (
                each.dataset,
                run.name,
                run.id,
                started,
                run.seed,
                run.data_fingerprint,
                run.subset,
                _version(run),
            )
            rows.append((*values, reason))
    columns = ("dataset", "model", "run_id", "started", "seed", "data_fingerprint", "data_subset", "code", "left_out")
    return columns, rows


def _version(run: ModelRun) -> str:
    """The commit that made a run, or the fingerprint of its code outside a checkout."""
    return _short_commit(run.tags.get("soundstack.commit", "")) or run.tags.get("soundstack.code", "")


def _short_commit(commit: str) -> str:
    """Eight digits of a commit, and whether the code differed from it."""
    return commit[:8] + ("-dirty" if commit.endswith("-dirty") else "")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _when(run: ModelRun) -> str:
    return f"{run.started:%Y-%m-%d %H:%M} UTC"


def _number(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _listed(words: Sequence[str]) -> str:
    """Join words: a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
