"""The CRNN system (paper section 3.2): cross-validated on the development folds, fold models averaged on test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from soundstack.config.steps import PRESETS, CrnnConfig
from soundstack.crnn.fold_hosts import FoldHosts
from soundstack.crnn.recogniser import CrnnRecogniser
from soundstack.crnn.training import CrnnJob, TrainingSpec
from soundstack.datasets.data_set import DataSet
from soundstack.evaluation.evaluation import Evaluation
from soundstack.spectrograms.extract import Spectrograms
from soundstack.training.checkpoints import Checkpoint
from soundstack.training.cross_validation import assess, rows_of, train_jobs
from soundstack.training.fold import FoldModel, Progress, inputs_of
from soundstack.utils import devices
from soundstack.utils.cluster import Cluster
from soundstack.utils.code_versions import code_version
from soundstack.utils.project import fingerprint


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
        augment=config.augment,
        class_weight=config.class_weight,
        seed=config.seed,
    )


def training_key(
    data_set: DataSet, spectrograms: Spectrograms, spec: TrainingSpec, config: CrnnConfig, device: torch.device
) -> str:
    """Identify what training gives: by spectrograms, data, settings, device and code.

    On a cluster, whose hosts and later ones share it, the threads of a task count, too: they change last bits.
    """
    device = devices.working(config.cluster, config.cluster_gpus, device)
    made_of = {"spectrograms": spectrograms.recipe.store.folder.name, "data": data_set.fingerprint}
    made_by = {"training": spec.to_json(), "device": device.type, "code": code_version(CrnnJob.__module__)}
    threads = {"threads": config.cluster_cpus} if config.cluster != "none" and device.type == "cpu" else {}
    return fingerprint(made_of | made_by | threads)


def fold_job(
    data_set: DataSet,
    spectrograms: Spectrograms,
    spec: TrainingSpec,
    device: torch.device,
    rows: tuple[Tensor, Tensor],
    fold: str,
    checkpoint: Checkpoint,
) -> CrnnJob:
    """What is to be trained on the first of the ``rows``; the others are scored."""
    return CrnnJob(
        inputs_of(spectrograms.values),
        torch.from_numpy(data_set.example_targets),
        *rows,
        spec=spec,
        classes=len(data_set.clip_table.labels),
        fold=fold,
        device=device,
        checkpoint=checkpoint,
    )


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
    """Train a model for each of the ``parts`` (:mod:`soundstack.training.cross_validation`; the development folds).

    ``on_fold`` may raise to stop early (pruning). Finished folds and epochs are kept in the cache. With a cluster, its
    hosts train, each part on another one; ``device`` is this machine's.
    """
    parts = parts or data_set.clip_table.folds
    jobs = _jobs(data_set, spectrograms, spec, config, device, parts)
    if config.cluster != "none":
        return dict(zip(parts, _hosts(data_set, spectrograms, config).train(jobs, progress, on_fold), strict=True))
    return train_jobs(jobs, progress, on_fold)


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
) -> list[CrnnJob]:
    """What is to be trained for each part; for hosts, without the inputs, which they have from the store."""
    key = training_key(data_set, spectrograms, spec, config, device)
    spread = config.cluster != "none"
    working = devices.working(config.cluster, config.cluster_gpus, device)

    def checkpoint(part: str) -> Checkpoint:
        below = f"training/{key}/fold-{part}.pt"
        return f"{config.cache_uri}/{below}" if spread else config.cache_path / below

    jobs = [
        fold_job(data_set, spectrograms, spec, working, rows_of(data_set, part), part, checkpoint(part))
        for part in parts
    ]
    return [replace(job, inputs=torch.empty(0)) for job in jobs] if spread else jobs


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
    return TrainedCrnn(recogniser, assess(data_set, recogniser, models, spectrograms.values, none_rate), folds)
