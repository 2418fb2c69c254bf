"""The CRNN system (paper section 3.2): cross-validated on the development folds, fold models averaged on test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from soundstack.config.steps import PRESETS, CrnnConfig
from soundstack.crnn.checkpoints import Checkpoint
from soundstack.crnn.fold_hosts import FoldHosts
from soundstack.crnn.fold_workers import train_side_by_side
from soundstack.crnn.recogniser import CrnnRecogniser
from soundstack.crnn.training import FoldJob, FoldModel, Progress, TrainingSpec, train_fold
from soundstack.datasets.data_set import DataSet
from soundstack.evaluation.calibration import fit_inverse_temperature, gain_of_mean
from soundstack.evaluation.evaluation import Evaluation
from soundstack.evaluation.metrics import confusion_matrix, macro_f1
from soundstack.recognisers.evaluate import evaluate, with_none
from soundstack.spectrograms.extract import Spectrograms
from soundstack.svm.cost_search import nestable
from soundstack.utils.cluster import Cluster
from soundstack.utils.code_versions import code_version
from soundstack.utils.folds import TEST
from soundstack.utils.project import cores, fingerprint

#: Examples to be trained on, epochs counted, from which on starting processes (some seconds) pays.
WORTH_WORKERS = 10_000

_PART = 4096
_JOINT = "+"


@dataclass(frozen=True)
class TrainedCrnn:
    """A cross-validated CRNN: the recogniser, its evaluation, and the folds with their learning curves."""

    recogniser: CrnnRecogniser
    evaluation: Evaluation
    folds: dict[str, FoldModel]


def training_spec(config: CrnnConfig) -> TrainingSpec:
    """Resolve ``auto`` by the data set's preset."""
    preset = PRESETS[config.dataset]
    return TrainingSpec(
        layout=preset.layout if config.layout == "auto" else config.layout,
        learning_rate=preset.learning_rate if config.learning_rate == "auto" else config.learning_rate,
        batch_size=preset.batch_size if config.batch_size == "auto" else config.batch_size,
        epochs=preset.epochs if config.epochs == "auto" else config.epochs,
        standardise=config.standardise,
        precision=config.precision,
        class_weight=config.class_weight,
        seed=config.seed,
    )


def parts_of(data_set: DataSet, *, nested: bool) -> list[str]:
    """What models are trained without: each development fold, and pairs of them, as in ``1+2``.

    The first pair tells how a mean of models is calibrated; all pairs are for nested cross-validation.

    Raises:
        ConfigError: Nested, with fewer than three folds.
    """
    folds = nestable(data_set.clip_table.folds) if nested else data_set.clip_table.folds
    pairs = [_JOINT.join(pair) for pair in combinations(folds, 2)] if len(folds) > 2 else []
    return [*folds, *(pairs if nested else pairs[:1])]


def training_device(config: CrnnConfig, here: torch.device) -> torch.device:
    """Where folds are trained: on a cluster by the GPUs that its tasks take, whatever this machine has."""
    if config.cluster == "none":
        return here
    return torch.device("cuda" if config.cluster_gpus else "cpu")


def training_key(
    data_set: DataSet, spectrograms: Spectrograms, spec: TrainingSpec, config: CrnnConfig, device: torch.device
) -> str:
    """Identify what training gives: by spectrograms, data, settings, device and code.

    On a cluster, whose hosts and later ones share it, the threads of a task count, too: they change last bits.
    """
    device = training_device(config, device)
    made_of = {"spectrograms": spectrograms.recipe.store.folder.name, "data": data_set.fingerprint}
    made_by = {"training": spec.to_json(), "device": device.type, "code": code_version(FoldJob.__module__)}
    threads = {"threads": config.cluster_cpus} if config.cluster != "none" and device.type == "cpu" else {}
    return fingerprint(made_of | made_by | threads)


def train_folds(
    data_set: DataSet,
    spectrograms: Spectrograms,
    spec: TrainingSpec,
    config: CrnnConfig,
    device: torch.device,
    *,
    parts: Sequence[str] | None = None,
    progress: Progress = lambda count: None,
    on_fold: Callable[[str, FoldModel], object] = lambda fold, model: None,
) -> dict[str, FoldModel]:
    """Train a model for each of the ``parts`` (:func:`parts_of`; the development folds), on the other folds only.

    ``on_fold`` may raise to stop early (pruning). Finished folds and epochs are kept in the cache. With a cluster, its
    hosts train, each part on another one; ``device`` is this machine's.
    """
    parts = parts or data_set.clip_table.folds
    jobs = _jobs(data_set, spectrograms, spec, config, device, parts)
    if config.cluster != "none":
        return dict(zip(parts, _hosts(data_set, spectrograms, config).train(jobs, progress, on_fold), strict=True))
    work = sum(len(job.train) for job in jobs if not job.finished()) * spec.epochs
    if device.type == "cpu" and work > WORTH_WORKERS and cores() > 1:
        return train_side_by_side(jobs, progress, on_fold)
    trained: dict[str, FoldModel] = {}
    for job in jobs:
        trained[job.fold] = train_fold(job, progress)
        on_fold(job.fold, trained[job.fold])
    return trained


def train_ahead(
    data_set: DataSet,
    spectrograms: Spectrograms,
    specs: Sequence[TrainingSpec],
    config: CrnnConfig,
    device: torch.device,
    progress: Progress,
) -> None:
    """Have the hosts of a cluster train the development folds of several settings, all at a time.

    :func:`train_folds` then finds them in the cache.
    """
    folds = data_set.clip_table.folds
    jobs = [job for spec in specs for job in _jobs(data_set, spectrograms, spec, config, device, folds)]
    _hosts(data_set, spectrograms, config).train(jobs, progress)


