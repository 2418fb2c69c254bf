"""The served model: encoded sound in, labels and probabilities out.

Input: a binary column ``audio``, an encoded file (WAV, FLAC, OGG, MP3, M4A ...) a row; in JSON it is base64. Output, a
row each: ``label``, its ``probability`` (calibrated on out-of-fold scores) and ``p_<label>`` for every class; of a
model that may answer ``none``, also ``none_score`` (:mod:`soundstack.evaluation.none_rule`). A clip longer than those
of the training is the mean of overlapping windows. Parameters: :class:`Options` and lowered :class:`RequestLimits`.
What a client sends is only ever treated as the bytes of a sound file, never as a path, a URL or a file name.
"""

from __future__ import annotations

import base64
import binascii
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_EXHAUSTED
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from soundstack.audio.decoder import SoundReader
from soundstack.audio.limits import RequestLimits, explained
from soundstack.evaluation.none_rule import answers_of
from soundstack.recognisers.base import Decoded, Recogniser, Scores, load
from soundstack.recognisers.timelines import End, Timeline, Window, read, timelines
from soundstack.utils import deadlines, devices
from soundstack.utils.errors import AudioError, ConfigError

#: What a request looks like.
FORM = '{"dataframe_records": [{"audio": "<base64 of a sound file>"}]}'
#: Bad rows that a refusal names; of more it tells the number.
NAMED_ROWS = 20
_TYPES = {bool: DataType.boolean, int: DataType.long, float: DataType.double, str: DataType.string}


class Options(BaseModel):
    """What a request may ask for."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    top_k: int = Field(0, ge=0, description="also list the best labels")
    raw_scores: bool = Field(False, description="also give the uncalibrated scores")
    timeline: bool = Field(False, description="also give label and probabilities window by window")
    on_error: Literal["refuse", "null"] = Field(
        "refuse", description="refuse the request for a bad clip, or answer null and say why in a column error"
    )


def _columns(labels: Sequence[str], *, none: bool) -> Iterator[tuple[str, DataType | Array, str]]:
    """The columns of answers: name, type, and the option that asks for it (empty: none, it is always there).

    ``none`` tells whether the model may answer that a clip is of none of its classes.
    """
    p_labels = [f"p_{label}" for label in labels]
    numbers = [Property(name, DataType.double) for name in ("start", "end", "probability", *p_labels)]
    yield "label", DataType.string, ""
    yield from ((name, DataType.double, "") for name in ("probability", *p_labels))
    if none:
        numbers.append(Property("none_score", DataType.double))
        yield "none_score", DataType.double, ""
    yield from ((f"score_{label}", DataType.double, "raw_scores") for label in labels)
    yield "top_labels", Array(DataType.string), "top_k"
    yield "timeline", Array(Object([*numbers, Property("label", DataType.string)])), "timeline"
    yield "error", DataType.string, "on_error"


def signature(labels: Sequence[str], limits: RequestLimits, *, none: bool = False) -> ModelSignature:
    """The model's contract, shown in the UI and checked by MLflow; what not every answer holds is optional."""
    params = Options().model_dump() | limits.model_dump()
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "audio")]),
        outputs=Schema([ColSpec(kind, name, required=False) for name, kind, _ in _columns(labels, none=none)]),
        params=ParamSchema([ParamSpec(name, _TYPES[type(value)], value) for name, value in params.items()]),
    )


