"""Pictures of a transfer: the systems' accuracy with intervals, and the two domains on a plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstack.evaluation.fonts import Figure
from soundstack.evaluation.plots import BLUE, GREY, ORANGE, PERCENT
from soundstack.evaluation.statistics import Interval
from soundstack.transfer.compare import START
from soundstack.transfer.systems import BOUND, Adapted


def bars_figure(intervals: Mapping[str, Interval]) -> Figure:
    """Accuracy of each system on the target's test part, with its interval; lines mark the two ends of the gap."""
    figure = Figure((7.5, 1.2 + 0.42 * len(intervals)))
    axes = figure.subplots()
    low, value, high = 100 * np.array([(each.low, each.value, each.high) for each in intervals.values()]).T
    colours = [GREY if name.startswith(START) or name == BOUND else BLUE for name in intervals]
    axes.barh(list(intervals), value, color=colours, height=0.62, xerr=[value - low, high - value], capsize=3)
    for name in (START, BOUND):
        axes.axvline(100 * intervals[name].value, color=ORANGE, linewidth=1, linestyle="--")
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.set_xlabel("accuracy on the target, 95 % intervals; lines: the gap")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def map_figure(adapted: Mapping[str, Adapted]) -> Figure:
    """The clips of both domains on the first two principal components of each system's features."""
    figure = Figure((3.4 * len(adapted), 3.6))
    panels: Any = figure.subplots(1, len(adapted), squeeze=False)[0]
    for axes, (name, each) in zip(panels, adapted.items(), strict=True):
        for part, colour, label in zip(_on_plane(each), (BLUE, ORANGE), ("source", "target"), strict=True):
            axes.scatter(*part.T, s=9, color=colour, alpha=0.6, label=label)
        axes.set_title(name, fontsize=11, fontweight="bold", loc="left")
        axes.set(xticks=[], yticks=[])
    panels[0].legend(frameon=False)
    return figure


def _on_plane(each: Adapted) -> list[NDArray[Any]]:
    both = np.concatenate([each.source, each.target])
    both = both - both.mean(axis=0)
    return np.split(both @ np.linalg.svd(both, full_matrices=False)[2][:2].T, [len(each.source)])
