"""Bounded standardisation and the linear SVM over a path of costs (paper sections 3.3 and 3.4).

The SVM is scikit-learn's ``LinearSVC``: L2 regularisation, squared hinge, one against the rest, and a bias that is the
weight of a constant feature and so is regularised too. Its scores are decision values, unbounded.

Where classes are balanced, every clip has the weight of its class, in all problems one against the rest: each class
counts alike there, also within the rest. These are ``LinearSVC``'s ``sample_weight``. Its ``class_weight="balanced"``
is another thing: LIBLINEAR leaves the rest of each problem at weight 1, so that large classes still rule the rest, and
a class of the mean size is weighted as if nothing was done.

``PathProblem`` is what training uses: out-of-fold decision values for any costs, and the model at the chosen one. What
is the same for all costs, standardisation and change of basis, is done once a fold; see ``newton``. Where there is a
GPU, and the matrices are worth the way there, they are solved on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file
from sklearn.preprocessing import StandardScaler
from threadpoolctl import ThreadpoolController

from soundstack.svm.newton import NewtonPath
from soundstack.utils.class_weights import balanced
from soundstack.utils.errors import ConfigError, DataError
from soundstack.utils.folds import fold_order

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
Floats = NDArray[np.float64]

CLIP = 10.0
_STORED = ("coef", "intercept", "mean", "scale", "clip")


@dataclass(frozen=True, eq=False)
class Standardiser:
    """Zero mean and unit deviation a feature, as found on the training clips, then bounded to +-``clip``.

    Many dimensions of deep features are nearly constant: a held-out clip that stirs one of them would be thousands of
    training deviations away and would rule every later sum (method 3.3). An infinite bound is the paper's plain form.
    """

    mean: Array  # (D,)
    scale: Array  # (D,), 1 where the training clips are all alike
    clip: float = CLIP

    @classmethod
    def fit(cls, x: Array, clip: float = CLIP) -> Standardiser:
        """Find mean and deviation of the features x (N, D).

        Raises:
            DataError: if x has no rows, or a value that is not finite.
        """
        scaler = StandardScaler().fit(_finite(x))
        return cls(scaler.mean_, scaler.scale_, clip)

    def transform(self, x: Array) -> Floats:
        """Standardise the features x (N, D)."""
        # Double precision, whatever x is: a nearly constant feature is a small difference of large numbers.
        standardised = np.subtract(x, self.mean, dtype=np.float64)
        standardised /= self.scale
        return np.clip(standardised, -self.clip, self.clip, out=standardised)


@dataclass(frozen=True, eq=False)
class LinearSvm:
    """A trained SVM with its standardiser: features in, decision values out."""

    coef: Array  # (K, D), for standardised features
    intercept: Array  # (K,)
    standardiser: Standardiser

    def decision(self, x: Array) -> Floats:
        """Decision values (N, K) of the features x (N, D)."""
        return self.standardiser.transform(x) @ self.coef.T + self.intercept


def save_svms(svms: Sequence[LinearSvm], path: Path) -> None:
    """Write SVMs into one safetensors file, each with its number before the names of its arrays."""
    arrays: dict[str, Array] = {}
    for number, svm in enumerate(svms):
        scaling = svm.standardiser
        values = (svm.coef, svm.intercept, scaling.mean, scaling.scale, np.array([scaling.clip], dtype=np.float64))
        arrays |= {f"{number}.{name}": np.ascontiguousarray(a) for name, a in zip(_STORED, values, strict=True)}
    save_file(arrays, path)


def load_svms(path: Path, count: int) -> list[LinearSvm]:
    """Read what :func:`save_svms` wrote."""
    arrays, svms = load_file(path), []
    for number in range(count):
        coef, intercept, mean, scale, clip = (arrays[f"{number}.{name}"] for name in _STORED)
        svms.append(LinearSvm(coef, intercept, Standardiser(mean, scale, float(clip[0]))))
    return svms


class SvmPath:
    """The SVMs of one training set, at any costs.

    Two classes are one problem, whose decision values are mirrored: (-d, d). A class that no training clip has, or
    that all have, has nothing to be told apart from: its decision value is the constant that is optimal for it.
    """

    def __init__(
        self,
        x: Array,
        y: ArrayLike,
        *,
        n_classes: int,
        weights: Floats | None = None,
        x_eval: Array | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Prepare the training features x (N, D) with class indices y (N,), and the features x_eval (M, D) to score.

        ``weights`` (N,) of the rows are positive, of mean 1; without them each counts 1. Features are taken as they
        are: standardise them first. It is worked on ``device`` by torch, or without one on the processor by numpy,
        which there is the faster; all that comes back is numpy's.
        """
        y = np.asarray(y)
        if y.shape != x.shape[:1] or not np.isin(y, np.arange(n_classes)).all():
            raise ValueError(f"y must give one class index below {n_classes} for each of the {len(x)} rows of x")
        signs = np.where(y[:, None] == np.arange(n_classes), 1.0, -1.0)  # (N, K)
        self._features = x.shape[1]
        self._total = len(x) if weights is None else weights.sum()
        self._balance = signs.mean(axis=0)  # (K,)
        mixed = np.flatnonzero(np.abs(self._balance) < 1)
        self._mirrored = n_classes == 2 and mixed.size == 2
        self._trained = mixed[1:] if self._mirrored else mixed
        self._threads = 1 if _small(x) else None
        self._device = device
        design, targets = self._placed(_with_constant(x)), self._placed(signs[:, self._trained])
        placed = None if weights is None else self._placed(weights)
        with _blas().limit(limits=self._threads, user_api="blas"):
            self._path = NewtonPath(design, targets, placed)
            self._eval = self._path.rotate(self._placed(_with_constant(x[:0] if x_eval is None else x_eval)))

    def coefficients(self, cost: float) -> tuple[Floats, Floats]:
        """Coefficients (K, D) and intercepts (K,) at ``cost``.

        Raises:
            ConfigError: if the cost is not positive.
        """
        weights = np.zeros((self._features + 1, len(self._balance)))
        weights[-1] = self._constant(cost)
        with _blas().limit(limits=self._threads, user_api="blas"):
            self._fill(weights, self._path.unrotate(self._path.solve(cost)))
        return np.ascontiguousarray(weights[:-1].T), weights[-1].copy()

    def decisions(self, cost: float) -> Floats:
        """Decision values (M, K) of x_eval at ``cost``.

        Raises:
            ConfigError: if the cost is not positive.
        """
        scores = np.tile(self._constant(cost), (len(self._eval), 1))
        with _blas().limit(limits=self._threads, user_api="blas"):
            self._fill(scores, self._eval @ self._path.solve(cost))
        return scores

    def _placed(self, array: Floats) -> Any:
        """The array where it is worked on."""
        if self._device is None:
            return array
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _constant(self, cost: float) -> Floats:
        """Decision values (K,) of classes without a counterpart: of b^2 / 2 + C N (1 - |b|)^2 the minimum.

        N is the sum of all weights.
        """
        if not 0 < cost < np.inf:
            raise ConfigError(f"The SVM's complexity C must be a positive number; it is {cost}.")
        return np.sign(self._balance) * (2 * cost * self._total) / (1 + 2 * cost * self._total)

    def _fill(self, columns: Floats, trained: Any) -> None:
        columns[:, self._trained] = trained if self._device is None else trained.cpu().numpy()
        if self._mirrored:
            columns[:, 0] = -columns[:, 1]


