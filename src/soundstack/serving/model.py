"""The served model: encoded sound in, labels and probabilities out.

Input: a binary column ``audio``, an encoded file (WAV, FLAC, OGG, MP3, M4A ...) a row; in JSON it is base64. Output, a
row each: ``label``, its ``probability`` (calibrated on out-of-fold scores) and ``p_<label>`` for every class. A clip
longer than those of the training is the mean of overlapping windows. Parameters: :class:`Options` and lowered
:class:`Limits`.
What a client sends is only ever treated as the bytes of a sound file, never as a path, a URL or a file name.
"""

from __future__ import annotations

import base64
import binascii
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_EXHAUSTED
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Array, Object, Property
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from soundstack.audio.decode import decode, expected_size
from soundstack.audio.limits import Limits
from soundstack.audio.windows import Timeline, timelines
from soundstack.recognisers.base import Decoded, Recogniser, Scores, load
from soundstack.serving import http as scoring_server
from soundstack.utils import deadlines, devices
from soundstack.utils.errors import AudioError, ConfigError

#: Bad rows that a refusal names; of more it tells the number.
NAMED_ROWS = 20
_TYPES = {bool: DataType.boolean, int: DataType.long, float: DataType.double, str: DataType.string}

In = TypeVar("In")
Out = TypeVar("Out")


class Options(BaseModel):
    """What a request may ask for."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    top_k: int = Field(0, ge=0, description="also list the best labels")
    raw_scores: bool = Field(False, description="also give the uncalibrated scores")
    timeline: bool = Field(False, description="also give label and probabilities window by window")
    on_error: Literal["refuse", "null"] = Field(
        "refuse", description="refuse the request for a bad clip, or answer null and say why in a column error"
    )


def signature(labels: Sequence[str], limits: Limits) -> ModelSignature:
    """The model's contract, shown in the UI and checked by MLflow; what not every answer holds is optional."""

    def optional(kind: DataType | Array, name: str) -> ColSpec:
        return ColSpec(kind, name, required=False)

    p_labels = [f"p_{label}" for label in labels]
    window = Object(
        [Property(name, DataType.double) for name in ("start", "end", "probability", *p_labels)]
        + [Property("label", DataType.string)]
    )
    outputs: list[ColSpec | TensorSpec] = [optional(DataType.string, "label"), optional(DataType.double, "probability")]
    outputs += [optional(DataType.double, name) for name in p_labels]
    outputs += [optional(DataType.double, f"score_{label}") for label in labels]
    outputs += [optional(Array(DataType.string), "top_labels"), optional(Array(window), "timeline")]
    outputs += [optional(DataType.string, "error")]
    params = Options().model_dump() | limits.model_dump()
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "audio")]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec(name, _TYPES[type(value)], value) for name, value in params.items()]),
    )


class Sound(NamedTuple):
    """An encoded clip and what its header says: seconds (0: nothing), and the room that its samples get."""

    content: bytes
    seconds: float
    samples: int


