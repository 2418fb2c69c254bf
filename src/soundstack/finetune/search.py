"""Tuning of fine-tuning: learning rate, depth and strength of augmentation (:mod:`soundstack.training.search`).

Depth and strength take few values each, since other views must be made for every pair of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from optuna.trial import BaseTrial

from soundstack.config.finetune import FinetuneConfig
from soundstack.datasets.data_set import DataSet
from soundstack.finetune import system as finetune
from soundstack.finetune.extract import ExtractedViews, extraction
from soundstack.finetune.training import FinetuneSpec
from soundstack.training import cross_validation
from soundstack.training.fold import FoldModel, Progress
from soundstack.training.search import Search

if TYPE_CHECKING:
    from soundstack.tracking.run import Run

LEARNING_RATES = (1e-4, 1e-2)
DEPTHS = (0.25, 0.5, 0.75)
STRENGTHS = (0.5, 1.0, 1.5)


def tune(data_set: DataSet, config: FinetuneConfig, device: torch.device, run: Run) -> FinetuneConfig:
    """Search for ``config.trials`` trials, the first of which is as near to what is given as can be; return the best.

    Raises:
        StoreError: The database that ``config.studies`` names cannot be used.
    """

    def setting(trial: BaseTrial) -> FinetuneConfig:
        chosen = {
            "learning_rate": trial.suggest_float("learning_rate", *LEARNING_RATES, log=True),
            "depth": trial.suggest_categorical("depth", DEPTHS),
            "augment": trial.suggest_categorical("augment", STRENGTHS),
        }
        return config.model_copy(update=chosen)

    def made_by(chosen: FinetuneConfig) -> tuple[ExtractedViews, FinetuneSpec]:
        views = extraction(chosen, device).finish(data_set)
        return views, finetune.training_spec(chosen, views.recipe.spec)

    def train(chosen: FinetuneConfig, progress: Progress, on_fold: Callable[[str, FoldModel], object]) -> None:
        finetune.train_folds(data_set, *made_by(chosen), chosen, device, progress=progress, on_fold=on_fold)

    return Search(
        folds=data_set.clip_table.folds,
        epochs=config.epochs * config.ensemble,
        first={
            "learning_rate": min(max(config.learning_rate, LEARNING_RATES[0]), LEARNING_RATES[1]),
            "depth": min(DEPTHS, key=lambda depth: abs(depth - config.chosen_depth)),
            "augment": min(STRENGTHS, key=lambda strength: abs(strength - config.augment)),
        },
        setting=setting,
        train=train,
        judge=lambda fold, model: cross_validation.held_out_macro_f1(data_set, fold, model),
        made_of=lambda: finetune.training_key(data_set, *made_by(config), device),
    ).best(config, run)
