"""The fusion of registered models (paper section 3.4): from their predictions to a stacked, evaluated recogniser."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from soundstack.config.steps import FuseConfig
from soundstack.datasets.clips import TEST
from soundstack.evaluation.calibration import fit_sharpness, probabilities
from soundstack.evaluation.evaluation import Evaluation, nested_file
from soundstack.evaluation.metrics import mean_scores
from soundstack.evaluation.score_table import ScoreTable
from soundstack.fusion.stacking import Member, aligned, stack, stacked_features, weight_shares
from soundstack.recognisers import base as recognisers
from soundstack.recognisers.evaluate import known_and_unknown
from soundstack.svm.cost_search import CostSearch, SearchSpec, nestable, nested_decisions, search_cost
from soundstack.svm.linear_svm import LinearSvm, PathProblem
from soundstack.utils.errors import MemberError

if TYPE_CHECKING:
    from soundstack.tracking.registry import RegisteredMember

_KIND = recognisers.FusionRecogniser.kind


@dataclass(frozen=True)
class Fetched:
    """Aligned members and the clip table they share."""

    members: list[Member]
    manifest: str
    groups: dict[str, str]
    subsets: dict[str, frozenset[str]]


@dataclass(frozen=True)
class TrainedFusion:
    """A trained stack: the SVM, its evaluation, the search for C, and what each member contributes."""

    svm: LinearSvm
    sharpness: float
    evaluation: Evaluation
    search: CostSearch
    shares: dict[str, float]
    without: dict[str, float]
    devel_f1: float
    log_probabilities: bool
    manifest: str


def fetch(found: Sequence[RegisteredMember], *, nested: bool = False) -> Fetched:
    """Fetch the members' predictions, those of nested cross-validation if asked for, and check that they fit.

    Raises:
        MemberError: Members are missing their artifacts, or saw different data.
        ConfigError: Nested scores are asked for, and there are fewer than three folds.
    """
    members = aligned([_member(member, nested=nested) for member in found])
    manifest = found[0].artifact("data/clips.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(manifest)))
    groups = {row["filename"]: row["group"] for row in rows}
    subsets = known_and_unknown((row["filename"], row.get("known", "")) for row in rows if row["fold"] == TEST)
    return Fetched(members, manifest, groups, subsets)


def train(fetched: Fetched, config: FuseConfig) -> TrainedFusion:
    """Stack the members, search C with their folds, refit on all development clips, and score the test clips."""
    members, log_probabilities = fetched.members, config.crnn_scores == "log"
    search, problem = _search(members, config)
    svm = problem.refit(search.chosen)
    first = members[0]
    sharpness = fit_sharpness(search.decisions, first.devel.truth, _KIND)
    test_scores = svm.decision(stacked_features(members, log_probabilities=log_probabilities)[1])
    evaluation = Evaluation(
        _table(first.devel, search.decisions),
        _table(first.test, test_scores),
        fetched.groups,
        probabilities(search.decisions, _KIND, sharpness),
        probabilities(test_scores, _KIND, sharpness),
        fetched.subsets,
        _nested(members, config) if config.nested else {},
    )
    shares = weight_shares(svm.coef, len(members))
    without = {}
    for left_out in members:
        rest = [member for member in members if member is not left_out]
        without[left_out.name] = mean_scores(_table(first.devel, _search(rest, config)[0].decisions))[1]
    return TrainedFusion(
        svm=svm,
        sharpness=sharpness,
        evaluation=evaluation,
        search=search,
        shares={member.name: float(share) for member, share in zip(members, shares, strict=True)},
        without=without,
        devel_f1=mean_scores(evaluation.devel)[1],
        log_probabilities=log_probabilities,
        manifest=fetched.manifest,
    )


def recogniser(trained: TrainedFusion, found: Sequence[RegisteredMember]) -> recognisers.FusionRecogniser:
    """Assemble the self-contained recogniser: every member's own model and the stacked SVM.

    Raises:
        MemberError: A member's model cannot be fetched, or its classes are others.
    """
    labels = trained.evaluation.devel.classes
    members = {member.name: recognisers.load(member.recogniser_folder()) for member in found}
    for name, member in members.items():
        if member.labels != labels:
            raise MemberError(f"{name}: its model and its predictions name different classes; train it again.")
    return recognisers.FusionRecogniser(
        labels=labels,
        sharpness=trained.sharpness,
        members=members,
        svm=trained.svm,
        log_probabilities=trained.log_probabilities,
    )


def _nested(members: Sequence[Member], config: FuseConfig) -> dict[str, ScoreTable]:
    first = members[0].devel

    def features(fold: str) -> NDArray[np.float64]:
        tables = [member.nested[fold] for member in members]
        return stack([(t.scores, t.kind) for t in tables], log_probabilities=config.crnn_scores == "log")

    folds, classes = np.array(first.folds), len(first.classes)
    decisions = nested_decisions(features, first.truth, folds, classes, SearchSpec.of(config))
    return {fold: _table(first, values) for fold, values in decisions.items()}


def _search(members: Sequence[Member], config: FuseConfig) -> tuple[CostSearch, PathProblem]:
    devel, _ = stacked_features(members, log_probabilities=config.crnn_scores == "log")
    first = members[0].devel
    folds = np.array(first.folds)
    classes, spec = len(first.classes), SearchSpec.of(config)
    problem = PathProblem(devel, first.truth, folds, n_classes=classes, clip=spec.clip, seed=spec.seed)
    return search_cost(problem.decide, first.truth, folds, classes, spec), problem


def _member(member: RegisteredMember, *, nested: bool) -> Member:
    devel = ScoreTable.from_parquet(member.artifact("predictions/devel.parquet"))
    test = ScoreTable.from_parquet(member.artifact("predictions/test.parquet"))
    by_fold = {}
    for fold in nestable(devel.fold_names) if nested else ():
        remedy = " nested=yes needs members that were trained with nested=yes: train it so, or leave nested out."
        by_fold[fold] = ScoreTable.from_parquet(member.artifact(nested_file(fold), remedy))
    return Member(member.name, member.data_fingerprint, devel, test, by_fold)


def _table(like: ScoreTable, scores: NDArray[np.float64]) -> ScoreTable:
    return ScoreTable(like.clips, like.labels, like.folds, scores, like.classes, _KIND)