class SoundModel(PythonModel):
    """The pyfunc around a saved recogniser."""

    def __init__(self) -> None:
        self._scoring = threading.Lock()

    def load_context(self, context: PythonModelContext) -> None:
        """Load the recogniser and its limits from the model's own files."""
        folder = Path(context.artifacts["recogniser"])
        self.use(load(folder, devices.choose("auto")), Limits.load(folder))
        scoring_server.install(self)

    def use(self, recogniser: Recogniser, limits: Limits) -> None:
        """Answer with this recogniser, within these limits."""
        self.recogniser, self.limits = recogniser, limits
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="decode")

    # No annotations: MLflow would read them as the model's input schema, which the signature states already.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Recognise the clips of a data frame with a column ``audio``; see :meth:`recognise`."""
        if not isinstance(model_input, pd.DataFrame) or "audio" not in model_input.columns:
            raise _refusal(f"Send {scoring_server.FORM}.")
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
            params: Any of the fields of :class:`Options` and of :class:`Limits`.
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
        sounds = self._each(lambda row: _opened(row, limits), rows)
        taken = [sound for sound in sounds if isinstance(sound, Sound)]
        _check_totals(sum(len(sound.content) for sound in taken), sum(sound.seconds for sound in taken), limits)
        found: dict[int, Timeline | AudioError | None] = {}
        strict = options.on_error == "refuse"
        refused = strict and len(taken) < len(sounds)
        seconds = 0.0
        for decoded in self._decoded(sounds, limits):
            clips = [clip for clip in decoded.values() if not isinstance(clip, AudioError)]
            seconds += sum(len(samples) / rate for samples, rate in clips)
            _check_totals(0, seconds, limits)
            # Once the request will be refused, the rest is decoded to name its bad rows, but not scored.
            refused = refused or (strict and len(clips) < len(decoded))
            scored: Iterator[Timeline] = iter(())
            if clips and not refused:
                scored = iter(timelines(self.recogniser, clips, lambda windows: self._score(windows, deadline)))
            for row, clip in decoded.items():
                found[row] = clip if isinstance(clip, AudioError) else _finite(next(scored, None))
        answers = [found[row] for row in range(len(rows))]
        problems = {row: answer for row, answer in enumerate(answers) if isinstance(answer, AudioError)}
        if problems and strict:
            raise _refusal(_listed(problems))
        return [self._record(answer, options) for answer in answers if answer is not None]

    def _decoded(
        self, sounds: Sequence[Sound | AudioError], limits: Limits
    ) -> Iterator[dict[int, Decoded | AudioError]]:
        """Yield clips by row, as many at a time as fit into ``max_samples``.

        Among others, a clip gets the room that its header asks for; one that needs more is decoded again, alone.
        """
        alone: list[int] = []
        for group in _groups(sounds, limits.max_samples):
            if len(group) == 1:
                alone += group
                continue
            decoded = dict(zip(group, self._each(_in_its_room(limits), [sounds[row] for row in group]), strict=True))
            alone += (again := [row for row in group if isinstance(decoded[row], AudioError)])
            yield {row: clip for row, clip in decoded.items() if row not in again}
        for row in alone:
            yield {row: _attempt(lambda sound: decode(sound.content, limits=limits), sounds[row])}

    def read_params(self, params: Mapping[str, Any]) -> tuple[Options, Limits]:
        """Validate the parameters of a request.

        Raises:
            MlflowException: INVALID_PARAMETER_VALUE: one is unknown, of the wrong type or out of range.
        """
        known = [*Options.model_fields, *Limits.model_fields]
        if unknown := [name for name in params if name not in known]:
            shown = ", ".join(repr(str(name)[:40]) for name in unknown[:5])
            raise _refusal(
                f"params: {shown} {'is' if len(unknown) == 1 else 'are'} unknown; there are {', '.join(known)}."
            )
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in params.items()}
        try:
            options = Options(**{name: value for name, value in plain.items() if name in Options.model_fields})
            limits = self.limits.lowered({n: value for n, value in plain.items() if n in Limits.model_fields})
        except ValidationError as error:
            first = error.errors()[0]
            raise _refusal(f"params: {first['loc'][0]}: {first['msg'][:1].lower()}{first['msg'][1:]}.") from None
        except ConfigError as error:
            raise _refusal(f"params: {error}.") from None
        if options.top_k > len(self.recogniser.labels):
            raise _refusal(f"params: top_k is {options.top_k}; it must lie in 0 to {len(self.recogniser.labels)}.")
        return options, limits

    def _each(self, function: Callable[[Any], Out], values: Sequence[Any]) -> list[Out | AudioError]:
        """Apply a function to every value that is not an error; decoding leaves Python's lock, so threads help."""
        run = map if len(values) == 1 else self._threads.map
        return list(run(lambda value: _attempt(function, value), values))

    def _score(self, windows: Sequence[Decoded], deadline: float) -> Scores:
        """Score a batch of windows when its turn comes: torch uses all cores for one, two would hinder each other."""
        left = deadline - time.monotonic()
        if left <= 0 or not self._scoring.acquire(timeout=left if left < math.inf else -1):
            raise _too_late()
        try:
            with deadlines.until(deadline):
                return self.recogniser.scores(windows)
        except deadlines.LateError:
            raise _too_late() from None
        finally:
            self._scoring.release()

    def _record(self, row: Timeline | AudioError, options: Options) -> dict[str, Any]:
        labels = self.recogniser.labels
        record: dict[str, Any]
        if isinstance(row, AudioError):
            names = ["label", "probability", *[f"p_{label}" for label in labels]]
            names += [f"score_{label}" for label in labels] if options.raw_scores else []
            names += ["top_labels"] if options.top_k else []
            names += ["timeline"] if options.timeline else []
            return dict.fromkeys(names) | {"error": f"the clip {row}"}
        probabilities = row.mean_probabilities
        record = self._decision(probabilities)
        if options.raw_scores:
            record |= {f"score_{label}": float(x) for label, x in zip(labels, row.mean_scores, strict=True)}
        if options.top_k:
            best = np.argsort(-probabilities, kind="stable")[: options.top_k]
            record["top_labels"] = [labels[index] for index in best]
        if options.timeline:
            parts = zip(row.starts, row.ends, row.probabilities, strict=True)
            record["timeline"] = [
                {"start": float(start), "end": float(end)} | self._decision(part) for start, end, part in parts
            ]
        if options.on_error == "null":
            record["error"] = None
        return record

    def _decision(self, probabilities: np.ndarray) -> dict[str, Any]:
        labels = self.recogniser.labels
        best = int(probabilities.argmax())
        named = {f"p_{label}": float(x) for label, x in zip(labels, probabilities, strict=True)}
        return {"label": labels[best], "probability": float(probabilities[best])} | named


