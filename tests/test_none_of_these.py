"""None of these: the rule keeps its rate on what it was found on, and the answers of a model follow it."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from soundstack.audio.find import find
from soundstack.audio.limits import RequestLimits
from soundstack.datasets import csv_table
from soundstack.datasets.clips import Clip, ClipTable
from soundstack.evaluation import plots
from soundstack.evaluation.evaluation import Evaluation
from soundstack.evaluation.none_of_these import none_scores, read_scores, scores_file
from soundstack.evaluation.none_rule import NoneRule, answers_of
from soundstack.evaluation.score_table import ScoreTable
from soundstack.fusion.recogniser import FusionRecogniser
from soundstack.prediction import run as prediction
from soundstack.prediction import tables
from soundstack.prediction.store import PredictionStore
from soundstack.recognisers import base as recognisers
from soundstack.recognisers.class_distance import ClassDistance, out_of_fold
from soundstack.recognisers.evaluate import evaluate, with_none
from soundstack.serving import model as serving
from soundstack.serving.model import SoundModel
from soundstack.utils.errors import DataError
from svm_making import fit_svm
from test_recognisers import LABELS, RATE, clips, crnn
from test_serving import encoded


def features(count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three classes that lie in three directions: x (N, 40), y and folds (N,)."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.standard_normal((count, 40))
    x[np.arange(count), y] += 8
    return x, y, np.array([str(1 + number // 3 % 4) for number in range(count)])


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.29, 0.5, 0.9])
@pytest.mark.parametrize("ties", [False, True])
def test_a_rule_keeps_its_rate_on_what_it_was_found_on(rate: float, ties: bool) -> None:
    scores = np.random.default_rng(1).random(100)
    scores = scores.round(1) if ties else scores
    by_class = NoneRule.of_negatives(scores, rate)
    assert by_class.by_class
    assert np.count_nonzero(scores < by_class.threshold) <= 100 * rate + 1e-9  # negatives taken for a class
    by_distance = NoneRule.of_known(scores, rate)
    refused = np.count_nonzero(by_distance.ranks(scores) >= by_distance.threshold)
    assert not by_distance.by_class
    assert refused <= 100 * rate + 1e-9
    if not ties:  # and no stricter than it must be
        assert refused == int(100 * rate + 1e-9)
        assert np.count_nonzero(scores < by_class.threshold) == int(100 * rate + 1e-9)


def test_none_scores_rise_with_the_distance_beyond_all_known_ones_too() -> None:
    known = np.random.default_rng(2).random(1000)
    ranks = NoneRule.of_known(known, 0.1).ranks(np.linspace(known.min(), 50, 5000))
    assert (np.diff(ranks) > 0).all()
    assert 0 <= ranks[0] < ranks[-1] < 1


def test_answers_are_none_from_the_threshold_on_and_else_the_best_of_the_classes() -> None:
    shares = np.array([[0.1, 0.6, 0.3], [0.1, 0.2, 0.7], [0.5, 0.2, 0.3]])
    named, chosen = answers_of(NoneRule(0.1, 0.6), ("a", "none", "z"), shares, shares[:, 1])
    assert (named, chosen.tolist()) == (["none", "z", "a"], [0.6, 0.7, 0.5])
    named, chosen = answers_of(NoneRule(0.1, 0.65), ("a", "none", "z"), shares, shares[:, 1])
    assert (named[0], chosen[0]) == ("z", 0.3)  # none is the most probable class, and not probable enough
    far = np.array([0.2, 0.95, 0.94])
    named, chosen = answers_of(NoneRule(0.1, 0.95, (0.0, 1.0)), ("a", "m", "z"), shares, far)
    assert (named, chosen.tolist()) == (["m", "none", "a"], [0.6, 0.95, 0.5])
    assert answers_of(None, ("a", "m", "z"), shares, None)[0] == ["m", "z", "a"]


def test_unknown_directions_are_further_than_known_ones() -> None:
    x, y, folds = features()
    unknown = np.random.default_rng(3).standard_normal((20, 40))
    unknown[:, 5] += 8
    distance = ClassDistance.fit(x, y)
    assert np.median(distance.distances(unknown)) > np.quantile(out_of_fold(x, y, folds), 0.95)


def test_distances_out_of_fold_come_from_other_folds_alone() -> None:
    x, y, folds = features()
    before = out_of_fold(x, y, folds)
    changed = x.copy()
    changed[folds == "2"] *= -3
    after = out_of_fold(changed, y, folds)
    expected = ClassDistance.fit(x[folds != "2"], y[folds != "2"]).distances(x[folds == "2"])
    np.testing.assert_allclose(before[folds == "2"], expected)
    only = folds == "2"
    np.testing.assert_allclose(
        after[only], ClassDistance.fit(x[~only], y[~only]).distances(changed[only])
    )  # what is known has not moved
    assert not np.allclose(after[~only], before[~only])


@pytest.mark.parametrize("shape", [(30, 200), (300, 20)])  # more features than clips, and fewer
def test_whitening_is_that_of_the_shrunk_covariance(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(4).standard_normal(shape) * np.linspace(1, 3, shape[1])
    x[:, 0] = 1.0  # all alike
    y = np.arange(len(x)) % 3
    found = ClassDistance.fit(x, y)
    z = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 1e-9, x.std(axis=0), 1)
    means = np.stack([z[y == each].mean(axis=0) for each in range(3)])
    within = z - means[y]
    shrunk = within.T @ within / len(x) / 2 + np.mean(within**2) / 2 * np.eye(shape[1])
    values, vectors = np.linalg.eigh(shrunk)
    whiten = vectors / np.sqrt(values) @ vectors.T
    a, b = z @ whiten, means @ whiten
    cosine = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    np.testing.assert_allclose(found.distances(x), 1 - cosine.max(axis=1), atol=1e-9)


class Fakes:
    """A data set of two parts with features of its examples, and the evaluation of made-up scores."""

    def __init__(self, labels: tuple[str, ...] = LABELS) -> None:
        self.x, y, folds = features(75)
        folds = np.array([*folds[:60], *["test"] * 15])
        rows = tuple(
            Clip(f"{number}", Path("x"), labels[each], fold, f"{number}")
            for number, (each, fold) in enumerate(zip(y, folds, strict=True))
        )
        table = ClipTable("x", rows, seconds=1, sample_rate=RATE)
        self.data_set: Any = SimpleNamespace(
            clip_table=table, clips=rows, example_folds=folds, example_targets=y, clip_means=lambda values: values
        )
        scores = np.random.default_rng(7).standard_normal((75, 3))
        scores[np.arange(75), y] += 2
        self.recogniser = crnn()
        self.recogniser.kind = "decision"  # type: ignore[misc]
        self.recogniser.summary = lambda part: part  # type: ignore[method-assign]
        self.evaluation = evaluate(self.data_set, scores, self.recogniser)


def test_a_rule_by_distance_is_of_known_clips_and_measured_on_both_parts(tmp_path: Path) -> None:
    fakes = Fakes()
    found = with_none(fakes.data_set, fakes.evaluation, fakes.recogniser, fakes.x, 0.1)
    assert found.none is not None
    assert fakes.recogniser.none == found.none.rule
    metrics = found.metrics()
    assert metrics["devel_missed"] == 0.1
    assert 0 <= metrics["test_missed"] < 0.5
    assert not any("false_alarms" in name or "auroc" in name for name in metrics)
    assert metrics.keys() - {"devel_missed", "test_missed"} == fakes.evaluation.metrics().keys()
    found.none.write(tmp_path)
    assert not (tmp_path / "none").exists()
    np.testing.assert_array_equal(
        read_scores(tmp_path / scores_file("devel"), found.devel.rows([3, 1])), found.none.scores[0][[3, 1]]
    )


def test_a_rule_by_negatives_is_of_the_class_none(tmp_path: Path) -> None:
    fakes = Fakes(("a", "b", "none"))
    found = with_none(fakes.data_set, fakes.evaluation, fakes.recogniser, fakes.x, 0.1)
    assert found.none is not None
    assert found.none.rule.by_class
    assert fakes.recogniser.class_distance is None
    metrics = found.metrics()
    assert metrics["devel_false_alarms"] == pytest.approx(0.1)
    assert metrics["devel_none_auroc"] > 0.8
    assert {"test_none_auroc", "test_missed", "test_false_alarms"} <= metrics.keys()
    found.write(tmp_path, "x")
    assert (tmp_path / "none" / "curve.png").stat().st_size > 1000


def test_the_curve_is_marked_where_the_threshold_is() -> None:
    thresholds, alarms, missed = (np.array(column) for column in ([np.inf, 0.8, 0.4], [1, 0.5, 0], [0, 0.1, 1]))
    (axes,) = plots.none_figure({"devel": (thresholds, alarms, missed)}, 0.5).axes
    ring = axes.lines[1]
    assert (ring.get_xdata(), ring.get_ydata()) == (pytest.approx([50]), pytest.approx([10]))


def ruled() -> FusionRecogniser:
    """A fusion of two CRNNs, one of which knows how far clips are from its classes."""
    far, plain = crnn(), crnn()
    x = np.random.default_rng(0).standard_normal((30, 256)) * 10 - 40
    far.class_distance = ClassDistance.fit(x, np.arange(30) % 3)
    far.none = NoneRule.of_known(np.linspace(0.3, 1.5, 100), 0.1)
    stacked = fit_svm(np.random.default_rng(1).standard_normal((12, 6)), np.arange(12) % 3, 1e-2, n_classes=3)
    rule = NoneRule.of_known(np.linspace(0, 1, 50), 0.1)
    return FusionRecogniser(labels=LABELS, members={"far": far, "plain": plain}, svm=stacked, none=rule)


def test_none_scores_are_saved_and_alike_in_any_batch(tmp_path: Path) -> None:
    fusion = ruled()
    scores, none = fusion.judge(clips())
    assert none is not None
    np.testing.assert_array_equal(scores, fusion.scores(clips()))
    member = fusion.members["far"].judge(clips())[1]
    assert fusion.none is not None and member is not None
    np.testing.assert_allclose(none, fusion.none.ranks(member))
    fusion.save(tmp_path)
    again = recognisers.load(tmp_path)
    assert again.none == fusion.none
    np.testing.assert_array_equal(again.judge(clips())[1], none)
    np.testing.assert_allclose(none, np.concatenate([fusion.judge([clip])[1] for clip in clips()]), atol=1e-6)


def test_without_a_rule_nothing_is_added_to_what_is_saved(tmp_path: Path) -> None:
    fusion = ruled()
    fusion.none = None
    fusion.save(tmp_path)
    assert '"none"' not in (tmp_path / "recogniser.json").read_text()
    assert fusion.judge(clips())[1] is None
    assert recognisers.load(tmp_path).none is None


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_the_served_model_answers_none_by_its_threshold(threshold: float) -> None:
    fusion, model = ruled(), SoundModel()
    assert fusion.none is not None
    fusion.none = replace(fusion.none, threshold=threshold)
    model.use(fusion, RequestLimits())
    params = {"timeline": True, "on_error": "null"}
    good, bad = model.recognise([encoded(seconds=3.0), b"no sound"], params)
    assert good.keys() == bad.keys()
    assert bad["none_score"] is None
    assert 0 <= good["none_score"] < 1
    assert (good["label"] == "none") == (threshold == 0)
    assert good["none_score"] == pytest.approx(np.mean([window["none_score"] for window in good["timeline"]]))
    if threshold == 0:
        assert good["probability"] == good["none_score"]
        assert {window["label"] for window in good["timeline"]} == {"none"}
    outputs = [spec.name for spec in serving.signature(LABELS, model.limits, none=True).outputs.inputs]
    assert "none_score" in outputs
    assert "none_score" not in [spec.name for spec in serving.signature(LABELS, model.limits).outputs.inputs]
    with pytest.raises(serving.MlflowException, match="none_rate' is unknown"):
        model.recognise([encoded()], {"none_rate": 0.5})


def test_predictions_have_the_none_scores_of_windows_and_of_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.wav").write_bytes(encoded(seconds=3.0))
    fusion, files = ruled(), find(str(tmp_path / "in"))
    store = PredictionStore(tmp_path / "store.sqlite")
    prediction.predict(fusion, files, store, jobs=1)
    assert fusion.none is not None
    tables.write(tmp_path, files, store, LABELS, "m/1", replace(fusion.none, threshold=0.0))
    texts = [(tmp_path / name).read_text("utf-8-sig") for name in (tables.WINDOWS, tables.FILES)]
    windows, (whole,) = (list(csv.DictReader(io.StringIO(text))) for text in texts)
    assert len(windows) > 1
    assert {row["label"] for row in [*windows, whole]} == {"none"}
    assert float(whole["none_score"]) == pytest.approx(np.mean([float(row["none_score"]) for row in windows]))
    assert sum(float(whole[f"p_{label}"]) for label in LABELS) == pytest.approx(1)
    assert list(whole)[-2:] == ["none_score", "model"]


def table_of(folder: Path, labels: list[str]) -> Path:
    rows = ["filename,label,fold"]
    for number, label in enumerate(labels):
        (folder / f"{number}.wav").write_bytes(encoded())
        rows.append(f"{number}.wav,{label},{1 + number % 3}")
    (folder / "clips.csv").write_text("\n".join(rows))
    return folder / "clips.csv"


def test_clips_without_a_label_are_negatives_only_where_asked_for(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["a"] * 6 + ["", "None", "NONE", "none", "", ""])
    found = csv_table.load(table, seed=0, negatives=True)
    assert found.labels == ("a", "none")
    with pytest.raises(DataError, match="has no label; give it one, or with none_rate"):
        csv_table.load(table, seed=0)


def test_negatives_by_score_tables_of_probabilities() -> None:
    rng = np.random.default_rng(0)
    names = tuple(map(str, range(40)))
    labels = tuple("none" if number % 4 == 0 else "ab"[number % 2] for number in range(40))
    shares = rng.dirichlet([1, 1, 1], 40)
    devel = ScoreTable(
        names, labels, tuple(str(1 + n % 2) for n in range(40)), shares, ("a", "b", "none"), "probability"
    )
    test = replace(devel, folds=("test",) * 40)
    found = none_scores(devel, test, 0.2, 1.0)
    np.testing.assert_allclose(found.scores[1], shares[:, 2])
    evaluation = Evaluation(devel, test, {name: name for name in names}, 1.0, none=found)
    assert evaluation.metrics()["devel_false_alarms"] <= 0.2
