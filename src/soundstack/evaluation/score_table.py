"""Class scores of clips: what every recogniser hands to fusion and evaluation, and its form on disk.

On disk a table is one Parquet file with the columns ``clip``, ``label``, ``fold`` and one ``score_<label>``
per class, in class order; the file metadata key ``kind`` says what the scores are. A file is written under
another name and renamed into place, so a file that exists is complete.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from soundstack.utils.errors import DataError, MemberError
from soundstack.utils.files import replaced
from soundstack.utils.folds import fold_order

Kind = Literal["probability", "decision"]
KINDS: tuple[str, ...] = get_args(Kind)
_TEXT_COLUMNS = ("clip", "label", "fold")
_SCORE = "score_"
# Softmax in single precision misses a sum of one by 1e-6; anything near this bound is another kind of score.
_TOLERANCE = 1e-2


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """The scores of N clips for K classes.

    ``labels`` and ``folds`` are the true label and the fold (``"1"``, ``"2"``, ... or ``"test"``) of each
    clip; ``scores`` is (N, K) float64 with one column per entry of ``classes``, which stand in alphabetical
    order; ``kind`` is ``"probability"`` (rows sum to one) or ``"decision"`` (SVM decision values, unbounded).

    Raises:
        DataError: if the parts do not fit, a clip stands twice, a label is unknown, or a score is not finite.
    """

    clips: tuple[str, ...]
    labels: tuple[str, ...]
    folds: tuple[str, ...]
    scores: NDArray[np.float64]
    classes: tuple[str, ...]
    kind: Kind

    def __post_init__(self) -> None:
        for name in ("clips", "labels", "folds", "classes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        scores = np.array(self.scores, dtype=np.float64)  # a copy: freezing must not reach the caller's array
        scores.setflags(write=False)
        object.__setattr__(self, "scores", scores)
        _check(self)

    @cached_property
    def truth(self) -> NDArray[np.intp]:
        """Index into ``classes`` of each clip's true label: (N,)."""
        index = {label: column for column, label in enumerate(self.classes)}
        return np.array([index[label] for label in self.labels], dtype=np.intp)

    @cached_property
    def predicted(self) -> NDArray[np.intp]:
        """Index into ``classes`` of each clip's highest score: (N,). Ties go to the first class."""
        return np.argmax(self.scores, axis=1)

    @cached_property
    def fold_names(self) -> tuple[str, ...]:
        """The folds that occur: development folds in order, then ``"test"``."""
        return tuple(fold_order(self.folds))

    def select(self, fold: str) -> ScoreTable:
        """The clips of one fold, in the table's order.

        Raises:
            DataError: if no clip lies in ``fold``.
        """
        if fold not in self.folds:
            raise DataError(f"The score table has no fold {fold!r}: it has {', '.join(self.fold_names)}.")
        return self.rows([row for row, name in enumerate(self.folds) if name == fold])

    def reordered(self, clips: Iterable[str]) -> ScoreTable:
        """The same table with its rows in the order of ``clips``, so that tables of several models line up.

        Raises:
            MemberError: if ``clips`` are not exactly the clips of this table.
        """
        clips = tuple(clips)
        row_of = {clip: row for row, clip in enumerate(self.clips)}
        odd = [clip for clip in clips if clip not in row_of] or sorted(row_of.keys() - set(clips))
        if odd:
            raise MemberError(
                f"Score tables hold different clips ({len(self.clips)} against {len(clips)}, differing in "
                f"{odd[0]!r}): compare and fuse models of the same data set and split only."
            )
        return self.rows([row_of[clip] for clip in clips])

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the table to ``path`` in one step: readers see the old file or the whole new one.

        Raises:
            StoreError: if the file cannot be written.
        """
        texts = zip(_TEXT_COLUMNS, (self.clips, self.labels, self.folds), strict=True)
        columns = {name: pa.array(values, pa.string()) for name, values in texts}
        columns |= {_SCORE + label: pa.array(self.scores[:, at]) for at, label in enumerate(self.classes)}
        table = pa.table(columns).replace_schema_metadata({"kind": self.kind})
        with replaced(Path(path)) as file:
            pq.write_table(table, file)

    @classmethod
    def from_parquet(cls, path: str | os.PathLike[str]) -> ScoreTable:
        """Read a table that `to_parquet` wrote; columns that are not part of the form are ignored.

        Raises:
            DataError: if the file is missing, is no Parquet file, or does not hold a valid score table.
        """
        path = Path(path)
        try:
            # Not `read_table`: it would take a folder called `key=value` for a partition and add a column.
            with pq.ParquetFile(path) as file:
                table = file.read()
        except (OSError, pa.ArrowException) as error:
            first_line = (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")
            reason = f"not readable Parquet ({first_line})" if path.is_file() else "there is no such file"
            raise DataError(f"No scores in {path}: {reason}. Run the model again to write it.") from error
        try:
            return cls._of(table)
        except DataError as error:
            raise DataError(f"Malformed score table {path}: {error}") from error

    @classmethod
    def _of(cls, table: pa.Table) -> ScoreTable:
        names = table.column_names
        if missing := [name for name in _TEXT_COLUMNS if name not in names]:
            raise DataError(f"column {missing[0]!r} is missing.")
        if len(set(names)) != len(names):
            raise DataError("a column stands twice.")
        kind = (table.schema.metadata or {}).get(b"kind")
        if kind is None:
            raise DataError("the file metadata has no 'kind'.")
        score_columns = [name for name in names if name.startswith(_SCORE)]
        for name in score_columns:
            if not pa.types.is_floating(table.schema.field(name).type):
                raise DataError(f"column {name!r} holds no floating-point numbers.")
        scores = np.empty((table.num_rows, len(score_columns)))
        for column, name in enumerate(score_columns):
            scores[:, column] = table.column(name).to_numpy()
        clips, labels, folds = (tuple(table.column(name).to_pylist()) for name in _TEXT_COLUMNS)
        classes = tuple(name.removeprefix(_SCORE) for name in score_columns)
        return cls(clips, labels, folds, scores, classes, kind.decode(errors="replace"))

    def rows(self, rows: Sequence[int]) -> ScoreTable:
        """The table of these rows, in their order.

        Raises:
            DataError: if there are none.
        """
        if not rows:
            raise DataError("No clips are left: the subset of the score table is empty.")
        clips, labels, folds = (tuple(values[row] for row in rows) for values in (self.clips, self.labels, self.folds))
        return replace(self, clips=clips, labels=labels, folds=folds, scores=self.scores[list(rows)])


def _check(table: ScoreTable) -> None:
    n_clips, classes = len(table.clips), table.classes
    if n_clips == 0:
        raise DataError("A score table needs at least one clip.")
    texts = {"clip": table.clips, "label": table.labels, "fold": table.folds, "class": classes}
    for name, values in texts.items():
        if odd := [value for value in values if not isinstance(value, str) or not value]:
            raise DataError(f"Every {name} must be a text that is not empty; got {odd[0]!r}.")
    if len(classes) < 2 or list(classes) != sorted(set(classes)):
        raise DataError(f"Give two or more classes, in alphabetical order, none twice: got {_few(classes)}.")
    if not len(table.labels) == len(table.folds) == n_clips:
        counts = f"{len(table.labels)} and {len(table.folds)}"
        raise DataError(f"{n_clips} clips need as many labels and folds; got {counts}.")
    if table.scores.shape != (n_clips, len(classes)):
        shape = table.scores.shape
        raise DataError(f"{n_clips} clips and {len(classes)} classes need scores of that shape; got {shape}.")
    if table.kind not in KINDS:
        raise DataError(f"Scores are of kind {' or '.join(map(repr, KINDS))}; got {table.kind!r}.")
    twice = next((clip for clip, n in Counter(table.clips).items() if n > 1), None)
    if twice is not None:
        raise DataError(f"Clip {twice!r} has scores twice: every clip may stand in the table once.")
    for clip, label in zip(table.clips, table.labels, strict=True):
        if label not in classes:
            raise DataError(f"Clip {clip!r} has the label {label!r}, none of the classes {_few(classes)}.")
    finite = np.isfinite(table.scores).all(axis=1)
    if not finite.all():
        clip = table.clips[int(np.argmin(finite))]
        raise DataError(f"Clip {clip!r} has a score that is missing or not finite.")
    sums = table.scores.sum(axis=1)
    wrong = (table.scores < -_TOLERANCE).any(axis=1) | (np.abs(sums - 1) > _TOLERANCE)
    if table.kind == "probability" and wrong.any():
        clip = table.clips[int(np.argmax(wrong))]
        raise DataError(
            f"Clip {clip!r} has probabilities that are negative or do not sum to 1; other scores are of the kind "
            "'decision'."
        )


def _few(classes: Sequence[str]) -> str:
    """At most eight class names for a message."""
    return ", ".join(map(repr, classes[:8])) + (", ..." if len(classes) > 8 else "")