def _attempt(function: Callable[[In], Out], value: In | AudioError) -> Out | AudioError:
    """Apply a function, taking what is wrong with a clip for its result."""
    if isinstance(value, AudioError):
        return value
    try:
        return function(value)
    except AudioError as error:
        return error


def _opened(row: Any, limits: Limits) -> Sound:
    """Take the bytes of a sound file out of a row, as they are or from base64, and read their header.

    Raises:
        AudioError: The row holds something else, or more than the limits allow.
    """
    if isinstance(row, str):
        limits.check_bytes(len(row) * 3 // 4 - 2)  # before they are made
        try:
            row = base64.b64decode("".join(row.split()), validate=True)
        except (binascii.Error, ValueError):
            raise AudioError("is text that is not base64; send the bytes of a sound file, base64-encoded") from None
    if not isinstance(row, bytes | bytearray):
        raise AudioError(f"is {_named(row)}; send the bytes of a sound file, base64-encoded")
    limits.check_bytes(len(row))
    content = bytes(row)
    return Sound(content, *expected_size(content, limits))


def _in_its_room(limits: Limits) -> Callable[[Sound], Decoded]:
    return lambda sound: decode(sound.content, limits=limits.model_copy(update={"max_samples": sound.samples}))


def _groups(sounds: Sequence[Sound | AudioError], max_samples: int) -> Iterator[list[int]]:
    """Yield the rows that are held decoded at a time, in order: at most so many samples, all channels of all clips."""
    group: list[int] = []
    held = 0
    for row, sound in enumerate(sounds):
        samples = sound.samples if isinstance(sound, Sound) else 0
        if group and held + samples > max_samples:
            yield group
            group, held = [], 0
        group.append(row)
        held += samples
    yield group


def _check_totals(size: int, seconds: float, limits: Limits) -> None:
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


def _finite(row: Timeline | None) -> Timeline | AudioError | None:
    """Turn a clip of absurdly large values into an error; ``None`` is one that was not scored."""
    if row is None or np.isfinite(row.scores).all():
        return row
    return AudioError("is too loud for its scores to be numbers; scale it to -1..1")


def _listed(problems: Mapping[int, AudioError]) -> str:
    named = [f"row {number}: the clip {error}" for number, error in list(problems.items())[:NAMED_ROWS]]
    if len(problems) > NAMED_ROWS:
        named.append(f"and {len(problems) - NAMED_ROWS} more rows")
    return "; ".join(named) + "."


def _too_late() -> MlflowException:
    message = "The clips cannot be recognised in time; send fewer or shorter ones, or try again later."
    return MlflowException(message, error_code=RESOURCE_EXHAUSTED)


def _refusal(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)
