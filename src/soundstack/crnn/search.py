"""Tuning the CRNN with Optuna: learning rate (log scale) and batch size, one nested run a trial, pruned by fold.

What a trial is depends on the seed, its number and the trials before its batch alone, so that no clock has a say: a
batch of ``parallel_trials`` (one, by default) is asked for at a time, judged, and told in order. None of a batch knows
of the others, whether it is proposed or pruned; so on a cluster all their folds are trained at a time, and here one
after another, and the search is the same. Unless ``studies`` names a database that keeps finished trials
(:mod:`~soundstack.crnn.studies`), nothing of a study is kept but the folds that its trials trained, in the cache. A
killed search therefore goes through its finished folds again, in no time, and on from the last finished epoch; asking
for more trials extends it. Trials are judged by macro-F1 on the held-out development folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import optuna
import torch
from optuna import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from soundstack.config.steps import CrnnConfig
from soundstack.crnn import studies
from soundstack.crnn import system as crnn
from soundstack.crnn.training import FoldModel, TrainingSpec, derived_seed
from soundstack.datasets.data_set import DataSet
from soundstack.evaluation import plots
from soundstack.spectrograms.extract import Spectrograms
from soundstack.utils.code_versions import code_version
from soundstack.utils.files import save_figure
from soundstack.utils.progress import bar
from soundstack.utils.project import fingerprint

if TYPE_CHECKING:
    from soundstack.tracking.run import Run

LEARNING_RATES = (1e-4, 1e-2)
BATCH_SIZES = (16, 32, 64, 128)


def tune(
    data_set: DataSet, spectrograms: Spectrograms, config: CrnnConfig, device: torch.device, run: Run
) -> TrainingSpec:
    """Search for ``config.trials`` trials, log what they found, and return the best configuration.

    The first trial is the preset, so that tuning never ends below it on devel.

    Raises:
        StoreError: The database that ``config.studies`` names cannot be used.
    """
    folds = data_set.clip_table.folds
    base = crnn.training_spec(config)

    def objective(trial: Trial) -> float:
        spec = _spec_of(trial, base)
        scores: list[float] = []
        with (
            run.trial(f"{run.name}-trial-{trial.number}", trial.params, optuna.TrialPruned) as opened,
            bar(f"trial {trial.number}", spec.epochs * len(folds), "epochs") as advance,
        ):

            def judge(fold: str, model: FoldModel) -> None:
                scores.append(crnn.held_out_macro_f1(data_set, fold, model))
                opened.metrics({"fold_macro_f1": scores[-1]}, step=int(fold))
                mean = float(np.mean(scores))
                trial.report(mean, step=len(scores))
                if len(scores) < len(folds) and trial.should_prune():
                    raise optuna.TrialPruned(f"after fold {fold}: {mean:.3f}")

            crnn.train_folds(data_set, spectrograms, spec, config, device, progress=advance, on_fold=judge)
            opened.metrics({"devel_macro_f1": float(np.mean(scores))})
        return float(np.mean(scores))

    def prepare(trials: Sequence[Trial]) -> None:
        specs = [_spec_of(trial, base) for trial in trials]
        if len(specs) > 1 and config.cluster != "none":
            name = f"trials {trials[0].number} to {trials[-1].number}"
            with bar(name, base.epochs * len(folds) * len(specs), "epochs") as advance:
                crnn.train_ahead(data_set, spectrograms, specs, config, device, advance)

    name = ""
    if config.studies != "auto":  # whatever a trial hangs on, but for the number of trials
        key = crnn.training_key(data_set, spectrograms, base, config, device)
        name = f"{run.name}-{fingerprint([key, code_version(__name__), config.parallel_trials])}"
    study = _search(objective, prepare, base, config, name)
    _log(study, run)
    return replace(base, **study.best_params)


def _search(
    objective: Callable[[Trial], float],
    prepare: Callable[[Sequence[Trial]], object],
    base: TrainingSpec,
    config: CrnnConfig,
    name: str,
) -> Study:
    """Search from the first trial that the study of a name does not hold yet, and return all trials asked for.

    ``prepare`` is called with the trials of a batch that are to be judged, before the first of them is.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(3, n_warmup_steps=0))
    size = config.parallel_trials
    with studies.kept(config.studies, name) as kept:
        known = kept.trials[: config.trials]
        begun = len(known) // size * size  # a batch that was told in part is asked for again, as if it was not
        study.add_trials(known[:begun])
        if not begun:
            nearest = min(BATCH_SIZES, key=lambda size: abs(size - base.batch_size))
            study.enqueue_trial({"learning_rate": base.learning_rate, "batch_size": nearest})
        for start in range(begun, config.trials, size):
            numbers = range(start, min(start + size, config.trials))
            batch = [_asked(study, base, config.seed, number) for number in numbers]
            told, new = known[start:], batch[len(known[start:]) :]
            prepare(new)
            outcomes = [*map(_repeated, batch, told), *(_judged(objective, trial) for trial in new)]
            for trial, value in zip(batch, outcomes, strict=True):
                study.tell(trial, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)
            for trial in new:
                kept.add(study.trials[trial.number])
    return study


def _asked(study: Study, base: TrainingSpec, seed: int, number: int) -> Trial:
    """The trial of a number, with its parameters."""
    # A sampler a trial: what it draws must not hang on how often those before it drew.
    study.sampler = optuna.samplers.TPESampler(seed=derived_seed(seed, "trial", number) % 2**32, multivariate=True)
    trial = study.ask()
    _spec_of(trial, base)
    return trial


def _spec_of(trial: Trial, base: TrainingSpec) -> TrainingSpec:
    """What a trial trains with; it draws when it is asked for the first time."""
    return replace(
        base,
        learning_rate=trial.suggest_float("learning_rate", *LEARNING_RATES, log=True),
        batch_size=trial.suggest_categorical("batch_size", BATCH_SIZES),
    )


def _judged(objective: Callable[[Trial], float], trial: Trial) -> float | None:
    """The value of a trial; None if it is pruned."""
    try:
        return objective(trial)
    except optuna.TrialPruned:
        return None


def _repeated(trial: Trial, told: FrozenTrial) -> float | None:
    """The same of a trial that was told before."""
    for step, value in told.intermediate_values.items():
        trial.report(value, step)
    return told.value if told.state == TrialState.COMPLETE else None


def _log(study: Study, run: Run) -> None:
    run.metrics({"best_trial": study.best_trial.number, "best_trial_macro_f1": study.best_value})
    trials = study.trials_dataframe()
    finished = trials[trials.state == TrialState.COMPLETE.name]
    for number, value in zip(finished.number, finished.value, strict=True):
        run.metrics({"trial_macro_f1": value}, step=number)
    figure = plots.trials_figure(finished.params_learning_rate, finished.params_batch_size, finished.value)
    save_figure(figure, run.folder / "tuning" / "trials.png")
    trials.to_csv(run.folder / "tuning" / "trials.csv", index=False)
