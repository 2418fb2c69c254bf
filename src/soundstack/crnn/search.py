"""Tuning the CRNN: learning rate (log scale) and batch size (:mod:`soundstack.training.search`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from optuna.trial import BaseTrial

from soundstack.config.steps import CrnnConfig
from soundstack.crnn import system as crnn
from soundstack.crnn.training import TrainingSpec
from soundstack.datasets.data_set import DataSet
from soundstack.spectrograms.extract import Spectrograms
from soundstack.training import cross_validation
from soundstack.training.search import Search
from soundstack.utils.progress import bar

if TYPE_CHECKING:
    from soundstack.tracking.run import Run

LEARNING_RATES = (1e-4, 1e-2)
BATCH_SIZES = (16, 32, 64, 128)


def tune(
    data_set: DataSet, spectrograms: Spectrograms, config: CrnnConfig, device: torch.device, run: Run
) -> TrainingSpec:
    """Search for ``config.trials`` trials, the first of which is the preset, and return the best configuration.

    Raises:
        StoreError: The database that ``config.studies`` names cannot be used.
    """
    folds = data_set.clip_table.folds
    base = crnn.training_spec(config)

    def setting(trial: BaseTrial) -> TrainingSpec:
        return replace(
            base,
            learning_rate=trial.suggest_float("learning_rate", *LEARNING_RATES, log=True),
            batch_size=trial.suggest_categorical("batch_size", BATCH_SIZES),
        )

    def prepare(specs: Sequence[TrainingSpec], name: str) -> None:
        if config.cluster != "none":
            with bar(name, base.epochs * len(folds) * len(specs), "epochs") as advance:
                crnn.train_ahead(data_set, spectrograms, specs, config, device, advance)

    nearest = min(BATCH_SIZES, key=lambda size: abs(size - base.batch_size))
    return Search(
        folds=folds,
        epochs=base.epochs,
        first={"learning_rate": base.learning_rate, "batch_size": nearest},
        setting=setting,
        train=lambda spec, progress, on_fold: crnn.train_folds(
            data_set, spectrograms, spec, config, device, progress=progress, on_fold=on_fold
        ),
        judge=lambda fold, model: cross_validation.held_out_macro_f1(data_set, fold, model),
        made_of=lambda: crnn.training_key(data_set, spectrograms, base, config, device),
        prepare=prepare,
    ).best(config, run)
