"""A closer look at chosen systems: confusions, F1 by class, and whether their differences on test are real."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray

from soundstack.evaluation import metrics
from soundstack.evaluation.fonts import Figure, drawable
from soundstack.evaluation.plots import BLUE, GREY, ORANGE, PALE
from soundstack.evaluation.score_table import ScoreTable
from soundstack.evaluation.statistics import holm, paired_tests
from soundstack.report.collect import DataSetResults, SystemRuns, clip_table
from soundstack.report.rows import MEASURES, is_fusion, layouts
from soundstack.utils.errors import MemberError, SoundstackError


@dataclass(frozen=True)
class Predictions:
    """The test scores of a system's newest run and the groups of its clips."""

    name: str
    label: str
    seed: str
    table: ScoreTable
    groups: dict[str, str]

    @cached_property
    def confusion(self) -> NDArray:
        """Counts (K, K), rows = truth."""
        return metrics.table_confusion(self.table)

    @property
    def f1(self) -> NDArray:
        """F1 by class: (K,)."""
        return metrics.class_scores(self.confusion)[2]


# Okabe and Ito, as in `evaluation.plots`; shapes differ too, for print without colour.
_COLOURS, _MARKERS = (BLUE, ORANGE, "#009E73", "#CC79A7", GREY, "#56B4E9", "black"), "osD^vPX"
#: A line of :func:`compare`: A minus B on the same clips, each measure's p-value before and after Holm's correction.
TEST_COLUMNS = [
    *("dataset", "a", "b", "clips", "groups", "only_a", "only_b"),
    *(f"{measure}_{end}" for measure in MEASURES for end in ("difference", "ci_low", "ci_high", "p", "holm_p")),
]


def chosen(results: Sequence[DataSetResults], wanted: str) -> dict[str, list[SystemRuns]]:
    """The systems to look at, by data set: those named, with or without the leading ``<dataset>-``, or ``auto``.

    ``auto`` takes the best single system, the CRNN and the best fusion, each once, as judged by the devel score: the
    test clips must not choose what is then tested on them.

    Raises:
        MemberError: A name fits no shown model of any data set.
    """
    if wanted == "auto":
        return {each.dataset: _best_of_each_kind(each) for each in results}
    found: dict[str, dict[str, SystemRuns]] = {each.dataset: {} for each in results}
    for word in wanted.split(","):
        fits = [(each, name) for each in results for name in each.systems if word in (name, f"{each.dataset}-{name}")]
        if not fits:
            there = ", ".join(sorted({name for each in results for name in each.systems}))
            raise MemberError(
                f"rows: {word!r} is no model with a finished run on the reported data; there are: {there}."
            )
        for each, name in fits:
            found[each.dataset][name] = each.systems[name]
    return {dataset: list(systems.values()) for dataset, systems in found.items()}


def best(systems: Iterable[SystemRuns], measure: str) -> SystemRuns | None:
    """The system with the best devel score; None where none has one."""
    scored = [(score.value, system) for system in systems if (score := system.score(f"devel_{measure}"))]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def best_fusion(results: DataSetResults) -> SystemRuns | None:
    """The fusion with the best devel score; the best single system where nothing was fused."""
    fusions = [system for name, system in results.systems.items() if is_fusion(name)]
    return best(fusions, results.measure) or best(results.systems.values(), results.measure)


def label(results: DataSetResults, name: str) -> str:
    """A system's name for readers: that of its row, or the run's own."""
    # Table 3 first: its labels say what the systems are, those of Tables 1 and 2 how they were set.
    for layout in reversed(layouts(results.dataset)):
        for row in layout.rows:
            if row.name == name and row.step:
                return f"CRNN, lr {row.label}" if layout.number == 1 and row.step == "crnn" else row.label
    return name


def predictions(results: DataSetResults, system: SystemRuns) -> Predictions:
    """Fetch the test scores of a system's newest run.

    Raises:
        SoundstackError: They are not there any more, or are damaged.
    """
    run = system.newest
    groups = {clip: group for clip, (_, group) in clip_table(run).items()}
    table = ScoreTable.from_parquet(run.artifact("predictions/test.parquet"))
    return Predictions(system.name, label(results, system.name), run.seed, table, groups)


