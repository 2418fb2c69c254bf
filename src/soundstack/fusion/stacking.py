"""Decision-level fusion (paper section 3.4): members' scores, clip by clip, side by side, into a stacked linear SVM.

The stack is trained on out-of-fold scores only: what a member says of a clip it was not trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from soundstack.evaluation.calibration import logits
from soundstack.evaluation.score_table import ScoreTable
from soundstack.utils.errors import MemberError


@dataclass(frozen=True)
class Member:
    """A member of a fusion: its name, the fingerprint of its data, and its scores on devel (out-of-fold) and test.

    ``nested`` has devel scores by the fold that none of their models saw, where nested cross-validation is asked for.
    """

    name: str
    data_fingerprint: str
    devel: ScoreTable
    test: ScoreTable
    nested: Mapping[str, ScoreTable] = field(default_factory=dict)


def stack(parts: Sequence[tuple[NDArray[np.float64], str]], *, log_probabilities: bool) -> NDArray[np.float64]:
    """Concatenate members' scores [(N, K), kind] into features (N, members * K)."""
    return np.concatenate(
        [logits(scores, kind) if log_probabilities and kind == "probability" else scores for scores, kind in parts],
        axis=1,
    )


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


def stack_tables(tables: Sequence[ScoreTable], *, log_probabilities: bool) -> NDArray[np.float64]:
    """Features (N, members * K) of aligned members' tables."""
    return stack([(table.scores, table.kind) for table in tables], log_probabilities=log_probabilities)


def weight_shares(coefficients: NDArray[np.float64], members: int) -> NDArray[np.float64]:
    """Each member's share of the absolute weights of the stacked SVM (K, members * K), on standardised scores."""
    absolute = np.abs(coefficients).reshape(len(coefficients), members, -1).sum(axis=(0, 2))
    total = absolute.sum()
    return absolute / total if total > 0 else np.full(members, 1 / members)


def _check(first: Member, other: Member, what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        shown = f" ({ours} against {theirs})" if isinstance(ours, str) and len(str(ours) + str(theirs)) < 200 else ""
        raise MemberError(
            f"{first.name} and {other.name} differ in {what}{shown}: they saw different data. "
            "Train them again on the same data set, or name the members that belong together."
        )
