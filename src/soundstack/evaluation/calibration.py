"""Probabilities for users: scores through a softmax whose one temperature is fitted on out-of-fold scores.

One parameter keeps the ranking, so the most probable class is always the class of the highest score. Every clip counts
alike in it, also for systems trained with class_weight=balanced: probabilities are to hold for classes as frequent as
they are in the data set.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

_TINY = 1e-12


def logits(scores: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """What the softmax takes: decision values as they are, probabilities as logarithms."""
    return np.log(np.maximum(scores, _TINY)) if kind == "probability" else scores


def fit_inverse_temperature(scores: NDArray[np.float64], truth: NDArray[np.intp], kind: str) -> float:
    """Fit the factor on the logits (1 / temperature) that minimises the log loss.

    Args:
        scores: Out-of-fold scores (N, K).
        truth: Class indices (N,).
        kind: ``"probability"`` or ``"decision"``.

    Returns:
        A factor between 1e-3 and 1e3 times what gives the logits of a clip unit deviation over the classes: an SVM of
        C = 1e-9 has decision values that differ in the ninth digit, and ranks the classes all the same.
    """
    values = logits(scores, kind)
    rows = np.arange(len(truth))
    spread = float(np.sqrt(np.mean((values - values.mean(axis=1, keepdims=True)) ** 2)))
    if spread == 0:  # the same score for every class: any factor gives the same probabilities
        return 1.0
    unit = (values - values.max(axis=1, keepdims=True)) / spread

    def loss(log_factor: float) -> float:
        return float(-log_softmax(np.exp(log_factor) * unit, axis=1)[rows, truth].mean())

    found = minimize_scalar(loss, bounds=(np.log(1e-3), np.log(1e3)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x) / spread)


def gain_of_mean(gain_of_two: float, models: int) -> float:
    """How much greater the factor of a mean of models is than that of one, told by that of a mean of two.

    A mean is right more often than one model and yet less certain: with the factor of one it would be underconfident.
    Every doubling of the models is taken to gain alike, from nothing (all say the same) to a doubling (all differences
    are chance). On ESC-10, means of 1, 2 and 3 CRNNs that had not seen a clip gained 1, 1.34 and 1.62; told: 1.59.

    >>> [gain_of_mean(1.25, models) for models in (1, 2, 4)]
    [1.0, 1.25, 1.5625]
    """
    return min(max(gain_of_two, 1.0), 2.0) ** math.log2(models)


def probabilities(scores: NDArray[np.float64], kind: str, inverse_temperature: float) -> NDArray[np.float64]:
    """Calibrated class probabilities (N, K); every row sums to one."""
    return np.asarray(softmax(inverse_temperature * logits(scores, kind), axis=1))
