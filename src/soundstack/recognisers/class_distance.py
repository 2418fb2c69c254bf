"""How far features are from all classes: one minus the cosine to the nearest class mean, in whitened features.

Features are standardised and bounded, then whitened by the covariance within the classes, shrunk half-way to equal
variances (the distance of Mahalanobis has the same whitening; here only directions count, not lengths, which tells
clips of unknown classes better: docs/none-of-these.md has what was measured).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.linalg import eigh

Array = NDArray[Any]
Floats = NDArray[np.float64]

FILE = "class_distance.safetensors"
#: Standardised features are bounded to +- this, as those of the SVM are.
_BOUND = 10.0
#: How far the covariance is shrunk, and how many of its directions are kept.
_SHRINKAGE, _RANK = 0.5, 64
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class ClassDistance:
    """Scaling of features (D,) and (D,), whitening along R directions (R, D) by gains (R,), and class means (K, D).

    The means are whitened and of unit length.
    """

    mean: Floats
    scale: Floats
    directions: Floats
    gains: Floats
    means: Floats

    @classmethod
    def fit(cls, x: Array, y: Array) -> ClassDistance:
        """Find it on training features x (N, D) with class indices y (N,)."""
        x = np.asarray(x, dtype=np.float64)
        mean, scale = x.mean(axis=0), x.std(axis=0)
        scale[scale < 1e-12 * np.maximum(np.abs(mean), 1)] = 1.0  # all alike
        bounded = np.clip((x - mean) / scale, -_BOUND, _BOUND)
        _, classes = np.unique(y, return_inverse=True)
        means = np.stack([bounded[classes == each].mean(axis=0) for each in range(classes.max() + 1)])
        within = bounded - means[classes]
        directions, variances = _principal(within)
        equal = _SHRINKAGE * float(np.mean(within**2))
        gains = np.sqrt((equal + _TINY) / ((1 - _SHRINKAGE) * variances + equal + _TINY))
        unfinished = cls(mean, scale, directions, gains, means)
        return cls(mean, scale, directions, gains, _unit(unfinished._whitened(means)))

    def distances(self, x: Array) -> Floats:
        """Distances (N,), in 0..2, of features x (N, D)."""
        bounded = np.clip((x - self.mean) / self.scale, -_BOUND, _BOUND)
        return np.asarray(1 - (_unit(self._whitened(bounded)) @ self.means.T).max(axis=1))

    def _whitened(self, bounded: Floats) -> Floats:
        return bounded + (bounded @ self.directions.T * (self.gains - 1)) @ self.directions

    def save(self, folder: Path) -> None:
        """Write it as safetensors."""
        save_file({name: np.ascontiguousarray(array) for name, array in asdict(self).items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> ClassDistance | None:
        """Undo :meth:`save`; None where there is none."""
        return cls(**load_file(folder / FILE)) if (folder / FILE).is_file() else None


def out_of_fold(x: Array, y: Array, folds: Array) -> Floats:
    """Distances (N,) of features x (N, D), each from the classes (N,) of the other folds (N,) alone."""
    distances = np.empty(len(x))
    for fold in np.unique(folds):
        held_out = folds == fold
        distances[held_out] = ClassDistance.fit(x[~held_out], y[~held_out]).distances(x[held_out])
    return distances


def _principal(within: Floats) -> tuple[Floats, Floats]:
    """The directions (R, D) of largest variance of centred rows (N, D), and those variances (R,)."""
    rows, columns = within.shape
    turned = columns > rows  # the smaller of the two products has the same eigenvalues
    product = (within @ within.T if turned else within.T @ within) / rows
    size = len(product)
    variances, vectors = eigh(product, subset_by_index=(max(0, size - _RANK), size - 1))
    kept = variances > 1e-10 * max(float(variances[-1]), _TINY)
    variances, vectors = variances[kept], vectors[:, kept]
    directions = vectors.T @ within / np.sqrt(rows * variances)[:, None] if turned else vectors.T
    return directions, variances


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _TINY))
