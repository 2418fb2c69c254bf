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
   preconditioner, 1 + 2 C (|A| / n) lambda, for nothing. A class gets an exact step instead where that is quicker:
   over the clips beyond the margin where they are few, as the Hessian then is a diagonal less a low rank; over A where
   iterations are many, as happens at large C. An exact line search makes every step safe.
4. *Certificate.* alpha = 2 C max(0, 1 - y w.x) is feasible for the dual problem and leaves a duality gap of exactly
   1/2 |grad P(w)|^2. A class is solved when that is below ``TOLERANCE`` of P.

*Weights.* With a weight s_i a row, P(w) = 1/2 |w|^2 + C sum_i s_i max(0, 1 - y_i w.x_i)^2. As sqrt(s) max(0, t) =
max(0, sqrt(s) t), that is, with m_i = sqrt(s_i) and rows m_i x_i in the place of x_i,

    P(w) = 1/2 |w|^2 + C * sum_i max(0, m_i - y_i w.x_i)^2

the problem above with a hinge at m instead of 1. So a row is within the margin while y w.x < m, the ridge start is that
of targets m y, and steps, Hessian and line search are as they were. So is the certificate: the dual of this problem is
D(alpha) = m.alpha - 1/2 |X'(y alpha)|^2 - |alpha|^2 / 4C over alpha >= 0, and at alpha = 2 C max(0, m - y w.x), with
v = X'(y alpha) and m alpha = alpha^2 / 2C + alpha y w.x, P - D = 1/2 |w|^2 - w.v + 1/2 |v|^2 = 1/2 |grad P(w)|^2.

No library at hand shares work between classes and costs; ``benchmarks/svm_path.py`` shows what that is worth.

Newton's method is written for any array library that follows the Python array API standard: numpy's arrays are worked
on by the processor, torch's where they lie, be it on a GPU.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

Floats = NDArray[np.float64]
#: Of numpy or of torch; float64 unless told otherwise.
Array = Any

TOLERANCE = 1e-8  # certified duality gap, relative to P
_NEWTON_STEPS = 100
_FORCING = 0.1  # residual at which conjugate gradients stop, relative to the gradient: more is wasted far from the end
_DIRECT_PACE = 3  # operations of a direct solve for one of conjugate gradients, whose narrow blocks are slow
_SOON = 4  # iterations for which conjugate gradients are not worth a try
_FEW = 8  # the square of the clips beyond the margin, relative to all clips, up to which they are solved for exactly
_LINE_SLOPE = 1e-3  # slope left by the line search, relative to the slope at its start


