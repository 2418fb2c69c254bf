"""The SVM path against scikit-learn's LinearSVC, at every shape and in every corner."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from soundstack.svm import linear_svm as svm
from soundstack.svm.linear_svm import CLIP, PathProblem, Standardiser, SvmPath, load_svms, save_svms
from soundstack.svm.newton import TOLERANCE, NewtonPath, _line_search, _objective, _solve_ridge
from soundstack.utils.errors import ConfigError, DataError
from svm_making import fit_svm

Array = NDArray[Any]

PATH = [10.0**power for power in range(-9, 1)]


def features(n: int, d: int, classes: int, *, seed: int = 0, spread: float = 1.0) -> tuple[Array, Array]:
    """Rectified, correlated features of overlapping classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    rank = min(12, d)
    latent = rng.normal(size=(classes, rank))[y] + spread * rng.normal(size=(n, rank))
    x = np.maximum(latent @ rng.normal(size=(rank, d)) + 0.2 * rng.normal(size=(n, d)), 0)
    return x.astype(np.float32), y


def standardised(n: int, d: int, classes: int, *, seed: int = 0, spread: float = 1.0) -> tuple[Array, Array]:
    x, y = features(n, d, classes, seed=seed, spread=spread)
    return Standardiser.fit(x).transform(x), y


def reference(x: Array, y: Array, cost: float) -> tuple[Array, Array]:
    """LinearSVC, driven to where its own tolerance no longer shows."""
    svm = LinearSVC(C=cost, dual=True, tol=1e-10, max_iter=500_000, random_state=0).fit(x, y)
    return svm.coef_, svm.intercept_


class Point(NamedTuple):
    """The SVM at one cost: coefficients (K, D), intercepts (K,), and decision values (M, K) of x_eval."""

    cost: float
    coef: Array
    intercept: Array
    decisions: Array


def fit_path(x: Array, y: Array, costs: list[float], **options: Any) -> list[Point]:
    path = SvmPath(x, y, **options)
    return [Point(cost, *path.coefficients(cost), path.decisions(cost)) for cost in costs]


def objective(coef: Array, intercept: float, x: Array, sign: Array, cost: float) -> float:
    """P of one class against the rest, written out as in LIBLINEAR's documentation."""
    slack = np.maximum(0, 1 - sign * (x @ coef + intercept))
    return 0.5 * (coef @ coef + intercept**2) + cost * (slack**2).sum()


@pytest.mark.parametrize(("n", "d"), [(40, 120), (80, 81), (80, 79), (300, 12)])
@pytest.mark.parametrize("cost", [1e-9, 1e-4, 1e-2, 1.0])
def test_the_solution_is_that_of_linear_svc(n: int, d: int, cost: float) -> None:
    x, y = standardised(n, d, 4)
    (point,) = fit_path(x, y, [cost], n_classes=4)
    coef, intercept = reference(x, y, cost)
    size = np.abs(coef).max()
    np.testing.assert_allclose(point.coef, coef, rtol=1e-4, atol=1e-4 * size)
    np.testing.assert_allclose(point.intercept, intercept, rtol=1e-4, atol=1e-4 * size)


@pytest.mark.parametrize(("n", "d"), [(60, 150), (400, 20)])
def test_the_decision_values_along_the_whole_path_are_those_of_linear_svc(n: int, d: int) -> None:
    x, y = standardised(n, d, 3, spread=2.0)
    held_out = standardised(25, d, 3, seed=1)[0]
    for point in fit_path(x, y, PATH, n_classes=3, x_eval=held_out):
        coef, intercept = reference(x, y, point.cost)
        expected = held_out @ coef.T + intercept
        np.testing.assert_allclose(point.decisions, expected, atol=2e-4 * np.abs(expected).max())


def test_coefficients_and_decision_values_agree() -> None:
    for n, d in ((30, 70), (90, 20)):
        x, y = standardised(n, d, 3)
        for point in fit_path(x, y, [1e-5, 1e-1], n_classes=3, x_eval=x):
            np.testing.assert_allclose(point.decisions, x @ point.coef.T + point.intercept, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(4, 70),
    d=st.integers(1, 90),
    classes=st.integers(2, 5),
    power=st.floats(-9, 1),
    spread=st.floats(0.1, 5),
    seed=st.integers(0, 2**16),
)
def test_the_objective_is_never_above_that_of_linear_svc(
    n: int, d: int, classes: int, power: float, spread: float, seed: int
) -> None:
    x, y = standardised(n, d, classes, seed=seed, spread=spread)
    cost = 10**power
    (point,) = fit_path(x, y, [cost], n_classes=classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for k in range(classes):
            if not 0 < (y == k).sum() < n:
                continue
            sign = np.where(y == k, 1, -1)
            other = LinearSVC(C=cost, dual=True, random_state=0).fit(x, sign)
            bound = objective(other.coef_[0], other.intercept_[0], x, sign, cost)
            assert objective(point.coef[k], point.intercept[k], x, sign, cost) <= bound * (1 + 1e-6)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 60), d=st.integers(1, 60), power=st.floats(-9, 2), seed=st.integers(0, 2**16))
