"""The tables of a prediction, written row group by row group under temporary names: never whole in memory.

=====================  =============================================================================================
``predictions.csv``    a row a window: file, start and end in seconds, label, its probability, ``p_<label>`` of every
``predictions.parquet``  class, model
``files.csv``          a row a file: seconds, windows, and the same for the mean of its windows' probabilities
``errors.csv``         the files that cannot be used, and why
=====================  =============================================================================================

Of a model that may answer ``none``, a column ``none_score`` stands before the model.

The CSV files open in a spreadsheet: they begin with a byte order mark, by which Excel knows UTF-8 (pandas and pyarrow
leave it out; else read them as ``utf-8-sig``). A file name that a spreadsheet would compute as a formula, since it
begins with ``=``, ``+``, ``-`` or ``@``, has ``./`` before it there, which names the same file.
"""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from soundstack.audio.find import SoundFile
from soundstack.evaluation.none_rule import NoneRule, answers_of
from soundstack.prediction.store import PredictionStore
from soundstack.recognisers.timelines import Floats
from soundstack.utils.errors import AudioError
from soundstack.utils.files import replaced

WINDOWS, WINDOWS_PARQUET, FILES, ERRORS = "predictions.csv", "predictions.parquet", "files.csv", "errors.csv"
TABLES = (WINDOWS, WINDOWS_PARQUET, FILES, ERRORS)
_ROWS = 20_000


@dataclass
class Totals:
    """What the tables add up to: usable and bad files, windows, seconds of sound, files by label, first problems."""

    files: int = 0
    bad: int = 0
    windows: int = 0
    seconds: float = 0.0
    by_label: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def write(
    output: Path,
    files: Sequence[SoundFile],
    store: PredictionStore,
    labels: Sequence[str],
    model: str,
    rule: NoneRule | None = None,
) -> Totals:
    """Write the tables of finished files, in their order.

    ``model`` is its name and version, for the last column, and ``rule`` tells when it answers none, if ever.

    Raises:
        StoreError: The folder cannot be written.
    """
    shares = [(f"p_{label}", pa.float64()) for label in labels]
    none = [("none_score", pa.float64())] if rule else []
    judged = [("label", pa.string()), ("probability", pa.float64()), *shares, *none, ("model", pa.string())]
    spans = [("file", pa.string()), ("start", pa.float64()), ("end", pa.float64()), *judged]
    whole = [("file", pa.string()), ("seconds", pa.float64()), ("windows", pa.int64()), *judged]
    totals = Totals()
    with ExitStack() as stack:
        windows = _Rows(stack, output, (WINDOWS, WINDOWS_PARQUET), pa.schema(spans))
        clips = _Rows(stack, output, (FILES,), pa.schema(whole))
        errors = _Rows(stack, output, (ERRORS,), pa.schema([("file", pa.string()), ("reason", pa.string())]))
        for file in files:
            found = store.read(file, none=rule is not None)
            if isinstance(found, AudioError):
                totals.bad += 1
                if len(totals.problems) < 5:
                    totals.problems.append(f"{file.name} {found}")
                errors.add([[file.name], [str(found)]])
                continue
            count = len(found.starts)
            each = _judged(rule, labels, found.probabilities, found.none, model)
            windows.add([[file.name] * count, found.starts, found.ends, *each])
            mean = _judged(rule, labels, found.mean_probabilities[None], found.mean_none, model)
            clips.add([[file.name], [found.seconds], [count], *mean])
            totals.files += 1
            totals.windows += count
            totals.seconds += found.seconds
            totals.by_label[mean[0][0]] += 1
        for rows in (windows, clips, errors):
            rows.flush()
    return totals


def _judged(
    rule: NoneRule | None, labels: Sequence[str], probabilities: Floats, none: Floats | None, model: str
) -> list[Any]:
    answers, chosen = answers_of(rule, labels, probabilities, none)
    return [answers, chosen, *probabilities.T, *([] if none is None else [none]), [model] * len(answers)]


class _Rows:
    """Rows of one table that go to one or two files."""

    def __init__(self, stack: ExitStack, output: Path, names: Sequence[str], schema: pa.Schema) -> None:
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []
        self._count = 0
        self._parquet: list[pa.parquet.ParquetWriter] = []
        self._csv: list[pa.csv.CSVWriter] = []
        for name in names:
            file = stack.enter_context(replaced(output / name, instead="output_dir"))
            if name.endswith(".parquet"):
                self._parquet.append(stack.enter_context(pa.parquet.ParquetWriter(file, schema)))
            else:
                file.write(codecs.BOM_UTF8)
                self._csv.append(stack.enter_context(pa.csv.CSVWriter(file, schema)))

    def add(self, columns: Sequence[Any]) -> None:
        arrays = [pa.array(column, type=of.type) for column, of in zip(columns, self._schema, strict=True)]
        self._batches.append(pa.record_batch(arrays, schema=self._schema))
        self._count += len(arrays[0])
        if self._count >= _ROWS:
            self.flush()

    def flush(self) -> None:
        table = pa.Table.from_batches(self._batches, self._schema).combine_chunks()
        self._batches, self._count = [], 0
        if not table.num_rows:
            return
        for parquet in self._parquet:
            parquet.write_table(table)
        names = pa.compute.replace_substring_regex(table.column(0), r"\A([=+\-@\t\r\n])", r"./\1")
        for text in self._csv:
            text.write_table(table.set_column(0, self._schema.field(0), names))
