"""Bounded standardisation and the linear SVM over a path of costs (paper sections 3.3 and 3.4).

The SVM is scikit-learn's ``LinearSVC``: L2 regularisation, squared hinge, one against the rest, and a bias that is the
weight of a constant feature and so is regularised too. Its scores are decision values, unbounded.

``PathProblem`` is what training uses: out-of-fold decision values for any costs, and the model at the chosen one. What
is the same for all costs, standardisation and change of basis, is done once a fold; see ``svm_solver``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.preprocessing import StandardScaler

from soundstack.errors import ConfigError, DataError
from soundstack.svm_solver import LiblinearPath, NewtonPath

Array = NDArray[Any]
Floats = NDArray[np.float64]
Solver = Literal["auto", "newton", "liblinear"]

CLIP = 10.0


@dataclass(frozen=True, eq=False)
class Standardiser:
    """Zero mean and unit deviation a feature, as found on the training clips, then bounded to +-``clip``.

    Many dimensions of deep features are nearly constant: a held-out clip that stirs one of them would be thousands of
    training deviations away and would rule every later sum (method 3.3). ``clip=None`` is the paper's plain form.
    """

    mean: Array  # (D,)
    scale: Array  # (D,), 1 where the training clips are all alike
    clip: float | None = CLIP

    @classmethod
    def fit(cls, x: Array, clip: float | None = CLIP) -> Standardiser:
        """Find mean and deviation of the features x (N, D).

        Raises:
            DataError: if x has no rows, or a value that is not finite.
            ConfigError: if ``clip`` is not positive.
        """
        if clip is not None and not clip > 0:
            raise ConfigError(f"Standardised features cannot be clipped to +-{clip}: give a positive bound, or none.")
        scaler = StandardScaler().fit(_finite(x))
        return cls(scaler.mean_, scaler.scale_, clip)

    def transform(self, x: Array) -> Floats:
        """Standardise the features x (N, D)."""
        # Double precision, whatever x is: a nearly constant feature is a small difference of large numbers.
        standardised = np.subtract(x, self.mean, dtype=np.float64)
        standardised /= self.scale
        if self.clip is not None:
            np.clip(standardised, -self.clip, self.clip, out=standardised)
        return standardised

    def to_arrays(self) -> dict[str, Array]:
        """The standardiser as named arrays; no bound is stored as infinity."""
        return {"mean": self.mean, "scale": self.scale, "clip": np.array([np.inf if self.clip is None else self.clip])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Standardiser:
        """The inverse of ``to_arrays``."""
        clip = float(arrays["clip"][0])
        return cls(arrays["mean"], arrays["scale"], clip if np.isfinite(clip) else None)


@dataclass(frozen=True, eq=False)
class LinearSvm:
    """A trained SVM with its standardiser: features in, decision values out."""

    coef: Array  # (K, D), for standardised features
    intercept: Array  # (K,)
    standardiser: Standardiser

    @classmethod
    def fit(
        cls,
        x: Array,
        y: ArrayLike,
        cost: float,
        *,
        n_classes: int,
        clip: float | None = CLIP,
        solver: Solver = "auto",
        seed: int = 0,
    ) -> LinearSvm:
        """Standardise the features x (N, D) and train on the class indices y (N,).

        Raises:
            DataError: if x has no rows, or a value that is not finite.
            ConfigError: if cost, clip or solver cannot be used.
        """
        standardiser = Standardiser.fit(x, clip)
        path = SvmPath(standardiser.transform(x), y, n_classes=n_classes, solver=solver, seed=seed)
        return cls(*path.coefficients(cost), standardiser)

    def decision(self, x: Array) -> Floats:
        """Decision values (N, K) of the features x (N, D)."""
        return self.standardiser.transform(x) @ self.coef.T + self.intercept

    def to_arrays(self) -> dict[str, Array]:
        """Model and standardiser as named arrays."""
        return {"coef": self.coef, "intercept": self.intercept, **self.standardiser.to_arrays()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> LinearSvm:
        """The inverse of ``to_arrays``."""
        return cls(arrays["coef"], arrays["intercept"], Standardiser.from_arrays(arrays))


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
        x_eval: Array | None = None,
        solver: Solver = "auto",
        seed: int = 0,
    ) -> None:
        """Prepare the training features x (N, D) with class indices y (N,), and the features x_eval (M, D) to score.

        Features are taken as they are: standardise them first. ``"auto"`` is Newton's method, which was the faster at
        every size measured (``benchmarks/svm_path.py``); ``seed`` only matters to LIBLINEAR.

        Raises:
            ConfigError: if there is no such solver.
        """
        if solver not in get_args(Solver):
            raise ConfigError(f"Unknown SVM solver {solver!r}: choose one of {', '.join(get_args(Solver))}.")
        y = np.asarray(y)
        if y.shape != x.shape[:1] or not np.isin(y, np.arange(n_classes)).all():
            raise ValueError(f"y must give one class index below {n_classes} for each of the {len(x)} rows of x")
        self._sign = np.where(y[:, None] == np.arange(n_classes), 1.0, -1.0)  # (N, K)
        mixed = np.abs(self._sign.mean(axis=0)) < 1
        self._mirrored = n_classes == 2 and bool(mixed.all())
        self._trained = np.flatnonzero(mixed)[-1:] if self._mirrored else np.flatnonzero(mixed)
        self._path: NewtonPath | LiblinearPath | None = None
        self._eval = np.empty((0 if x_eval is None else len(x_eval), 0))
        if not self._trained.size:
            return
        design, targets = _with_constant(x), self._sign[:, self._trained]
        if solver == "liblinear":
            self._path = LiblinearPath(design, targets, seed=seed)
        else:
            self._path = NewtonPath(design, targets)
        if x_eval is not None:
            self._eval = self._path.rotate(_with_constant(x_eval))
        self._features = x.shape[1]