class NewtonPath:
    """The problems of one design matrix (n, d) and its targets (n, K), each +1 or -1, by Newton's method.

    ``weights`` (n,) of the rows are positive, best of mean 1; without them each counts 1. With them, the design is
    overwritten: its rows are scaled.

    Solutions are given in principal axes: ``rotate(rows) @ solve(cost)`` are the scores of ``rows``, and
    ``unrotate(solve(cost))`` the weights (d, K); all are arrays of the design's library, on its device. Solved costs
    are kept: each further one starts from its neighbour, so that ascending costs are the quickest, and every order
    gives the same weights within the certified gap.
    """

    def __init__(self, design: Array, targets: Array, weights: Array | None = None) -> None:
        xp = self._xp = array_namespace(design, targets)
        self._targets = targets
        self._weights, self._hinge = 1.0, 1.0
        if weights is not None:
            self._weights, self._hinge = weights[:, None], xp.sqrt(weights)[:, None]  # (n, 1)
            design *= self._hinge
        self._goals = self._hinge * targets  # (n, K): m y
        wide = design.shape[0] <= design.shape[1]
        gram = design @ design.T if wide else design.T @ design
        spectrum, vectors = xp.linalg.eigh(gram)
        real = spectrum > 1e-14 * spectrum[-1]  # the others are rounding: they change P by less than C times as much
        self._spectrum, vectors = spectrum[real], vectors[:, real]
        if wide:  # V = X' U / sqrt(lambda) is left as two factors, as few rows or columns pass through it
            root = xp.sqrt(self._spectrum)
            self._axes = [design.T, vectors / root]
            self._z = vectors * root
        else:
            self._axes = [vectors]
            self._z = design @ vectors
        self._z32 = xp.astype(self._z, xp.float32)
        self._correlation = self._z.T @ self._goals  # (r, K)
        self._solved: dict[float, Array] = {}
        self.gaps: dict[float, Array] = {}

    def rotate(self, rows: Array) -> Array:
        """Rows (N, d) in principal axes (N, r)."""
        return self._xp.linalg.multi_dot([rows, *self._axes])

    def unrotate(self, weights: Array) -> Array:
        """Weights (r, K) of the principal axes as weights (d, K) of the design matrix."""
        return self._xp.linalg.multi_dot([*self._axes, weights])

    def solve(self, cost: float) -> Array:
        """The weights (r, K) at ``cost``; ``gaps[cost]`` (K,) holds the certified duality gaps relative to P.

        Warns:
            ConvergenceWarning: if a class is not solved to ``TOLERANCE``; its best weights are given all the same.
        """
        if cost not in self._solved:
            self._solved[cost], self.gaps[cost] = self._minimise(cost, *self._start(cost))
        return self._solved[cost]

    def _start(self, cost: float) -> tuple[Array, Array]:
        """Weights (r, K) and scores (n, K): of each class the better of the ridge solution and the nearest cost's."""
        xp = self._xp
        weights = 2 * cost * self._correlation / (1 + 2 * cost * self._spectrum[:, None])
        scores = self._z @ weights
        if self._solved and xp.any(self._targets * scores > self._hinge):
            nearest = min(self._solved, key=lambda solved: abs(math.log(solved / cost)))
            kept = self._solved[nearest]
            kept_scores = self._z @ kept
            better = _objective(kept, self._hinge - self._targets * kept_scores, cost) < _objective(
                weights, self._hinge - self._targets * scores, cost
            )
            weights, scores = xp.where(better, kept, weights), xp.where(better, kept_scores, scores)
        return weights, scores

    def _minimise(self, cost: float, weights: Array, scores: Array) -> tuple[Array, Array]:
        """Newton steps for the classes not yet solved, until none is left; both arguments are overwritten."""
        xp = self._xp
        gaps = xp.full(weights.shape[1], xp.inf, dtype=weights.dtype, device=device(weights))
        left = xp.arange(weights.shape[1], device=device(weights))
        stiff = xp.zeros_like(left, dtype=xp.bool)
        for _ in range(_NEWTON_STEPS):
            w, targets = weights[:, left], self._targets[:, left]
            margins = self._hinge - targets * scores[:, left]  # (n, K): positive within the margin
            gradient = w - 2 * cost * (self._z.T @ (targets * xp.maximum(margins, 0.0)))
            steepness = xp.linalg.vector_norm(gradient, axis=0)
            objective = _objective(w, margins, cost)
            gaps[left] = steepness**2 / 2 / objective
            todo = gaps[left] > TOLERANCE
            left = left[todo]
            if not len(left):
                return weights, gaps
            w, targets, margins, gradient = w[:, todo], targets[:, todo], margins[:, todo], gradient[:, todo]
            # The next gradient is, if A stays, the residual left here: half of what the certificate asks for will do.
            enough = 0.5 * xp.sqrt(2 * TOLERANCE * objective[todo]) / steepness[todo]
            residual = xp.maximum(enough, _FORCING)
            goals = self._goals[:, left]
            step, stiff[left] = self._newton_step(cost, w, goals, margins > 0, gradient, residual, stiff[left])
            score_step = self._z @ step
            length = _line_search(cost, w, step, margins, targets * score_step)
            weights[:, left] += length * step
            scores[:, left] += length * score_step
        warnings.warn(
            f"The SVM at C = {cost:g} is solved to a relative duality gap of {float(xp.max(gaps)):.1e}, not "
            f"{TOLERANCE:.0e}.",
            ConvergenceWarning,
            stacklevel=3,
        )
        return weights, gaps

    def _newton_step(
        self, cost: float, w: Array, goals: Array, active: Array, gradient: Array, residual: Array, stiff: Array
    ) -> tuple[Array, Array]:
        """Steps (r, K), and which classes (K,) are stiff: a direct solve is quicker than their conjugate gradients.

        Classes that come in as stiff are not tried again. ``active`` (n, K) are the clips within the margin, ``goals``
        (n, K) their m y.
        """
        xp = self._xp
        n, r = self._z.shape
        size = xp.sum(active, axis=0)
        smaller = xp.minimum(size, r)
        patience = xp.astype(smaller * (size * r + smaller**2 / 3) / (4 * n * r) / _DIRECT_PACE, xp.int64)
        step = xp.empty_like(w)
        near = (n - size) ** 2 <= _FEW * n
        chosen = xp.nonzero(near)[0]
        if len(chosen):
            step[:, chosen] = self._exact_step(cost, active[:, chosen], gradient[:, chosen])
        stiff = stiff | (patience < _SOON)
        tried = xp.nonzero(~stiff & ~near)[0]
        if len(tried):
            step[:, tried], stiff[tried] = self._conjugate_gradients(
                cost, active[:, tried], gradient[:, tried], residual[tried], patience[tried]
            )
        for k in xp.nonzero(stiff & ~near)[0].tolist():
            rows = self._z[active[:, k]]
            if len(rows) <= r:  # in the clips: w = Z_A' alpha with (Z_A Z_A' + 1 / 2C) alpha = (m y)_A
                alpha = _solve_ridge(rows @ rows.T, 1 / (2 * cost), goals[active[:, k], k])
                step[:, k] = alpha @ rows - w[:, k]
            else:
                step[:, k] = _solve_ridge(rows.T @ rows, 1 / (2 * cost), -gradient[:, k] / (2 * cost))
        return step, stiff

    def _exact_step(self, cost: float, active: Array, gradient: Array) -> Array:
        """Steps (r, K) of classes with few clips beyond the margin, B: the Hessian is 1 + 2 C lambda - 2 C Z_B' Z_B.

        The first part is diagonal and the second of low rank, so that what is left to solve has the size of B
        (Woodbury). All classes go at once; those with a smaller B are filled up with zeros.
        """
        xp = self._xp
        size = xp.sum(~active, axis=0)
        most = int(xp.max(size))
        beyond = xp.argsort(xp.astype(active, xp.int64), axis=0)[:most].T  # (K, B): those of B come first
        filled = xp.arange(most, device=device(active)) < size[:, None]
        rows = self._z[beyond] * filled[..., None]
        diagonal = 1 + 2 * cost * self._spectrum
        scaled = rows / diagonal  # (K, B, r)
        start = -gradient / diagonal[:, None]
        inner = xp.eye(most, dtype=rows.dtype, device=device(rows)) / (2 * cost) - scaled @ rows.mT
        return start + (scaled.mT @ xp.linalg.solve(inner, rows @ start.T[..., None]))[..., 0].T

    def _conjugate_gradients(
        self, cost: float, active: Array, gradient: Array, residual: Array, patience: Array
    ) -> tuple[Array, Array]:
        """Solve (1 + 2 C Z_A' Z_A) step = -gradient for all classes, up to ``residual`` (K,) of the gradient's norm.

        Returns the steps (r, K), and which classes (K,) were not solved within their ``patience`` (K,) of iterations.
        """
        xp = self._xp
        z, within = self._z32, xp.astype(active, xp.float32)
        tiny = float(xp.finfo(xp.float32).tiny)
        scale = xp.linalg.vector_norm(gradient, axis=0)
        share = xp.mean(xp.astype(active, xp.float64) * self._weights, axis=0)
        inverse = xp.astype(1 / (1 + 2 * cost * share * self._spectrum[:, None]), xp.float32)
        rest = xp.astype(-gradient / scale, xp.float32)
        step = xp.zeros_like(rest)
        direction = inverse * rest
        energy = xp.sum(rest * direction, axis=0)
        iteration, unsolved = 0, xp.ones_like(scale, dtype=xp.bool)
        while xp.any(unsolved & (iteration < patience)):
            curved = direction + 2 * cost * (z.T @ (within * (z @ direction)))
            length = energy / xp.maximum(xp.sum(direction * curved, axis=0), tiny)
            step += length * direction
            rest -= length * curved
            steepest = inverse * rest
            previous, energy = energy, xp.sum(rest * steepest, axis=0)
            direction = steepest + energy / xp.maximum(previous, tiny) * direction
            iteration, unsolved = iteration + 1, xp.linalg.vector_norm(rest, axis=0) > residual
        return step * scale, unsolved