def test_the_certificate_bounds_the_distance_from_the_optimum(n: int, d: int, power: float, seed: int) -> None:
    """The dual objective, computed apart from the solver, is a lower bound of P; nothing lies far above it."""
    x, y = standardised(n, d, 2, seed=seed)
    cost, sign = 10**power, np.where(y == 1, 1.0, -1.0)
    path = NewtonPath(x, sign[:, None])
    weights = path.unrotate(path.solve(cost))[:, 0]
    alpha = 2 * cost * np.maximum(0, 1 - sign * (x @ weights))
    dual = alpha.sum() - 0.5 * np.sum((x.T @ (alpha * sign)) ** 2) - np.sum(alpha**2) / (4 * cost)
    primal = objective(weights, 0.0, x, sign, cost)
    assert dual <= primal * (1 + 1e-9)
    assert primal - dual <= 1e-6 * primal
    assert path.gaps[cost].max() <= TOLERANCE


@pytest.mark.parametrize("pace", [0.01, 1e9])
@pytest.mark.parametrize(("n", "d"), [(50, 90), (300, 40)])
def test_direct_steps_and_conjugate_gradients_lead_to_the_same_solution(
    pace: float, n: int, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = standardised(n, d, 3)
    expected = [reference(x, y, cost)[0] for cost in (1e-3, 1.0)]
    monkeypatch.setattr("soundstack.svm.newton._FEW", -1)
    monkeypatch.setattr("soundstack.svm.newton._DIRECT_PACE", pace)  # all by conjugate gradients, or all directly
    if pace < 1:
        monkeypatch.setattr("soundstack.svm.newton._solve_ridge", None)
    else:
        monkeypatch.setattr(NewtonPath, "_conjugate_gradients", None)
    for point, coef in zip(fit_path(x, y, [1e-3, 1.0], n_classes=3), expected, strict=True):
        np.testing.assert_allclose(point.coef, coef, atol=1e-4 * np.abs(coef).max())


def test_a_class_whose_conjugate_gradients_take_too_long_is_solved_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = standardised(300, 40, 3)
    expected = fit_path(x, y, [1.0], n_classes=3)[0].coef
    monkeypatch.setattr("soundstack.svm.newton._FEW", -1)
    monkeypatch.setattr("soundstack.svm.newton._SOON", 0)
    monkeypatch.setattr("soundstack.svm.newton._DIRECT_PACE", 20)  # patience for an iteration or two, then give up
    direct = Mock(side_effect=_solve_ridge)
    monkeypatch.setattr("soundstack.svm.newton._solve_ridge", direct)
    np.testing.assert_allclose(fit_path(x, y, [1.0], n_classes=3)[0].coef, expected, atol=1e-4 * np.abs(expected).max())
    assert direct.called


@given(n=st.integers(2, 40), d=st.integers(1, 40), power=st.floats(-6, 2), seed=st.integers(0, 2**16))
def test_the_step_past_few_clips_is_that_of_the_whole_hessian(n: int, d: int, power: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path, cost = NewtonPath(rng.normal(size=(n, d)), np.ones((n, 3))), 10**power
    active, gradient = rng.random((n, 3)) < [0.5, 0.9, 1.0], rng.normal(size=(path._z.shape[1], 3))
    found = path._exact_step(cost, active, gradient)
    for k in range(3):
        within = path._z[active[:, k]]
        hessian = np.eye(len(gradient)) + 2 * cost * within.T @ within
        np.testing.assert_allclose(hessian @ found[:, k], -gradient[:, k], atol=1e-6 * np.linalg.norm(gradient[:, k]))


@given(seed=st.integers(0, 2**16), power=st.floats(-4, 2), stretch=st.floats(-2, 2))
def test_the_line_search_finds_the_lowest_point_along_a_step(seed: int, power: float, stretch: float) -> None:
    """Steps far too long and far too short, as a Newton step may be where the clips within the margin change."""
    rng = np.random.default_rng(seed)
    x, w, cost = rng.normal(size=(30, 5)), rng.normal(size=(5, 3)), 10**power
    margins = 1 - x @ w
    step = 10**stretch * (2 * cost * x.T @ np.maximum(margins, 0) - w)  # downhill
    gain = x @ step
    length = _line_search(cost, w, step, margins, gain)
    lowest = _objective(w + length * step, margins - length * gain, cost)
    for other in (0.5, 0.9, 1.1, 2.0):
        there = _objective(w + other * length * step, margins - other * length * gain, cost)
        assert (lowest <= there * (1 + 1e-9)).all()


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 60), d=st.integers(1, 60), classes=st.integers(2, 5), seed=st.integers(0, 2**16))
def test_torch_solves_what_numpy_solves(n: int, d: int, classes: int, seed: int) -> None:
    """What a GPU computes, computed by the processor: the same code on tensors."""
    x, y = standardised(n, d, classes, seed=seed)
    paths = [SvmPath(x, y, n_classes=classes, x_eval=x, device=device) for device in (None, torch.device("cpu"))]
    for cost in (1e-9, 1e-3, 1.0):
        ours, other = (path.decisions(cost) for path in paths)
        assert isinstance(other, np.ndarray)
        np.testing.assert_allclose(other, ours, atol=5e-4 * max(1, np.abs(ours).max()))
        for mine, theirs in zip(paths[0].coefficients(cost), paths[1].coefficients(cost), strict=True):
            np.testing.assert_allclose(theirs, mine, atol=5e-4 * max(1, np.abs(mine).max()))
    assert max(float(gaps.max()) for gaps in paths[1]._path.gaps.values()) <= TOLERANCE  # type: ignore[union-attr]


