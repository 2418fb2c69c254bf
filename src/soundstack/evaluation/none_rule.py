"""When a model answers ``none``: none of its classes.

With negatives in the table, ``none`` is a class like others, and the *none score* of a clip is its calibrated
probability. Without, it tells how far the clip is from what the model was trained on: the share of the known
development clips, out of fold, that are less far. Both are in 0..1, and a clip whose score is at least the threshold is
answered ``none``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: The label of negatives, and the answer.
NONE = "none"
#: So many quantiles of the known distances are kept, at most.
_QUANTILES = 257


@dataclass(frozen=True)
class NoneRule:
    """The rate that was asked for, the threshold that keeps it, and the distances of known clips.

    ``known`` are quantiles of the out-of-fold distances, ascending; empty where ``none`` is a class of its own.
    """

    rate: float
    threshold: float
    known: tuple[float, ...] = ()

    @property
    def by_class(self) -> bool:
        """Whether negatives were trained on."""
        return not self.known

    @classmethod
    def of_negatives(cls, scores: Floats, rate: float) -> NoneRule:
        """The highest threshold at which at most ``rate`` of the negatives' probabilities of none (N,) stay below."""
        return cls(rate, float(np.sort(scores)[_most(rate, len(scores))]))

    @classmethod
    def of_known(cls, distances: Floats, rate: float) -> NoneRule:
        """The lowest threshold that at most ``rate`` of the known clips' distances (N,) reach."""
        count = len(distances)
        known = np.quantile(distances, np.linspace(0, 1, min(count, _QUANTILES)))
        rule = cls(rate, 1.0, tuple(known.tolist()))
        furthest = np.sort(rule.ranks(distances))[count - 1 - _most(rate, count)]
        return cls(rate, float(np.nextafter(furthest, 2)), rule.known)

    def ranks(self, distances: ArrayLike) -> Floats:
        """None scores (N,) of distances (N,): strictly rising, below 1 also beyond the furthest known clip."""
        distances, known = np.asarray(distances, dtype=np.float64), np.array(self.known)
        top = len(known) / (len(known) + 1)
        shares = np.interp(distances, known, np.linspace(0, top, len(known)))
        beyond = np.maximum(distances - known[-1], 0) / max(float(np.std(known)), np.finfo(float).tiny)
        return shares + (1 - top) * (beyond / (1 + beyond))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> NoneRule | None:
        """Undo :meth:`to_json`; of a model that has none, None."""
        return cls(values["rate"], values["threshold"], tuple(values["known"])) if values else None


def answers_of(
    rule: NoneRule | None, labels: Sequence[str], probabilities: Floats, none: Floats | None
) -> tuple[list[str], Floats]:
    """Answers and their probabilities (N,), from those of the classes (N, K) and, under a rule, none scores (N,).

    The probability of the answer ``none`` is the none score.
    """
    rows = np.arange(len(probabilities))
    if rule is None or none is None:
        best = probabilities.argmax(axis=1)
        return [labels[at] for at in best], probabilities[rows, best]
    others = probabilities.copy()
    if rule.by_class:
        others[:, labels.index(NONE)] = -1.0
    best, refused = others.argmax(axis=1), none >= rule.threshold
    named = [NONE if refuse else labels[at] for at, refuse in zip(best, refused, strict=True)]
    return named, np.where(refused, none, others[rows, best])


def _most(rate: float, count: int) -> int:
    """How many of ``count`` a rate allows."""
    return min(int(rate * count + 1e-9), count - 1)
