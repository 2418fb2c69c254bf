"""Fine-tuning, cross-validated on the development folds, fold models averaged on test (the paper's future work)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from soundstack.config.finetune import FinetuneConfig
from soundstack.datasets.data_set import DataSet
from soundstack.deepspectrum.embedding import EmbeddingSpec
from soundstack.evaluation.evaluation import Evaluation
from soundstack.finetune.extract import ExtractedViews
from soundstack.finetune.recogniser import FinetunedRecogniser
from soundstack.finetune.training import FinetuneJob, FinetuneSpec
from soundstack.training.cross_validation import assess, rows_of, train_jobs
from soundstack.training.fold import FoldModel, Progress, inputs_of
from soundstack.utils.code_versions import code_version
from soundstack.utils.project import fingerprint

#: The models of a part of the folds (:mod:`soundstack.training.cross_validation`), whose probabilities are averaged.
Members = list[FoldModel]


@dataclass(frozen=True)
class TrainedNetwork:
    """A cross-validated network: the recogniser, its evaluation, and the folds with their learning curves."""

    recogniser: FinetunedRecogniser
    evaluation: Evaluation
    folds: dict[str, FoldModel]


def training_spec(config: FinetuneConfig, embedding: EmbeddingSpec) -> FinetuneSpec:
    """Resolve ``auto``."""
    same = {
        name: getattr(config, name) for name in FinetuneSpec.__dataclass_fields__ if name not in ("embedding", "depth")
    }
    return FinetuneSpec(embedding=embedding, depth=config.chosen_depth, **same)


def training_key(data_set: DataSet, views: ExtractedViews, spec: FinetuneSpec, device: torch.device) -> str:
    """Identify what training gives: by views, data, settings, device and code."""
    made_of = {"views": views.recipe.store.folder.name, "data": data_set.fingerprint}
    made_by = {"training": spec.to_json(), "device": device.type, "code": code_version(FinetuneJob.__module__)}
    return fingerprint(made_of | made_by)


def fold_job(
    data_set: DataSet,
    views: ExtractedViews,
    spec: FinetuneSpec,
    device: torch.device,
    rows: tuple[Tensor, Tensor],
    fold: str,
    checkpoint: Path | None,
) -> FinetuneJob:
    """What is to be trained on the first of the ``rows``; the others are scored. ``fold`` is part of every seed."""
    clips = np.array([example.clip for example in data_set.examples])
    groups = np.unique([clip.group for clip in data_set.clips], return_inverse=True)[1]
    return FinetuneJob(
        inputs_of(views.values),
        torch.from_numpy(data_set.example_targets),
        *rows,
        spec=spec,
        classes=len(data_set.clip_table.labels),
        fold=fold,
        device=device,
        checkpoint=checkpoint,
        groups=torch.from_numpy(groups[clips]),
        weights_dir=views.recipe.weights_dir,
    )


def train_folds(
    data_set: DataSet,
    views: ExtractedViews,
    spec: FinetuneSpec,
    config: FinetuneConfig,
    device: torch.device,
    *,
    parts: Sequence[str] | None = None,
    progress: Progress = lambda count: None,
    on_fold: Callable[[str, FoldModel], object] = lambda fold, model: None,
) -> dict[str, Members]:
    """Train models for each of the ``parts`` (:mod:`soundstack.training.cross_validation`; the development folds).

    ``on_fold`` is given the mean of a part's models; it may raise to stop early (pruning). Finished folds and epochs
    are kept in the cache.
    """
    below = config.cache_path / "training" / training_key(data_set, views, spec, device)
    part_of = {
        f"{part}-{number}": part for part in parts or data_set.clip_table.folds for number in range(config.ensemble)
    }
    jobs = [
        fold_job(data_set, views, spec, device, rows_of(data_set, part), name, below / f"fold-{name}.pt")
        for name, part in part_of.items()
    ]
    trained: dict[str, Members] = {}

    def on_job(name: str, model: FoldModel) -> None:
        members = trained.setdefault(part_of[name], [])
        members.append(model)
        if len(members) == config.ensemble:
            on_fold(part_of[name], mean_of(members))

    train_jobs(jobs, progress, on_job)
    return trained


def mean_of(members: Members) -> FoldModel:
    """Scores and history of the models of a part as those of one; its weights are the first one's."""
    scores = [member.scores for member in members if member.scores is not None]
    histories = [member.history for member in members]
    history = {
        name: [float(np.mean(values)) for values in zip(*(each[name] for each in histories), strict=False)]
        for name in histories[0]
    }
    reused = all(member.reused for member in members)
    return replace(members[0], scores=np.mean(scores, axis=0), history=history, reused=reused)


def finish(
    data_set: DataSet,
    views: ExtractedViews,
    spec: FinetuneSpec,
    models: dict[str, Members],
    config: FinetuneConfig,
) -> TrainedNetwork:
    """Assemble the recogniser of the models by part, calibrate it on out-of-fold scores, and score the test clips."""
    means = {part: mean_of(members) for part, members in models.items()}
    recogniser = FinetunedRecogniser(
        labels=data_set.clip_table.labels,
        audio=views.recipe.audio,
        embedder=views.recipe.embedder,
        depth=spec.depth,
        folds=[model for fold in data_set.clip_table.folds for model in models[fold]],
    )
    evaluation = assess(data_set, recogniser, means, views.values[:, 0], config.none_rate)
    return TrainedNetwork(recogniser, evaluation, {fold: means[fold] for fold in data_set.clip_table.folds})
