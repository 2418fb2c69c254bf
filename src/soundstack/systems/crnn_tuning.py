"""Tuning the CRNN with Optuna: learning rate (log scale) and batch size, one nested run a trial, pruned by fold.

The study lives in ``<cache>/studies/<fingerprint>.db``: an interrupted search goes on at the first unfinished trial,
and asking for more trials extends it. Trials are judged by macro-F1 on the held-out development folds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import optuna
import torch

from soundstack import provenance, tracking
from soundstack.config import CrnnConfig, fingerprint
from soundstack.datasets.corpus import Corpus
from soundstack.progress import bar
from soundstack.results import save_figure
from soundstack.systems import crnn
from soundstack.training import FoldModel, TrainingSpec

if TYPE_CHECKING:
    from soundstack.systems.spectrograms import Spectrograms

LEARNING_RATES = (1e-4, 1e-2)
BATCH_SIZES = (16, 32, 64, 128)


def tune(
    corpus: Corpus, spectrograms: Spectrograms, config: CrnnConfig, device: torch.device, parent: tracking.Run
) -> TrainingSpec:
    """Run (or go on with) a study and return the best configuration.

    The first trial is the preset, so that tuning never ends below it on devel.
    """
    base = crnn.training_spec(config)
    storage = _open_study(corpus, spectrograms, config, base)
    study = optuna.create_study(
        study_name="crnn",
        storage=storage,
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=config.seed + _finished_count(storage), multivariate=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=0),
    )
    if not study.trials:
        study.enqueue_trial({"learning_rate": base.learning_rate, "batch_size": _nearest(base.batch_size)})
    for stale in study.get_trials(states=(optuna.trial.TrialState.RUNNING,), deepcopy=False):
        study.tell(stale.number, state=optuna.trial.TrialState.FAIL)  # its process was killed
        study.enqueue_trial(stale.params)

    def objective(trial: optuna.Trial) -> float:
        spec = replace(
            base,
            learning_rate=trial.suggest_float("learning_rate", *LEARNING_RATES, log=True),
            batch_size=trial.suggest_categorical("batch_size", BATCH_SIZES),
        )
        return _trial(trial, spec, corpus, spectrograms, config, device, parent.name)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    while (left := config.trials - _finished_count(storage)) > 0:
        study.optimize(objective, n_trials=min(left, 1))
    parent.metrics({"best_trial": study.best_trial.number, "best_trial_macro_f1": study.best_value})
    for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,), deepcopy=False):
        if trial.value is not None:
            parent.metrics({"trial_macro_f1": trial.value}, step=trial.number)
    save_figure(_history_figure(study), parent.folder / "tuning" / "trials.png")
    study.trials_dataframe().to_csv(parent.folder / "tuning" / "trials.csv", index=False)
    return replace(base, **study.best_params)


def _open_study(
    corpus: Corpus, spectrograms: Spectrograms, config: CrnnConfig, base: TrainingSpec
) -> optuna.storages.RDBStorage:
    fixed = {name: value for name, value in base.to_json().items() if name not in ("learning_rate", "batch_size")}
    key = fingerprint(
        {
            "fixed": fixed,
            "spectrogram": spectrograms.spec.to_json(),
            "audio": corpus.audio.to_json(),
            "data": corpus.fingerprint,
            "code": provenance.code_fingerprint(*crnn.CODE),
        }
    )
    folder = config.cache_path / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    return optuna.storages.RDBStorage(f"sqlite:///{folder / key}.db", engine_kwargs={"connect_args": {"timeout": 60}})


def _finished_count(storage: optuna.storages.RDBStorage) -> int:
    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return sum(
        len(storage.get_all_trials(study._study_id, deepcopy=False, states=done)) for study in storage.get_all_studies()
    )


def _trial(
    trial: optuna.Trial,
    spec: TrainingSpec,
    corpus: Corpus,
    spectrograms: Spectrograms,
    config: CrnnConfig,
    device: torch.device,
    name: str,
) -> float:
    folds = corpus.dataset.folds
    scores: list[float] = []
    with (
        tracking.trial(f"{name}-trial-{trial.number}", config, trial.params) as opened,
        bar(f"trial {trial.number}", spec.epochs * len(folds), "epochs") as advance,
    ):

        def on_fold(fold: str, model: FoldModel) -> None:
            scores.append(crnn.held_out_macro_f1(corpus, fold, model))
            opened.metrics({"fold_macro_f1": scores[-1]}, step=int(fold))
            trial.report(float(np.mean(scores)), step=len(scores))
            if len(scores) < len(folds) and trial.should_prune():
                raise optuna.TrialPruned(f"after fold {fold}: {np.mean(scores):.3f}")

        crnn.train_folds(
            corpus,
            spectrograms,
            spec,
            config,
            device,
            on_epoch=lambda fold, epoch, values: advance(1),
            on_fold=on_fold,
        )
        opened.metrics({"devel_macro_f1": float(np.mean(scores))})
    return float(np.mean(scores))


def _history_figure(study: optuna.Study) -> object:
    from soundstack.evaluation import plots

    finished = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    return plots.trials_figure(
        [trial.params["learning_rate"] for trial in finished],
        [trial.params["batch_size"] for trial in finished],
        [float(trial.value or 0) for trial in finished],
    )


def _nearest(batch_size: int) -> int:
    return min(BATCH_SIZES, key=lambda size: abs(size - batch_size))
