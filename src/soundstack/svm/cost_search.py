"""The search for the SVM's complexity C (paper section 3.3): best macro-F1, averaged over the held-out folds.

By default the paper's ten values are tried, 1e-9 ... 1, else samples on the same log scale, which Optuna asks for. The
largest C cost the most time; on request the ten are tried from the smallest up, and no further once the score has
clearly fallen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soundstack.config.steps import PAPER_COSTS, DeepSpectrumConfig, FuseConfig
from soundstack.evaluation import plots
from soundstack.evaluation.evaluation import save_figure, write_json
from soundstack.evaluation.metrics import accuracy, confusion_matrix, macro_f1
from soundstack.svm.linear_svm import CLIP, PathProblem
from soundstack.utils.errors import ConfigError
from soundstack.utils.folds import fold_order

if TYPE_CHECKING:
    import torch

    from soundstack.tracking.run import Run

#: Costs -> out-of-fold decision values (len(costs), N, K).
Decide = Callable[[list[float]], NDArray[np.float64]]
#: So many costs in a row must be clearly worse than the best before the rest is left out.
FALLEN = 2


@dataclass(frozen=True)
class SearchSpec:
    """How C is searched.

    Attributes:
        trials: 0 for the paper's ten values, else the number of Optuna samples between 1e-9 and 1.
        seed: Of the sampler.
        stop_early: Leave out the larger ones of the paper's values once the score has clearly fallen.
        clip: The bound of standardised features; infinite: the paper's plain standardisation.
        balance: Let all classes count alike in training.
    """

    trials: int = 0
    seed: int = 0
    stop_early: bool = False
    clip: float = CLIP
    balance: bool = False

    @classmethod
    def of(cls, config: DeepSpectrumConfig | FuseConfig) -> SearchSpec:
        """As a step's parameters say."""
        clip = np.inf if config.feature_bound == "none" else config.feature_bound
        return cls(config.trials, config.seed, config.cost_path == "rising", clip, config.class_weight == "balanced")


def problem_of(
    x: NDArray[Any],
    y: NDArray[np.integer],
    folds: NDArray[np.str_],
    n_classes: int,
    spec: SearchSpec,
    device: torch.device | None = None,
) -> PathProblem:
    """The cross-validation that a search is over; see :class:`soundstack.svm.linear_svm.PathProblem`."""
    return PathProblem(x, y, folds, n_classes=n_classes, clip=spec.clip, balance=spec.balance, device=device)


@dataclass(frozen=True)
class CostSearch:
    """The searched costs in ascending order, their scores by fold, and the choice."""

    costs: tuple[float, ...]
    folds: tuple[str, ...]
    fold_accuracy: NDArray[np.float64]  # (C, folds)
    fold_macro_f1: NDArray[np.float64]  # (C, folds)
    chosen: float
    decisions: NDArray[np.float64]  # out-of-fold, at the chosen cost: (N, K)

    def log(self, run: Run) -> None:
        """Log the fold scores of every searched C, and their plot; the metrics' step is the rank of C."""
        for rank, cost in enumerate(self.costs):
            values = {"path/C": cost, "path/macro_f1": float(self.fold_macro_f1[rank].mean())}
            for fold, macro, right in zip(self.folds, self.fold_macro_f1[rank], self.fold_accuracy[rank], strict=True):
                values |= {f"path/macro_f1_fold_{fold}": macro, f"path/accuracy_fold_{fold}": right}
            run.metrics(values, step=rank)
        run.metrics({"C": self.chosen})
        content = {
            "chosen": self.chosen,
            "costs": self.costs,
            "folds": self.folds,
            "fold_accuracy": self.fold_accuracy.tolist(),
            "fold_macro_f1": self.fold_macro_f1.tolist(),
        }
        write_json(run.folder / "svm" / "costs.json", content)
        figure = plots.c_path_figure(self.costs, self.fold_macro_f1, self.fold_accuracy, self.chosen)
        save_figure(figure, run.folder / "svm" / "costs.png")


