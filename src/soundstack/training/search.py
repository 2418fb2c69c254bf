"""Tuning networks with Optuna: one nested run a trial, judged by macro-F1 on held-out folds, pruned by fold.

What a trial is depends on the seed, its number and the trials before its batch alone, so that no clock has a say: a
batch of ``parallel_trials`` (one, by default) is asked for at a time, judged, and told in order. None of a batch knows
of the others, whether it is proposed or pruned; so on a cluster all their folds are trained at a time, and here one
after another, and the search is the same. Unless ``studies`` names a database that keeps finished trials
(:mod:`~soundstack.training.studies`), nothing of a study is kept but the folds that its trials trained, in the cache. A
killed search therefore goes through its finished folds again, in no time, and on from the last finished epoch; asking
for more trials extends it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import optuna
from optuna import Study
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

from soundstack.evaluation import plots
from soundstack.training import studies
from soundstack.training.fold import FoldModel, Progress, derived_seed
from soundstack.utils.code_versions import code_version
from soundstack.utils.files import save_figure
from soundstack.utils.progress import bar
from soundstack.utils.project import fingerprint

if TYPE_CHECKING:
    from soundstack.tracking.run import Run

S = TypeVar("S")


class SearchConfig(Protocol):
    """The parameters of a search."""

    @property
    def trials(self) -> int: ...
    @property
    def parallel_trials(self) -> int: ...
    @property
    def studies(self) -> str: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Search(Generic[S]):
    """What is searched, and how a setting is tried.

    Attributes:
        folds: The development folds.
        epochs: Of a trial's fold.
        first: The parameters of the first trial, so that tuning never ends below them on devel.
        setting: The setting that a trial trains with; it draws when the trial is asked for the first time.
        train: Trains the folds of a setting, and calls back with each, in order.
        judge: Macro-F1 of a fold's model on its held-out clips.
        prepare: Called with the settings of a batch before the first of them is tried.
        made_of: Identifies data and settings that are not searched; a kept study is found by it.
    """

    folds: Sequence[str]
    epochs: int
    first: Mapping[str, Any]
    setting: Callable[[BaseTrial], S]
    train: Callable[[S, Progress, Callable[[str, FoldModel], object]], object]
    judge: Callable[[str, FoldModel], float]
    made_of: Callable[[], str]
    prepare: Callable[[Sequence[S], str], object] = field(default=lambda settings, name: None)

    def best(self, config: SearchConfig, run: Run) -> S:
        """Search for ``config.trials`` trials, log what they found, and return the best setting.

        Raises:
            StoreError: The database that ``config.studies`` names cannot be used.
        """
        name = ""
        if config.studies != "auto":  # whatever a trial hangs on, but for the number of trials
            name = f"{run.name}-{fingerprint([self.made_of(), code_version(__name__), config.parallel_trials])}"
        study = self._searched(config, run, name)
        _log(study, run)
        return self.setting(study.best_trial)

    def _searched(self, config: SearchConfig, run: Run, name: str) -> Study:
        """Search from the first trial that the study of a name does not hold yet, and return all trials asked for."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(3, n_warmup_steps=0))
        size = config.parallel_trials
        with studies.kept(config.studies, name) as kept:
            known = kept.trials[: config.trials]
            begun = len(known) // size * size  # a batch that was told in part is asked for again, as if it was not
            study.add_trials(known[:begun])
            if not begun:
                study.enqueue_trial(dict(self.first))
            for start in range(begun, config.trials, size):
                numbers = range(start, min(start + size, config.trials))
                batch = [self._asked(study, config.seed, number) for number in numbers]
                told, new = known[start:], batch[len(known[start:]) :]
                if len(new) > 1:
                    self.prepare([self.setting(trial) for trial in new], f"trials {new[0].number} to {new[-1].number}")
                outcomes = [*map(_repeated, batch, told), *(self._judged(trial, run) for trial in new)]
                for trial, value in zip(batch, outcomes, strict=True):
                    study.tell(trial, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)
                for trial in new:
                    kept.add(study.trials[trial.number])
        return study

    def _asked(self, study: Study, seed: int, number: int) -> Trial:
        """The trial of a number, with its parameters."""
        # A sampler a trial: what it draws must not hang on how often those before it drew.
        study.sampler = optuna.samplers.TPESampler(seed=derived_seed(seed, "trial", number) % 2**32, multivariate=True)
        trial = study.ask()
        self.setting(trial)
        return trial

    def _judged(self, trial: Trial, run: Run) -> float | None:
        """The value of a trial; None if it is pruned."""
        try:
            return self._tried(trial, run)
        except optuna.TrialPruned:
            return None

    def _tried(self, trial: Trial, run: Run) -> float:
        setting = self.setting(trial)
        scores: list[float] = []
        with (
            run.trial(f"{run.name}-trial-{trial.number}", trial.params, optuna.TrialPruned) as opened,
            bar(f"trial {trial.number}", self.epochs * len(self.folds), "epochs") as advance,
        ):

            def on_fold(fold: str, model: FoldModel) -> None:
                scores.append(self.judge(fold, model))
                opened.metrics({"fold_macro_f1": scores[-1]}, step=int(fold))
                mean = float(np.mean(scores))
                trial.report(mean, step=len(scores))
                if len(scores) < len(self.folds) and trial.should_prune():
                    raise optuna.TrialPruned(f"after fold {fold}: {mean:.3f}")

            self.train(setting, advance, on_fold)
            opened.metrics({"devel_macro_f1": float(np.mean(scores))})
        return float(np.mean(scores))


def _repeated(trial: Trial, told: FrozenTrial) -> float | None:
    """The value of a trial that was told before; None if it was pruned."""
    for step, value in told.intermediate_values.items():
        trial.report(value, step)
    return told.value if told.state == TrialState.COMPLETE else None


def _log(study: Study, run: Run) -> None:
    run.metrics({"best_trial": study.best_trial.number, "best_trial_macro_f1": study.best_value})
    trials = study.trials_dataframe()
    finished = trials[trials.state == TrialState.COMPLETE.name]
    for number, value in zip(finished.number, finished.value, strict=True):
        run.metrics({"trial_macro_f1": value}, step=number)
    params = {name: finished[f"params_{name}"] for name in study.best_params}
    save_figure(plots.trials_figure(params, finished.value), run.folder / "tuning" / "trials.png")
    trials.to_csv(run.folder / "tuning" / "trials.csv", index=False)
