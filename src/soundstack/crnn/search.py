"""Tuning the CRNN with Optuna: learning rate (log scale) and batch size, one nested run a trial, pruned by fold.

Nothing of a study is kept but the folds that its trials trained, in the cache: what a trial is depends on the seed, its
number and the trials before it alone. A killed search therefore goes through its finished folds again, in no time, and
on from the last finished epoch; asking for more trials extends it. Trials are judged by macro-F1 on the held-out
development folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
import torch
from optuna.trial import TrialState

from soundstack.config.steps import CrnnConfig
from soundstack.crnn import system as crnn
from soundstack.crnn.training import FoldModel, TrainingSpec, derived_seed
from soundstack.datasets.data_set import DataSet
from soundstack.evaluation import plots
from soundstack.spectrograms.extract import Spectrograms
from soundstack.utils.files import save_figure
from soundstack.utils.progress import bar

LEARNING_RATES = (1e-4, 1e-2)
BATCH_SIZES = (16, 32, 64, 128)


class Log(Protocol):
    """An open run: where a search, or one of its trials, tells what it found."""

    name: str
    folder: Path

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log values."""

    def trial(
        self, name: str, params: Mapping[str, Any], pruned: type[Exception]
    ) -> AbstractContextManager[Log, bool | None]:
        """Open the run of a trial, which the error ``pruned`` ends without a failure."""


def tune(
    data_set: DataSet, spectrograms: Spectrograms, config: CrnnConfig, device: torch.device, log: Log
) -> TrainingSpec:
    """Search for ``config.trials`` trials, log what they found, and return the best configuration.

    The first trial is the preset, so that tuning never ends below it on devel.
    """
    base = crnn.training_spec(config)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(3, n_warmup_steps=0))
    nearest = min(BATCH_SIZES, key=lambda size: abs(size - base.batch_size))
    study.enqueue_trial({"learning_rate": base.learning_rate, "batch_size": nearest})

    def objective(trial: optuna.Trial) -> float:
        spec = replace(
            base,
            learning_rate=trial.suggest_float("learning_rate", *LEARNING_RATES, log=True),
            batch_size=trial.suggest_categorical("batch_size", BATCH_SIZES),
        )
        total = spec.epochs * len(data_set.clip_table.folds)
        with (
            log.trial(f"{log.name}-trial-{trial.number}", trial.params, optuna.TrialPruned) as opened,
            bar(f"trial {trial.number}", total, "epochs") as advance,
        ):
            judge = _Judge(trial, data_set, opened)
            crnn.train_folds(data_set, spectrograms, spec, config, device, progress=advance, on_fold=judge)
            opened.metrics({"devel_macro_f1": judge.mean})
        return judge.mean

    for number in range(config.trials):
        # A sampler a trial: what it draws must not hang on how often those before it drew.
        study.sampler = optuna.samplers.TPESampler(
            seed=derived_seed(config.seed, "trial", number) % 2**32, multivariate=True
        )
        study.optimize(objective, n_trials=1)
    _report(study, log)
    return replace(base, **study.best_params)


class _Judge:
    """Takes the folds of a trial as they end, and prunes it after one where it falls behind."""

    def __init__(self, trial: optuna.Trial, data_set: DataSet, log: Log) -> None:
        self._trial, self._data_set, self._log = trial, data_set, log
        self._scores: list[float] = []

    @property
    def mean(self) -> float:
        """Mean macro-F1 of the folds so far."""
        return float(np.mean(self._scores))

    def __call__(self, fold: str, model: FoldModel) -> None:
        self._scores.append(crnn.held_out_macro_f1(self._data_set, fold, model))
        self._log.metrics({"fold_macro_f1": self._scores[-1]}, step=int(fold))
        self._trial.report(self.mean, step=len(self._scores))
        if len(self._scores) < len(self._data_set.clip_table.folds) and self._trial.should_prune():
            raise optuna.TrialPruned(f"after fold {fold}: {self.mean:.3f}")


def _report(study: optuna.Study, log: Log) -> None:
    log.metrics({"best_trial": study.best_trial.number, "best_trial_macro_f1": study.best_value})
    trials = study.trials_dataframe()
    finished = trials[trials.state == TrialState.COMPLETE.name]
    for number, value in zip(finished.number, finished.value, strict=True):
        log.metrics({"trial_macro_f1": value}, step=number)
    figure = plots.trials_figure(finished.params_learning_rate, finished.params_batch_size, finished.value)
    save_figure(figure, log.folder / "tuning" / "trials.png")
    trials.to_csv(log.folder / "tuning" / "trials.csv", index=False)