class PathProblem:
    """Cross-validation and refit over any costs, asked for at once or one by one.

    A fold is standardised on its training rows alone and prepared when it is first needed, then kept, so that a
    further cost only costs its own solution.
    """

    def __init__(
        self,
        x: Array,
        y: ArrayLike,
        folds: ArrayLike,
        *,
        n_classes: int,
        clip: float = CLIP,
        balance: bool = False,
        device: torch.device | None = None,
    ) -> None:
        """Take the development set: features x (N, D), class indices y (N,), and the fold of each row (N,).

        With ``balance`` all classes count alike (:func:`~soundstack.utils.class_weights.balanced`), as counted among
        the training rows of each SVM; its standardiser remains that of the rows as they are.
        A GPU as ``device`` takes the folds that are large enough to gain by it and small enough for its memory.

        Raises:
            DataError: if there are fewer than two folds, or a value of x is not finite.
        """
        self._x, self._y, self._folds = _finite(x), np.asarray(y), np.asarray(folds)
        self.folds = fold_order(self._folds.tolist())
        if len(self.folds) < 2:
            raise DataError(f"Cross-validation needs at least two folds; the features name only {self.folds}.")
        self._n_classes, self._clip, self._balance, self._device = n_classes, clip, balance, device
        self._prepared: dict[Any, tuple[Standardiser, SvmPath]] = {}

    def out_of_fold_decisions(self, costs: Sequence[float]) -> Floats:
        """Out-of-fold decision values (len(costs), N, K): every row is scored by the SVM that did not see its fold.

        Raises:
            ConfigError: if a cost cannot be used.
        """
        decisions = np.empty((len(costs), len(self._y), self._n_classes))

        def score(fold: Any) -> None:
            _, path = self._prepare(fold)
            for index in np.argsort(costs, kind="stable"):  # ascending: each start is then close to its solution
                decisions[index, self._folds == fold] = path.decisions(costs[index])

        # Folds run side by side, each on its share of the threads: matrix products that wait for a second thread every
        # few milliseconds are slow, and many times slower when the machine has other work.
        pools = (pool["num_threads"] for pool in _blas().info() if pool["user_api"] == "blas")
        threads = 1 if _small(self._x) else max(pools, default=1)
        shared = _accelerator(self._device, self._x, self._n_classes)
        workers = 1 if shared else min(len(self.folds), threads)
        with _blas().limit(limits=threads // workers, user_api="blas"), ThreadPoolExecutor(workers) as pool:
            list(pool.map(score, self.folds))
        return decisions

    def fold_models(self, cost: float) -> list[LinearSvm]:
        """The SVMs behind ``out_of_fold_decisions``, one a fold."""
        return [self._model(fold, cost) for fold in self.folds]

    def refit(self, cost: float) -> LinearSvm:
        """The SVM of the whole development set."""
        return self._model(None, cost)

    def _model(self, fold: Any, cost: float) -> LinearSvm:
        standardiser, path = self._prepare(fold)
        return LinearSvm(*path.coefficients(cost), standardiser)

    def _prepare(self, fold: Any) -> tuple[Standardiser, SvmPath]:
        """Standardiser and path of all rows but the fold's; of all rows if ``fold`` is None."""
        if fold in self._prepared:
            return self._prepared[fold]
        held_out = np.zeros(len(self._y), dtype=bool) if fold is None else self._folds == fold
        standardiser = Standardiser.fit(self._x[~held_out], self._clip)
        train, y = standardiser.transform(self._x[~held_out]), self._y[~held_out]
        path = SvmPath(
            train,
            y,
            n_classes=self._n_classes,
            weights=balanced(y, self._n_classes)[y] if self._balance else None,
            x_eval=standardiser.transform(self._x[held_out]),
            device=_accelerator(self._device, train, self._n_classes),
        )
        self._prepared[fold] = standardiser, path
        return standardiser, path


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()  # finding the libraries takes longer than limiting them


def _small(x: Array) -> bool:
    """Are the matrix products of training features x (N, D) too short for a second thread to be worth its wait?"""
    return len(x) * min(x.shape) <= 512**2


def _accelerator(device: torch.device | None, x: Array, classes: int) -> torch.device | None:
    """The GPU, if there is one and it is the place for the SVMs of training features x (N, D); else None."""
    if device is None or device.type == "cpu" or _small(x):
        return None
    from soundstack.utils import devices

    less = min(x.shape)
    # The design, its projection in two precisions, eigenvectors with their workspace, and some scores of all classes.
    needed = 8 * (2.5 * x.size + 5 * less**2 + 10 * len(x) * classes)
    return device if needed < devices.free_memory(device) else None


def _with_constant(x: Array) -> Floats:
    """Append the constant feature whose weight is the bias."""
    design = np.empty((len(x), x.shape[1] + 1))
    design[:, :-1], design[:, -1] = x, 1
    return design


def _finite(x: Array) -> Array:
    if not len(x):
        raise DataError("There are no clips to train on: the features have no rows.")
    if not (finite := np.isfinite(x)).all():
        row, dimension = np.argwhere(~finite)[0]
        raise DataError(
            f"Features must be finite numbers; row {row} of {len(x)} has {x[row, dimension]} in dimension {dimension}. "
            "Remove the cached features and extract them again."
        )
    return x