def search_cost(
    decide: Decide, truth: NDArray[np.intp], folds: NDArray[np.str_], n_classes: int, spec: SearchSpec
) -> CostSearch:
    """Choose C by the mean macro-F1 over the held-out folds; of equals, the smallest (the simplest model).

    ``truth`` and ``folds`` are the class index and the fold of each row (N,) that ``decide`` scores.
    """
    names = fold_order(folds.tolist())
    found: dict[float, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]] = {}

    def score(*costs: float) -> float:
        """Add costs to what is found; tell the mean macro-F1 of the last."""
        for cost, decisions in zip(costs, decide(list(costs)), strict=True):
            of_folds = [(truth[folds == name], decisions[folds == name].argmax(axis=1)) for name in names]
            confusions = np.stack([confusion_matrix(*of_fold, n_classes) for of_fold in of_folds])
            found[cost] = accuracy(confusions), macro_f1(confusions), decisions
        return float(found[costs[-1]][1].mean())

    if spec.trials:
        import optuna  # here: it takes long to import, and the paper's values do without

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=spec.seed))
        lowest, *_, highest = PAPER_COSTS
        study.optimize(lambda trial: score(trial.suggest_float("C", lowest, highest, log=True)), spec.trials)
    elif spec.stop_early:
        for cost in PAPER_COSTS:
            score(cost)
            if has_fallen(np.stack([macro for _, macro, _ in found.values()])):
                break
    else:
        score(*PAPER_COSTS)  # all at once: the solver shares its work along the path
    costs = tuple(sorted(found))
    fold_accuracy, fold_macro_f1, decisions = zip(*(found[cost] for cost in costs), strict=True)
    means = np.mean(fold_macro_f1, axis=1)
    best = int(np.argmax(means >= means.max() - 1e-12))
    return CostSearch(
        costs, tuple(names), np.stack(fold_accuracy), np.stack(fold_macro_f1), costs[best], decisions[best]
    )


def has_fallen(fold_scores: NDArray[np.float64]) -> bool:
    """Tell whether the last :data:`FALLEN` rows of scores by cost and fold (C, folds) are clearly below the best row.

    Clearly: the mean difference over the folds is above half a point and above two of its standard errors.
    """
    best = int(fold_scores.mean(axis=1).argmax())
    if best >= len(fold_scores) - FALLEN:
        return False
    loss = fold_scores[best] - fold_scores[-FALLEN:]  # (FALLEN, folds)
    error = loss.std(axis=1, ddof=1) / np.sqrt(loss.shape[1])
    return bool((loss.mean(axis=1) > np.maximum(0.005, 2 * error)).all())


def nested_decisions(
    features: Callable[[str], NDArray[Any]],
    truth: NDArray[np.integer],
    folds: NDArray[np.str_],
    n_classes: int,
    spec: SearchSpec,
    *,
    refit: bool = True,
    device: torch.device | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Decision values by nested cross-validation: for each fold all is chosen and fitted anew, on the others alone.

    The plain devel score is slightly optimistic, because C was chosen on the very folds it is reported on. The one
    from these is not, at the price of a search a fold.

    Args:
        features: Of all rows (N, D), for the fold to be judged; where they are made of other models' scores, of such
            that never saw that fold.
        refit: Whether test clips are scored by the SVM refitted on all folds, or by the mean of the fold SVMs.
        device: That of :class:`soundstack.svm.linear_svm.PathProblem`.

    Returns:
        By fold (N, K): its own rows, scored as test clips are, by what was fitted on all others; and the others', out
        of fold among themselves, for what may be stacked on them.

    Raises:
        ConfigError: Fewer than three folds: without one, there is nothing left to choose on.
    """
    nested = {}
    for name in nestable(fold_order(folds.tolist())):
        x, held_out = features(name), folds == name
        rest = ~held_out
        inner = problem_of(x[rest], truth[rest], folds[rest], n_classes, spec, device)
        found = search_cost(inner.out_of_fold_decisions, truth[rest], folds[rest], n_classes, spec)
        svms = [inner.refit(found.chosen)] if refit else inner.fold_models(found.chosen)
        decisions = np.empty((len(x), n_classes))
        decisions[rest] = found.decisions
        decisions[held_out] = np.mean([svm.decision(x[held_out]) for svm in svms], axis=0)
        nested[name] = decisions
    return nested


def nestable(folds: Sequence[str]) -> Sequence[str]:
    """The folds, if there are enough of them to hold two out.

    Raises:
        ConfigError: Fewer than three.
    """
    if len(folds) < 3:
        raise ConfigError(f"nested: yes needs at least three development folds; this data set has {len(folds)}.")
    return folds
