"""The figures of a run, as matplotlib `Figure` objects: ``figure.savefig(path)`` draws one.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers, and the same thing has the same
colour everywhere: devel blue, test orange. Scores are shown in per cent and taken in 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from soundstack.evaluation.fonts import Figure, drawable
from soundstack.evaluation.metrics import calibration
from soundstack.evaluation.tables import SystemScores

Floats = NDArray[np.float64]

BLUE, ORANGE, RED, GREY, PALE = "#0072B2", "#E08A00", "#D55E00", "#707070", "#D9D9D9"
#: A part of what a blue bar shows.
_PART = "#A6CDE3"
TRAIN, DEVEL, TEST = GREY, BLUE, ORANGE
#: One colour a class, in the order of Okabe and Ito's palette.
_QUALITATIVE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", RED, "#F0E442", "#000000")
#: Columns of a timeline: about what the figure has pixels for.
_COLUMNS = 1000
_PERCENT = PercentFormatter(decimals=0)
_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))
_KILOHERTZ = (0.5, 1, 2, 4, 8, 16, 32)


def confusion_figure(confusion: ArrayLike, classes: Sequence[str], title: str = "") -> Figure:
    """Confusion matrix like the paper's Figs. 2-4: rows = truth, in per cent of the row's clips.

    Cells show per cent and, up to 24 classes, the number of clips below; the number of clips of a class
    stands at the right. Size and type follow the number of classes; beyond some 150 the cells are colour
    only.

    Args:
        confusion: counts (K, K)
    """
    counts = np.asarray(confusion)
    clips = counts.sum(axis=1)
    shares = 100 * counts / np.maximum(clips, 1)[:, None]
    # Everything is laid out in inches: room for the names, cells that grow as classes get fewer.
    cell = min(float(np.interp(len(classes), [2, 5, 15, 50], [1.0, 0.8, 0.58, 0.27])), 30 / len(classes))
    font = min(float(np.interp(cell, [0.27, 0.58, 1.0], [8, 9, 10])), 60 * cell)
    names = [_class_name(name) for name in classes]
    room = max(_text_width(name, font) for name in names)
    steep = len(classes) > 20
    title = _shown(title, 200)
    side, left, bottom = cell * len(classes), room + 0.5, (room if steep else 0.75 * room) + 0.55
    width, height = max(left + side + 1.7, _text_width(title, 12, "bold") + 0.3), bottom + side + 0.6
    figure = _figure(width, height, layout=None)
    figure.suptitle(title, y=1 - 0.12 / height, va="top", fontsize=12, fontweight="bold")
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    ticks = np.arange(len(classes))
    axes.set_xticks(ticks, names, ha="center" if steep else "right")
    axes.xaxis.set_tick_params(rotation=90 if steep else 45, rotation_mode="default" if steep else "anchor")
    axes.set_yticks(ticks, names)
    axes.tick_params(length=0, labelsize=font)
    for lines in (axes.hlines, axes.vlines):
        lines(ticks[1:] - 0.5, -0.5, len(classes) - 0.5, color=PALE, linewidth=0.6)
    axes.spines[:].set_visible(False)
    figure.text(left / width + side / width / 2, 0.1 / height, "recognised as", ha="center", va="bottom")
    figure.text(0.1 / width, (bottom + side / 2) / height, "true class", rotation=90, ha="left", va="center")
    edge = len(classes) - 0.5 + 0.1 / cell
    axes.text(edge, -0.5 - 0.06 / cell, "clips", color=GREY, fontsize=font, va="bottom")
    for row, number in enumerate(clips):
        axes.text(edge, row, str(number), color=GREY, fontsize=font, va="center")
    _write_cells(axes, counts, shares, cell)
    tall = min(side, 4.0)
    scale = figure.add_axes(((left + side + 0.8) / width, bottom / height, 0.14 / width, tall / height))
    figure.colorbar(image, cax=scale, format=_PERCENT).outline.set_visible(False)
    scale.tick_params(length=2, labelsize=9)
    return figure


def learning_curves_figure(history: Sequence[Mapping[str, ArrayLike]]) -> Figure:
    """Loss, accuracy and learning rate by epoch: thin lines are folds, the bold line is their mean.

    Args:
        history: by fold, the arrays (epochs,) ``epoch``, ``train_loss``, ``train_accuracy``, ``devel_loss``,
            ``devel_accuracy`` and ``learning_rate``; all but ``epoch`` may be absent
    """
    figure = _figure(11, 3.6)
    loss, share, rate = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 0.8])
    for part, colour in (("train", TRAIN), ("devel", DEVEL)):
        _fold_lines(loss, history, f"{part}_loss", colour, part)
        _fold_lines(share, history, f"{part}_accuracy", colour, part, scale=100)
    _fold_lines(rate, history, "learning_rate", GREY, "")
    for axes, title in ((loss, "Loss"), (share, "Accuracy"), (rate, "Learning rate")):
        _tidy(axes, title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for axes in (loss, rate):
        top = axes.dataLim.y1
        axes.set_ylim(0, 1.05 * top if np.isfinite(top) and top > 0 else 1)  # a diverged loss may be all NaN
    share.set_ylim(top=101)
    share.yaxis.set_major_formatter(_PERCENT)
    rate.yaxis.set_major_formatter("{x:g}")
    share.legend(frameon=False)
    return figure


def c_path_figure(
    costs: ArrayLike, fold_macro_f1: ArrayLike, chosen: float, fold_accuracy: ArrayLike | None = None
) -> Figure:
    """Scores along the SVM's C path: thin lines are folds, the bold line their mean, the ring the chosen C.

    Args:
        costs: the values of C: (C,)
        fold_macro_f1, fold_accuracy: held-out scores: (C, folds)
        chosen: the C taken, one of ``costs``
    """
    costs = np.asarray(costs, dtype=np.float64)
    panels = [("Macro-F1", fold_macro_f1)] + ([] if fold_accuracy is None else [("Accuracy", fold_accuracy)])
    figure = _figure(1.2 + 4.6 * len(panels), 3.8)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    at = int(np.argmin(np.abs(np.log(costs) - np.log(chosen))))
    for axes, (title, scores) in zip(row, panels, strict=True):
        by_fold = 100 * np.asarray(scores, dtype=np.float64)
        mean = by_fold.mean(axis=1)
        axes.axvline(costs[at], color=PALE, linewidth=1.5, zorder=0)
        axes.semilogx(costs, by_fold, color=DEVEL, linewidth=0.9, alpha=0.4)
        axes.semilogx(costs, mean, color=DEVEL, linewidth=2.4)
        axes.plot(costs[at], mean[at], "o", markersize=9, color="white", markeredgecolor=RED, mew=2.2)
        _tidy(axes, f"{title}: {mean[at]:.1f} % at C = {costs[at]:.3g}")
        axes.set_xlabel("C")
        axes.yaxis.set_major_formatter(_PERCENT)
    return figure


def spectrogram_grid_figure(
    examples: Mapping[str, Sequence[ArrayLike]],
    sample_rate: int,
    seconds: float,
    *,
    unit: str = "dB",
    htk: bool = False,
) -> Figure:
    """Log-mel spectrograms of up to 4 clips of each class; many classes stand in two or three blocks.

    Args:
        examples: by label, spectrograms (bands, frames), lowest band first; all on one colour scale
        sample_rate: in Hz; bands run from 0 to half of it
        seconds: length of a clip
        htk: whether bands are spaced by the HTK formula (front end ``audeep``) and not by Slaney's
    """
    blocks = 1 if len(examples) <= 12 else 2 if len(examples) <= 26 else 3
    columns = min(5 - blocks, max(map(len, examples.values())))
    rows = -(-len(examples) // blocks)
    names = {label: _class_name(label, 20) for label in examples}
    left = max(_text_width(name, 9) for name in names.values()) + 0.55  # inches: the names, then the kHz
    figure = _figure(0.85 + blocks * (left + 1.75 * columns), 0.7 + 0.82 * rows, layout=None)
    values = [np.asarray(example) for label in examples for example in examples[label][:columns]]
    mel_ticks = _mel_ticks(len(values[0]), sample_rate, htk)
    limits = {"vmin": min(v.min() for v in values), "vmax": max(v.max() for v in values)}
    width, height = figure.get_size_inches()
    grid = figure.add_gridspec(
        rows, blocks, left=left / width, right=1 - 0.85 / width, top=1 - 0.2 / height, bottom=0.4 / height,
        wspace=left / (1.75 * columns), hspace=0.13,
    )  # fmt: skip
    image: AxesImage | None = None
    for place, (label, clips) in enumerate(examples.items()):
        block, row = divmod(place, rows)
        lowest = row == rows - 1 or place == len(examples) - 1
        cells = grid[row, block].subgridspec(1, columns, wspace=0.06)
        for column, clip in enumerate(clips[:columns]):
            axes = figure.add_subplot(cells[column])
            spectrogram = np.asarray(clip)
            image = axes.imshow(
                spectrogram, origin="lower", aspect="auto", interpolation="nearest", cmap="magma",
                extent=(0, seconds, -0.5, len(spectrogram) - 0.5), **limits,
            )  # fmt: skip
            axes.tick_params(labelsize=7, length=2, pad=2, left=column == 0, bottom=lowest, labelbottom=lowest)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=3, prune="upper") if lowest else NullLocator())
            axes.set_yticks(*mel_ticks if column == 0 else ([],))
            if column == 0:
                axes.annotate(
                    names[label], (0, 0.5), (-29, 0), xycoords="axes fraction", textcoords="offset points",
                    fontsize=9, ha="right", va="center",
                )  # fmt: skip
                if row == 0:
                    axes.set_title("kHz", fontsize=7, loc="left", x=-0.14, pad=2)
            if lowest:
                axes.set_xlabel("s", fontsize=7, labelpad=1)
    if image is not None:
        tall = min(3.0, height - 0.8)
        scale = figure.add_axes((1 - 0.62 / width, 1 - (0.4 + tall) / height, 0.11 / width, tall / height))
        figure.colorbar(image, cax=scale).outline.set_visible(False)
        scale.set_title(unit, fontsize=8, loc="left")
        scale.tick_params(labelsize=7, length=2)
    return figure


def contributions_figure(
    members: Sequence[str], weights: ArrayLike, without_scores: ArrayLike, full_score: float
) -> Figure:
    """What each member gives to a fusion: its share of the weights, and the score when it is left out.

    Args:
        members: names: (M,)
        weights: absolute fusion weight of each member, in any unit: (M,)
        without_scores: devel macro-F1 of the fusion without the member: (M,)
        full_score: devel macro-F1 of the fusion of all
    """
    shares = np.asarray(weights, dtype=np.float64)
    shares = 100 * shares / shares.sum() if shares.sum() > 0 else shares
    change = 100 * (np.asarray(without_scores, dtype=np.float64) - full_score)
    order = np.argsort(shares, kind="stable")
    figure = _figure(10.5, 1.3 + 0.36 * len(members))
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(members))
    left.barh(places, shares[order], color=BLUE, height=0.66)
    left.set_yticks(places, [_shown(members[member]) for member in order])
    right.barh(places, change[order], color=np.where(change[order] < 0, RED, GREY), height=0.66)
    for place, share, points in zip(range(len(members)), shares[order], change[order], strict=True):
        _beside_bar(left, place, share, f"{share:.0f} %")
        _beside_bar(right, place, points, f"{points:+.1f}".replace("-", "−"))
    right.axvline(0, color="black", linewidth=0.8)
    for axes, title, label in (
        (left, "Share of the fusion's weights", "per cent"),
        (right, f"Without the member (all: {100 * full_score:.1f} %)", "change of devel macro-F1, points"),
    ):
        _tidy(axes, title, grid="x")
        axes.set_xlabel(label)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.16)
    left.set_xlim(left=0)
    return figure


def summary_figure(rows: Sequence[SystemScores]) -> Figure:
    """Accuracy and macro-F1 of all systems on devel and test, with 95 % intervals; the first row on top."""
    figure = _figure(10.5, 1.5 + 0.42 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    styles = (("devel", DEVEL, "o", -0.14), ("test", TEST, "s", 0.14))
    for axes, measure, title in zip(panels, ("accuracy", "macro_f1"), ("Accuracy", "Macro-F1"), strict=True):
        for part, colour, marker, shift in styles:
            intervals = [getattr(row, f"{part}_{measure}") for row in rows]
            scored = [place for place, interval in enumerate(intervals) if interval is not None]
            if not scored:
                continue
            ends = [(intervals[at].low, intervals[at].value, intervals[at].high) for at in scored]
            low, value, high = 100 * np.array(ends).T
            heights = np.array(scored) + shift
            axes.hlines(heights, low, high, color=colour, linewidth=2.2, alpha=0.55)
            axes.plot(value, heights, marker, color=colour, markersize=6.5, mec="white", label=part)
        _tidy(axes, title, grid="x")
        for place in range(1, len(rows), 2):
            axes.axhspan(place - 0.5, place + 0.5, color="#F4F4F4", zorder=0)
        axes.xaxis.set_major_formatter(_PERCENT)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(rows)), [_shown(row.name) for row in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    return figure


def reliability_figure(probabilities: ArrayLike, truth: ArrayLike) -> Figure:
    """Calibration diagram: how often clips recognised with a given probability come out right, and how many.

    Args:
        probabilities: (N, K)
        truth: class indices: (N,)
    """
    bins = calibration(probabilities, truth)
    figure = _figure(4.8, 5.6)
    share, number = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges, width = 100 * bins.edges[:-1], 100 / len(bins.clips)
    share.plot([0, 100], [0, 100], "--", color=GREY, linewidth=1.2)
    share.bar(edges, 100 * np.nan_to_num(bins.accuracy), width, align="edge", color=BLUE, edgecolor="white")
    filled = bins.clips > 0
    share.plot(100 * bins.confidence[filled], 100 * bins.accuracy[filled], "o", color="white", mec=RED, ms=6)
    number.bar(edges, bins.clips, width, align="edge", color=GREY, edgecolor="white")
    _tidy(share, f"Expected calibration error {100 * bins.error:.1f} points")
    _tidy(number)
    share.set(xlim=(0, 100), ylim=(0, 101), ylabel="recognised rightly")
    share.yaxis.set_major_formatter(_PERCENT)
    number.xaxis.set_major_formatter(_PERCENT)
    number.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    number.set(xlabel="probability of the recognised class", ylabel="clips")
    return figure


def time_budget_figure(stages: Mapping[str, float], parts: Mapping[str, Mapping[str, float]] | None = None) -> Figure:
    """Where the time of a run went: seconds by stage, in the order of the stages.

    The ``parts`` of a stage are drawn below it, paler; threads work at them side by side, so that together they may be
    longer than their stage.
    """
    lines: list[tuple[str, float, bool]] = []
    for stage, spent in stages.items():
        lines.append((_shown(stage), spent, False))
        lines += [(f"· {_shown(part)}", of_part, True) for part, of_part in (parts or {}).get(stage, {}).items()]
    seconds = np.array([spent for _, spent, _ in lines], dtype=np.float64)
    total = float(sum(stages.values()))
    unit, length = next((u for u in _UNITS if seconds.max(initial=0) >= 2 * u[1]), _UNITS[-1])
    figure = _figure(8, 1.2 + 0.36 * len(lines))
    axes = figure.subplots()
    places = np.arange(len(lines))
    axes.barh(places, seconds / length, color=[_PART if is_part else BLUE for _, _, is_part in lines], height=0.66)
    for place, (_, spent, is_part) in enumerate(lines):
        share = 100 * spent / total if total else 0.0
        percent = "" if is_part else "  (< 1 %)" if 0 < share < 0.5 else f"  ({share:.0f} %)"
        _beside_bar(axes, place, spent / length, duration(spent) + percent)
    axes.set_yticks(places, [name for name, _, _ in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    _tidy(axes, f"Time budget: {duration(total)} in all", grid="x")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{unit} (pale: parts of a stage, of all threads)" if len(lines) > len(stages) else unit)
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    return figure


def timeline_figure(
    starts: ArrayLike, ends: ArrayLike, probabilities: ArrayLike, labels: Sequence[str], title: str = "", top: int = 8
) -> Figure:
    """What is heard when in one recording: a strip of the best label, and a heat map of the top classes below.

    Windows that overlap meet half-way. Of a long recording a column stands for several windows: it shows the highest
    probability of each class, and the strip the label that is best in most of them.

    Args:
        starts, ends: of the windows, in seconds, in order: (W,)
        probabilities: (W, K)
        labels: the classes: (K,)
        top: how many classes are shown at most: those that are best most often, then those most probable
    """
    begin, end = np.asarray(starts, dtype=np.float64), np.asarray(ends, dtype=np.float64)
    shares = np.asarray(probabilities, dtype=np.float64)
    middles = (begin + end) / 2
    edges = np.concatenate([begin[:1], (middles[:-1] + middles[1:]) / 2, end[-1:]])
    wins = np.bincount(shares.argmax(axis=1), minlength=len(labels))
    order = np.lexsort((-shares.mean(axis=0), -wins))[: min(top, len(_QUALITATIVE))]
    # A row of colours: the place among the shown classes, or one past them for all others.
    place = np.full(len(labels), len(order))
    place[order] = np.arange(len(order))
    best = place[shares.argmax(axis=1)]
    groups = np.linspace(0, len(best), min(len(best), _COLUMNS) + 1).round().astype(int)
    highest = np.maximum.reduceat(shares, groups[:-1], axis=0)
    votes = np.stack([np.add.reduceat(best == rank, groups[:-1]) for rank in range(len(order) + 1)])
    strip, edges = votes.argmax(axis=0), edges[groups]
    unit, length = next((u for u in _UNITS if edges[-1] >= 2 * u[1]), _UNITS[-1])
    edges = edges / length

    names = [_class_name(labels[at], 24) for at in order]
    figure = _figure(11, 1.7 + 0.3 * len(order))
    above, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, len(order)])
    colours = ListedColormap([*_QUALITATIVE[: len(order)], PALE])
    above.pcolormesh(edges, [0, 1], strip[None], cmap=colours, vmin=-0.5, vmax=len(order) + 0.5)
    above.set_yticks([0.5], ["best"])
    above.set_title(_shown(title, 90), fontsize=11, fontweight="bold", loc="left")
    image = axes.pcolormesh(
        edges, np.arange(len(order) + 1) - 0.5, 100 * highest[:, order].T, cmap="Blues", vmin=0, vmax=100
    )
    axes.set_yticks(np.arange(len(order)), names)
    axes.set_ylim(len(order) - 0.5, -0.5)
    for row in range(len(order)):  # the colour that the class has in the strip
        axes.plot(
            -0.008, row, "s", color=colours(row), markersize=8, clip_on=False, transform=axes.get_yaxis_transform()
        )
    for each in (above, axes):
        each.tick_params(axis="y", length=0, pad=14)
        each.spines[:].set_visible(False)
    above.tick_params(axis="x", length=0)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel(unit)
    figure.colorbar(image, ax=[above, axes], format=_PERCENT, pad=0.01, fraction=0.03).outline.set_visible(False)
    return figure


def trials_figure(learning_rates: ArrayLike, batch_sizes: ArrayLike, macro_f1: ArrayLike) -> Figure:
    """Finished trials of the CRNN's tuning: devel macro-F1 over the learning rate, one colour a batch size.

    Args:
        learning_rates, batch_sizes, macro_f1: one value a trial: (trials,)
    """
    rates, sizes, scores = (np.asarray(values, dtype=np.float64) for values in (learning_rates, batch_sizes, macro_f1))
    figure = _figure(6.5, 4.0)
    axes = figure.subplots()
    for size, colour in zip(np.unique(sizes), (BLUE, ORANGE, RED, GREY), strict=False):
        chosen = sizes == size
        axes.scatter(rates[chosen], 100 * scores[chosen], s=36, color=colour, label=f"batch {size:.0f}")
    if len(scores):
        best = int(scores.argmax())
        axes.scatter(rates[best], 100 * scores[best], s=150, facecolors="none", edgecolors="black", label="best")
        axes.legend(frameon=False)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("devel macro-F1 [%]")
    _tidy(axes, "Trials")
    return figure


def duration(seconds: float) -> str:
    """Seconds for a reader.

    >>> duration(0.34), duration(42.0), duration(250), duration(7530)
    ('0.3 s', '42 s', '4 min 10 s', '2 h 06 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty white figure of a size in inches."""
    return Figure(figsize=(width, height), dpi=130, facecolor="white", layout=layout)


def _tidy(axes: Axes, title: str = "", grid: Literal["both", "x"] = "both") -> None:
    axes.set_title(title, fontsize=11, fontweight="bold", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def _shown(name: str, longest: int = 40) -> str:
    """A name for a figure: of characters that can be drawn, not too long, and no mathematics in a dollar sign."""
    name = drawable(name)
    name = name if len(name) <= longest else name[: longest - 1] + "…"
    return name.replace("$", r"\$")


def _class_name(label: str, longest: int = 28) -> str:
    return _shown(label.replace("_", " "), longest)


def _text_width(text: str, size: float, weight: str = "normal") -> float:
    """Width in inches of a text set in ``size`` points."""
    if not text.strip():
        return 0.0
    return float(TextPath((0, 0), text, prop=FontProperties(size=size, weight=weight)).get_extents().width) / 72


def _write_cells(axes: Axes, counts: NDArray, shares: Floats, cell: float) -> None:
    """Per cent, with the clips below where a cell (inches) has room for two lines; nothing where for none."""
    two_lines = cell > 0.5
    size = min(72 * cell * (0.26 if two_lines else 0.38), 13)
    if size < 5:
        return
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 66 else "black"
        look: dict[str, Any] = {"color": colour, "ha": "center", "va": "center"}
        axes.text(column, row - 0.13 * two_lines, f"{shares[row, column]:.0f}", fontsize=size, **look)
        if two_lines:
            axes.text(column, row + 0.25, str(counts[row, column]), fontsize=0.68 * size, **look)


def _fold_lines(
    axes: Axes, history: Sequence[Mapping[str, ArrayLike]], key: str, colour: str, label: str, scale: int = 1
) -> None:
    """One thin line a fold and their mean over the epochs that all folds reached."""
    curves = [scale * np.asarray(fold[key], dtype=np.float64) for fold in history if key in fold]
    if not curves:
        return
    epochs = [np.asarray(fold["epoch"]) for fold in history if key in fold]
    for epoch, curve in zip(epochs, curves, strict=True):
        axes.plot(epoch, curve, color=colour, linewidth=0.8, alpha=0.4)
    shared = min(map(len, curves))
    mean = np.mean([curve[:shared] for curve in curves], axis=0)
    axes.plot(epochs[0][:shared], mean, color=colour, linewidth=2.2, label=label)


def _mel_ticks(bands: int, sample_rate: int, htk: bool) -> tuple[list[float], list[str]]:
    """Bands whose triangle peaks at a round frequency, and that in kHz; as many as a small panel can show."""
    from librosa import hz_to_mel  # here: it takes long to import, and the other figures do without

    top = hz_to_mel(sample_rate / 2, htk=htk)
    ticks: list[tuple[float, str]] = []
    for khz in _KILOHERTZ:
        band = hz_to_mel(1000 * khz, htk=htk) / top * (bands + 1) - 1
        if 1000 * khz < sample_rate / 2 and (not ticks or band - ticks[-1][0] > 0.2 * bands):
            ticks.append((float(band), f"{khz:g}"))
    return [band for band, _ in ticks], [text for _, text in ticks]


def _beside_bar(axes: Axes, place: int, value: float, text: str) -> None:
    left = value < 0
    axes.annotate(text, (value, place), (-4 if left else 4, 0), textcoords="offset points", fontsize=9,
                  ha="right" if left else "left", va="center")  # fmt: skip
