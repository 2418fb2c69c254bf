"""What a clip counts by its class, so that small classes are not learnt as noise of the large ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: The clips of the largest class for one of the smallest, above which it is said that they are unequal.
UNEQUAL = 5


def balanced(targets: ArrayLike, n_classes: int) -> NDArray[np.float64]:
    """The weight of each class (K,) that lets all classes that are there count alike: n / (K_there * its clips).

    The mean weight of the clips with class indices ``targets`` (N,) is then 1, as without weights; classes that are not
    there have 0. These are the weights of scikit-learn's ``class_weight="balanced"`` (after King and Zeng 2001).
    """
    counts = np.bincount(np.asarray(targets, dtype=np.intp), minlength=n_classes)
    there = counts > 0
    return np.divide(counts.sum(), there.sum() * counts, out=np.zeros(n_classes), where=there)


def hint(counts: Mapping[str, int], class_weight: str) -> str:
    """What to try where classes of so many development clips are unequal and count by their size; else empty."""
    most, least = (choice(counts, key=lambda label: counts[label]) for choice in (max, min))
    if class_weight != "none" or counts[most] <= UNEQUAL * counts[least]:
        return ""
    return (
        f"Classes are unequal ({most}: {counts[most]:,} development clips, {least}: {counts[least]:,}), and each counts "
        "by its size; class_weight=balanced lets all count alike, which mostly raises macro-F1."
    )
