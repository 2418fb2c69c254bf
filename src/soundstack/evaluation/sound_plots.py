"""Figures of sounds: spectrograms of the clips of a data set, and what is heard when in a recording."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from soundstack.evaluation.fonts import Figure, class_name, shown, width_of
from soundstack.evaluation.plots import BLUE, ORANGE, PALE, PERCENT, RED, time_unit

#: One colour a class, in the order of Okabe and Ito's palette.
_QUALITATIVE = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", RED, "#F0E442", "#000000")
#: Columns of a timeline: about what the figure has pixels for.
_COLUMNS = 1000
_KILOHERTZ = (0.5, 1, 2, 4, 8, 16, 32)


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
        seconds: length of a clip
        htk: whether bands are spaced by the HTK formula (front end ``audeep``) and not by Slaney's
    """
    blocks = 1 if len(examples) <= 12 else 2 if len(examples) <= 26 else 3
    columns = min(5 - blocks, max(map(len, examples.values())))
    rows = -(-len(examples) // blocks)
    names = [class_name(label, 20) for label in examples]
    clips = [[np.asarray(clip) for clip in of_class[:columns]] for of_class in examples.values()]
    every = np.concatenate([clip.ravel() for of_class in clips for clip in of_class])
    look = {"origin": "lower", "aspect": "auto", "interpolation": "nearest", "cmap": "magma"}
    limits = {"vmin": every.min(), "vmax": every.max()}
    figure = Figure((0.85 + blocks * (width_of(names, 9) + 0.55 + 1.75 * columns), 0.7 + 0.82 * rows))
    panels = figure.subplots(1, blocks, squeeze=False)[0]
    # A block is one axes: clips of a class stand side by side, classes below each other, with gaps between them.
    bands = len(clips[0][0])
    lefts, lows = 1.06 * seconds * np.arange(columns), -1.13 * bands * np.arange(rows)
    heights, kilohertz = _mel_ticks(bands, sample_rate, htk)
    ticks = [tick for tick in MaxNLocator(nbins=3).tick_values(0, seconds) if 0 <= tick < seconds]
    for first, axes in zip(range(0, blocks * rows, rows), panels, strict=True):
        within = slice(first, first + rows)
        filled = lows[: len(names[within])]
        for of_class, low in zip(clips[within], filled, strict=True):
            for clip, left in zip(of_class, lefts, strict=False):
                extent = (left, left + seconds, low - 0.5, low + bands - 0.5)
                image = axes.imshow(clip, extent=extent, **look, **limits)
        axes.set_xticks(np.add.outer(lefts, ticks).ravel(), [f"{tick:g}" for tick in ticks] * columns)
        axes.set_yticks(np.add.outer(filled, heights).ravel(), kilohertz * len(filled))
        axes.set_yticks(filled + bands / 2, names[within], minor=True)
        axes.tick_params(labelsize=7, length=2, pad=2)
        axes.tick_params(axis="y", which="minor", labelsize=9, length=0, pad=22)
        axes.set(xlim=(0, lefts[-1] + seconds), ylim=(lows[-1] - 2, bands))
        axes.set_title("kHz", fontsize=7, loc="left", x=-0.14 / columns, pad=2)
        axes.set_xlabel("s", fontsize=7, labelpad=1)
        axes.spines[:].set_visible(False)
    scale = figure.colorbar(image, ax=panels, shrink=min(1, 3 / rows), anchor=(0, 1), aspect=25, pad=0.02)
    scale.outline.set_visible(False)
    scale.ax.set_title(unit, fontsize=8, loc="left")
    scale.ax.tick_params(labelsize=7, length=2)
    return figure


def timeline_figure(
    starts: ArrayLike,
    ends: ArrayLike,
    probabilities: ArrayLike,
    labels: Sequence[str],
    title: str = "",
    top: int = 8,
    best: Sequence[int] | None = None,
) -> Figure:
    """What is heard when in one recording: a strip of the best label, and a heat map of the top classes below.

    Windows that overlap meet half-way. Of a long recording a column stands for several windows: it shows the highest
    probability of each class, and the strip the label that is best in most of them.

    Args:
        starts, ends: of the windows, in seconds, in order: (W,)
        probabilities: (W, K)
        labels: the classes: (K,)
        top: how many classes are shown at most: those that are best most often, then those most probable
        best: places in ``labels`` of the answers: (W,); the most probable ones if not given
    """
    shares = np.asarray(probabilities, dtype=np.float64)
    answers = shares.argmax(axis=1) if best is None else np.asarray(best)
    edges = _edges(starts, ends)
    wins = np.bincount(answers, minlength=len(labels))
    order = np.lexsort((-shares.mean(axis=0), -wins))[: min(top, len(_QUALITATIVE))]
    # A row of colours: the place among the shown classes, or one past them for all others.
    place = np.full(len(labels), len(order))
    place[order] = np.arange(len(order))
    strip = place[answers]
    groups = np.linspace(0, len(strip), min(len(strip), _COLUMNS) + 1).round().astype(int)
    highest = np.maximum.reduceat(shares, groups[:-1], axis=0)
    votes = np.stack([np.add.reduceat(strip == rank, groups[:-1]) for rank in range(len(order) + 1)])
    unit, length = time_unit(edges[-1])
    edges = edges[groups] / length

    figure = Figure((11, 1.7 + 0.3 * len(order)))
    above, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, len(order)])
    colours = ListedColormap([*_QUALITATIVE[: len(order)], PALE])
    above.pcolormesh(edges, [0, 1], votes.argmax(axis=0)[None], cmap=colours, vmin=-0.5, vmax=len(order) + 0.5)
    above.set_yticks([0.5], ["best"])
    above.set_title(shown(title, 90), fontsize=11, fontweight="bold", loc="left")
    rows = np.arange(len(order))
    image = axes.pcolormesh(
        edges, np.arange(len(order) + 1) - 0.5, 100 * highest[:, order].T, cmap="Blues", vmin=0, vmax=100
    )
    axes.set_yticks(rows, [class_name(labels[at], 24) for at in order])
    axes.invert_yaxis()
    beside = axes.get_yaxis_transform()  # the colour that a class has in the strip
    axes.scatter(np.full(len(rows), -0.008), rows, 64, colours(rows), marker="s", clip_on=False, transform=beside)
    for each in (above, axes):
        each.tick_params(axis="y", length=0, pad=14)
        each.spines[:].set_visible(False)
    above.tick_params(axis="x", length=0)
    axes.set(xlim=(edges[0], edges[-1]), xlabel=unit)
    figure.colorbar(image, ax=[above, axes], format=PERCENT, pad=0.01, fraction=0.03).outline.set_visible(False)
    return figure