def test_a_gpu_takes_folds_that_are_large_enough_and_fit_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, free = torch.device("cuda"), Mock(return_value=2**30)
    monkeypatch.setattr("soundstack.utils.devices.free_memory", free)
    assert svm._accelerator(gpu, np.empty((2000, 1000)), 50) == gpu
    assert svm._accelerator(gpu, np.empty((200, 100)), 50) is None  # the way there would take longer
    assert svm._accelerator(gpu, np.empty((20_000, 10_000)), 50) is None
    for device in (None, torch.device("cpu")):
        assert svm._accelerator(device, np.empty((2000, 1000)), 50) is None


def test_cross_validation_goes_to_the_device_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(90, 130, 4)
    folds = np.arange(90) % 3
    plain = PathProblem(x, y, folds, n_classes=4)
    monkeypatch.setattr(svm, "_accelerator", lambda device, x, classes: device)
    solver = Mock(wraps=NewtonPath)
    monkeypatch.setattr(svm, "NewtonPath", solver)
    there = PathProblem(x, y, folds, n_classes=4, device=torch.device("cpu"))
    np.testing.assert_allclose(
        there.out_of_fold_decisions([1e-5, 1e-1]), plain.out_of_fold_decisions([1e-5, 1e-1]), atol=5e-4
    )
    np.testing.assert_allclose(there.refit(1e-3).coef, plain.refit(1e-3).coef, atol=1e-6)
    assert sum(isinstance(call.args[0], torch.Tensor) for call in solver.call_args_list) == 4  # three folds, the refit
    assert there.refit(1e-3).coef.flags.c_contiguous


def test_the_order_in_which_costs_are_asked_does_not_matter() -> None:
    x, y = standardised(60, 90, 4)
    ascending = SvmPath(x, y, n_classes=4, x_eval=x)
    shuffled = SvmPath(x, y, n_classes=4, x_eval=x)
    costs = [1e-5, 1e-3, 1e-2, 1.0]
    expected = {cost: ascending.decisions(cost) for cost in costs}
    for cost in (1e-2, 1.0, 1e-5, 1e-3):
        np.testing.assert_allclose(shuffled.decisions(cost), expected[cost], atol=5e-4)


