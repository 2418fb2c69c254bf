"""What a clip counts by its class, so that small classes are not learnt as noise of the large ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def balanced(targets: ArrayLike, n_classes: int) -> NDArray[np.float64]:
    """The weight of each class (K,) that lets all classes that are there count alike: n / (K_there * its clips).

    The mean weight of the clips with class indices ``targets`` (N,) is then 1, as without weights; classes that are not
    there have 0. These are the weights of scikit-learn's ``class_weight="balanced"`` (after King and Zeng 2001).
    """
    counts = np.bincount(np.asarray(targets, dtype=np.intp), minlength=n_classes)
    there = counts > 0
    return np.divide(counts.sum(), there.sum() * counts, out=np.zeros(n_classes), where=there)