def labelled_spectrogram_figure(
    levels: ArrayLike,
    sample_rate: int,
    seconds: float,
    starts: ArrayLike,
    ends: ArrayLike,
    best: Sequence[str],
) -> Figure:
    """A recording's spectrogram below a strip that says what is heard when.

    Args:
        levels: in decibel, (bands, frames), lowest band first, spaced by Slaney's formula; shown down to 80 dB under
            the loudest
        seconds: length of the recording
        starts, ends: of the windows, in seconds, in order: (W,); windows that overlap meet half-way
        best: the label of each window: (W,)
    """
    unit, length = time_unit(seconds)
    figure = Figure((11, 4.2))
    strip, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 9])
    edges = _edges(starts, ends) / length
    first = [at for at, label in enumerate(best) if not at or label != best[at - 1]]  # of each run of one label
    borders = edges[[*first, len(best)]]
    _draw_labels(strip, borders.tolist(), [best[at] for at in first], 9.5 / (edges[-1] - edges[0]))
    shown_levels = np.asarray(levels)
    groups = np.linspace(0, shown_levels.shape[1], min(shown_levels.shape[1], _COLUMNS) + 1).round().astype(int)
    shown_levels = np.maximum.reduceat(shown_levels, groups[:-1], axis=1)
    loudest = float(shown_levels.max())
    bands = len(shown_levels)
    image = axes.imshow(
        shown_levels,
        extent=(0, seconds / length, -0.5, bands - 0.5),
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=loudest - 80,
        vmax=loudest,
    )
    axes.vlines(borders[1:-1], -0.5, bands - 0.5, color="white", linewidth=1, linestyle=":")
    axes.set_yticks(*_mel_ticks(bands, sample_rate, htk=False))
    axes.set(xlim=(0, seconds / length), xlabel=unit, ylabel="kHz")
    figure.colorbar(image, ax=[strip, axes], format="%.0f dB", pad=0.01, fraction=0.03).outline.set_visible(False)
    for each in (strip, axes):
        each.spines[:].set_visible(False)
    return figure


def _draw_labels(strip: Axes, borders: Sequence[float], labels: Sequence[str], inches: float) -> None:
    """Draw stretches with their labels in them, and a legend where one does not fit; ``inches`` to a unit of x."""
    lasts: dict[str, float] = defaultdict(float)  # the longest heard have a colour of their own
    for label, left, right in zip(labels, borders, borders[1:], strict=False):
        lasts[label] += right - left
    names = sorted(lasts, key=lambda label: -lasts[label])
    colour_of = dict(zip(names, [*_QUALITATIVE, *[PALE] * len(names)], strict=False))
    left_out = False
    for label, left, right in zip(labels, borders, borders[1:], strict=False):
        strip.axvspan(left, right, color=colour_of[label], linewidth=0)
        name = class_name(label, 24)
        if width_of([name], 9) + 0.1 < (right - left) * inches:
            luminance = np.array(to_rgb(colour_of[label])) ** 2.2 @ [0.2126, 0.7152, 0.0722]
            colour = "white" if luminance < 0.18 else "black"  # whichever has the higher contrast
            strip.text((left + right) / 2, 0.5, name, ha="center", va="center", fontsize=9, color=colour)
        else:
            left_out = True
    strip.set(ylim=(0, 1), yticks=[])
    strip.tick_params(axis="x", length=0, labelbottom=False)
    if left_out:
        handles = [Patch(color=colour_of[name], label=class_name(name, 24)) for name in names[: len(_QUALITATIVE)]]
        if len(names) > len(handles):
            handles.append(Patch(color=PALE, label="others"))
        strip.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=5, fontsize=8, frameon=False)


def _edges(starts: ArrayLike, ends: ArrayLike) -> NDArray[np.float64]:
    """Where windows (W,) that overlap meet, half-way, with the first start and the last end: (W + 1,)."""
    begin, end = np.asarray(starts, dtype=np.float64), np.asarray(ends, dtype=np.float64)
    middles = (begin + end) / 2
    return np.concatenate([begin[:1], (middles[:-1] + middles[1:]) / 2, end[-1:]])


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
