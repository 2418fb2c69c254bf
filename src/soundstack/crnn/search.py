"""Tuning the CRNN with Optuna: learning rate (log scale) and batch size, one nested run a trial, pruned by fold.

The study lives in ``<cache>/studies/<fingerprint>.db``. A killed search goes on with the trial that was under way, from
the checkpoints of its folds, and asking for more trials extends it: what a trial is depends on the seed, its number and
the trials before it alone, so that an interrupted study equals an uninterrupted one. Trials are judged by macro-F1 on
the held-out development folds. A lock keeps two processes from one study: the second waits and takes it over.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna
import torch
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from soundstack.config.steps import CrnnConfig, fingerprint
from soundstack.crnn import system as crnn
from soundstack.crnn.training import FoldModel, TrainingSpec, derived_seed
from soundstack.datasets.corpus import Corpus
from soundstack.tracking import run as tracking
from soundstack.utils.code_versions import code_version
from soundstack.utils.errors import StoreError
from soundstack.utils.files import save_figure
from soundstack.utils.locks import exclusive
from soundstack.utils.progress import bar

if TYPE_CHECKING:
    from soundstack.spectrograms.extract import Spectrograms

LEARNING_RATES = (1e-4, 1e-2)
BATCH_SIZES = (16, 32, 64, 128)
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def tune(
    corpus: Corpus, spectrograms: Spectrograms, config: CrnnConfig, device: torch.device, parent: tracking.Run
) -> TrainingSpec:
    """Run (or go on with) a study and return the best configuration.

    The first trial is the preset, so that tuning never ends below it on devel.
    """
    base = crnn.training_spec(config)
    path = _study_path(corpus, spectrograms, config, base, device)
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial: optuna.Trial) -> float:
        spec = replace(
            base,
            learning_rate=trial.suggest_float("learning_rate", *LEARNING_RATES, log=True),
            batch_size=trial.suggest_categorical("batch_size", BATCH_SIZES),
        )
        return _trial(trial, spec, corpus, spectrograms, config, device, parent.name)

    with exclusive(path.with_suffix(".lock"), f"the study of {parent.name}"), _explained(path):
        study = _open_study(path)
        if not study.trials:
            study.enqueue_trial({"learning_rate": base.learning_rate, "batch_size": _nearest(base.batch_size)})
        run_trials(study, objective, config.trials, config.seed)
        parent.metrics({"best_trial": study.best_trial.number, "best_trial_macro_f1": study.best_value})
        for trial in study.get_trials(states=(TrialState.COMPLETE,), deepcopy=False):
            if trial.value is not None:
                parent.metrics({"trial_macro_f1": trial.value}, step=trial.number)
        save_figure(_history_figure(study), parent.folder / "tuning" / "trials.png")
        study.trials_dataframe().to_csv(parent.folder / "tuning" / "trials.csv", index=False)
        return replace(base, **study.best_params)


def run_trials(study: optuna.Study, objective: Callable[[optuna.Trial], float], trials: int, seed: int) -> None:
    """Bring a study to so many trials, first finishing the one that a killed process left.

    Optuna's own loop is not used: it gives up a trial that is interrupted, and its sampler's state ends with the
    process. Here each trial has a sampler of its own, seeded by its number, and an unfinished one is taken up again.
    """
    while True:
        all_trials = study.get_trials(deepcopy=False)
        left = [trial.number for trial in all_trials if trial.state == TrialState.RUNNING]
        if not left and sum(trial.state in _ENDED for trial in all_trials) >= trials:
            return
        waiting = [trial.number for trial in all_trials if trial.state == TrialState.WAITING]
        number = min(left or waiting, default=len(all_trials))
        study.sampler = optuna.samplers.TPESampler(seed=derived_seed(seed, "trial", number) % 2**32, multivariate=True)
        if left:
            trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
            trial = optuna.Trial(study, trial_id)
        else:
            trial = study.ask()
        try:
            value = objective(trial)
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value)


def _study_path(
    corpus: Corpus, spectrograms: Spectrograms, config: CrnnConfig, base: TrainingSpec, device: torch.device
) -> Path:
    fixed = {name: value for name, value in base.to_json().items() if name not in ("learning_rate", "batch_size")}
    key = fingerprint(
        {
            "fixed": fixed,
            "spectrogram": spectrograms.spec.to_json(),
            "audio": corpus.audio.to_json(),
            "data": corpus.fingerprint,
            "device": device.type,
            "code": code_version(*crnn.CODE),
        }
    )
    return config.cache_path / "studies" / f"{key}.db"


def _open_study(path: Path) -> optuna.Study:
    """Open the study of a file; a damaged one is begun anew, and finds what its trials trained in the cache."""
    if path.is_file() and _is_damaged(path):
        print(f"The study {path} is damaged; it is begun anew.", file=sys.stderr)
        path.unlink()
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
    return optuna.create_study(
        study_name="crnn",
        storage=storage,
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=0),
    )


def _is_damaged(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path, timeout=60)) as database:
            return bool(database.execute("PRAGMA quick_check").fetchone() != ("ok",))
    except sqlite3.OperationalError:  # it cannot be read, which says nothing about what it holds
        return False
    except sqlite3.DatabaseError:
        return True


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = error.__cause__ or error
        raise StoreError(
            f"The study {path} cannot be used ({str(reason).splitlines()[0]}); free space, mend its rights, or choose "
            "another cache_dir."
        ) from error


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
    # A trial that was killed goes through its finished folds again: what it had reported is not judged anew.
    reported = len(trial.study.trials[trial.number].intermediate_values)
    with (
        tracking.trial(f"{name}-trial-{trial.number}", trial.params) as opened,
        bar(f"trial {trial.number}", spec.epochs * len(folds), "epochs") as advance,
    ):

        def on_fold(fold: str, model: FoldModel) -> None:
            scores.append(crnn.held_out_macro_f1(corpus, fold, model))
            opened.metrics({"fold_macro_f1": scores[-1]}, step=int(fold))
            if len(scores) > reported:
                trial.report(float(np.mean(scores)), step=len(scores))
            if reported <= len(scores) < len(folds) and trial.should_prune():
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

    finished = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    return plots.trials_figure(
        [trial.params["learning_rate"] for trial in finished],
        [trial.params["batch_size"] for trial in finished],
        [float(trial.value or 0) for trial in finished],
    )


def _nearest(batch_size: int) -> int:
    return min(BATCH_SIZES, key=lambda size: abs(size - batch_size))