class SoundModel(PythonModel):
    """The pyfunc around a saved recogniser."""

    def __init__(self) -> None:
        self._scoring = threading.Lock()

    def load_context(self, context: PythonModelContext) -> None:
        """Load the recogniser and its limits from the model's own files."""
        folder = Path(context.artifacts["recogniser"])
        self.use(load(folder, devices.choose("auto")), RequestLimits.load(folder))

    def use(self, recogniser: Recogniser, limits: RequestLimits) -> None:
        """Answer with this recogniser, within these limits."""
        self.recogniser, self.limits = recogniser, limits

    # No annotations: MLflow would read them as the model's input schema, which the signature states already.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Recognise the clips of a data frame with a column ``audio``; see :meth:`recognise`."""
        if not isinstance(model_input, pd.DataFrame) or "audio" not in model_input.columns:
            raise _refusal(f"Send {FORM}.")
        params = params or {}
        answer = self.recognise(model_input["audio"].tolist(), params)
        # pandas would make NaN of None in a column of numbers, and JSON knows no NaN.
        return pd.DataFrame(answer, dtype=object if params.get("on_error") == "null" else None)

    def recognise(
        self, rows: Sequence[Any], params: Mapping[str, Any], *, deadline: float = math.inf
    ) -> list[dict[str, Any]]:
        """Recognise clips.

        Args:
            rows: A clip each: the bytes of a sound file, or text that is their base64.
            params: Any of the fields of :class:`Options` and of :class:`RequestLimits`.
            deadline: When, on the clock of :func:`time.monotonic`, nobody waits for the answer any more.

        Returns:
            A record a row, of plain values that JSON knows.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE (HTTP 400): a parameter cannot be used, the request is too large,
                or rows are bad (up to ``NAMED_ROWS`` of them by number, from 0, and reason).
                RESOURCE_EXHAUSTED (HTTP 429): the deadline has passed.
        """
        options, limits = self.read_params(params)
        if not 0 < len(rows) <= limits.max_clips:
            raise _refusal(f"The request has {len(rows)} rows; send 1 to {limits.max_clips}.")
        opened = [_opened(row, limits) for row in rows]
        clips = [content for content, _ in opened]
        size = sum(len(clip) for clip in clips if isinstance(clip, bytes))
        _check_totals(size, sum(seconds for _, seconds in opened), limits)
        strict = options.on_error == "refuse"
        parts = self._parts(clips, limits, deadline, strict=strict)
        found = dict(timelines(parts, self.recogniser, lambda windows: self._judge(windows, deadline)))
        problems = {row: what for row, what in sorted(found.items()) if isinstance(what, AudioError)}
        if problems and strict:
            named = [f"row {row}: the clip {problem}" for row, problem in list(problems.items())[:NAMED_ROWS]]
            more = [f"and {len(problems) - NAMED_ROWS} more rows"] if len(problems) > NAMED_ROWS else []
            raise _refusal("; ".join([*named, *more]) + ".")
        return [self._record(found[row], options) for row in range(len(rows))]

    def _parts(
        self, clips: Sequence[bytes | AudioError], limits: RequestLimits, deadline: float, *, strict: bool
    ) -> Iterator[Window | End]:
        """Read the clips one after the other, up to the limits of a request.

        Once a strict request will be refused, the rest is read to name its bad rows, but not scored.
        """
        refused = strict and any(isinstance(clip, AudioError) for clip in clips)
        seconds = 0.0
        for row, clip in enumerate(clips):
            for part in read(row, clip, self.recogniser, limits):
                if time.monotonic() > deadline:
                    raise _too_late()
                bad = isinstance(part, End) and part.problem is not None
                if isinstance(part, End):
                    seconds += part.seconds
                    _check_totals(0, seconds, limits)
                refused = refused or (strict and bad)
                if bad or not refused:
                    yield part

    def read_params(self, params: Mapping[str, Any]) -> tuple[Options, RequestLimits]:
        """Validate the parameters of a request.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE: one is unknown, of the wrong type or out of range.
        """
        known = [*Options.model_fields, *RequestLimits.model_fields]
        if unknown := [name for name in params if name not in known]:
            shown = ", ".join(repr(str(name)[:40]) for name in unknown[:5])
            raise _refusal(
                f"params: {shown} {'is' if len(unknown) == 1 else 'are'} unknown; there are {', '.join(known)}."
            )
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in params.items()}
        try:
            options = Options(**{name: value for name, value in plain.items() if name in Options.model_fields})
            limits = self.limits.lowered({n: value for n, value in plain.items() if n in RequestLimits.model_fields})
        except ValidationError as error:
            raise _refusal(f"params: {explained(error)}.") from None
        except ConfigError as error:
            raise _refusal(f"params: {error}.") from None
        if options.top_k > len(self.recogniser.labels):
            raise _refusal(f"params: top_k is {options.top_k}; it must lie in 0 to {len(self.recogniser.labels)}.")
        return options, limits

    def _judge(self, windows: Sequence[Decoded], deadline: float) -> tuple[Scores, Scores | None]:
        """Score a batch of windows when its turn comes: torch uses all cores for one, two would hinder each other."""
        left = deadline - time.monotonic()
        if left <= 0 or not self._scoring.acquire(timeout=left if left < math.inf else -1):
            raise _too_late()
        try:
            with deadlines.until(deadline):
                return self.recogniser.judge(windows)
        except deadlines.LateError:
            raise _too_late() from None
        finally:
            self._scoring.release()

    def _record(self, row: Timeline | AudioError, options: Options) -> dict[str, Any]:
        labels = self.recogniser.labels
        if isinstance(row, AudioError):
            columns = _columns(labels, none=self.recogniser.none is not None)
            asked = (name for name, _, option in columns if not option or getattr(options, option))
            return dict.fromkeys(asked) | {"error": f"the clip {row}"}
        probabilities = row.mean_probabilities
        record = self._decisions(probabilities[None], row.mean_none)[0]
        if options.raw_scores:
            record |= {f"score_{label}": float(x) for label, x in zip(labels, row.mean_scores, strict=True)}
        if options.top_k:
            best = np.argsort(-probabilities, kind="stable")[: options.top_k]
            record["top_labels"] = [labels[index] for index in best]
        if options.timeline:
            parts = zip(row.starts, row.ends, self._decisions(row.probabilities, row.none), strict=True)
            record["timeline"] = [{"start": float(start), "end": float(end)} | part for start, end, part in parts]
        if options.on_error == "null":
            record["error"] = None
        return record

    def _decisions(self, probabilities: Scores, none: Scores | None) -> list[dict[str, Any]]:
        """Labels and probabilities (N, K) of clips or windows, with their none scores (N,) where there are any."""
        labels = self.recogniser.labels
        answers, chosen = answers_of(self.recogniser.none, labels, probabilities, none)
        records = []
        for row, (label, probability) in enumerate(zip(answers, chosen, strict=True)):
            named = {f"p_{each}": float(x) for each, x in zip(labels, probabilities[row], strict=True)}
            records.append({"label": label, "probability": float(probability)} | named)
            if none is not None:
                records[-1]["none_score"] = float(none[row])
        return records


