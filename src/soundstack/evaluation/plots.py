"""The figures of a run, as matplotlib `Figure` objects: ``figure.savefig(path)`` draws one.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers, and the same thing has the same
colour everywhere: devel blue, test orange. Scores are shown in per cent and taken in 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from soundstack.evaluation.fonts import Figure, class_name, shown, width_of
from soundstack.evaluation.metrics import calibration
from soundstack.evaluation.statistics import Interval
from soundstack.evaluation.tables import SystemScores
from soundstack.utils.progress import duration

Floats = NDArray[np.float64]

BLUE, ORANGE, RED, GREY, PALE = "#0072B2", "#E08A00", "#D55E00", "#707070", "#D9D9D9"
#: A part of what a blue bar shows.
_PART = "#A6CDE3"
TRAIN, DEVEL, TEST = GREY, BLUE, ORANGE
PERCENT = PercentFormatter(decimals=0)
#: Of lines that are told apart, in order.
_LINES = (BLUE, RED, "#009E73", "#CC79A7", ORANGE, "#56B4E9", "black", GREY)
_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def confusion_figure(confusion: ArrayLike, classes: Sequence[str], title: str = "") -> Figure:
    """Confusion matrix (K, K) like the paper's Figs. 2-4: rows = truth, in per cent of the row's clips.

    Cells show per cent and, up to 24 classes, the number of clips below; the number of clips of a class
    stands at the right. Size and type follow the number of classes; beyond some 150 the cells are colour
    only. scikit-learn's display writes one number a cell, in white on pale ones where no cell is dark, also in the
    empty cells: 100 classes take it three times as long.
    """
    counts, ticks = np.asarray(confusion), np.arange(len(classes))
    clips = counts.sum(axis=1)
    shares = 100 * counts / np.maximum(clips, 1)[:, None]
    # Inches: cells, nearly square, grow as classes get fewer.
    cell = min(float(np.interp(len(classes), [2, 5, 15, 50], [1.0, 0.8, 0.58, 0.27])), 30 / len(classes))
    font = min(float(np.interp(cell, [0.27, 0.58, 1.0], [8, 9, 10])), 60 * cell)
    names = [class_name(name) for name in classes]
    side, room, steep = cell * len(classes), width_of(names, font), len(classes) > 20
    figure = Figure((side + room + 1.8, side + room * (1.0 if steep else 0.72) + 0.9))
    figure.suptitle(shown(title, 200), fontsize=12, fontweight="bold", wrap=True)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(ticks, names, rotation=90 if steep else 45, rotation_mode="xtick")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="recognised as", ylabel="true class")
    axes.tick_params(length=0, labelsize=font)
    for lines in (axes.hlines, axes.vlines):
        lines(ticks[1:] - 0.5, -0.5, len(classes) - 0.5, color=PALE, linewidth=0.6)
    right = axes.secondary_yaxis("right")
    right.set_yticks(ticks, clips)
    right.set_ylabel("clips", color=GREY)
    right.tick_params(length=0, labelsize=font, labelcolor=GREY)
    for each in (axes, right):
        each.spines[:].set_visible(False)
    scale = figure.colorbar(image, ax=axes, format=PERCENT, shrink=min(1, 4 / side), aspect=25, pad=0.02)
    scale.outline.set_visible(False)
    two_lines = cell > 0.5
    size = min(72 * cell * (0.26 if two_lines else 0.38), 13)
    look: dict[str, Any] = {"ha": "center", "va": "center", "in_layout": False}  # inside anyway, and very many
    for row, column in np.argwhere(counts) if size >= 5 else ():
        colour = "white" if shares[row, column] > 66 else "black"
        axes.text(column, row - 0.13 * two_lines, f"{shares[row, column]:.0f}", color=colour, size=size, **look)
        if two_lines:
            axes.text(column, row + 0.25, str(counts[row, column]), color=colour, size=0.68 * size, **look)
    return figure


def learning_curves_figure(history: Sequence[Mapping[str, Sequence[float]]]) -> Figure:
    """Loss, accuracy and learning rate by epoch: thin lines are folds, the bold line is their mean.

    Args:
        history: by fold, values by epoch of ``train_loss``, ``train_accuracy``, ``devel_loss``, ``devel_accuracy`` and
            ``learning_rate``
    """
    figure = Figure((11, 3.6))
    loss, share, rate = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 0.8])
    epochs = np.arange(len(history[0]["train_loss"])) + 1
    for axes, key, part, colour, scale in (
        (loss, "train_loss", "train", TRAIN, 1),
        (loss, "devel_loss", "devel", DEVEL, 1),
        (share, "train_accuracy", "train", TRAIN, 100),
        (share, "devel_accuracy", "devel", DEVEL, 100),
        (rate, "learning_rate", "", GREY, 1),
    ):
        _fold_lines(axes, epochs, scale * np.array([fold[key] for fold in history]).T, colour, part)
    for axes, title in ((loss, "Loss"), (share, "Accuracy"), (rate, "Learning rate")):
        _tidy(axes, title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for axes in (loss, rate):
        top = axes.dataLim.y1
        axes.set_ylim(0, 1.05 * top if np.isfinite(top) and top > 0 else 1)  # a diverged loss may be all NaN
    share.set_ylim(top=101)
    share.yaxis.set_major_formatter(PERCENT)
    rate.yaxis.set_major_formatter("{x:g}")
    share.legend(frameon=False)
    return figure


def c_path_figure(costs: ArrayLike, fold_macro_f1: ArrayLike, fold_accuracy: ArrayLike, chosen: float) -> Figure:
    """Held-out scores (C, folds) along the C path (C,): folds thin, their mean bold, a ring around the chosen C."""
    costs = np.asarray(costs, dtype=np.float64)
    figure = Figure((10.4, 3.8))
    left, right = figure.subplots(1, 2, sharey=True)
    at = int(np.argmin(np.abs(np.log(costs) - np.log(chosen))))
    for axes, title, scores in ((left, "Macro-F1", fold_macro_f1), (right, "Accuracy", fold_accuracy)):
        by_fold = 100 * np.asarray(scores, dtype=np.float64)
        mean = by_fold.mean(axis=1)
        axes.set_xscale("log")
        axes.axvline(costs[at], color=PALE, linewidth=1.5, zorder=0)
        _fold_lines(axes, costs, by_fold, DEVEL)
        axes.plot(costs[at], mean[at], "o", markersize=9, color="white", markeredgecolor=RED, mew=2.2)
        _tidy(axes, f"{title}: {mean[at]:.1f} % at C = {costs[at]:.3g}", xlabel="C")
        axes.yaxis.set_major_formatter(PERCENT)
    return figure


def contributions_figure(
    members: Sequence[str], weights: ArrayLike, without_scores: ArrayLike, full_score: float
) -> Figure:
    """What each member gives to a fusion: its share of the weights, and the score when it is left out.

    Args:
        weights: absolute fusion weight of each member, in any unit: (M,)
        without_scores: devel macro-F1 of the fusion without the member: (M,)
        full_score: devel macro-F1 of the fusion of all
    """
    shares = np.asarray(weights, dtype=np.float64)
    shares = 100 * shares / shares.sum() if shares.sum() > 0 else shares
    change = 100 * (np.asarray(without_scores, dtype=np.float64) - full_score)
    order = np.argsort(shares, kind="stable")
    shares, change, names = shares[order], change[order], [shown(members[at]) for at in order]
    figure = Figure((10.5, 1.3 + 0.36 * len(members)))
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, names, shares, [BLUE] * len(order), [f"{share:.0f} %" for share in shares])
    colours = [RED if points < 0 else GREY for points in change]
    _bars(right, names, change, colours, [f"{points:+.1f}".replace("-", "−") for points in change])
    right.axvline(0, color="black", linewidth=0.8)
    _tidy(left, "Share of the fusion's weights", grid="x", xlabel="per cent")
    title = f"Without the member (all: {100 * full_score:.1f} %)"
    _tidy(right, title, grid="x", xlabel="change of devel macro-F1, points")
    left.set_xlim(left=0)
    return figure


def summary_figure(rows: Sequence[SystemScores]) -> Figure:
    """Accuracy and macro-F1 of all systems on devel and test, with 95 % intervals; the first row on top."""
    figure = Figure((10.5, 1.5 + 0.42 * len(rows)))
    panels = figure.subplots(1, 2, sharey=True)
    styles = (("devel", DEVEL, "o", -0.14), ("test", TEST, "s", 0.14))
    for axes, measure, title in zip(panels, ("accuracy", "macro_f1"), ("Accuracy", "Macro-F1"), strict=True):
        for part, colour, marker, shift in styles:
            intervals = [(place, getattr(row, f"{part}_{measure}")) for place, row in enumerate(rows)]
            ends = [(place + shift, each.low, each.value, each.high) for place, each in intervals if each]
            if ends:
                height, low, value, high = np.array(ends).T
                axes.hlines(height, 100 * low, 100 * high, color=colour, linewidth=2.2, alpha=0.55)
                axes.plot(100 * value, height, marker, color=colour, markersize=6.5, mec="white", label=part)
        _tidy(axes, title, grid="x")
        for place in range(1, len(rows), 2):
            axes.axhspan(place - 0.5, place + 0.5, color="#F4F4F4", zorder=0)
        axes.xaxis.set_major_formatter(PERCENT)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(rows)), [shown(row.name) for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    return figure


def reliability_figure(probabilities: ArrayLike, truth: ArrayLike) -> Figure:
    """How often clips recognised with a given probability (N, K) come out right (truth: (N,)), and how many."""
    bins = calibration(probabilities, truth)
    figure = Figure((4.8, 5.6))
    share, number = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges, width = 100 * bins.edges[:-1], 100 / len(bins.clips)
    share.plot([0, 100], [0, 100], "--", color=GREY, linewidth=1.2)
    share.bar(edges, 100 * np.nan_to_num(bins.accuracy), width, align="edge", color=BLUE, edgecolor="white")
    share.plot(100 * bins.confidence, 100 * bins.accuracy, "o", color="white", mec=RED, ms=6)  # NaN is not drawn
    number.bar(edges, bins.clips, width, align="edge", color=GREY, edgecolor="white")
    _tidy(share, f"Expected calibration error {100 * bins.error:.1f} points")
    _tidy(number, xlabel="probability of the recognised class")
    share.set(xlim=(0, 100), ylim=(0, 101), ylabel="recognised rightly")
    share.yaxis.set_major_formatter(PERCENT)
    number.xaxis.set_major_formatter(PERCENT)
    number.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    number.set_ylabel("clips")
    return figure


def none_figure(curves: Mapping[str, tuple[Floats, Floats, Floats]], threshold: float) -> Figure:
    """False alarms against misses at all thresholds, with a ring at the chosen one.

    Args:
        curves: by part, thresholds, falling, the share of negatives that are taken for a class, and the share of known
            clips that are answered none, each (T,)
    """
    figure = Figure((5.2, 4.4))
    axes = figure.subplots()
    for part, (thresholds, alarms, missed) in curves.items():
        colour = DEVEL if part == "devel" else TEST
        axes.plot(100 * alarms, 100 * missed, color=colour, linewidth=2, label=part)
        at = int(np.count_nonzero(thresholds >= threshold)) - 1  # the last one that refuses no more than it does
        axes.plot(100 * alarms[at], 100 * missed[at], "o", markersize=9, color="white", mec=colour, mew=2.2)
    _tidy(axes, "None of these", xlabel="negatives taken for a class (false alarms)")
    axes.set(xlim=(-2, 102), ylim=(-2, 102), ylabel="known clips answered none (missed)")
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(frameon=False)
    return figure


def time_budget_figure(stages: Mapping[str, float], parts: Mapping[str, Mapping[str, float]] | None = None) -> Figure:
    """Where the time of a run went: seconds by stage, in the order of the stages.

    The ``parts`` of a stage are drawn below it, paler; threads work at them side by side, so that together they may be
    longer than their stage.
    """
    total = float(sum(stages.values()))
    lines: list[tuple[str, float, str, str]] = []  # name, seconds, colour, text
    for stage, spent in stages.items():
        share = 100 * spent / total if total else 0.0
        percent = "< 1 %" if 0 < share < 0.5 else f"{share:.0f} %"
        lines.append((shown(stage), spent, BLUE, f"{duration(spent)}  ({percent})"))
        for part, of_part in (parts or {}).get(stage, {}).items():
            lines.append((f"· {shown(part)}", of_part, _PART, duration(of_part)))
    names, seconds, colours, texts = zip(*lines, strict=True) if lines else ((),) * 4
    unit, length = time_unit(max(seconds, default=0))
    figure = Figure((8, 1.2 + 0.36 * len(lines)))
    axes = figure.subplots()
    _bars(axes, names, np.array(seconds) / length, colours, texts)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    pale = " (pale: parts of a stage, of all threads)" if len(lines) > len(stages) else ""
    _tidy(axes, f"Time budget: {duration(total)} in all", grid="x", xlabel=unit + pale)
    axes.set_xlim(left=0)
    return figure


def trials_figure(parameters: Mapping[str, ArrayLike], macro_f1: ArrayLike) -> Figure:
    """Finished trials of a search: devel macro-F1 (trials,) over each parameter by name (trials,), the best marked."""
    scores = np.asarray(macro_f1, dtype=np.float64)
    figure = Figure((3.4 * len(parameters), 3.6))
    panels = figure.subplots(1, len(parameters), squeeze=False)[0]
    for number, (name, values) in enumerate(parameters.items()):
        axes, values = panels[number], np.asarray(values, dtype=np.float64)
        axes.scatter(values, 100 * scores, s=36, color=BLUE)
        if len(scores):
            best = int(scores.argmax())
            axes.scatter(values[best], 100 * scores[best], s=150, facecolors="none", edgecolors="black", label="best")
        if name == "learning_rate":
            axes.set_xscale("log")
        _tidy(axes, "" if number else "Trials", xlabel=name.replace("_", " "))
        if not number:
            axes.set_ylabel("devel macro-F1 [%]")
            axes.legend(frameon=False)
    return figure


def few_clips_figure(curves: Mapping[str, Sequence[Interval]], sizes: Mapping[int, str]) -> Figure:
    """Test accuracy over clips a class that were learnt from: a line a system, named at its end, with its interval.

    Args:
        curves: by system, its accuracy at each of the sizes
        sizes: the numbers of clips, rising, and how each is called
    """
    figure = Figure((8, 4.8))
    axes, places, lowest = figure.subplots(), list(sizes), np.inf
    for number, (name, curve) in enumerate(sorted(curves.items(), key=lambda each: -each[1][-1].value)):
        low, value, high = 100 * np.array([(each.low, each.value, each.high) for each in curve]).T
        colour = _LINES[number % len(_LINES)]
        axes.fill_between(places, low, high, color=colour, alpha=0.1, linewidth=0)
        axes.plot(places, value, "o-", color=colour, linewidth=2, markersize=4)
        lowest = min(float(value[-1]), lowest - 4.5)  # so much of the axis is a line of text high
        look: dict[str, Any] = {"color": colour, "va": "center", "fontsize": 9, "annotation_clip": False}
        axes.annotate(shown(name), (places[-1], lowest), (8, 0), textcoords="offset points", **look)
    axes.set_xscale("log")
    axes.set_xticks(places, list(sizes.values()))
    axes.set_xticks([], minor=True)
    axes.set_ylim(0, 101)
    axes.yaxis.set_major_formatter(PERCENT)
    _tidy(axes, "Test accuracy by the clips that are learnt from", xlabel="clips a class")
    return figure


def _tidy(axes: Axes, title: str = "", grid: Literal["both", "x"] = "both", xlabel: str = "") -> None:
    axes.set_title(title, fontsize=11, fontweight="bold", loc="left")
    axes.set_xlabel(xlabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def _bars(axes: Axes, names: Sequence[str], values: Floats, colours: Sequence[str], texts: Sequence[str]) -> None:
    """A named horizontal bar a value, with a text at its end."""
    bars = axes.barh(np.arange(len(names)), values, tick_label=names, color=colours, height=0.66)
    axes.bar_label(bars, texts, padding=4, fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.2)


def time_unit(seconds: float) -> tuple[str, int]:
    """The greatest unit of which a time has two, and its seconds."""
    return next((unit for unit in _UNITS if seconds >= 2 * unit[1]), _UNITS[-1])


def _fold_lines(axes: Axes, x: NDArray, by_fold: Floats, colour: str, label: str = "") -> None:
    """One thin line a fold, (N, folds) over x (N,), and their bold mean."""
    axes.plot(x, by_fold, color=colour, linewidth=0.8, alpha=0.4)
    axes.plot(x, by_fold.mean(axis=1), color=colour, linewidth=2.3, label=label)