def test_a_second_run_gives_the_very_same_numbers() -> None:
    x, y = features(90, 130, 4)
    folds = np.arange(90) % 3
    first, second = (PathProblem(x, y, folds, n_classes=4).out_of_fold_decisions(PATH) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_folds_side_by_side_give_what_one_after_the_other_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundstack.svm.linear_svm._small", lambda x: False)
    x, y = features(90, 130, 4)
    folds = np.arange(90) % 3
    with threadpool_limits(3, user_api="blas"):
        together = PathProblem(x, y, folds, n_classes=4).out_of_fold_decisions(PATH)
    with threadpool_limits(1, user_api="blas"):
        alone = PathProblem(x, y, folds, n_classes=4).out_of_fold_decisions(PATH)
    np.testing.assert_array_equal(together, alone)


def test_two_classes_have_mirrored_decision_values() -> None:
    x, y = standardised(50, 20, 2)
    (point,) = fit_path(x, y, [1e-2], n_classes=2, x_eval=x)
    expected = LinearSVC(C=1e-2, dual=True, tol=1e-8, max_iter=100_000).fit(x, y).decision_function(x)
    np.testing.assert_allclose(point.decisions[:, 1], expected, atol=2e-3)
    np.testing.assert_array_equal(point.decisions[:, 0], -point.decisions[:, 1])
    np.testing.assert_array_equal(point.coef[0], -point.coef[1])
    np.testing.assert_array_equal(point.intercept[0], -point.intercept[1])


@pytest.mark.parametrize("cost", [1e-9, 1.0])
def test_a_class_absent_from_training_gets_the_constant_of_an_all_negative_problem(cost: float) -> None:
    x, y = standardised(60, 25, 3)
    y = np.where(y == 2, 3, y)  # four classes, none of the third
    (point,) = fit_path(x, y, [cost], n_classes=4, x_eval=x)
    # Standardised features sum to zero, so that the weights' gradient vanishes and the bias alone is left.
    constants = np.linspace(-1, 0, 200_001)
    best = constants[np.argmin(0.5 * constants**2 + cost * 60 * (1 + constants) ** 2)]
    np.testing.assert_allclose(point.decisions[:, 2], best, atol=1e-5)
    assert not point.coef[2].any()
    np.testing.assert_allclose(point.intercept[2], best, atol=1e-5)
    present = fit_path(x, np.where(y == 3, 2, y), [cost], n_classes=3, x_eval=x)[0]
    np.testing.assert_array_equal(point.decisions[:, [0, 1, 3]], present.decisions)


def test_a_single_class_in_training_is_always_chosen() -> None:
    x, _ = standardised(20, 30, 2)
    for classes in (2, 3):
        (point,) = fit_path(x, np.ones(20, dtype=int), [1e-2], n_classes=classes, x_eval=x)
        assert (point.decisions.argmax(axis=1) == 1).all()
        assert not point.coef.any()


@pytest.mark.parametrize(("n", "d"), [(30, 60), (90, 20)])
def test_duplicated_and_constant_columns_and_repeated_clips_do_no_harm(n: int, d: int) -> None:
    x, y = features(n, d, 3)
    x = np.concatenate([x, x[:, :5], np.full((n, 2), 7.0, np.float32)], axis=1)
    x, y = np.concatenate([x, x[:9]]), np.concatenate([y, y[:9]])
    x = Standardiser.fit(x).transform(x)
    for point in fit_path(x, y, [1e-9, 1e-3, 1.0], n_classes=3):
        coef, intercept = reference(x, y, point.cost)
        np.testing.assert_allclose(point.coef, coef, atol=1e-4 * np.abs(coef).max())
        np.testing.assert_allclose(point.intercept, intercept, atol=1e-4 * np.abs(coef).max())
        np.testing.assert_allclose(point.coef[:, :5], point.coef[:, d : d + 5], atol=1e-12)
        # On some processors the rounding of the matrix product leaves a trace.
        np.testing.assert_allclose(point.coef[:, -2:], 0, atol=1e-15 * np.abs(coef).max())


def test_an_unsolved_cost_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundstack.svm.newton._NEWTON_STEPS", 1)
    x, y = standardised(60, 20, 3)
    with pytest.warns(ConvergenceWarning, match="C = 1 is solved to a relative duality gap"):
        fit_path(x, y, [1.0], n_classes=3)


def test_scaling_is_that_of_standard_scaler() -> None:
    x, _ = features(50, 30, 3)
    x[:, 4] = 3.25
    standardiser = Standardiser.fit(x, clip=np.inf)
    np.testing.assert_allclose(standardiser.transform(x), StandardScaler().fit_transform(x.astype(np.float64)))
    assert standardiser.scale[4] == 1


def test_a_nearly_constant_feature_cannot_leave_the_bound() -> None:
    rng = np.random.default_rng(0)
    train, held_out = rng.normal(size=(200, 3)), rng.normal(size=(1, 3))
    train[:, 1] = 0
    train[7, 1] = 1e-3
    held_out[0, 1] = 1.0
    plain = Standardiser.fit(train, clip=np.inf).transform(held_out)
    assert plain[0, 1] > 10_000  # what the paper's form makes of a unit that one held-out clip stirs
    bounded = Standardiser.fit(train).transform(held_out)
    assert bounded[0, 1] == CLIP
    np.testing.assert_array_equal(bounded[0, [0, 2]], plain[0, [0, 2]])
    assert Standardiser.fit(train, clip=2.5).transform(-held_out)[0, 1] == -2.5


def test_held_out_clips_change_neither_scaler_nor_model() -> None:
    x, y = features(80, 30, 3)
    folds = np.array(["1", "2", "3", "4"])[np.arange(80) % 4]
    spoilt, swapped = x.copy(), y.copy()
    spoilt[folds == "2"] = spoilt[folds == "2"] * 50 + 1000
    swapped[folds == "2"] = 0
    clean_problem = PathProblem(x, y, folds, n_classes=3)
    spoilt_problem = PathProblem(spoilt, swapped, folds, n_classes=3)
    clean, other = clean_problem.fold_models(1e-3), spoilt_problem.fold_models(1e-3)
    for one, two in ((clean[1], other[1]), (clean[1].standardiser, other[1].standardiser)):
        for name, value in vars(one).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, vars(two)[name])
    assert not np.allclose(clean[0].coef, other[0].coef)  # the folds that trained on them do change


