"""The names of folds and their order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

TEST = "test"
Fold = TypeVar("Fold", str, int)


def fold_order(folds: Iterable[Fold]) -> list[Fold]:
    """Each fold once, by number, ``"test"`` last.

    >>> fold_order(["10", "test", "2", "1", "2"])
    ['1', '2', '10', 'test']
    """
    return sorted(set(folds), key=lambda fold: (fold == TEST, len(str(fold)), str(fold)))