def _hosts(data_set: DataSet, spectrograms: Spectrograms, config: CrnnConfig) -> FoldHosts:
    cluster = Cluster(config.cluster, config.cluster_cpus, config.cluster_gpus)
    return FoldHosts(cluster, spectrograms.recipe.store, tuple(example.key for example in data_set.examples))


def _jobs(
    data_set: DataSet,
    spectrograms: Spectrograms,
    spec: TrainingSpec,
    config: CrnnConfig,
    device: torch.device,
    parts: Sequence[str],
) -> list[FoldJob]:
    """What is to be trained for each part; for hosts, without the inputs, which they have from the store."""
    key = training_key(data_set, spectrograms, spec, config, device)
    spread = config.cluster != "none"
    mapped = getattr(spectrograms.values, "filename", None)  # too many for the memory: workers map the file themselves
    inputs = Path(mapped) if mapped else torch.empty(0) if spread else torch.from_numpy(spectrograms.values)
    folds, targets = data_set.example_folds, torch.from_numpy(data_set.example_targets)

    def checkpoint(part: str) -> Checkpoint:
        below = f"training/{key}/fold-{part}.pt"
        return f"{config.cache_uri}/{below}" if spread else config.cache_path / below

    return [
        FoldJob(
            inputs,
            targets,
            train=torch.from_numpy(np.flatnonzero(~_in_part(folds, part) & (folds != TEST))),
            held_out=torch.from_numpy(np.flatnonzero(_in_part(folds, part))),
            spec=spec,
            classes=len(data_set.clip_table.labels),
            fold=part,
            device=training_device(config, device),
            checkpoint=checkpoint(part),
        )
        for part in parts
    ]


def finish(
    data_set: DataSet,
    spectrograms: Spectrograms,
    spec: TrainingSpec,
    models: dict[str, FoldModel],
    device: torch.device,
    none_rate: float | Literal["off"] = "off",
) -> TrainedCrnn:
    """Assemble the recogniser of the models by part, calibrate it on out-of-fold scores, and score the test clips."""
    folds = {part: model for part, model in models.items() if part in data_set.clip_table.folds}
    recogniser = CrnnRecogniser(
        labels=data_set.clip_table.labels,
        audio=data_set.audio,
        spectrogram=spectrograms.recipe.spec,
        layout=spec.layout,
        folds=list(folds.values()),
        device=device,
    )
    held_out = {part: _clip_scores(data_set, part, model.scores) for part, model in models.items()}
    devel = len(data_set.clip_table.devel)
    pairs = {part: scores[:devel] for part, scores in held_out.items() if part not in folds}
    test = np.flatnonzero(data_set.example_folds == TEST)
    parts = (test[start : start + _PART] for start in range(0, len(test), _PART))  # all may be larger than the memory
    of_test = np.concatenate([recogniser.score_features(spectrograms.values[rows]) for rows in parts])
    held_out[TEST] = _clip_scores(data_set, TEST, of_test)
    clip_scores = np.sum([held_out[fold] for fold in (*folds, TEST)], axis=0)  # each is zero where another is not
    truth, clip_folds = data_set.clip_targets[:devel], np.array([clip.fold for clip in data_set.clip_table.devel])
    recogniser.inverse_temperature = _inverse_temperature(clip_scores[:devel], truth, clip_folds, pairs)
    nested = _nested(clip_folds, pairs) if len(pairs) > 1 else {}
    evaluation = evaluate(data_set, clip_scores, recogniser, nested)
    if none_rate != "off":
        evaluation = with_none(data_set, evaluation, recogniser, spectrograms.values, none_rate)
    return TrainedCrnn(recogniser, evaluation, folds)


def held_out_macro_f1(data_set: DataSet, fold: str, model: FoldModel) -> float:
    """Macro-F1 of a fold model on its held-out clips."""
    clips = [number for number, clip in enumerate(data_set.clips) if clip.fold == fold]
    chosen = _clip_scores(data_set, fold, model.scores)[clips].argmax(axis=1)
    return float(macro_f1(confusion_matrix(data_set.clip_targets[clips], chosen, len(data_set.clip_table.labels))))


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
    of_one = fit_inverse_temperature(scores, truth, CrnnRecogniser.kind)
    if not pairs:
        return of_one
    rows = [_in_part(folds, part) for part in pairs]
    one = np.concatenate([scores[held_out] for held_out in rows])
    other = np.concatenate([part[held_out] for part, held_out in zip(pairs.values(), rows, strict=True)])
    known = np.concatenate([truth[held_out] for held_out in rows])
    of_two = fit_inverse_temperature((one + other) / 2, known, CrnnRecogniser.kind)
    gain = of_two / fit_inverse_temperature(one, known, CrnnRecogniser.kind)
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


def curves(folds: dict[str, FoldModel]) -> Iterator[tuple[int, dict[str, float]]]:
    """Learning curves as metrics: (epoch, values), each fold's and their mean."""
    first = next(iter(folds.values())).history
    for epoch in range(len(first["train_loss"])):
        values: dict[str, float] = {}
        for name in first:
            by_fold = {fold: model.history[name][epoch] for fold, model in folds.items()}
            values[f"curve/{name}"] = float(np.mean(list(by_fold.values())))
            if name != "learning_rate":
                values |= {f"curve/fold_{fold}_{name}": value for fold, value in by_fold.items()}
        yield epoch + 1, values
