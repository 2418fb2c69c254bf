"""The systems that are compared: what is learnt from a source alone, what is adapted to a target, and the bound.

None but :func:`target_supervised` is given a label of the target: what an adaptation sees is a :class:`Task`, which
holds none. C of every SVM is chosen on the folds of what it is trained on; all else is fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from soundstack.svm.cost_search import SearchSpec, problem_of, search_cost
from soundstack.svm.linear_svm import Standardiser
from soundstack.transfer import dann
from soundstack.transfer.dann import DannSpec, Trained

Floats = NDArray[np.floating[Any]]
#: Dimensions of the aligned subspaces, where there are as many clips.
SUBSPACE = 50
#: How often self-training takes its own answers for labels.
ROUNDS = 4
#: Standardised inputs of the network are clipped to +- this.
CLIP = 3.0


@dataclass(frozen=True, eq=False)
class Task:
    """All that an adaptation sees: a labelled source, an unlabelled target, and the clips to score, as features.

    ``source`` is (N, D) with class indices ``truth`` and ``folds`` (N,), ``target`` (M, D) with ``target_folds`` (M,),
    ``scored`` (T, D).
    """

    source: Floats
    truth: NDArray[np.intp]
    folds: NDArray[np.str_]
    target: Floats
    target_folds: NDArray[np.str_]
    scored: Floats
    classes: int
    device: torch.device
    spec: DannSpec


@dataclass(frozen=True, eq=False)
class Adapted:
    """Scores (T, K) of the scored clips, and the features of source and target by which domains are told apart."""

    scores: NDArray[np.float64]
    source: Floats
    target: Floats


def _svm(task: Task, source: Floats, target: Floats, scored: Floats) -> Adapted:
    return Adapted(_decisions(task, source, task.truth, task.folds, scored), source, target)


def _decisions(
    task: Task, x: Floats, y: NDArray[np.intp], folds: NDArray[np.str_], scored: Floats
) -> NDArray[np.float64]:
    spec = SearchSpec()
    problem = problem_of(x, y, folds, task.classes, spec, task.device)
    search = search_cost(problem.out_of_fold_decisions, y, folds, task.classes, spec)
    return problem.refit(search.chosen).decision(scored)


def _by_source(task: Task) -> tuple[Floats, Floats, Floats]:
    """Source, target and scored clips, all standardised by the source."""
    scaling = Standardiser.fit(task.source)
    return scaling.transform(task.source), scaling.transform(task.target), scaling.transform(task.scored)


def _by_domain(task: Task) -> tuple[Floats, Floats, Floats]:
    """Source, target and scored clips, either domain standardised by its own training part."""
    scaling = Standardiser.fit(task.target)
    source = Standardiser.fit(task.source).transform(task.source)
    return source, scaling.transform(task.target), scaling.transform(task.scored)


def _adapter(adapter: Any, source: Floats, target: Floats, scored: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit one of skada's adapters, and transform all three."""
    domains = np.repeat([1, -1], [len(source), len(target)])  # skada's: sources are positive, targets negative
    adapter.fit(np.concatenate([source, target]), sample_domain=domains)
    everything = np.concatenate([source, target, scored])
    domains = np.concatenate([domains, np.full(len(scored), -1)])
    moved = adapter.transform(everything, sample_domain=domains, allow_source=True)
    first, second, third = np.split(moved, [len(source), len(source) + len(target)])
    return first, second, third


def source_only(task: Task) -> Adapted:
    """A linear SVM that knows nothing of the target."""
    return _svm(task, *_by_source(task))


def source_only_network(task: Task) -> Adapted:
    """DANN's network without its adversary, on inputs standardised by the source."""
    trained = _network(task, 0.0, *_by_source(task))
    return Adapted(trained.scores, trained.source, trained.target)


def statistics(task: Task) -> Adapted:
    """A linear SVM, and either domain standardised by its own statistics (after Li et al. 2018: AdaBN)."""
    return _svm(task, *_by_domain(task))


def coral(task: Task) -> Adapted:
    """CORAL: the source is given the covariance of the target (Sun et al. 2017)."""
    from skada import CORALAdapter  # here: it takes seconds to import

    return _svm(task, *_adapter(CORALAdapter(), *_by_source(task)))


