"""class_weight=balanced: every class counts alike, the solver keeps its guarantees, and none is as it always was."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn

import crnn as crnn_step
from soundstack.config.steps import MODEL_STEPS, CrnnConfig, DeepSpectrumConfig, FuseConfig, MainConfig
from soundstack.config.suite import Row
from soundstack.crnn import system as crnn
from soundstack.crnn.training import CrnnJob, _Fold
from soundstack.fusion import system as stacking
from soundstack.suites import runner, summary
from soundstack.suites.runner import Outcome
from soundstack.suites.summary import unequal_classes
from soundstack.svm import newton
from soundstack.svm.cost_search import SearchSpec, nested_decisions, search_cost
from soundstack.svm.linear_svm import PathProblem, Standardiser, SvmPath
from soundstack.svm.newton import TOLERANCE, NewtonPath
from soundstack.training.fold import train_fold
from soundstack.utils.class_weights import balanced
from test_nested import member
from test_svm import PATH, standardised
from test_training import CLASSES, HELD_OUT, SPEC, TRAIN, assert_equal, differ, one_thread, problem, train

__all__ = ["one_thread"]  # a fixture that all tests here use
Array = NDArray[Any]


def unequal(n: int, d: int, classes: int, *, seed: int = 0, spread: float = 1.0) -> tuple[Array, Array]:
    """Standardised features of classes of which each is half as large as the one before."""
    x, y = standardised(4 * n, d, classes, seed=seed, spread=spread)
    sizes = np.maximum(1, n // 2 ** np.arange(1, classes + 1))
    rows = np.concatenate([np.flatnonzero(y == k)[:size] for k, size in enumerate(sizes)])
    return x[rows], y[rows]


def of_sample_weights(x: Array, y: Array, cost: float, weights: Array) -> tuple[Array, Array]:
    svm = LinearSVC(C=cost, dual=True, tol=1e-10, max_iter=500_000, random_state=0)
    svm.fit(x, y, sample_weight=weights)
    return svm.coef_, svm.intercept_


def duality_gap(w: Array, x: Array, sign: Array, cost: float, weights: Array) -> tuple[float, float]:
    """P and P - D of the weighted problem in its own variables, at the dual point alpha = 2 C s max(0, 1 - y w.x).

    D(alpha) = sum alpha - 1/2 |X'(y alpha)|^2 - sum alpha^2 / (4 C s), where nothing is scaled by roots of weights.
    """
    slack = np.maximum(0, 1 - sign * (x @ w))
    alpha = 2 * cost * weights * slack
    primal = 0.5 * w @ w + cost * (weights * slack**2).sum()
    dual = alpha.sum() - 0.5 * ((x.T @ (alpha * sign)) ** 2).sum() - (alpha**2 / weights).sum() / (4 * cost)
    return primal, primal - dual


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80))
def test_the_weights_are_those_of_scikit_learn_and_their_mean_is_one(targets: list[int]) -> None:
    found = balanced(targets, 8)
    np.testing.assert_allclose(found[targets], compute_sample_weight("balanced", targets))
    assert found[targets].mean() == pytest.approx(1)
    assert not found[[k for k in range(8) if k not in targets]].any()


@pytest.mark.parametrize(("n", "d"), [(60, 120), (120, 20), (400, 15)])
@pytest.mark.parametrize("cost", [1e-9, 1e-4, 1e-2, 1.0])
def test_the_solution_is_that_of_linear_svc_with_sample_weights(n: int, d: int, cost: float) -> None:
    x, y = unequal(n, d, 4)
    weights = balanced(y, 4)[y]
    path = SvmPath(x, y, n_classes=4, weights=weights, x_eval=x)
    expected, bias = of_sample_weights(x, y, cost, weights)
    coef, intercept = path.coefficients(cost)
    np.testing.assert_allclose(coef, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(intercept, bias, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(path.decisions(cost), x @ coef.T + intercept, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 70), d=st.integers(1, 70), power=st.floats(-9, 2), seed=st.integers(0, 2**16), wide=st.floats(0, 3)
)
def test_the_certificate_bounds_the_distance_from_the_weighted_optimum(
    n: int, d: int, power: float, seed: int, wide: float
) -> None:
    """Any positive weights, over up to six decades; along a path, so that starts from neighbours are judged, too."""
    x, y = standardised(n, d, 2, seed=seed)
    rng = np.random.default_rng(seed)
    weights = 10 ** rng.uniform(-wide, wide, n)
    weights /= weights.mean()
    cost, sign = 10**power, np.where(y == 1, 1.0, -1.0)
    path = NewtonPath(x.copy(), sign[:, None], weights)
    for each in (cost / 100, cost):
        w = path.unrotate(path.solve(each))[:, 0]
        primal, gap = duality_gap(w, x, sign, each, weights)
        assert path.gaps[each].max() <= TOLERANCE
        assert -1e-9 * primal <= gap <= 1e-6 * primal


def test_the_gap_that_is_certified_is_half_the_squared_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from the optimum, too: after one step, the certificate is the gap, not a bound of it."""
    monkeypatch.setattr(newton, "TOLERANCE", np.inf)
    x, y = standardised(60, 20, 2)
    weights, sign = balanced(y[:45] % 2, 2)[y[:45]], np.where(y[:45] == 1, 1.0, -1.0)
    x = x[:45]
    path = NewtonPath(x.copy(), sign[:, None], weights)
    w = path.unrotate(path.solve(1.0))[:, 0]  # the ridge start
    primal, gap = duality_gap(w, x, sign, 1.0, weights)
    assert gap > 1e-3 * primal
    np.testing.assert_allclose(path.gaps[1.0][0], gap / primal, rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(8, 70), d=st.integers(1, 60), classes=st.integers(2, 5), power=st.floats(-9, 1))
