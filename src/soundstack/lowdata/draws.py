"""Draws of a few development clips a class: the same for all systems, and nested.

A draw puts the clips of each class in a random order, in which none of a group follows before every other group had as
many: so the first few are of as many recordings as there are. The draw of k clips is the first k of each class, all of
a class that has fewer, and holds that of any smaller number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundstack.config.lowdata import ALL
from soundstack.datasets.clips import Clip, check_splits
from soundstack.datasets.data_set import DataSet


@dataclass(frozen=True, eq=False)
class Draw:
    """Clips to learn from.

    Attributes:
        size: How many of each class, at most.
        number: Which of the draws of that size, from 0 on.
        clips: Their places among the clips of the data set (N,).
    """

    size: int
    number: int
    clips: NDArray[np.intp]

    def examples(self, data_set: DataSet) -> NDArray[np.intp]:
        """The rows of their examples (E,)."""
        return np.flatnonzero(np.isin([example.clip for example in data_set.examples], self.clips))


def sizes(data_set: DataSet, wanted: str) -> list[int]:
    """Numbers of clips a class, rising, from a list as in ``1,2,all``; the largest class's size is all there are."""
    largest = max(data_set.devel_counts().values())
    return sorted({largest if word == ALL else min(int(word), largest) for word in wanted.split(",")})


def draw(data_set: DataSet, wanted: Sequence[int], count: int, seed: int) -> list[Draw]:
    """Draw clips of the development folds ``count`` times in each of the wanted sizes.

    Raises:
        DataError: A group of clips lies in the test part, too.
    """
    check_splits(data_set.clips)
    clips = data_set.clip_table.devel  # they stand first
    by_class = [
        [place for place, clip in enumerate(clips) if clip.label == label] for label in data_set.clip_table.labels
    ]
    drawn = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        orders = [_order(clips, rng.permutation(of_class)) for of_class in by_class]
        drawn += [Draw(size, number, np.sort([p for order in orders for p in order[:size]])) for size in wanted]
    return drawn


def _order(clips: Sequence[Clip], places: NDArray[np.intp]) -> list[int]:
    """Places of clips, in the order given but for clips whose group has come before: those follow, round by round."""
    seen: Counter[str] = Counter()
    rounds = {}
    for place in places.tolist():
        rounds[place] = seen[clips[place].group]
        seen[clips[place].group] += 1
    return sorted(rounds, key=lambda place: rounds[place])
