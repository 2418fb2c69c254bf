"""Networks that are trained on folds: which parts are trained, and how their mean is calibrated and evaluated.

A model is trained for every development fold, on the other folds only; devel scores are out-of-fold, those of test are
the mean of all models (paper section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, permutations
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstack.datasets.data_set import DataSet
from soundstack.evaluation.calibration import fit_inverse_temperature, gain_of_mean
from soundstack.evaluation.evaluation import Evaluation
from soundstack.evaluation.metrics import confusion_matrix, macro_f1
from soundstack.evaluation.score_table import Kind
from soundstack.recognisers.base import SingleRecogniser
from soundstack.recognisers.evaluate import evaluate, with_none
from soundstack.svm.cost_search import nestable
from soundstack.training.fold import FoldJob, FoldModel, Progress, train_fold
from soundstack.training.workers import train_side_by_side
from soundstack.utils.errors import ConfigError
from soundstack.utils.folds import TEST
from soundstack.utils.project import cores

#: Examples to be trained on, epochs counted, from which on starting processes (some seconds) pays.
WORTH_WORKERS = 10_000

_KIND: Kind = "probability"
_PART = 4096
_JOINT = "+"


def parts_of(data_set: DataSet, *, nested: bool) -> list[str]:
    """What models are trained without: each development fold, and pairs of them, as in ``1+2``.

    The first pair tells how a mean of models is calibrated; all pairs are for nested cross-validation.

    Raises:
        ConfigError: Nested, with fewer than three folds.
    """
    folds = nestable(data_set.clip_table.folds) if nested else data_set.clip_table.folds
    pairs = [_JOINT.join(pair) for pair in combinations(folds, 2)] if len(folds) > 2 else []
    return [*folds, *(pairs if nested else pairs[:1])]


def rows_of(data_set: DataSet, part: str) -> tuple[Tensor, Tensor]:
    """Numbers of the examples that a part is trained on, and of those that it holds out."""
    folds = data_set.example_folds
    train, held_out = ~_in_part(folds, part) & (folds != TEST), _in_part(folds, part)
    return torch.from_numpy(np.flatnonzero(train)), torch.from_numpy(np.flatnonzero(held_out))


def train_jobs(
    jobs: Sequence[FoldJob], progress: Progress, on_fold: Callable[[str, FoldModel], object]
) -> dict[str, FoldModel]:
    """Train folds on this machine: on a processor side by side, where that pays; on a GPU one after another.

    ``on_fold`` is called fold by fold, in order; it may raise to stop early (pruning).

    Raises:
        ConfigError: The GPU's memory is too small.
    """
    work = sum(len(job.train) * job.spec.epochs for job in jobs if not job.finished())
    if jobs[0].device.type == "cpu" and work > WORTH_WORKERS and cores() > 1:
        return train_side_by_side(jobs, progress, on_fold)
    trained: dict[str, FoldModel] = {}
    try:
        for job in jobs:
            trained[job.fold] = train_fold(job, progress)
            on_fold(job.fold, trained[job.fold])
    except torch.OutOfMemoryError:
        raise ConfigError(
            "batch_size: the GPU's memory is too small for this; give a smaller one (for fine-tuning also a smaller "
            "depth, or gradient_checkpoints=yes). Finished epochs are kept."
        ) from None
    return trained


def assess(
    data_set: DataSet,
    recogniser: SingleRecogniser,
    models: Mapping[str, FoldModel],
    features: NDArray[np.float32],
    none_rate: float | Literal["off"] = "off",
) -> Evaluation:
    """Calibrate the recogniser of fold models on their out-of-fold scores, and score the test clips with it.

    Args:
        data_set: Whose examples the features (E, ...) are of.
        recogniser: The mean of the models of all development folds; it is given its inverse temperature and rules.
        models: By part (:func:`parts_of`), with their held-out scores.
        none_rate: Whether it may answer none; see :func:`soundstack.recognisers.evaluate.with_none`.
    """
    folds = data_set.clip_table.folds
    held_out = {part: _clip_scores(data_set, part, model.scores) for part, model in models.items()}
    devel = len(data_set.clip_table.devel)
    pairs = {part: scores[:devel] for part, scores in held_out.items() if part not in folds}
    test = np.flatnonzero(data_set.example_folds == TEST)
    parts = (test[start : start + _PART] for start in range(0, len(test), _PART))  # all may be larger than the memory
    of_test = np.concatenate([recogniser.score_features(features[rows]) for rows in parts])
    held_out[TEST] = _clip_scores(data_set, TEST, of_test)
    clip_scores = np.sum([held_out[fold] for fold in (*folds, TEST)], axis=0)  # each is zero where another is not
    truth, clip_folds = data_set.clip_targets[:devel], np.array([clip.fold for clip in data_set.clip_table.devel])
    recogniser.inverse_temperature = _inverse_temperature(clip_scores[:devel], truth, clip_folds, pairs)
    nested = _nested(clip_folds, pairs) if len(pairs) > 1 else {}
    evaluation = evaluate(data_set, clip_scores, recogniser, nested)
    if none_rate != "off":
        evaluation = with_none(data_set, evaluation, recogniser, features, none_rate)
    return evaluation


def held_out_macro_f1(data_set: DataSet, fold: str, model: FoldModel) -> float:
    """Macro-F1 of a fold model on its held-out clips."""
    clips = [number for number, clip in enumerate(data_set.clips) if clip.fold == fold]
    chosen = _clip_scores(data_set, fold, model.scores)[clips].argmax(axis=1)
    return float(macro_f1(confusion_matrix(data_set.clip_targets[clips], chosen, len(data_set.clip_table.labels))))


def curves(folds: Mapping[str, FoldModel]) -> Iterator[tuple[int, dict[str, float]]]:
    """Learning curves as metrics: (epoch, values), each fold's and their mean, of folds that got so far."""
    histories = {fold: model.history for fold, model in folds.items()}
    for epoch in range(max(len(history["train_loss"]) for history in histories.values())):
        values: dict[str, float] = {}
        for name in next(iter(histories.values())):
            by_fold = {fold: history[name][epoch] for fold, history in histories.items() if epoch < len(history[name])}
            values[f"curve/{name}"] = float(np.mean(list(by_fold.values())))
            if name != "learning_rate":
                values |= {f"curve/fold_{fold}_{name}": value for fold, value in by_fold.items()}
        yield epoch + 1, values