def test_every_row_is_scored_by_the_model_that_did_not_see_its_fold() -> None:
    x, y = features(60, 80, 3)
    folds = np.arange(60) // 20
    problem = PathProblem(x, y, folds, n_classes=3)
    (decisions,) = problem.out_of_fold_decisions([1e-3])
    for fold in range(3):
        held_out = folds == fold
        alone = fit_svm(x[~held_out], y[~held_out], 1e-3, n_classes=3)
        np.testing.assert_allclose(decisions[held_out], alone.decision(x[held_out]), atol=1e-8)
        np.testing.assert_allclose(decisions[held_out], problem.fold_models(1e-3)[fold].decision(x[held_out]))


def test_costs_come_back_in_the_order_asked_and_may_be_asked_later(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(60, 80, 3)
    folds = np.arange(60) % 3
    problem = PathProblem(x, y, folds, n_classes=3)
    both = problem.out_of_fold_decisions([1e-1, 1e-6])
    assert both.shape == (2, 60, 3)
    monkeypatch.setattr(Standardiser, "fit", None)  # a later cost must not prepare anything again
    np.testing.assert_array_equal(problem.out_of_fold_decisions([1e-6])[0], both[1])
    assert not np.allclose(problem.out_of_fold_decisions([1e-3])[0], both[0])


def test_refit_is_the_model_of_all_development_clips() -> None:
    x, y = features(60, 80, 3)
    refitted = PathProblem(x, y, np.arange(60) % 3, n_classes=3).refit(1e-3)
    alone = fit_svm(x, y, 1e-3, n_classes=3)
    np.testing.assert_array_equal(refitted.coef, alone.coef)
    np.testing.assert_array_equal(refitted.standardiser.mean, x.astype(np.float64).mean(axis=0))


@pytest.mark.parametrize("clip", [np.inf, 4.0])
def test_a_model_survives_storage_to_the_last_bit(clip: float, tmp_path: Path) -> None:
    x, y = features(40, 15, 3)
    svm = fit_svm(x, y, 1e-2, n_classes=3, clip=clip)
    save_svms([svm], tmp_path / "svm.safetensors")
    (restored,) = load_svms(tmp_path / "svm.safetensors", 1)
    assert restored.standardiser.clip == clip
    np.testing.assert_array_equal(restored.decision(3 * x), svm.decision(3 * x))


def test_features_that_are_not_finite_are_refused_with_their_place() -> None:
    x, y = features(20, 5, 2)
    x[3, 2] = np.nan
    with pytest.raises(DataError, match="row 3 of 20 has nan in dimension 2"):
        PathProblem(x, y, np.arange(20) % 2, n_classes=2)


def test_what_cannot_be_trained_is_refused() -> None:
    x, y = features(20, 5, 2)
    folds = np.arange(20) % 2
    with pytest.raises(DataError, match="at least two folds"):
        PathProblem(x, y, np.ones(20), n_classes=2)
    with pytest.raises(DataError, match="no rows"):
        Standardiser.fit(x[:0])
    for cost in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="C must be a positive number"):
            PathProblem(x, y, folds, n_classes=2).out_of_fold_decisions([cost])
    with pytest.raises(ValueError, match="class index below 2"):
        fit_path(x, y + 1, [1.0], n_classes=2)
