"""The fusion of trained models (paper section 3.4): from their predictions to a stacked, evaluated recogniser.

The stack is trained on out-of-fold scores only: what a member says of a clip it was not trained on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from soundstack.config.steps import FuseConfig
from soundstack.datasets.clips import listed_id
from soundstack.evaluation.calibration import fit_inverse_temperature
from soundstack.evaluation.evaluation import Evaluation, nested_file
from soundstack.evaluation.metrics import mean_scores
from soundstack.evaluation.none_rule import NONE, Floats
from soundstack.evaluation.score_table import ScoreTable
from soundstack.fusion.recogniser import FusionRecogniser, stack
from soundstack.recognisers.base import Recogniser, has_rule
from soundstack.recognisers.evaluate import known_and_unknown
from soundstack.svm.cost_search import CostSearch, SearchSpec, nestable, nested_decisions, problem_of, search_cost
from soundstack.svm.linear_svm import LinearSvm, PathProblem
from soundstack.utils.errors import MemberError
from soundstack.utils.folds import TEST

if TYPE_CHECKING:
    from soundstack.evaluation.none_of_these import NoneScores
    from soundstack.tracking.registered_models import FoundModel

_KIND = FusionRecogniser.kind


@dataclass(frozen=True)
class Member:
    """A member of a fusion: its name, the fingerprint of its data, and its scores on devel (out-of-fold) and test.

    ``nested`` has devel scores by the fold that none of their models saw, where nested cross-validation is asked for;
    ``none`` has the none scores of devel (out-of-fold) and test, where they are asked for and the member has them.
    """

    name: str
    data_fingerprint: str
    devel: ScoreTable
    test: ScoreTable
    nested: Mapping[str, ScoreTable] = field(default_factory=dict)
    none: tuple[Floats, Floats] | None = None


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

    By member, ``shares`` are of the absolute weights, and ``without`` is the devel macro-F1 of all others' fusion.
    """

    svm: LinearSvm
    inverse_temperature: float
    evaluation: Evaluation
    search: CostSearch
    shares: dict[str, float]
    without: dict[str, float]
    devel_f1: float


def fetch(found: Sequence[FoundModel], *, nested: bool = False, none: bool = False) -> Fetched:
    """Fetch the members' predictions, those of nested cross-validation and none scores if asked for; check their fit.

    Raises:
        MemberError: Members are missing their artifacts, or saw different data, or none tells known clips from others.
        ConfigError: Nested scores are asked for, and there are fewer than three folds.
    """
    remedy = " nested=yes needs members that were trained with nested=yes: train it so, or leave nested out."
    members = []
    for model in found:
        paths = (model.artifact(f"predictions/{part}.parquet") for part in ("devel", "test"))
        devel, test = map(ScoreTable.from_parquet, paths)
        by_fold = {
            fold: ScoreTable.from_parquet(model.artifact(nested_file(fold), remedy))
            for fold in (nestable(devel.fold_names) if nested else ())
        }
        members.append(Member(model.name, model.data_fingerprint, devel, test, by_fold))
    members = aligned(members)
    if none and NONE not in members[0].devel.classes:
        members = [_with_none(member, model) for member, model in zip(members, found, strict=True)]
        if all(member.none is None for member in members):
            raise MemberError("none_rate: no member was trained with it; train one or more so, or leave it out here.")
    manifest = found[0].artifact("data/clips.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(manifest)))
    groups = {listed_id(row): row["group"] for row in rows}
    subsets = known_and_unknown((listed_id(row), row.get("known", "")) for row in rows if row["fold"] == TEST)
    return Fetched(members, manifest, groups, subsets)


def _with_none(member: Member, model: FoundModel) -> Member:
    """A member with the none scores of its model; unchanged where that was trained without them."""
    from soundstack.evaluation.none_of_these import read_scores, scores_file

    if not has_rule(model.folder):
        return member
    of_devel, of_test = (model.artifact(scores_file(part)) for part in ("devel", "test"))
    return replace(member, none=(read_scores(of_devel, member.devel), read_scores(of_test, member.test)))


def aligned(members: Sequence[Member]) -> list[Member]:
    """Bring the members' score tables into the first one's clip order, after checking that they belong together.

    Raises:
        MemberError: Fewer than two members, or two differ in data fingerprint, classes, clips, folds or labels.
    """
    if len(members) < 2:
        names = ", ".join(member.name for member in members) or "none"
        raise MemberError(f"A fusion needs at least two members; found {names}. Train more models of this data set.")
    first = members[0]

    def like(ours: ScoreTable, member: Member, theirs: ScoreTable) -> ScoreTable:
        _check(first, member, "classes", ", ".join(ours.classes), ", ".join(theirs.classes))
        table = theirs.reordered(ours.clips)
        _check(first, member, "labels", ours.labels, table.labels)
        _check(first, member, "folds", ours.folds, table.folds)
        return table

    for member in members:
        _check(first, member, "data fingerprint", first.data_fingerprint, member.data_fingerprint)
    return [
        replace(
            member,
            devel=like(first.devel, member, member.devel),
            test=like(first.test, member, member.test),
            nested={fold: like(first.devel, member, table) for fold, table in member.nested.items()},
        )
        for member in members
    ]


def train(fetched: Fetched, config: FuseConfig) -> TrainedFusion:
    """Stack the members, search C with their folds, refit on all development clips, and score the test clips."""
    members = fetched.members
    first = members[0]
    search, problem = _search(members, config)
    svm = problem.refit(search.chosen)
    test_scores = svm.decision(_features((member.test for member in members), config))
    inverse_temperature = fit_inverse_temperature(search.decisions, first.devel.truth, _KIND)
    evaluation = Evaluation(
        _table(first.devel, search.decisions),
        _table(first.test, test_scores),
        fetched.groups,
        inverse_temperature,
        fetched.subsets,
        _nested(members, config) if config.nested else {},
    )
    if config.none_rate != "off":
        evaluation = replace(evaluation, none=_none(evaluation, members, config.none_rate))
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
        none=trained.evaluation.none.rule if trained.evaluation.none else None,
    )


