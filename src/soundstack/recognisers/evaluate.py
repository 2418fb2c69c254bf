"""What the systems share: scores of clips to an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from soundstack.datasets.clips import Clip
from soundstack.datasets.data_set import DataSet
from soundstack.evaluation.evaluation import Evaluation
from soundstack.evaluation.none_rule import NONE
from soundstack.evaluation.score_table import Kind, ScoreTable
from soundstack.recognisers.base import Recogniser, SingleRecogniser
from soundstack.recognisers.class_distance import ClassDistance, out_of_fold
from soundstack.utils.folds import TEST

_PART = 4096


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
    table = partial(score_table, classes=data_set.clip_table.labels, kind=recogniser.kind)
    return Evaluation(
        table(data_set.clips[:devel], scores[:devel]),
        table(data_set.clips[devel:], scores[devel:]),
        {clip.id: clip.group for clip in data_set.clips},
        recogniser.inverse_temperature,
        known_and_unknown((clip.id, clip.tags.get("known", "")) for clip in data_set.clips[devel:]),
        {fold: table(data_set.clips[:devel], part) for fold, part in (nested or {}).items()},
    )


def score_table(clips: Sequence[Clip], scores: NDArray[np.float64], classes: tuple[str, ...], kind: Kind) -> ScoreTable:
    """The scores (N, K) of clips as a table."""
    return ScoreTable(
        clips=tuple(clip.id for clip in clips),
        labels=tuple(clip.label for clip in clips),
        folds=tuple(clip.fold for clip in clips),
        scores=scores,
        classes=classes,
        kind=kind,
    )


def with_none(
    data_set: DataSet, evaluation: Evaluation, recogniser: SingleRecogniser, features: NDArray[np.float32], rate: float
) -> Evaluation:
    """Let a recogniser answer none, by its class ``none`` or else by distance, and evaluate that, too.

    Args:
        data_set: Whose examples the features (E, ...) are of.
        evaluation: Of the recogniser, which is given the rule and what its distances need.
        rate: See :func:`soundstack.evaluation.none_of_these.none_scores`.
    """
    from soundstack.evaluation.none_of_these import none_scores

    distances = None
    if NONE not in data_set.clip_table.labels:
        parts = (features[start : start + _PART] for start in range(0, len(features), _PART))
        x = np.concatenate([recogniser.summary(part) for part in parts])  # features may be larger than the memory
        folds, y = data_set.example_folds, data_set.example_targets
        devel, clips = folds != TEST, len(data_set.clip_table.devel)
        recogniser.class_distance = ClassDistance.fit(x[devel], y[devel])
        of_examples = np.empty((len(x), 1))
        of_examples[devel, 0] = out_of_fold(x[devel], y[devel], folds[devel])
        of_examples[~devel, 0] = recogniser.class_distance.distances(x[~devel])
        of_clips = data_set.clip_means(of_examples)[:, 0]
        distances = of_clips[:clips], of_clips[clips:]
    found = none_scores(evaluation.devel, evaluation.test, rate, evaluation.inverse_temperature, distances)
    recogniser.none = found.rule
    return replace(evaluation, none=found)


def known_and_unknown(clips: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Test clips (id, ``yes`` or ``no``) by whether their microphone is known from the development set."""
    pairs = list(clips)
    parts = {
        name: frozenset(clip for clip, known in pairs if known == answer)
        for name, answer in (("known", "yes"), ("unknown", "no"))
    }
    return {name: part for name, part in parts.items() if part}
