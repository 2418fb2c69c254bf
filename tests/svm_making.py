"""Linear SVMs that are trained in a moment."""

import numpy as np

from soundstack.svm.linear_svm import CLIP, LinearSvm, PathProblem


def fit_svm(x: np.ndarray, y: np.ndarray, cost: float, *, n_classes: int, clip: float = CLIP) -> LinearSvm:
    """The SVM of features x (N, D) and class indices y (N,)."""
    return PathProblem(x, y, np.arange(len(y)) % 2, n_classes=n_classes, clip=clip).refit(cost)