def _search(members: Sequence[Member], config: FuseConfig) -> tuple[CostSearch, PathProblem]:
    tables, spec = [member.devel for member in members], SearchSpec.of(config)
    truth, folds, classes = tables[0].truth, np.array(tables[0].folds), len(tables[0].classes)
    problem = problem_of(_features(tables, config), truth, folds, classes, spec)
    return search_cost(problem.out_of_fold_decisions, truth, folds, classes, spec), problem


def _none(evaluation: Evaluation, members: Sequence[Member], rate: float) -> NoneScores:
    """None scores of the stack: by its class none, or from the mean of the members' that have them."""
    from soundstack.evaluation.none_of_these import none_scores

    known = [member.none for member in members if member.none is not None]
    distances = None
    if known:
        of_devel, of_test = (np.mean(parts, axis=0) for parts in zip(*known, strict=True))
        distances = of_devel, of_test
    return none_scores(evaluation.devel, evaluation.test, rate, evaluation.inverse_temperature, distances)


def _nested(members: Sequence[Member], config: FuseConfig) -> dict[str, ScoreTable]:
    first = members[0].devel
    decisions = nested_decisions(
        lambda fold: _features((member.nested[fold] for member in members), config),
        first.truth,
        np.array(first.folds),
        len(first.classes),
        SearchSpec.of(config),
    )
    return {fold: _table(first, values) for fold, values in decisions.items()}


def weight_shares(coefficients: NDArray[np.float64], members: int) -> NDArray[np.float64]:
    """Each member's share of the absolute weights of the stacked SVM (K, members * K), on standardised scores."""
    absolute = np.abs(coefficients).reshape(len(coefficients), members, -1).sum(axis=(0, 2))
    total = absolute.sum()
    return absolute / total if total > 0 else np.full(members, 1 / members)


def _features(tables: Iterable[ScoreTable], config: FuseConfig) -> NDArray[np.float64]:
    return stack(((table.scores, table.kind) for table in tables), log_probabilities=config.crnn_scores == "log")


def _table(like: ScoreTable, scores: NDArray[np.float64]) -> ScoreTable:
    return ScoreTable(like.clips, like.labels, like.folds, scores, like.classes, _KIND)


def _check(first: Member, other: Member, what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        shown = f" ({ours} against {theirs})" if isinstance(ours, str) and len(str(ours) + str(theirs)) < 200 else ""
        raise MemberError(
            f"{first.name} and {other.name} differ in {what}{shown}: they saw different data. "
            "Train them again on the same data set, or name the members that belong together."
        )
