"""The report itself: which tables, figures and remarks, in which order, in which words."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import pandas as pd

import soundstack
from soundstack.config.tools import ReportConfig
from soundstack.evaluation import plots
from soundstack.report import paper, tables
from soundstack.report.collect import DataSetResults, SystemRuns, data_notes, off_default
from soundstack.report.comparisons import Predictions, best, best_fusion, compare, label, per_class_figure, predictions
from soundstack.report.document import Block, Bullets, Cell, Column, Heading, Line, Picture, Report, Table, text_columns
from soundstack.report.rows import MEASURES, is_fusion
from soundstack.tracking.reader import ModelRun
from soundstack.utils.errors import SoundstackError

_FOLD_BEYOND = 20
_LEVEL = 0.05
_NOTES = 5


def assemble(
    results: Sequence[DataSetResults],
    systems: Mapping[str, Sequence[SystemRuns]],
    config: ReportConfig,
    *,
    made: datetime,
    commit: str = "",
    beyond: Sequence[Block] = (),
) -> Report:
    """Make the report of chosen runs.

    It fetches the predictions of the best fusions, and of ``systems``, by data set: those to look at class by class and
    to test against each other. What goes ``beyond`` the paper stands before the list of runs.
    """
    filled = {each.dataset: tables.result_tables(each) for each in results}
    table_3 = [of_data_set[-1] for of_data_set in filled.values()]
    blocks: list[Block] = [Bullets("In short", [_in_short(each) for each in table_3])]
    if len(results) > 1:
        blocks.append(tables.overview(table_3))
    seen: dict[str, list[Predictions]] = {}
    for each in results:
        seen[each.dataset], problems = _fetch(each, systems[each.dataset])
        blocks += _data_set(each, filled[each.dataset], problems)
        blocks += _confusion(each, seen[each.dataset])
        blocks += _per_class(each, seen[each.dataset])
    compared, failed = compare(seen, config.swaps, config.seed)
    titles = {each.dataset: each.title for each in results}
    blocks += _paired_tests(results, compared, failed, config.swaps)
    blocks += beyond
    runs = _runs_frame(results)
    blocks += [Heading(2, "Runs"), _runs_shown(results), *_runs_left_out(titles, runs)]
    version = f"soundstack {soundstack.__version__}" + (f", commit {_short_commit(commit)}" if commit else "")
    return Report(
        title="Results beside the paper's",
        subtitle=f"{_number(sum(len(each.runs) for each in results), 'run')} on {_listed(list(titles.values()))}. "
        f"Paper: {paper.SOURCE}, {paper.DOI}. Made {made:%Y-%m-%d %H:%M} UTC by {version}.",
        blocks=blocks,
        data={
            "results": tables.results_frame(chain.from_iterable(filled.values())),
            "per_class": pd.DataFrame(
                (
                    (dataset, each.name, each.seed, *values)
                    for dataset, shown in seen.items()
                    for each in shown
                    for values in zip(each.table.classes, each.confusion.sum(axis=1), each.f1, strict=True)
                ),
                columns=["dataset", "model", "seed", "class", "clips", "f1"],
            ),
            "paired_tests": compared,
            "runs": runs,
        },
    )


def _in_short(filled: tables.ResultTable) -> str:
    results = filled.results
    head = f"{results.title} ({MEASURES[results.measure]}, %)"
    run = [each.system is not None for each in filled.rows if each.row.name in paper.ROWS and each.row.step]
    rows = f" {sum(run)} of the {len(run)} rows of Table 3 were run." if filled.has_paper else ""
    top = best(results.systems.values(), results.measure)
    if top is None:
        return f"{head}: no devel scores.{rows}"
    row = next((each for each in filled.rows if each.system == top), None)
    words = []
    for part in ("devel", "test"):
        if score := top.score(f"{part}_{results.measure}"):
            figure = row.published_score(part) if row and filled.differences else None
            beside = "" if figure is None else f" (paper: {figure:.1f})"
            words.append(f"{part} {tables.percent(score.value)} {tables.interval(score)}".strip() + beside)
    return f"{head}: best on devel is {label(results, top.name)}: {', '.join(words)}.{rows}"


def _fetch(results: DataSetResults, systems: Sequence[SystemRuns]) -> tuple[list[Predictions], list[str]]:
    fetched, problems = [], []
    for system in systems:
        try:
            fetched.append(predictions(results, system))
        except SoundstackError as error:
            problems.append(f"{label(results, system.name)} is left out of figures and tests: {error}")
    return fetched, problems


def _data_set(
    results: DataSetResults, filled: Sequence[tables.ResultTable], problems: Sequence[str]
) -> Iterator[Block]:
    yield Heading(2, results.title)
    yield _what_data(results)
    if notes := data_notes(results.newest):
        if rest := notes[_NOTES:]:
            notes = [*notes[:_NOTES], f"{_number(len(rest), 'more note')} in data/data.json of the newest run."]
        yield Bullets("Notes on the data", notes)
    for each in filled:
        yield tables.table(each)
        if commands := tables.not_run(each):
            yield commands
    yield from _missing(problems)


def _missing(problems: Sequence[str]) -> Iterator[Block]:
    if problems:
        yield Bullets("Missing", problems)


def _what_data(results: DataSetResults) -> str:
    newest = results.newest
    size = "" if results.clips is None else f" {results.clips[0]:,} development and {results.clips[1]:,} test clips."
    text = (
        f"Measure: {MEASURES[results.measure]}.{size} Data fingerprint {newest.data_fingerprint}, "
        f"that of the newest run ({newest.name}, {newest.started:%Y-%m-%d %H:%M} UTC)."
    )
    if other := sum(run.data_fingerprint != newest.data_fingerprint for run, _ in results.left_out):
        text += f" {_number(other, 'run')} on other data left out: see the end."
    commits = {_version(run) for run in results.runs} - {""}
    if len(commits) > 1:
        text += f" The runs were made by {len(commits)} versions of the code: rows may differ by that too."
    return text


def _confusion(results: DataSetResults, seen: Sequence[Predictions]) -> Iterator[Block]:
    system = best_fusion(results)
    if system is None:
        return
    fetched = [each for each in seen if each.name == system.name]
    if not fetched:
        fetched, problems = _fetch(results, [system])
        yield from _missing(problems)
        if problems:
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


def _per_class(results: DataSetResults, seen: Sequence[Predictions]) -> Iterator[Block]:
    if not seen:
        return
    classes, clips = seen[0].table.classes, seen[0].confusion.sum(axis=1)
    yield Heading(3, f"F1 by class, {results.title}")
    yield Picture(
        f"f1-by-class-{results.dataset}.png",
        f"F1 of each class on the test clips; the hardest for {seen[-1].label} on top.",
        per_class_figure({each.label: each.f1 for each in seen}, classes),
    )
    lines: list[Line] = []
    for name, number, *values in zip(classes, clips, *(each.f1 for each in seen), strict=True):
        shown, top = [tables.percent(value) for value in values], tables.percent(max(values))
        cells = (Cell(text, best=text == top and len(set(shown)) > 1) for text in shown)
        lines.append(("", [name.replace("_", " "), str(number), *cells]))
    seeds = _listed(sorted({each.seed for each in seen}))
    yield Table(
        key=f"per-class-{results.dataset}",
        title=f"F1 by class on the test clips, {results.title} (%)",
        columns=[*text_columns("Class"), Column("Clips"), *(Column(each.label) for each in seen)],
        lines=lines,
        notes=[f"Newest run of each system (seed {seeds}). Bold: best of the class."],
        folded=len(classes) > _FOLD_BEYOND,
    )


def _paired_tests(
    results: Sequence[DataSetResults], compared: pd.DataFrame, failed: Sequence[str], n_swaps: int
) -> Iterator[Block]:
    if len(compared) or failed:
        yield Heading(2, "Which differences are real?")
    yield from _missing(failed)
    if compared.empty:
        return
    by_name = {each.dataset: each for each in results}
    lines: list[Line] = []
    for test in compared.to_dict("records"):
        shown = by_name[test["dataset"]]
        accuracy, macro_f1 = _difference_cells(test, "accuracy"), _difference_cells(test, "macro_f1")
        accuracy.insert(1, f"{test['only_a']} / {test['only_b']}")
        lines.append((shown.title, [label(shown, test["a"]), label(shown, test["b"]), *accuracy, *macro_f1]))
    yield Table(
        key="paired-tests",
        title="Paired tests on the test clips",
        columns=[
            *text_columns("A", "B"),
            *(Column(title, "Accuracy") for title in ("A − B, points", "only A / only B", "p", "corrected")),
            *(Column(title, "Macro-F1") for title in ("A − B, points", "p", "corrected")),
        ],
        lines=lines,
        notes=[
            f"Corrected: after Holm, over all {2 * len(compared)} tests of this table; bold below {_LEVEL}. Only A / "
            "only B: clips that one of the two recognises.",
            f"p: how often a difference is as large when A and B are swapped at random ({n_swaps:,} times), all clips "
            "of a group together. Accuracy of clips without groups: McNemar, mid-p. In brackets: 95 % interval, by "
            "groups of clips. Newest run of each system.",
        ],
    )


def _difference_cells(test: Mapping[Hashable, Any], measure: str) -> list[Cell | str]:
    """The difference with its interval, its p-value, and the corrected one."""
    value, low, high = (tables.points(100 * test[f"{measure}_{end}"]) for end in ("difference", "ci_low", "ci_high"))
    p_value, corrected = test[f"{measure}_p"], test[f"{measure}_holm_p"]
    return [Cell(value, f"[{low}, {high}]"), _p(p_value), Cell(_p(corrected), best=corrected < _LEVEL)]


def _runs_shown(results: Sequence[DataSetResults]) -> Table:
    lines: list[Line] = []
    for each in results:
        for system in each.systems.values():
            changed = ", ".join(f"{name}={value}" for name, value in off_default(system).items())
            settings = Cell(changed or "none", muted=not changed)
            for run in system.runs:
                started = f"{run.started:%Y-%m-%d %H:%M}"
                lines.append((each.title, [run.name, run.id[:8], started, run.seed, _version(run), settings]))
    return Table(
        key="runs",
        title="Runs shown",
        columns=text_columns("Model", "Run", "Started (UTC)", "Seed", "Code", "Settings off the defaults"),
        lines=lines,
        notes=["The newest run of each name, and runs of other seeds with the same data and setting."],
        folded=True,
    )


def _runs_left_out(titles: Mapping[str, str], runs: pd.DataFrame) -> Iterator[Table]:
    """One line for all runs of a name that are left out for the same reason."""
    left_out = runs[runs["left_out"] != ""].groupby(["dataset", "model", "left_out"], sort=False)["started"]
    lines: list[Line] = [
        (titles[str(dataset)], [str(model), str(len(started)), started.max()[:16].replace("T", " "), str(reason)])
        for (dataset, model, reason), started in left_out
    ]
    if lines:
        yield Table(
            key="runs-left-out",
            title="Runs left out",
            columns=text_columns("Model", "Runs", "Newest (UTC)", "Why"),
            lines=lines,
            notes=["Scores on different data, or of different settings, never stand in one column or row."],
            folded=len(lines) > _FOLD_BEYOND,
        )


def _runs_frame(results: Sequence[DataSetResults]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dataset": each.dataset,
            "model": run.name,
            "run_id": run.id,
            "started": f"{run.started:%Y-%m-%dT%H:%M:%SZ}",
            "seed": run.seed,
            "data_fingerprint": run.data_fingerprint,
            "data_subset": "",
            "code": _version(run),
            "left_out": reason,
        }
        for each in results
        for run, reason in [*((run, "") for run in each.runs), *each.left_out]
    )


def _version(run: ModelRun) -> str:
    """The commit that made a run, or the fingerprint of its code outside a checkout."""
    return _short_commit(run.tags.get("soundstack.commit", "")) or run.tags.get("soundstack.code", "")


def _short_commit(commit: str) -> str:
    """Eight digits of a commit, and whether the code differed from it."""
    return commit[:8] + ("-dirty" if commit.endswith("-dirty") else "")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _number(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _listed(words: Sequence[str]) -> str:
    """Join words: a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