def test_the_weighted_objective_is_never_above_that_of_linear_svc(n: int, d: int, classes: int, power: float) -> None:
    x, y = unequal(n, d, classes, spread=2.0)
    weights, cost = balanced(y, classes)[y], 10**power
    coef, intercept = SvmPath(x, y, n_classes=classes, weights=weights).coefficients(cost)
    root = np.sqrt(weights)
    for k in range(classes):
        sign = np.where(y == k, 1, -1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            other = LinearSVC(C=cost, dual=True, random_state=0).fit(x, sign, sample_weight=weights)

        def p(w: Array, b: float, sign: Array = sign) -> float:
            slack = np.maximum(0, 1 - sign * (x @ w + b))
            return 0.5 * (w @ w + b**2) + cost * ((root * slack) ** 2).sum()

        assert p(coef[k], intercept[k]) <= p(other.coef_[0], other.intercept_[0]) * (1 + 1e-6)


@pytest.mark.parametrize("pace", [0.01, 1e9])
@pytest.mark.parametrize(("n", "d"), [(100, 90), (500, 40)])
def test_every_kind_of_step_solves_the_weighted_problem(
    pace: float, n: int, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = unequal(n, d, 3)
    weights = balanced(y, 3)[y]
    monkeypatch.setattr(newton, "_FEW", -1)
    monkeypatch.setattr(newton, "_DIRECT_PACE", pace)  # all by conjugate gradients, or all directly
    monkeypatch.setattr(*(newton, "_solve_ridge", None) if pace < 1 else (NewtonPath, "_conjugate_gradients", None))
    path = SvmPath(x, y, n_classes=3, weights=weights)
    for cost in (1e-3, 1.0):
        expected, _ = of_sample_weights(x, y, cost, weights)
        np.testing.assert_allclose(path.coefficients(cost)[0], expected, atol=1e-4 * np.abs(expected).max())


def test_torch_solves_the_weighted_problems_that_numpy_solves() -> None:
    x, y = unequal(120, 40, 4)
    weights = balanced(y, 4)[y]
    here, there = (
        SvmPath(x, y, n_classes=4, weights=weights, x_eval=x, device=device) for device in (None, torch.device("cpu"))
    )
    for cost in PATH:
        expected = here.decisions(cost)
        np.testing.assert_allclose(there.decisions(cost), expected, atol=5e-4 * max(1, np.abs(expected).max()))
    np.testing.assert_array_equal(weights, balanced(y, 4)[y])  # not written to, though torch shares its memory


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_weights_of_one_give_what_no_weights_give(device: torch.device | None) -> None:
    x, y = unequal(100, 60, 4)
    plain, ones = (SvmPath(x, y, n_classes=4, weights=w, x_eval=x, device=device) for w in (None, np.ones(len(x))))
    for cost in PATH:
        np.testing.assert_array_equal(ones.decisions(cost), plain.decisions(cost))


def test_a_weight_of_two_is_a_clip_twice() -> None:
    x, y = standardised(50, 30, 3)
    twice = np.r_[np.arange(50), np.arange(20)]
    weights = np.where(np.arange(50) < 20, 2.0, 1.0)
    for cost in (1e-4, 1e-1):
        (coef, bias), (expected, other) = (
            SvmPath(x, y, n_classes=3, weights=weights).coefficients(cost),
            SvmPath(x[twice], y[twice], n_classes=3).coefficients(cost),
        )
        np.testing.assert_allclose(coef, expected, atol=2e-4 * np.abs(expected).max())
        np.testing.assert_allclose(bias, other, atol=2e-4 * np.abs(expected).max())


def test_two_unequal_classes_have_mirrored_decision_values() -> None:
    x, y = unequal(80, 20, 2)
    weights = balanced(y, 2)[y]
    path = SvmPath(x, y, n_classes=2, weights=weights, x_eval=x)
    coef, intercept = of_sample_weights(x, y, 1e-2, weights)
    decisions = path.decisions(1e-2)
    np.testing.assert_array_equal(decisions[:, 0], -decisions[:, 1])
    np.testing.assert_allclose(decisions[:, 1], x @ coef[0] + intercept[0], atol=1e-3)


def test_a_class_that_a_fold_lacks_is_not_counted_there_and_gets_a_constant() -> None:
    x, y = unequal(100, 30, 4)
    folds = np.where(y == 3, 0, np.arange(len(y)) % 3)  # all of the last class is in the first fold
    fold = PathProblem(x, y, folds, n_classes=4, balance=True).fold_models(1e-2)[0]
    rest = folds != 0
    train = Standardiser.fit(x[rest]).transform(x[rest])
    expected, _ = of_sample_weights(train, y[rest], 1e-2, compute_sample_weight("balanced", y[rest]))
    np.testing.assert_allclose(fold.coef[:3], expected, atol=1e-4 * np.abs(expected).max())
    assert not fold.coef[3].any()
    constants = np.linspace(-1, 0, 200_001)
    best = constants[np.argmin(0.5 * constants**2 + 1e-2 * rest.sum() * (1 + constants) ** 2)]
    assert fold.intercept[3] == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_of_a_single_class_nothing_changes(classes: int) -> None:
    x, y = standardised(20, 30, 2)[0], np.ones(20, dtype=int)
    plain = SvmPath(x, y, n_classes=classes, x_eval=x).decisions(1e-2)
    weights = balanced(y, classes)[y]
    np.testing.assert_array_equal(SvmPath(x, y, n_classes=classes, weights=weights, x_eval=x).decisions(1e-2), plain)


def test_classes_are_counted_in_the_training_folds_alone_and_scaling_stays_that_of_the_rows() -> None:
    x, y = unequal(120, 30, 3)
    folds = np.arange(len(y)) % 3
    other = np.where(folds == 1, 0, y)  # other labels in the held-out fold of the second model
    one, two, plain = (
        PathProblem(x, labels, folds, n_classes=3, balance=balance)
        for labels, balance in ((y, True), (other, True), (y, False))
    )
    np.testing.assert_array_equal(one.fold_models(1e-2)[1].coef, two.fold_models(1e-2)[1].coef)
    assert not np.array_equal(one.refit(1e-2).coef, two.refit(1e-2).coef)
    np.testing.assert_array_equal(one.refit(1e-2).standardiser.mean, plain.refit(1e-2).standardiser.mean)
    expected, _ = of_sample_weights(Standardiser.fit(x).transform(x), y, 1e-2, compute_sample_weight("balanced", y))
    np.testing.assert_allclose(one.refit(1e-2).coef, expected, atol=1e-4 * np.abs(expected).max())
    assert not np.allclose(plain.refit(1e-2).coef, expected, atol=1e-2 * np.abs(expected).max())


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("trials", [0, 3])
def test_searches_and_nested_cross_validation_are_of_balanced_svms(refit: bool, trials: int) -> None:
    x, y = unequal(160, 20, 3, spread=2.5)
    folds, spec = np.array([str(1 + row % 4) for row in range(len(y))]), SearchSpec(trials, balance=True)
    nested = nested_decisions(lambda fold: x, y, folds, 3, spec, refit=refit)
    held_out = folds == "2"
    rest = ~held_out
    inner = PathProblem(x[rest], y[rest], folds[rest], n_classes=3, balance=True)
    found = search_cost(inner.out_of_fold_decisions, y[rest], folds[rest], 3, spec)
    svms = [inner.refit(found.chosen)] if refit else inner.fold_models(found.chosen)
    np.testing.assert_array_equal(nested["2"][held_out], np.mean([svm.decision(x[held_out]) for svm in svms], axis=0))
    np.testing.assert_array_equal(nested["2"][rest], found.decisions)
    plain = nested_decisions(lambda fold: x, y, folds, 3, replace(spec, balance=False), refit=refit)
    assert not np.array_equal(nested["2"], plain["2"])


def test_a_fusion_is_balanced_with_all_its_searches() -> None:
    rng = np.random.default_rng(0)
    truth = np.where(np.arange(80) % 10 < 7, 0, np.arange(80) % 10 - 6)  # 56, 8, 8, 8
    signals = [rng.standard_normal((4, 6))[truth] + 1.5 * rng.standard_normal((80, 6)) for _ in range(2)]
    members = [member(f"m{number}", x, truth) for number, x in enumerate(signals)]
    groups = {clip: clip for each in (members[0].devel, members[0].test) for clip in each.clips}
    fetched = stacking.Fetched(members, "", groups, {})
    configs = [FuseConfig(nested=True, class_weight=weight) for weight in ("none", "balanced")]
    plain, even = (stacking.train(fetched, config) for config in configs)
    for name in ("m0", "m1"):
        alone = [each for each in members if each.name != name]
        search, problem = stacking._search(alone, configs[1])
        assert problem._balance
        expected = stacking.mean_scores(stacking._table(alone[0].devel, search.decisions))[1]
        assert even.without[name] == expected
    assert not np.array_equal(even.svm.coef, plain.svm.coef)
    assert not np.array_equal(even.evaluation.nested["1"].scores, plain.evaluation.nested["1"].scores)
    recalls = [
        np.mean([(each.evaluation.devel.scores.argmax(1) == k)[truth == k].mean() for k in (1, 2, 3)])
        for each in (plain, even)
    ]
    assert recalls[1] > recalls[0]


def rare(keep: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The training problem of the CRNN with ``keep`` training rows of the last class."""
    inputs, targets = problem()
    last = TRAIN[targets[TRAIN] == CLASSES - 1]
    return inputs, targets, torch.tensor([row for row in TRAIN.tolist() if row not in last[keep:].tolist()])


def train_rows(inputs: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor, class_weight: str) -> Any:
    spec = replace(SPEC, class_weight=class_weight)
    return train_fold(CrnnJob(inputs, targets, rows, HELD_OUT, spec, CLASSES, "2", torch.device("cpu")))


def test_the_loss_of_a_batch_is_the_mean_of_weighted_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the formula, batch by batch; over an epoch the loss is that of all rows by their weights."""
    inputs, targets, rows = rare()
    weights = compute_sample_weight("balanced", targets[rows].numpy())
    by_class = {int(target): weight for target, weight in zip(targets[rows], weights, strict=True)}
    assert weights.mean() == pytest.approx(1)
    told, original = [], nn.functional.cross_entropy

    def spy(logits: torch.Tensor, truth: torch.Tensor, *given: Any, **options: Any) -> torch.Tensor:
        loss = original(logits, truth, *given, **options)
        each = original(logits.detach(), truth, reduction="none").double()
        told.append((loss.item() / len(truth), np.mean([by_class[int(k)] for k in truth] * each.numpy()), len(truth)))
        return loss

    monkeypatch.setattr(nn.functional, "cross_entropy", spy)
    model = train_rows(inputs, targets, rows, "balanced")
    for ours, expected, _ in told:
        assert ours == pytest.approx(expected, rel=1e-5)
    first = told[: -(-len(rows) // SPEC.batch_size)]
    assert model.history["train_loss"][0] == pytest.approx(sum(e * n for _, e, n in first) / len(rows), rel=1e-5)


def test_a_crnn_without_weights_is_as_it_was_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, targets, rows = rare()
    plain = train_rows(inputs, targets, rows, "none")
    assert differ(plain, train_rows(inputs, targets, rows, "balanced"))
    monkeypatch.setattr(_Fold, "_loss", lambda fold, logits, truth: nn.functional.cross_entropy(logits, truth))
    assert_equal(plain, train_rows(inputs, targets, rows, "balanced"))  # the loss as it was before there were weights


def test_of_equal_classes_a_crnn_is_the_same_with_and_without_weights() -> None:
    one, other = (train(*problem(), replace(SPEC, class_weight=weight)) for weight in ("none", "balanced"))
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_the_crnn_counts_its_training_rows_alone() -> None:
    inputs, targets, rows = rare()
    changed = targets.clone()
    changed[HELD_OUT] = 0
    one, other = (train_rows(inputs, labels, rows, "balanced") for labels in (targets, changed))
    for name, tensor in one.weights.items():
        assert torch.equal(tensor, other.weights[name]), name
    none_of_it = train_rows(*rare(keep=0), "balanced")  # a class that the training folds lack
    assert np.isfinite(none_of_it.history["train_loss"]).all()


@pytest.mark.parametrize("step", ["crnn", "deepspectrum", "fuse"])
def test_main_hands_the_parameter_to_its_rows_and_a_row_may_say_otherwise(step: str) -> None:
    config = MainConfig(class_weight="balanced")
    for own, expected in (({}, "balanced"), ({"class_weight": "none"}, "none")):
        made = runner._settings(step, config, own, "row 1")
        assert made.class_weight == expected
    if step != "fuse":
        assert runner.row_settings(Row.model_validate({step: {}}), config, 0, 1).class_weight == "balanced"
    keys = {MODEL_STEPS[step](class_weight=weight).fingerprint() for weight in ("none", "balanced")}
    assert len(keys) == 2


def test_specifications_say_what_the_parameters_say() -> None:
    for weight in ("none", "balanced"):
        assert crnn.training_spec(CrnnConfig(class_weight=weight)).class_weight == weight
        for config in (DeepSpectrumConfig(class_weight=weight), FuseConfig(class_weight=weight)):
            assert SearchSpec.of(config).balance == (weight == "balanced")
            assert not config.is_random


def test_the_hint_is_for_unequal_classes_that_count_by_their_size() -> None:
    text = unequal_classes({"dog": 61, "cat": 5, "owl": 30}, "none")
    assert "dog: 61" in text
    assert "cat: 5" in text
    assert "class_weight=balanced" in text
    assert "\n" not in text
    assert not unequal_classes({"dog": 61, "cat": 5}, "balanced")
    assert not unequal_classes({"dog": 25, "cat": 5}, "none")
    assert unequal_classes({"dog": 26, "cat": 5}, "none")


def test_the_hint_is_printed_once_and_stands_below_the_table_of_a_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary.say.cache_clear()
    for note in ("", "Classes are unequal.", "Classes are unequal."):
        summary.say(note)
    assert capsys.readouterr().out == "Note: Classes are unequal.\n"
    outcome = Outcome("demo-crnn", 0, None, 1.0, "no weights")
    summary.after_main([outcome], "Classes are unequal.")
    assert "Note: Classes are unequal.\n" in capsys.readouterr().out
    summary.log(SimpleNamespace(folder=tmp_path), [outcome], "Classes are unequal.")  # type: ignore[arg-type]
    assert "\nClasses are unequal.\n" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_a_run_on_unequal_classes_has_the_hint_among_its_notes(
    class_weight: str, store: str, tmp_path: Path, tiny_csv: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    summary.say.cache_clear()
    table = tiny_csv(tmp_path / "data", each=6)
    header, *rows = table.read_text().splitlines()
    large = [row for row in rows if "pitch0" not in row or "test" in row]
    table.write_text("\n".join([header, *large, *(row for row in rows if "-0.wav" in row and row not in large)]) + "\n")
    config = CrnnConfig(
        dataset="csv", data_dir=str(table), cache_dir=str(tmp_path / "cache"), epochs=1, class_weight=class_weight
    )
    registered = crnn_step.run(config)
    client = MlflowClient()
    version = client.get_model_version(registered.name, registered.version)
    data = Path(client.download_artifacts(version.run_id, "data/data.json", str(tmp_path)))
    notes = json.loads(data.read_text())["notes"]
    assert f"class\\_weight {class_weight}" in version.description
    told = "class_weight=balanced" in capsys.readouterr().out
    assert told == any("class_weight=balanced" in note for note in notes) == (class_weight == "none")
