"""Decision-level fusion: members are brought into one order, and refused where they saw different data."""

import numpy as np
import pytest

from soundstack.evaluation.score_table import ScoreTable
from soundstack.fusion.recogniser import stack
from soundstack.fusion.system import Member, aligned, weight_shares
from soundstack.utils.errors import MemberError

CLASSES = ("bell", "cat", "dog")
DEVEL = tuple(f"d{number}" for number in range(12))
TEST = tuple(f"t{number}" for number in range(5))


def label_of(clip):
    return CLASSES[int(clip[1:]) % 3]


def fold_of(clip):
    return "test" if clip[0] == "t" else str(int(clip[1:]) // 3 + 1)


def table(clips, *, seed=0, kind="decision", classes=CLASSES, labels=label_of, folds=fold_of):
    """Scores that depend on the clip and the seed alone, in whatever order the clips come."""
    scores = np.stack([np.random.default_rng([seed, *clip.encode()]).random(len(classes)) for clip in clips])
    if kind == "probability":
        scores /= scores.sum(axis=1, keepdims=True)
    return ScoreTable(
        clips=tuple(clips),
        labels=tuple(map(labels, clips)),
        folds=tuple(map(folds, clips)),
        scores=scores,
        classes=classes,
        kind=kind,
    )


def member(name, *, devel=DEVEL, test=TEST, fingerprint="0123456789ab", **options):
    return Member(name, fingerprint, table(devel, **options), table(test, **options))


def stacked(tables, *, log_probabilities):
    return stack([(each.scores, each.kind) for each in tables], log_probabilities=log_probabilities)


def refusal(*members):
    with pytest.raises(MemberError) as caught:
        aligned(members)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_members_are_brought_into_the_first_ones_order():
    members = aligned([member("one"), member("two", devel=DEVEL[::-1], test=TEST[::-1], seed=1)])
    assert [m.name for m in members] == ["one", "two"]
    for each in members:
        assert each.devel.clips == DEVEL
        assert each.test.clips == TEST
    np.testing.assert_array_equal(members[1].devel.scores, table(DEVEL, seed=1).scores)
    np.testing.assert_array_equal(members[1].test.scores, table(TEST, seed=1).scores)


def test_features_are_the_members_scores_side_by_side_in_the_members_order():
    members = aligned([member("one"), member("two", seed=1, kind="probability"), member("three", seed=2)])
    devel = stacked([m.devel for m in members], log_probabilities=False)
    test = stacked([m.test for m in members], log_probabilities=False)
    assert devel.shape == (12, 9)
    assert test.shape == (5, 9)
    for number, each in enumerate(members):
        np.testing.assert_array_equal(devel[:, 3 * number : 3 * number + 3], each.devel.scores)
        np.testing.assert_array_equal(test[:, 3 * number : 3 * number + 3], each.test.scores)


def test_probabilities_alone_enter_as_logarithms_when_asked():
    members = aligned([member("one"), member("two", seed=1, kind="probability")])
    devel = stacked([m.devel for m in members], log_probabilities=True)
    test = stacked([m.test for m in members], log_probabilities=True)
    np.testing.assert_array_equal(devel[:, :3], members[0].devel.scores)
    np.testing.assert_allclose(devel[:, 3:], np.log(members[1].devel.scores))
    np.testing.assert_allclose(test[:, 3:], np.log(members[1].test.scores))
    certain = stack([(np.array([[0.0, 1.0]]), "probability")], log_probabilities=True)
    assert np.isfinite(certain).all()


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_members_are_refused(count):
    message = refusal(*[member("lonely")] * count)
    assert "at least two members" in message
    assert ("lonely" if count else "none") in message


@pytest.mark.parametrize(
    ("other", "tells"),
    [
        ({"fingerprint": "ba9876543210"}, ["data fingerprint", "0123456789ab", "ba9876543210"]),
        ({"labels": lambda clip: CLASSES[(int(clip[1:]) + 1) % 3]}, ["labels"]),
        ({"folds": lambda clip: "test" if clip[0] == "t" else str(int(clip[1:]) % 4 + 1)}, ["folds"]),
        ({"classes": ("bell", "cat", "dog", "eel")}, ["classes", "bell, cat, dog, eel"]),
        ({"classes": ("bell", "cat", "dig"), "labels": lambda clip: "cat"}, ["classes", "bell, cat, dig"]),
    ],
)
def test_members_that_saw_different_data_are_refused_in_one_line_that_names_them(other, tells):
    message = refusal(member("one"), member("two"), member("odd", **other))
    for part in ("one", "odd", *tells):
        assert part in message
    assert "two" not in message.split(":")[0]


@pytest.mark.parametrize(
    "other", [{"devel": DEVEL[:-1]}, {"test": TEST[1:]}, {"devel": (*DEVEL[:-1], "d99")}, {"devel": (*DEVEL, "d12")}]
)
def test_members_with_other_clips_are_refused_in_one_line(other):
    assert "different clips" in refusal(member("one"), member("odd", **other))


def test_the_same_clip_twice_never_reaches_a_fusion():
    with pytest.raises(Exception, match="twice") as caught:
        member("one", devel=(*DEVEL, DEVEL[0]))
    assert "\n" not in str(caught.value)


def test_weight_shares_sum_to_one_and_follow_the_weights():
    coefficients = np.array([[1.0, -1.0, 0.0, 0.0], [1.0, 1.0, -2.0, 2.0]])  # two classes, two members
    np.testing.assert_allclose(weight_shares(coefficients, 2), [0.5, 0.5])
    coefficients[:, 2:] = 0
    np.testing.assert_allclose(weight_shares(coefficients, 2), [1, 0])
    np.testing.assert_allclose(weight_shares(np.zeros((2, 4)), 2), [0.5, 0.5])