def _in_part(folds: NDArray[np.str_], part: str) -> NDArray[np.bool_]:
    """Which of the folds (N,) are held out of a part."""
    return np.isin(folds, part.split(_JOINT))


def _clip_scores(data_set: DataSet, part: str, of_part: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Scores of a part's examples as scores of its clips, in data set order (clips, K); zero elsewhere."""
    scores = np.zeros((len(data_set.examples), len(data_set.clip_table.labels)))
    scores[_in_part(data_set.example_folds, part)] = of_part
    return data_set.clip_means(scores)


def _inverse_temperature(
    scores: NDArray[np.float64],
    truth: NDArray[np.intp],
    folds: NDArray[np.str_],
    pairs: Mapping[str, NDArray[np.float64]],
) -> float:
    """The inverse temperature of the mean of all fold models, where out-of-fold scores (N, K) are of one model a clip.

    On the folds of a pair there are two that never saw the clip: how their mean differs from one tells of the mean of
    all. Without pairs (two folds), that of one.
    """
    of_one = fit_inverse_temperature(scores, truth, _KIND)
    if not pairs:
        return of_one
    rows = [_in_part(folds, part) for part in pairs]
    one = np.concatenate([scores[held_out] for held_out in rows])
    other = np.concatenate([part[held_out] for part, held_out in zip(pairs.values(), rows, strict=True)])
    known = np.concatenate([truth[held_out] for held_out in rows])
    of_two = fit_inverse_temperature((one + other) / 2, known, _KIND)
    gain = of_two / fit_inverse_temperature(one, known, _KIND)
    return of_one * gain_of_mean(gain, len(set(folds.tolist())))


def _nested(folds: NDArray[np.str_], pairs: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """By fold, scores (N, K) of models that never saw it: the mean of theirs on it, and out of fold on the others."""
    nested: dict[str, NDArray[np.float64]] = {}
    for part, scores in pairs.items():
        for fold, other in permutations(part.split(_JOINT)):
            found = nested.setdefault(fold, np.zeros_like(scores))
            found[folds == other] = scores[folds == other]
            found[folds == fold] += scores[folds == fold]
    for fold, found in nested.items():
        found[folds == fold] /= len(nested) - 1
    return nested
