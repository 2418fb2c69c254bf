"""The figures: nothing is cut off or drawn over, and what they show is what they were given."""

from __future__ import annotations

import doctest
import io
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from soundstack.evaluation import plots, sound_plots
from soundstack.evaluation.statistics import Interval
from soundstack.evaluation.tables import SystemScores
from soundstack.utils import progress

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """Turn warnings to errors: a layout that does not fit, a missing glyph, the mean of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def names(n: int) -> list[str]:
    words = ("vacuum_cleaner", "dog", "cafe/restaurant", "crackling_fire", "sea_waves")
    return sorted(f"{words[index % len(words)]}_{index}" for index in range(n))


def draw(figure: Figure) -> FigureCanvasAgg:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def assert_nothing_is_cut_off(figure: Figure) -> None:
    canvas = draw(figure)
    box = figure.get_tightbbox(canvas.get_renderer())  # inches
    width, height = figure.get_size_inches()
    assert box.x0 >= -0.01 and box.y0 >= -0.01, box
    assert box.x1 <= width + 0.01 and box.y1 <= height + 0.01, (box, width, height)


def texts(figure: Figure, drawn: bool = False) -> list[str]:
    if not drawn:
        draw(figure)
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def xs(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_xdata())


def ys(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_ydata())


def bars(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def confusion(n: int, clips: int = 40) -> np.ndarray:
    return np.array([rng.multinomial(clips, np.full(n, 0.3 / n) + 0.7 * np.eye(n)[row]) for row in range(n)])


def history(epochs: int = 30, folds: int = 4) -> list[dict[str, np.ndarray]]:
    keys = ("train_loss", "train_accuracy", "devel_loss", "devel_accuracy", "learning_rate")
    return [{key: rng.random(epochs) for key in keys} for _ in range(folds)]


def examples(n: int, clips: int = 4) -> dict[str, list[np.ndarray]]:
    return {name: [-80 * rng.random((128, 12)) for _ in range(clips)] for name in names(n)}


def rows(n: int) -> list[SystemScores]:
    values = rng.uniform(0.5, 0.8, (n, 4))
    return [
        SystemScores(f"esc10-efficientnet_lite0-imagenet-{i}", *(Interval(v, v - 0.1, v + 0.1) for v in value))
        for i, value in enumerate(values)
    ]


def confusion_of(n: int, title: str = "esc50-fusion, test") -> Figure:
    return plots.confusion_figure(confusion(n), names(n), title)


def preview_of(n: int, clips: int = 4, rate: int = 44_100, htk: bool = False) -> Figure:
    return sound_plots.spectrogram_grid_figure(examples(n, clips), rate, 5.0, htk=htk)


def few_clips(n: int, sizes: int = 6) -> Figure:
    curves = {row.name: [Interval(v, v - 0.1, v + 0.1) for v in rng.uniform(0.6, 0.62, sizes)] for row in rows(n)}
    return plots.few_clips_figure(curves, {2**size: str(2**size) for size in range(sizes)})


FIGURES: dict[str, Callable[[], Figure]] = {
    **{f"confusion of {n}": partial(confusion_of, n) for n in (2, 3, 9, 15, 21)},
    "confusion with a long title": lambda: confusion_of(2, "a-rather-long-name " * 4),
    "learning curves": lambda: plots.learning_curves_figure(history()),
    "one epoch": lambda: plots.learning_curves_figure(history(1, 1)),
    "C path": lambda: plots.c_path_figure(np.logspace(-9, 0, 10), rng.random((10, 4)), rng.random((10, 4)), 1e-4),
    **{f"preview of {n}": partial(preview_of, n) for n in (2, 10, 15)},
    "preview at 16 kHz": lambda: preview_of(9, 1, 16_000, htk=True),
    "contributions": lambda: plots.contributions_figure(names(8), rng.random(8), 0.8 + rng.normal(0, 0.01, 8), 0.8),
    "one contribution": lambda: plots.contributions_figure(["crnn"], [1.0], [0.1], 0.8),
    "summary": lambda: plots.summary_figure(rows(10)),
    "summary of one": lambda: plots.summary_figure(rows(1)),
    "reliability": lambda: plots.reliability_figure(rng.dirichlet(np.ones(3), 50), rng.integers(0, 3, 50)),
    "few clips": lambda: few_clips(6),
    "few clips, one size": lambda: few_clips(2, 1),
    "time budget": lambda: plots.time_budget_figure({"decode": 40.0, "crnn": 5000.0, "svm": 0.01}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_at_the_edge_of_the_figure(name: str) -> None:
    assert_nothing_is_cut_off(FIGURES[name]())


def test_a_figure_is_saved_as_a_png_of_a_useful_size() -> None:
    target = io.BytesIO()
    plots.confusion_figure(confusion(10), names(10)).savefig(target, format="png")
    data = target.getvalue()
    width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
    assert data.startswith(b"\x89PNG")
    assert 800 < width < 2500 and 800 < height < 2500


@cache
def full_confusion(n: int) -> Figure:
    """Drawn once for the tests that only look at it: the widest numbers there are, in every diagonal cell."""
    figure = plots.confusion_figure(73_000 * np.eye(n, dtype=int), names(n), "esc50-fusion")
    assert_nothing_is_cut_off(figure)
    return figure


@pytest.mark.parametrize("n", [2, 9, 15, 21, 50])
def test_cells_are_nearly_square(n: int) -> None:
    box = full_confusion(n).axes[0].get_window_extent()
    assert box.width == pytest.approx(box.height, rel=0.1)


@pytest.mark.parametrize("n", [2, 9, 15, 21, 50])
def test_class_names_do_not_run_into_each_other(n: int) -> None:
    axes = full_confusion(n).axes[0]
    for labels, side in ((axes.get_yticklabels(), "y"), (axes.get_xticklabels(), "x")):
        assert len(labels) == n
        if side == "x" and n <= 20:
            continue  # at 45 degrees the boxes around the names overlap, the names do not
        boxes = [label.get_window_extent() for label in labels]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))


@pytest.mark.parametrize("n", [2, 9, 15, 21, 50])
def test_the_axes_captions_keep_clear_of_the_class_names(n: int) -> None:
    axes = full_confusion(n).axes[0]
    below, beside = axes.xaxis.label, axes.yaxis.label
    assert (below.get_text(), beside.get_text()) == ("recognised as", "true class")
    assert beside.get_window_extent().x1 < min(label.get_window_extent().x0 for label in axes.get_yticklabels())
    assert below.get_window_extent().y1 < min(label.get_window_extent().y0 for label in axes.get_xticklabels())


@pytest.mark.parametrize("n", [2, 9, 15, 24, 25, 50])
def test_numbers_fit_into_their_cells(n: int) -> None:
    axes = full_confusion(n).axes[0]
    cell = axes.get_window_extent()
    assert len(axes.texts) == (2 * n if n <= 24 else n)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert all(box.width < cell.width / n and box.height < cell.height / n for box in boxes)
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))  # per cent above, clips below


def test_the_confusion_shows_per_cent_of_the_true_class_and_clips() -> None:
    figure = plots.confusion_figure(np.array([[3, 1], [0, 0]]), ["cat", "dog"], "title")
    assert np.asarray(figure.axes[0].images[0].get_array()).tolist() == [[75.0, 25.0], [0.0, 0.0]]
    cells = {(text.get_text(), round(text.get_position()[0])) for text in figure.axes[0].texts}
    assert cells == {("75", 0), ("3", 0), ("25", 1), ("1", 1)}  # empty cells stay empty
    (right,) = figure.axes[0].child_axes
    assert [label.get_text() for label in right.get_yticklabels()] == ["4", "0"]


def test_very_many_classes_are_drawn_without_numbers() -> None:
    figure = plots.confusion_figure(np.eye(180, dtype=int), names(180))
    assert max(figure.get_size_inches()) < 40
    assert not figure.axes[0].texts


def test_a_dollar_sign_is_no_mathematics_and_long_names_are_shortened() -> None:
    odd = ["a$_{b$", "x" * 90]
    figure = plots.confusion_figure(np.eye(2, dtype=int), odd, "100 $ and 200 $")
    assert_nothing_is_cut_off(figure)
    assert all(len(label.get_text()) < 30 for label in figure.axes[0].get_yticklabels())


def test_the_bold_learning_curve_is_the_mean_of_the_folds() -> None:
    folds = history(20, 3)
    figure = plots.learning_curves_figure(folds)
    bold = [line for line in figure.axes[0].lines if line.get_label() == "devel"]
    assert len(bold) == 1
    np.testing.assert_allclose(ys(bold[0]), np.mean([fold["devel_loss"] for fold in folds], axis=0))
    assert len(figure.axes[0].lines) == 2 * (3 + 1)


def test_a_loss_that_diverged_is_left_out() -> None:
    figure = plots.learning_curves_figure([{**fold, "train_loss": np.full(3, np.nan)} for fold in history(3, 1)])
    assert_nothing_is_cut_off(figure)
    assert np.isfinite(figure.axes[0].get_ylim()).all()


def test_the_chosen_c_is_marked_on_the_mean() -> None:
    costs, scores = np.logspace(-4, 0, 5), rng.random((5, 4))
    figure = plots.c_path_figure(costs, scores, rng.random((5, 4)), chosen=1e-2)
    ring = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    assert xs(ring)[0] == pytest.approx(1e-2)
    assert ys(ring)[0] == pytest.approx(100 * scores[2].mean())
    assert figure.axes[0].get_xscale() == "log"
    assert f"Macro-F1: {100 * scores[2].mean():.1f} % at C = 0.01" in texts(figure)


def test_every_class_of_a_preview_is_drawn_and_named() -> None:
    figure = sound_plots.spectrogram_grid_figure(examples(50), 44_100, 5.0)
    assert_nothing_is_cut_off(figure)
    shown = set(texts(figure, drawn=True))
    assert {name.replace("_", " ") for name in names(50)} <= shown
    images = [image for axes in figure.axes for image in axes.images]
    assert len(images) >= 100
    assert len({image.get_clim() for image in images}) == 1


def test_a_band_is_marked_with_the_frequency_at_which_its_triangle_peaks() -> None:
    from librosa import mel_frequencies

    figure = sound_plots.spectrogram_grid_figure(examples(2), 44_100, 5.0)
    axes = figure.axes[0]
    peaks = mel_frequencies(n_mels=130, fmin=0.0, fmax=22_050)[1:-1]
    marks = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    ticks = {text.get_text(): band for band, text in marks if band >= 0}  # of the first class; others stand below
    assert {"0.5", "2", "8"} <= set(ticks)
    for label, band in ticks.items():
        assert np.interp(band, np.arange(128), peaks) == pytest.approx(1000 * float(label), rel=0.02)


def test_a_preview_counts_seconds_and_draws_low_bands_below() -> None:
    figure = sound_plots.spectrogram_grid_figure(examples(2), 16_000, 10.0)
    image = figure.axes[0].images[0]
    assert image.get_extent()[:2] == [0, 10.0]
    assert image.origin == "lower"


def test_members_are_sorted_by_weight_and_losses_are_in_points() -> None:
    figure = plots.contributions_figure(["large", "small"], [3.0, 1.0], [0.79, 0.83], 0.81)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["small", "large"]
    assert [bar.get_width() for bar in bars(figure.axes[0])] == pytest.approx([25.0, 75.0])
    assert [bar.get_width() for bar in bars(figure.axes[1])] == pytest.approx([2.0, -2.0])
    assert {"75 %", "+2.0", "−2.0"} <= set(texts(figure))


def test_the_summary_shows_each_interval_and_leaves_out_what_was_not_scored() -> None:
    devel = Interval(0.8, 0.7, 0.9), Interval(0.7, 0.6, 0.75)
    scored = SystemScores("fusion", *devel, Interval(0.6, 0.5, 0.65), Interval(0.5, 0.4, 0.6))
    devel_only = SystemScores("crnn", Interval(0.4, 0.3, 0.5), Interval(0.4, 0.3, 0.5))
    accuracy, _ = plots.summary_figure([devel_only, scored]).axes
    devel, test = accuracy.lines
    assert xs(devel).tolist() == pytest.approx([40, 80])
    assert xs(test).tolist() == pytest.approx([60])
    assert ys(test)[0] > ys(devel)[1] > 0.5  # below its devel score, in the second row
    assert accuracy.get_ylim()[0] > accuracy.get_ylim()[1]  # the first row on top
    hlines = [lines for lines in accuracy.collections if isinstance(lines, LineCollection)]
    spans = [segment[:, 0].tolist() for lines in hlines for segment in lines.get_segments()]
    assert spans == [pytest.approx([30, 50]), pytest.approx([70, 90]), pytest.approx([50, 65])]


def test_the_reliability_figure_states_the_calibration_error() -> None:
    figure = plots.reliability_figure([[0.9, 0.1], [0.9, 0.1]], [0, 1])
    assert "Expected calibration error 40.0 points" in texts(figure)
    heights = [bar.get_height() for bar in bars(figure.axes[0])]
    assert heights[8] == pytest.approx(50.0)
    assert sum(heights) == pytest.approx(50.0)


def test_the_systems_of_few_clips_are_named_beside_each_other_and_in_their_order() -> None:
    curves = {name: [Interval(v, v - 0.1, v + 0.1)] * 2 for name, v in (("a", 0.5), ("b", 0.51), ("c", 0.9))}
    figure = plots.few_clips_figure(curves, {1: "1", 20: "all"})
    draw(figure)
    boxes = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    assert list(boxes) == ["c", "b", "a"]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes.values()))
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["1", "all"]


def test_the_time_budget_states_times_shares_and_a_fitting_unit() -> None:
    shown = texts(plots.time_budget_figure({"extract": 60.0, "crnn": 7200.0, "svm": 0.2}))
    assert {
        "2 h 00 min  (99 %)",
        "60 s" not in shown and "1 min 00 s  (1 %)",
        "0.2 s  (< 1 %)",
        "hours",
    } <= set(shown)
    assert "seconds" in texts(plots.time_budget_figure({"extract": 60.0}))
    assert "minutes" in texts(plots.time_budget_figure({"extract": 600.0}))


def test_the_parts_of_a_stage_stand_below_it_and_count_for_nothing_in_all() -> None:
    figure = plots.time_budget_figure({"extract": 60.0, "fit": 60.0}, {"extract": {"decode": 90.0, "forward": 30.0}})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "extract",
        "· decode",
        "· forward",
        "fit",
    ]
    shown = texts(figure)
    assert {"Time budget: 2 min 00 s in all", "1 min 00 s  (50 %)", "1 min 30 s", "30 s"} <= set(shown)
    colours = [bar.get_facecolor() for bar in bars(figure.axes[0])]
    assert colours[0] == colours[3] != colours[1] == colours[2]
    cached = plots.time_budget_figure({"extract": 60.0}, {"extract": {}})  # nothing pale, nothing to explain
    assert cached.axes[0].get_xlabel() == "seconds"


def test_drawing_needs_neither_pyplot_nor_torch_nor_mlflow() -> None:
    code = (
        "import sys, soundstack.evaluation.plots as plots; plots.time_budget_figure({'a': 1.0});"
        "print([m for m in ('matplotlib.pyplot', 'torch', 'mlflow', 'librosa') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "[]"


def test_the_examples_in_the_docstrings_hold() -> None:
    results = doctest.testmod(progress)
    assert results.attempted >= 1
    assert results.failed == 0


def recording(windows: int, classes: int = 10):
    """Windows of five seconds that overlap by half, and probabilities that wander."""
    starts = 2.5 * np.arange(windows)
    scores = np.sin(np.linspace(0, 9, windows)[:, None] * (1 + np.arange(classes))) * 4
    shares = np.exp(scores)
    return starts, starts + 5, shares / shares.sum(axis=1, keepdims=True), [f"class_{n}" for n in range(classes)]


@pytest.mark.parametrize(("windows", "unit"), [(1, "seconds"), (23, "seconds"), (200, "minutes"), (2879, "hours")])
def test_a_timeline_spans_the_recording_in_a_fitting_unit(windows, unit):
    starts, ends, shares, labels = recording(windows)
    strip, heat = sound_plots.timeline_figure(starts, ends, shares, labels, "rec_1.wav").axes[:2]
    seconds = {"seconds": 1, "minutes": 60, "hours": 3600}[unit]
    assert heat.get_xlabel() == unit
    assert heat.get_xlim() == pytest.approx((0, ends[-1] / seconds))
    assert strip.collections[0].get_array().shape == (1, min(windows, 1000))


def test_a_timeline_shows_the_classes_that_are_best_most_often_and_their_highest_probabilities():
    starts, ends, shares, labels = recording(2879)
    heat = sound_plots.timeline_figure(starts, ends, shares, labels, top=3).axes[1]
    wins = np.bincount(shares.argmax(axis=1), minlength=len(labels))
    shown = [text.get_text() for text in heat.get_yticklabels()]
    assert len(shown) == 3
    assert min(wins[labels.index(name.replace(" ", "_"))] for name in shown) >= sorted(wins)[-3]
    best = labels.index(shown[0].replace(" ", "_"))
    assert np.asarray(heat.collections[0].get_array())[0].max() == pytest.approx(100 * shares[:, best].max())


def test_a_timeline_of_two_classes_is_drawn(tmp_path):
    starts, ends, shares, labels = recording(5, classes=2)
    sound_plots.timeline_figure(starts, ends, shares, labels).savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_spectrogram_has_its_labels_above_it_where_they_are_heard():
    starts = 2.5 * np.arange(7)  # a, a, a, b, a, a, a: windows meet half-way
    best = ["a", "a", "a", "b", "a", "a", "a"]
    figure = sound_plots.labelled_spectrogram_figure(np.zeros((128, 900)), 8000, 20.0, starts, starts + 5, best)
    strip, axes = figure.axes[:2]
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in strip.patches]
    assert spans == [(0, 8.75), (8.75, 11.25), (11.25, 20)]
    assert [text.get_text() for text in strip.texts] == ["a", "b", "a"]
    assert strip.get_legend() is None
    assert axes.get_xlim() == (0, 20)
    assert axes.images[0].get_extent() == [0, 20, -0.5, 127.5]


def test_labels_of_a_long_recording_that_do_not_fit_are_in_a_legend(tmp_path):
    starts, ends, shares, labels = recording(100)
    best = [labels[at] for at in shares.argmax(axis=1)]
    figure = sound_plots.labelled_spectrogram_figure(np.zeros((128, 9000)), 8000, ends[-1], starts, ends, best)
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert 1 < len(shown) <= 9
    assert {name.replace(" ", "_") for name in shown} - {"others"} <= set(labels)
    assert figure.axes[1].get_xlabel() == "minutes"
    figure.savefig(tmp_path / "a.png")