def _solve_ridge(gram: Array, ridge: float, right: Array) -> Array:
    # numpy's, though scipy's would use the symmetry: numpy lets other threads, which solve other folds, run meanwhile.
    xp = array_namespace(gram)
    diagonal = xp.arange(len(gram), device=device(gram))
    gram[diagonal, diagonal] += ridge
    return xp.linalg.solve(gram, right)


def _objective(weights: Array, margins: Array, cost: float) -> Array:
    """P of every class (K,), from weights (r, K) and margins m - y w.x (n, K)."""
    xp = array_namespace(weights)
    return 0.5 * xp.sum(weights**2, axis=0) + cost * xp.sum(xp.maximum(margins, 0.0) ** 2, axis=0)


def _line_search(cost: float, w: Array, step: Array, margins: Array, gain: Array) -> Array:
    """Lengths (K,) that minimise P(w + length * step); ``gain`` (n, K) is what a whole step takes off the margins.

    The slope of P along the step is increasing and piecewise linear: Newton's method finds its zero, and a bracket
    keeps it from cycling.
    """
    xp = array_namespace(w)
    slope_w, slope_step = xp.sum(w * step, axis=0), xp.sum(step**2, axis=0)
    start = slope_w - 2 * cost * xp.sum(xp.maximum(margins, 0.0) * gain, axis=0)
    low, high = xp.zeros_like(start), xp.full_like(start, xp.inf)
    length = xp.ones_like(start)
    for _ in range(50):
        new = margins - length * gain
        inside = xp.where(new > 0, gain, 0.0)
        slope = slope_w + length * slope_step - 2 * cost * xp.sum(new * inside, axis=0)
        open_ = xp.abs(slope) > _LINE_SLOPE * xp.abs(start)
        if not xp.any(open_):
            break
        curvature = slope_step + 2 * cost * xp.sum(inside**2, axis=0)
        low, high = xp.where(slope < 0, length, low), xp.where(slope > 0, length, high)
        guess = length - slope / curvature
        midway = xp.where(xp.isfinite(high), (low + high) / 2, 2 * length)
        guess = xp.where((low < guess) & (guess < high), guess, midway)
        length = xp.where(open_, guess, length)
    return length
