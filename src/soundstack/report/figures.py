"""Figures that only the report draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from soundstack.evaluation.fonts import Figure, drawable
from soundstack.evaluation.plots import BLUE, GREY, ORANGE, PALE

# Okabe and Ito, as in `evaluation.plots`; shapes differ too, for print without colour.
_COLOURS, _MARKERS = (BLUE, ORANGE, "#009E73", "#CC79A7", GREY, "#56B4E9", "black"), "osD^vPX"


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
    figure = Figure(figsize=(9, height), dpi=130, facecolor="white", layout="constrained")
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