def compare(seen: Mapping[str, Sequence[Predictions]], n_swaps: int, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Test every pair of a data set's systems, and correct over all tests of all pairs and data sets together.

    Returns one line a pair, and, in words, the pairs that could not be compared.
    """
    lines: list[dict[str, object]] = []
    failed: list[str] = []
    for dataset, systems in seen.items():
        for a, b in combinations(systems, 2):
            try:
                tests = paired_tests(a.table, b.table, a.groups, n_swaps=n_swaps, seed=seed)
            except SoundstackError as error:
                failed.append(f"{a.label} and {b.label} cannot be compared: {error}")
                continue
            line = {"dataset": dataset, "a": a.name, "b": b.name, "clips": len(a.table.clips)}
            line |= {"groups": tests.accuracy.interval.groups, "only_a": tests.only_a, "only_b": tests.only_b}
            for measure in MEASURES:
                found = getattr(tests, measure)
                line |= {f"{measure}_difference": found.interval.value, f"{measure}_p": found.p_value}
                line |= {f"{measure}_ci_low": found.interval.low, f"{measure}_ci_high": found.interval.high}
            lines.append(line)
    frame = pd.DataFrame(lines, columns=TEST_COLUMNS)
    p_values = frame[[f"{measure}_p" for measure in MEASURES]].to_numpy(dtype=np.float64)
    frame[[f"{measure}_holm_p" for measure in MEASURES]] = holm(p_values.ravel()).reshape(p_values.shape)
    return frame, failed


def _best_of_each_kind(results: DataSetResults) -> list[SystemRuns]:
    systems = results.systems
    # "Proposed CRNN" is on DCASE 2018 the fusion of the three thresholds (section 4.1).
    proposed = systems.get("fusion-crnn" if results.dataset == "dcase2018" else "crnn")
    found = [
        best([each for name, each in systems.items() if not is_fusion(name)], results.measure),
        proposed or best([each for name, each in systems.items() if name.startswith("crnn")], results.measure),
        best([each for name, each in systems.items() if is_fusion(name)], results.measure),
    ]
    return list({each.name: each for each in found if each}.values())


def per_class_figure(f1: Mapping[str, ArrayLike], classes: Sequence[str]) -> Figure:
    """F1 of each class under several systems, one dot a system; the last one's hardest classes on top.

    Args:
        f1: by system's name, F1 in 0..1 in the order of ``classes``: (K,)
    """
    every = 100 * np.array(list(f1.values()), dtype=np.float64)
    order = np.argsort(-every[-1], kind="stable")
    # Dots of a class stand a little above each other, in the order of the legend: equal scores stay in sight.
    step = min(0.22, 0.75 / len(f1))
    size = max(0.24 if len(classes) > 20 else 0.34, 0.085 * len(f1))
    across = max(1, min(len(f1), 90 // (6 + max(map(len, f1)))))
    height = 0.9 + 0.24 * -(-len(f1) // across) + size * len(classes)
    figure = Figure((9, height))
    axes = figure.subplots()
    places = np.arange(len(classes))
    axes.hlines(places, every.min(axis=0)[order], every.max(axis=0)[order], color=PALE, linewidth=2, zorder=1)
    for number, (name, scores) in enumerate(zip(f1, every, strict=True)):
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        heights = places + step * ((len(f1) - 1) / 2 - number)
        label = drawable(name).replace("$", r"\$")
        axes.plot(scores[order], heights, marker, color=colour, mec="white", mew=0.6, ms=6.5, zorder=2, label=label)
    shown = [drawable(classes[place]).replace("_", " ").replace("$", r"\$") for place in order]
    axes.set_yticks(places, shown, fontsize=9)
    axes.set_ylim(-0.7, len(classes) - 0.3)
    axes.set_xlim(10 * np.floor(every.min() / 10) - 2, 102)
    axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_xlabel("F1 on the test clips")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=across, frameon=False, fontsize=9)
    return figure