def _opened(row: Any, limits: RequestLimits) -> tuple[bytes | AudioError, float]:
    """An encoded clip, or what is wrong with it, and the seconds that its header tells; 0 where it tells none."""
    try:
        content = _encoded(row, limits)
        with SoundReader(content, limits) as sound:
            most = limits.max_frames(sound.rate, sound.channels)
            return content, min(sound.expected, most) / sound.rate
    except AudioError as error:
        return error, 0.0


def _encoded(row: Any, limits: RequestLimits) -> bytes:
    """The bytes of a sound file in a row, as they are or from base64."""
    if isinstance(row, str):
        limits.check_bytes(len(row) * 3 // 4 - 2)  # before they are made
        try:
            row = base64.b64decode("".join(row.split()), validate=True)
        except (binascii.Error, ValueError):
            raise AudioError("is text that is not base64; send the bytes of a sound file, base64-encoded") from None
    if not isinstance(row, bytes | bytearray):
        raise AudioError(f"is {_named(row)}; send the bytes of a sound file, base64-encoded")
    return bytes(row)


def _check_totals(size: int, seconds: float, limits: RequestLimits) -> None:
    if size > limits.max_request_bytes:
        raise _refusal(f"The clips have {size:,} bytes; send at most {limits.max_request_bytes:,} in a request.")
    if seconds > limits.max_request_seconds:
        most = limits.max_request_seconds
        raise _refusal(f"The clips are {seconds:,.0f} s long; send at most {most:,g} s in a request.")


def _named(value: Any) -> str:
    """What JSON calls a value; a data frame has NaN where JSON had null."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")


def _too_late() -> MlflowException:
    message = "The clips cannot be recognised in time; send fewer or shorter ones, or try again later."
    return MlflowException(message, error_code=RESOURCE_EXHAUSTED)


def _refusal(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)
