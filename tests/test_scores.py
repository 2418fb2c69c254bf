"""ScoreTable: what it refuses, and that its form on disk gives back what went in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundstack.evaluation.score_table import ScoreTable
from soundstack.utils.errors import DataError, MemberError, StoreError

CLASSES = ("cafe/restaurant", "city center", "Ünicode_ score_x")
PARTS = ("clips", "labels", "folds", "classes", "kind")


def table(kind: str = "decision", **changes: object) -> ScoreTable:
    parts = {
        "clips": ("b.wav", "a.wav", "d/c.wav", "e.wav"),
        "labels": (CLASSES[0], CLASSES[1], CLASSES[2], CLASSES[0]),
        "folds": ("2", "1", "1", "10"),
        "scores": np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.0, 0.0, 1.0]]),
        "classes": CLASSES,
        "kind": kind,
    }
    return ScoreTable(**(parts | changes))  # type: ignore[arg-type]


def same(one: ScoreTable, other: ScoreTable) -> bool:
    return all(getattr(one, part) == getattr(other, part) for part in PARTS) and np.array_equal(
        one.scores, other.scores
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "predictions" / "devel.parquet"


def test_truth_and_prediction_are_class_indices() -> None:
    scores = table()
    assert scores.truth.tolist() == [0, 1, 2, 0]
    assert scores.predicted.tolist() == [0, 1, 0, 2]


def test_a_tie_goes_to_the_class_that_comes_first() -> None:
    assert table(scores=np.zeros((4, 3))).predicted.tolist() == [0, 0, 0, 0]


def test_folds_stand_in_order_and_test_comes_last() -> None:
    assert table().fold_names == ("1", "2", "10")
    assert table(folds=("test", "10", "9", "session")).fold_names == ("9", "10", "session", "test")


def test_selecting_a_fold_keeps_the_clips_in_order_with_their_scores() -> None:
    fold = table().select("1")
    assert fold.clips == ("a.wav", "d/c.wav")
    assert fold.labels == CLASSES[1:]
    assert fold.scores.tolist() == [[0.1, 0.8, 0.1], [0.6, 0.3, 0.1]]
    assert fold.classes == CLASSES


def test_selecting_an_absent_fold_names_the_folds_there_are() -> None:
    with pytest.raises(DataError, match="no fold 'test': it has 1, 2, 10"):
        table().select("test")


def test_reordering_moves_labels_folds_and_scores_along() -> None:
    scores = table()
    turned = scores.reordered(reversed(scores.clips))
    assert turned.clips == scores.clips[::-1]
    assert turned.labels == scores.labels[::-1]
    assert turned.folds == scores.folds[::-1]
    assert np.array_equal(turned.scores, scores.scores[::-1])


@pytest.mark.parametrize(
    ("clips", "odd"),
    [
        (("a.wav", "b.wav", "d/c.wav"), "e.wav"),
        (("a.wav", "b.wav", "d/c.wav", "e.wav", "new.wav"), "new.wav"),
    ],
)
def test_reordering_to_other_clips_is_refused_with_the_first_difference(clips: tuple[str, ...], odd: str) -> None:
    with pytest.raises(MemberError, match=odd):
        table().reordered(clips)


def test_the_scores_cannot_be_changed_and_the_callers_array_still_can() -> None:
    mine = np.zeros((4, 3))
    scores = table(scores=mine)
    with pytest.raises(ValueError, match="read-only"):
        scores.scores[0, 0] = 1.0
    mine[0, 0] = 1.0
    assert scores.scores[0, 0] == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clips": (), "labels": (), "folds": (), "scores": np.zeros((0, 3))}, "at least one clip"),
        ({"clips": ("a", "b", "c", "a")}, "'a' has scores twice"),
        ({"clips": ("a", "b", "c", "")}, "clip must be a text"),
        ({"labels": ("dog",) * 4}, "'dog'"),
        ({"labels": CLASSES}, "as many labels"),
        ({"folds": ("1", "1", "2", None)}, "fold must be a text"),
        ({"classes": CLASSES[::-1]}, "alphabetical"),
        ({"classes": (CLASSES[0], CLASSES[0], CLASSES[2])}, "none twice"),
        ({"scores": np.zeros((4, 2))}, r"got \(4, 2\)"),
        ({"scores": np.zeros(12)}, r"got \(12,\)"),
        ({"scores": np.full((4, 3), np.nan)}, "'b.wav' has a score that is missing or not finite"),
        ({"scores": np.array([[0, 0, 0], [0, 0, 0], [0, np.inf, 0], [0, 0, 0]])}, "'d/c.wav'"),
        ({"kind": "logit"}, "'probability' or 'decision'; got 'logit'"),
    ],
)
def test_a_table_whose_parts_do_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as refusal:
        table(**changes)  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("row", [[2.0, -1.0, 0.0], [0.2, 0.2, 0.2], [-3.0, 4.0, 1.0]])
def test_decision_values_do_not_pass_as_probabilities(row: list[float]) -> None:
    scores = table().scores.copy()
    scores[2] = row
    table(scores=scores)
    with pytest.raises(DataError, match=r"'d/c\.wav' has probabilities"):
        table("probability", scores=scores)


@pytest.mark.parametrize("kind", ["probability", "decision"])
def test_a_table_read_back_is_the_table_written(path: Path, kind: str) -> None:
    written = table(kind)
    written.to_parquet(path)
    assert same(ScoreTable.from_parquet(path), written)


labels = st.text(min_size=1, max_size=8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(names=st.sets(labels, min_size=2, max_size=6), data=st.data())
def test_any_label_survives_the_way_to_disk_and_back(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], data: st.DataObject
) -> None:
    classes = tuple(sorted(names))
    clips = tuple(data.draw(st.lists(labels, min_size=1, max_size=5, unique=True)))
    finite = st.floats(allow_nan=False, allow_infinity=False)
    scores = [[data.draw(finite) for _ in classes] for _ in clips]
    own = tuple(data.draw(st.sampled_from(classes)) for _ in clips)
    written = ScoreTable(clips, own, ("1",) * len(clips), np.array(scores), classes, "decision")
    path = tmp_path_factory.mktemp("labels") / "devel.parquet"
    written.to_parquet(path)
    assert same(ScoreTable.from_parquet(path), written)


def test_the_file_has_the_columns_and_metadata_of_the_contract(path: Path) -> None:
    table("probability").to_parquet(path)
    frame = pd.read_parquet(path)
    assert list(frame.columns) == ["clip", "label", "fold", *(f"score_{label}" for label in CLASSES)]
    assert frame["score_cafe/restaurant"].tolist() == [0.5, 0.1, 0.6, 0.0]
    assert pq.read_schema(path).metadata[b"kind"] == b"probability"


def test_writing_leaves_one_file_and_replaces_an_older_one(path: Path) -> None:
    table().to_parquet(path)
    newer = table(scores=table().scores + 1)
    newer.to_parquet(path)
    assert [file.name for file in path.parent.iterdir()] == ["devel.parquet"]
    assert same(ScoreTable.from_parquet(path), newer)


def test_a_write_that_dies_leaves_the_older_file_and_no_rest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = table()
    older.to_parquet(path)

    def die(_: object, where: BinaryIO) -> None:
        where.write(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", die)
    with pytest.raises(StoreError, match=r"Cannot write .*devel\.parquet \(No space left on device\)"):
        replace(older, kind="probability").to_parquet(path)
    assert [file.name for file in path.parent.iterdir()] == ["devel.parquet"]
    assert same(ScoreTable.from_parquet(path), older)


def test_writing_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Cannot write"):
        table().to_parquet(tmp_path / "file" / "devel.parquet")


def test_a_folder_that_looks_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    path = tmp_path / "fold=7" / "score_x=1" / "devel.parquet"
    table().to_parquet(path)
    assert same(ScoreTable.from_parquet(path), table())


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(DataError, match=r"No scores in .*devel\.parquet: there is no such file"):
        ScoreTable.from_parquet(path)


@pytest.mark.parametrize("keep", [0, 3, 200, -5])
def test_half_a_file_is_refused_in_one_line(path: Path, keep: int) -> None:
    table().to_parquet(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"devel\.parquet: not readable Parquet") as refusal:
        ScoreTable.from_parquet(path)
    assert "\n" not in str(refusal.value)


def arrow() -> pa.Table:
    return pa.table({"clip": ["a", "b"], "label": ["x", "y"], "fold": ["1", "2"], "score_x": [0.0, 1.0],
                     "score_y": [1.0, 0.0]}, metadata={"kind": "decision"})  # fmt: skip


@pytest.mark.parametrize(
    ("malformed", "message"),
    [
        (arrow().drop_columns(["fold"]), "column 'fold' is missing"),
        (arrow().drop_columns(["score_x", "score_y"]), "two or more classes"),
        (arrow().replace_schema_metadata(None), "no 'kind'"),
        (arrow().replace_schema_metadata({"kind": "votes"}), "got 'votes'"),
        (arrow().append_column("score_z", pa.array(["1", "2"])), "'score_z' holds no floating-point numbers"),
        (arrow().append_column("score_x", pa.array([1.0, 2.0])), "stands twice"),
        (arrow().append_column("score_z", pa.array([1.0, None])), "'b' has a score that is missing"),
        (arrow().set_column(0, "clip", pa.array(["a", None])), "clip must be a text"),
        (arrow().set_column(2, "fold", pa.array([1, 2])), "fold must be a text"),
        (arrow().select(["clip", "label", "fold", "score_y", "score_x"]), "alphabetical"),
        (arrow().slice(0, 0), "at least one clip"),
    ],
)
def test_a_malformed_table_is_refused_with_file_and_reason(path: Path, malformed: pa.Table, message: str) -> None:
    path.parent.mkdir()
    pq.write_table(malformed, path)
    with pytest.raises(DataError, match=message) as refusal:
        ScoreTable.from_parquet(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_columns_of_others_are_ignored(path: Path) -> None:
    path.parent.mkdir()
    pq.write_table(arrow().append_column("node", pa.array([1, 2])), path)
    assert ScoreTable.from_parquet(path).classes == ("x", "y")
