"""The fusion of trained models (paper section 3.4): from their predictions to a stacked, evaluated recogniser."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from soundstack.config.steps import FuseConfig
from soundstack.evaluation.calibration import fit_inverse_temperature, probabilities
from soundstack.evaluation.evaluation import Evaluation, nested_file
from soundstack.evaluation.metrics import mean_scores
from soundstack.evaluation.score_table import ScoreTable
from soundstack.fusion.recogniser import FusionRecogniser
from soundstack.fusion.stacking import Member, aligned, stack_tables, weight_shares
from soundstack.recognisers.base import Recogniser
from soundstack.recognisers.evaluate import known_and_unknown
from soundstack.svm.cost_search import CostSearch, SearchSpec, nestable, nested_decisions, search_cost
from soundstack.svm.linear_svm import LinearSvm, PathProblem
from soundstack.utils.errors import MemberError
from soundstack.utils.folds import TEST

_KIND = FusionRecogniser.kind


class Candidate(Protocol):
    """A trained model that a fusion may take in, and what its run logged."""

    @property
    def name(self) -> str:
        """Under which it is registered."""

    @property
    def data_fingerprint(self) -> str:
        """Of the clips and folds that it was trained on."""

    def artifact(self, path: str, remedy: str = ...) -> Path:
        """Fetch a file that its run logged, or raise a MemberError that ends with the remedy."""


@dataclass(frozen=True)
class Fetched:
    """Aligned members and the clip table they share."""

    members: list[Member]
    manifest: str
    groups: dict[str, str]
    subsets: dict[str, frozenset[str]]


@dataclass(frozen=True)
class TrainedFusion:
    """A trained stack: the SVM, its evaluation, the search for C, and what each member contributes.

    Attributes:
        shares: Each member's share of the absolute weights.
        without: The devel macro-F1 of the fusion of all others, by member.
    """

    svm: LinearSvm
    inverse_temperature: float
    evaluation: Evaluation
    search: CostSearch
    shares: dict[str, float]
    without: dict[str, float]
    devel_f1: float


def fetch(found: Sequence[Candidate], *, nested: bool = False) -> Fetched:
    """Fetch the members' predictions, those of nested cross-validation if asked for, and check that they fit.

    Raises:
        MemberError: Members are missing their artifacts, or saw different data.
        ConfigError: Nested scores are asked for, and there are fewer than three folds.
    """
    members = aligned([_member(candidate, nested=nested) for candidate in found])
    manifest = found[0].artifact("data/clips.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(manifest)))
    groups = {row["filename"]: row["group"] for row in rows}
    subsets = known_and_unknown((row["filename"], row.get("known", "")) for row in rows if row["fold"] == TEST)
    return Fetched(members, manifest, groups, subsets)


def _member(candidate: Candidate, *, nested: bool) -> Member:
    devel = ScoreTable.from_parquet(candidate.artifact("predictions/devel.parquet"))
    test = ScoreTable.from_parquet(candidate.artifact("predictions/test.parquet"))
    remedy = " nested=yes needs members that were trained with nested=yes: train it so, or leave nested out."
    by_fold = {
        fold: ScoreTable.from_parquet(candidate.artifact(nested_file(fold), remedy))
        for fold in (nestable(devel.fold_names) if nested else ())
    }
    return Member(candidate.name, candidate.data_fingerprint, devel, test, by_fold)


def train(fetched: Fetched, config: FuseConfig) -> TrainedFusion:
    """Stack the members, search C with their folds, refit on all development clips, and score the test clips."""
    members = fetched.members
    first, log = members[0], config.crnn_scores == "log"
    search, problem = _search(members, config)
    svm = problem.refit(search.chosen)
    test_scores = svm.decision(stack_tables([member.test for member in members], log_probabilities=log))
    inverse_temperature = fit_inverse_temperature(search.decisions, first.devel.truth, _KIND)
    evaluation = Evaluation(
        _table(first.devel, search.decisions),
        _table(first.test, test_scores),
        fetched.groups,
        probabilities(search.decisions, _KIND, inverse_temperature),
        probabilities(test_scores, _KIND, inverse_temperature),
        fetched.subsets,
        _nested(members, config) if config.nested else {},
    )
    shares = weight_shares(svm.coef, len(members))
    without = {}
    for left_out in members:
        rest, _ = _search([member for member in members if member is not left_out], config)
        without[left_out.name] = mean_scores(_table(first.devel, rest.decisions))[1]
    return TrainedFusion(
        svm=svm,
        inverse_temperature=inverse_temperature,
        evaluation=evaluation,
        search=search,
        shares={member.name: float(share) for member, share in zip(members, shares, strict=True)},
        without=without,
        devel_f1=mean_scores(evaluation.devel)[1],
    )


def recogniser(trained: TrainedFusion, members: Mapping[str, Recogniser], config: FuseConfig) -> FusionRecogniser:
    """Assemble the self-contained recogniser: every member's own model and the stacked SVM.

    Raises:
        MemberError: A member's classes are others.
    """
    labels = trained.evaluation.devel.classes
    for name, member in members.items():
        if member.labels != labels:
            raise MemberError(f"{name}: its model and its predictions name different classes; train it again.")
    return FusionRecogniser(
        labels=labels,
        inverse_temperature=trained.inverse_temperature,
        members=dict(members),
        svm=trained.svm,
        log_probabilities=config.crnn_scores == "log",
    )


def _search(members: Sequence[Member], config: FuseConfig) -> tuple[CostSearch, PathProblem]:
    tables, spec = [member.devel for member in members], SearchSpec.of(config)
    truth, folds, classes = tables[0].truth, np.array(tables[0].folds), len(tables[0].classes)
    x = stack_tables(tables, log_probabilities=config.crnn_scores == "log")
    problem = PathProblem(x, truth, folds, n_classes=classes, clip=spec.clip)
    return search_cost(problem.out_of_fold_decisions, truth, folds, classes, spec), problem


def _nested(members: Sequence[Member], config: FuseConfig) -> dict[str, ScoreTable]:
    first, log = members[0].devel, config.crnn_scores == "log"
    decisions = nested_decisions(
        lambda fold: stack_tables([member.nested[fold] for member in members], log_probabilities=log),
        first.truth,
        np.array(first.folds),
        len(first.classes),
        SearchSpec.of(config),
    )
    return {fold: _table(first, values) for fold, values in decisions.items()}


def _table(like: ScoreTable, scores: NDArray[np.float64]) -> ScoreTable:
    return ScoreTable(like.clips, like.labels, like.folds, scores, like.classes, _KIND)