def subspace(task: Task) -> Adapted:
    """Subspace alignment of principal components (Fernando et al. 2013), either domain standardised by itself."""
    from skada import SubspaceAlignmentAdapter

    dimensions = min(SUBSPACE, len(task.source) - 1, len(task.target) - 1, task.source.shape[1])
    return _svm(task, *_adapter(SubspaceAlignmentAdapter(dimensions, random_state=0), *_by_domain(task)))


def self_training(task: Task) -> Adapted:
    """A linear SVM that learns its own answers on the target beside the source, again and again."""
    source, target, scored = (_directions(x) for x in _by_domain(task))
    found = _decisions(task, source, task.truth, task.folds, target).argmax(axis=1)
    for _ in range(ROUNDS):
        answers = _taught(task, source, target, np.concatenate([target, scored]), found)
        found = answers[: len(target)].argmax(axis=1)
    return Adapted(answers[len(target) :], source, target)


def clusters(task: Task) -> Adapted:
    """k-means on the target, begun at the class means of the source; scores are negative distances."""
    source, target, scored = (_directions(x) for x in _by_domain(task))
    means = np.stack([source[task.truth == label].mean(axis=0) for label in range(task.classes)])
    found = KMeans(task.classes, init=means, n_init=1).fit(target)
    return Adapted(-found.transform(scored), source, target)


def domain_adversarial(task: Task) -> Adapted:
    """DANN, on inputs of which either domain is standardised by its own statistics."""
    trained = _adversarial(task)
    return Adapted(trained.scores, trained.source, trained.target)


def dann_taught(task: Task) -> Adapted:
    """A linear SVM that learns DANN's answers on the target beside the source."""
    source, target, scored = (_directions(x) for x in _by_domain(task))
    found = _adversarial(task).answers
    return Adapted(_taught(task, source, target, scored, found), source, target)


def _directions(x: Floats) -> Floats:
    """Features (N, D) of length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _taught(task: Task, source: Floats, target: Floats, scored: Floats, found: NDArray[np.intp]) -> NDArray[np.float64]:
    """Decision values (T, K) of the SVM of the source, and of the target with classes (M,) that were found for it."""
    x, y = np.concatenate([source, target]), np.concatenate([task.truth, found])
    return _decisions(task, x, y, np.concatenate([task.folds, task.target_folds]), scored)


@lru_cache(maxsize=1)
def _adversarial(task: Task) -> Trained:
    return _network(task, task.spec.adversary, *_by_domain(task))


def _network(task: Task, adversary: float, *inputs: Floats) -> Trained:
    source, target, scored = (x.clip(-CLIP, CLIP) for x in inputs)
    return dann.train(source, task.truth, target, scored, task.spec._replace(adversary=adversary), task.device)


#: By name, in the order of the table; :func:`target_supervised` comes last.
SYSTEMS: dict[str, Callable[[Task], Adapted]] = {
    "source_only": source_only,
    "source_only_network": source_only_network,
    "statistics": statistics,
    "coral": coral,
    "subspace": subspace,
    "self_training": self_training,
    "clusters": clusters,
    "dann": domain_adversarial,
    "dann_taught": dann_taught,
}
BOUND = "target_supervised"


def target_supervised(task: Task, truth: NDArray[np.intp], folds: NDArray[np.str_]) -> NDArray[np.float64]:
    """The bound: scores (T, K) of a linear SVM trained on the target with its class indices and folds (M,)."""
    return _decisions(task, task.target, truth, folds, task.scored)


def a_distance(adapted: Adapted, folds: tuple[NDArray[np.str_], NDArray[np.str_]], device: torch.device) -> float:
    """Proxy A-distance, 2 (1 - 2 err) in 0..2, of a linear SVM that is to tell the domains (Ben-David et al. 2007).

    ``err`` is its out-of-fold error, the mean over both domains, at the best C; ``folds`` are those of the clips of
    source and target: no group is on both sides.
    """
    x = np.concatenate([adapted.source, adapted.target])
    domain = np.repeat([0, 1], [len(adapted.source), len(adapted.target)]).astype(np.intp)
    spec, of_rows = SearchSpec(balance=True), np.concatenate(folds)
    problem = problem_of(x, domain, of_rows, 2, spec, device)
    told = search_cost(problem.out_of_fold_decisions, domain, of_rows, 2, spec).decisions.argmax(axis=1)
    error = float(np.mean([np.mean(told[domain == side] != side) for side in (0, 1)]))
    return max(0.0, 2 * (1 - 2 * error))
