"""Squared-hinge linear SVMs of many classes over many costs, solved together.

For every column y of the targets (one class against the rest) and a cost C, the weights w minimise

    P(w) = 1/2 |w|^2 + C * sum_i max(0, 1 - y_i w.x_i)^2

which is the problem of LIBLINEAR's ``-s 1`` and ``-s 2`` and of scikit-learn's ``LinearSVC``; a bias is a constant
column of the design matrix. LIBLINEAR walks through all clips anew for every class, cost and sweep. Here all of them
share one change of basis and then cost a few matrix products:

1. *Principal axes.* One eigendecomposition of the smaller Gram matrix turns the design matrix X (n, d) into Z = X V
   (n, r) with Z'Z = diag(lambda), V'V = 1, r <= min(n, d). Norms and scores do not change, and neither does P.
2. *Ridge start.* Where every clip lies within the margin, as it does for small C, the solution is that of ridge
   regression: a division by 1 + 2 C lambda. Nothing is left to iterate.
3. *Newton.* Otherwise P is piecewise quadratic: its Hessian is 1 + 2 C Z_A' Z_A, with A the clips within the margin
   (Mangasarian 2002; Keerthi & DeCoste 2005; Chapelle 2007). The steps of all classes come from one block of
   conjugate gradients, which needs little precision (float32) and few iterations, because the principal axes give its
   preconditioner, 1 + 2 C (|A| / n) lambda, for nothing. A class for which a direct solution over A is quicker, as
   happens at large C, gets that instead. An exact line search makes every step safe.
4. *Certificate.* alpha = 2 C max(0, 1 - y w.x) is feasible for the dual problem and leaves a duality gap of exactly
   1/2 |grad P(w)|^2. A class is solved when that is below ``TOLERANCE`` of P.

No library at hand shares work between classes and costs; ``benchmarks/svm_path.py`` shows what that is worth.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

Floats = NDArray[np.float64]

TOLERANCE = 1e-8  # certified duality gap, relative to P
_NEWTON_STEPS = 100
_FORCING = 0.1  # residual at which conjugate gradients stop, relative to the gradient: more is wasted far from the end
_DIRECT_PACE = 3  # operations of a direct solve for one of conjugate gradients, whose narrow blocks are slow
_SOON = 4  # iterations for which conjugate gradients are not worth a try
_LINE_SLOPE = 1e-3  # slope left by the line search, relative to the slope at its start


class NewtonPath:
    """The problems of one design matrix (n, d) and its targets (n, K), each +1 or -1, by Newton's method.

    Solutions are given in principal axes: ``rotate(rows) @ solve(cost)`` are the scores of ``rows``, and
    ``unrotate(solve(cost))`` the weights (d, K). Solved costs are kept: each further one starts from its neighbour, so
    that ascending costs are the quickest, and every order gives the same weights within the certified gap.
    """

    def __init__(self, design: Floats, targets: Floats) -> None:
        self._targets = targets
        wide = design.shape[0] <= design.shape[1]
        gram = design @ design.T if wide else design.T @ design
        spectrum, vectors = np.linalg.eigh(gram)
        real = spectrum > 1e-14 * spectrum[-1]  # the others are rounding: they change P by less than C times as much
        self._spectrum, vectors = spectrum[real], vectors[:, real]
        if wide:  # V = X' U / sqrt(lambda) is left as two factors, as few rows or columns pass through it
            root = np.sqrt(self._spectrum)
            self._axes = [design.T, vectors / root]
            self._z = vectors * root
        else:
            self._axes = [vectors]
            self._z = design @ vectors
        self._z32 = self._z.astype(np.float32)
        self._correlation = self._z.T @ targets  # (r, K)
        self._solved: dict[float, Floats] = {}
        self.gaps: dict[float, Floats] = {}

    def rotate(self, rows: Floats) -> Floats:
        """Rows (N, d) in principal axes (N, r)."""
        return np.linalg.multi_dot([rows, *self._axes])

    def unrotate(self, weights: Floats) -> Floats:
        """Weights (r, K) of the principal axes as weights (d, K) of the design matrix."""
        return np.linalg.multi_dot([*self._axes, weights])

    def solve(self, cost: float) -> Floats:
        """The weights (r, K) at ``cost``; ``gaps[cost]`` (K,) holds the certified duality gaps relative to P.

        Warns:
            ConvergenceWarning: if a class is not solved to ``TOLERANCE``; its best weights are given all the same.
        """
        if cost not in self._solved:
            self._solved[cost], self.gaps[cost] = self._minimise(cost, *self._start(cost))
        return self._solved[cost]

    def _start(self, cost: float) -> tuple[Floats, Floats]:
        """Weights (r, K) and scores (n, K): of each class the better of the ridge solution and the nearest cost's."""
        weights = 2 * cost * self._correlation / (1 + 2 * cost * self._spectrum[:, None])
        scores = self._z @ weights
        if self._solved and (self._targets * scores > 1).any():
            nearest = min(self._solved, key=lambda solved: abs(np.log(solved / cost)))
            kept = self._solved[nearest]
            kept_scores = self._z @ kept
            better = _objective(kept, 1 - self._targets * kept_scores, cost) < _objective(
                weights, 1 - self._targets * scores, cost
            )
            weights, scores = np.where(better, kept, weights), np.where(better, kept_scores, scores)
        return weights, scores

    def _minimise(self, cost: float, weights: Floats, scores: Floats) -> tuple[Floats, Floats]:
        """Newton steps for the classes not yet solved, until none is left; both arguments are overwritten."""
        gaps = np.full(weights.shape[1], np.inf)
        left = np.arange(weights.shape[1])
        stiff = np.zeros(weights.shape[1], dtype=bool)
        for _ in range(_NEWTON_STEPS):
            w, targets = weights[:, left], self._targets[:, left]
            margins = 1 - targets * scores[:, left]  # (n, K): positive within the margin
            gradient = w - 2 * cost * (self._z.T @ (targets * np.maximum(margins, 0)))
            steepness = np.linalg.norm(gradient, axis=0)
            objective = _objective(w, margins, cost)
            gaps[left] = steepness**2 / 2 / objective
            todo = gaps[left] > TOLERANCE
            left = left[todo]
            if not left.size:
                return weights, gaps
            w, targets, margins, gradient = w[:, todo], targets[:, todo], margins[:, todo], gradient[:, todo]
            # The next gradient is, if A stays, the residual left here: half of what the certificate asks for will do.
            enough = 0.5 * np.sqrt(2 * TOLERANCE * objective[todo]) / steepness[todo]
            residual = np.maximum(enough, _FORCING)
            step, stiff[left] = self._newton_step(cost, w, targets, margins > 0, gradient, residual, stiff[left])
            score_step = self._z @ step
            length = _line_search(cost, w, step, margins, targets * score_step)
            weights[:, left] += length * step
            scores[:, left] += length * score_step
        warnings.warn(
            f"The SVM at C = {cost:g} is solved to a relative duality gap of {gaps.max():.1e}, not {TOLERANCE:.0e}.",
            ConvergenceWarning,
            stacklevel=3,
        )
        return weights, gaps

    def _newton_step(
        self,
        cost: float,
        w: Floats,
        targets: Floats,
        active: NDArray[np.bool_],
        gradient: Floats,
        residual: Floats,
        stiff: NDArray[np.bool_],
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Steps (r, K), and which classes (K,) are stiff: a direct solve is quicker than their conjugate gradients.

        Classes that come in as stiff are not tried again.
        """
        n, r = self._z.shape
        size = active.sum(axis=0)
        smaller = np.minimum(size, r)
        patience = (smaller * (size * r + smaller**2 / 3) / (4 * n * r) / _DIRECT_PACE).astype(int)
        stiff = stiff | (patience < _SOON)
        step = np.empty_like(w)
        tried = np.flatnonzero(~stiff)
        if tried.size:
            step[:, tried], stiff[tried] = self._conjugate_gradients(
                cost, active[:, tried], gradient[:, tried], residual[tried], patience[tried]
            )
        for k in np.flatnonzero(stiff):
            rows = self._z[active[:, k]]
            if len(rows) <= r:  # in the clips: w = Z_A' alpha with (Z_A Z_A' + 1 / 2C) alpha = y_A
                alpha = _solve_ridge(rows @ rows.T, 1 / (2 * cost), targets[active[:, k], k])
                step[:, k] = alpha @ rows - w[:, k]
            else:
                step[:, k] = _solve_ridge(rows.T @ rows, 1 / (2 * cost), -gradient[:, k] / (2 * cost))
        return step, stiff

    def _conjugate_gradients(
        self, cost: float, active: NDArray[np.bool_], gradient: Floats, residual: Floats, patience: NDArray[np.int_]
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Solve (1 + 2 C Z_A' Z_A) step = -gradient for all classes, up to ``residual`` (K,) of the gradient's norm.

        Returns the steps (r, K), and which classes (K,) were not solved within their ``patience`` (K,) of iterations.
        """
        z, within = self._z32, active.astype(np.float32)
        double_cost = np.float32(2 * cost)
        tiny = np.finfo(np.float32).tiny
        scale = np.linalg.norm(gradient, axis=0)
        inverse = (1 / (1 + 2 * cost * active.mean(axis=0) * self._spectrum[:, None])).astype(np.float32)
        rest = (-gradient / scale).astype(np.float32)
        step = np.zeros_like(rest)
        direction = inverse * rest
        energy = (rest * direction).sum(axis=0)
        iteration, unsolved = 0, np.ones(len(scale), dtype=bool)
        while (unsolved & (iteration < patience)).any():
            curved = direction + double_cost * (z.T @ (within * (z @ direction)))
            length = energy / np.maximum((direction * curved).sum(axis=0), tiny)
            step += length * direction
            rest -= length * curved
            steepest = inverse * rest
            previous, energy = energy, (rest * steepest).sum(axis=0)
            direction = steepest + energy / np.maximum(previous, tiny) * direction
            iteration, unsolved = iteration + 1, np.linalg.norm(rest, axis=0) > residual
        return step * scale, unsolved


class LiblinearPath:
    """The same problems by scikit-learn's LIBLINEAR (dual coordinate descent): the reference, and the fallback.

    Its axes are the design matrix's own.
    """

    def __init__(self, design: Floats, targets: Floats, seed: int = 0) -> None:
        self._design, self._targets, self._seed = design, targets, seed
        self._solved: dict[float, Floats] = {}

    def rotate(self, rows: Floats) -> Floats:
        """The rows as they are."""
        return rows

    def unrotate(self, weights: Floats) -> Floats:
        """The weights as they are."""
        return weights

    def solve(self, cost: float) -> Floats:
        """The weights (d, K) at ``cost``."""
        if cost not in self._solved:
            svm = LinearSVC(C=cost, dual=True, fit_intercept=False, random_state=self._seed)
            weights = np.empty((self._design.shape[1], self._targets.shape[1]))
            for k, column in enumerate(self._targets.T):
                weights[:, k] = svm.fit(self._design, column).coef_[0]
            self._solved[cost] = weights
        return self._solved[cost]


def _solve_ridge(gram: Floats, ridge: float, right: Floats) -> Floats:
    # numpy's, though scipy's would use the symmetry: numpy lets other threads, which solve other folds, run meanwhile.
    gram.flat[:: len(gram) + 1] += ridge
    return np.asarray(np.linalg.solve(gram, right), dtype=np.float64)


def _objective(weights: Floats, margins: Floats, cost: float) -> Floats:
    """P of every class (K,), from weights (r, K) and margins 1 - y w.x (n, K)."""
    return 0.5 * (weights**2).sum(axis=0) + cost * (np.maximum(margins, 0) ** 2).sum(axis=0)


def _line_search(cost: float, w: Floats, step: Floats, margins: Floats, gain: Floats) -> Floats:
    """Lengths (K,) that minimise P(w + length * step); ``gain`` (n, K) is what a whole step takes off the margins.

    The slope of P along the step is increasing and piecewise linear: Newton's method finds its zero, and a bracket
    keeps it from cycling.
    """
    slope_w, slope_step = (w * step).sum(axis=0), (step**2).sum(axis=0)
    start = slope_w - 2 * cost * (np.maximum(margins, 0) * gain).sum(axis=0)
    low, high = np.zeros_like(start), np.full_like(start, np.inf)
    length = np.ones_like(start)
    for _ in range(50):
        new = margins - length * gain
        inside = np.where(new > 0, gain, 0)
        slope = slope_w + length * slope_step - 2 * cost * (new * inside).sum(axis=0)
        open_ = np.abs(slope) > _LINE_SLOPE * np.abs(start)
        if not open_.any():
            break
        curvature = slope_step + 2 * cost * (inside**2).sum(axis=0)
        low, high = np.where(slope < 0, length, low), np.where(slope > 0, length, high)
        guess = length - slope / curvature
        midway = np.where(np.isfinite(high), (low + high) / 2, 2 * length)
        guess = np.where((low < guess) & (guess < high), guess, midway)
        length = np.where(open_, guess, length)
    return length
