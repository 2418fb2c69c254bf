"""What the systems share: scores of clips to an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from soundstack.datasets.clips import Clip
from soundstack.datasets.data_set import DataSet
from soundstack.evaluation.evaluation import Evaluation
from soundstack.evaluation.score_table import ScoreTable
from soundstack.recognisers.base import Recogniser


def evaluate(
    data_set: DataSet,
    scores: NDArray[np.float64],
    recogniser: Recogniser,
    nested: Mapping[str, NDArray[np.float64]] | None = None,
) -> Evaluation:
    """Evaluate clip scores (N, K) in data set order: out-of-fold for development clips, the final model's for test.

    ``nested`` has such scores (development clips, K) by fold, of models that never saw it; see :class:`Evaluation`.
    """
    devel = len(data_set.clip_table.devel)

    def table(clips: Sequence[Clip], part: NDArray[np.float64]) -> ScoreTable:
        return ScoreTable(
            clips=tuple(clip.id for clip in clips),
            labels=tuple(clip.label for clip in clips),
            folds=tuple(clip.fold for clip in clips),
            scores=part,
            classes=data_set.clip_table.labels,
            kind=recogniser.kind,
        )

    return Evaluation(
        table(data_set.clips[:devel], scores[:devel]),
        table(data_set.clips[devel:], scores[devel:]),
        {clip.id: clip.group for clip in data_set.clips},
        recogniser.inverse_temperature,
        known_and_unknown((clip.id, clip.tags.get("known", "")) for clip in data_set.clips[devel:]),
        {fold: table(data_set.clips[:devel], part) for fold, part in (nested or {}).items()},
    )


def known_and_unknown(clips: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Test clips (id, ``yes`` or ``no``) by whether their microphone is known from the development set."""
    pairs = list(clips)
    parts = {
        name: frozenset(clip for clip, known in pairs if known == answer)
        for name, answer in (("known", "yes"), ("unknown", "no"))
    }
    return {name: part for name, part in parts.items() if part}
