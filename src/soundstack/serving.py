"""The served model: encoded sound in, labels and probabilities out.

Input: a binary column ``audio``, one encoded file (WAV, FLAC, OGG, MP3) a row; in JSON it is base64. Output, a row
each: ``label``, its ``probability`` (calibrated on out-of-fold scores) and ``p_<label>`` for every class; ``top_k``
adds ``top_labels``. What a client sends is only ever treated as the bytes of a sound file, never as a path or URL.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from soundstack.audio import decode
from soundstack.errors import AudioError
from soundstack.recognisers import Decoded, Recogniser, load

MAX_BYTES = 25 * 1024 * 1024
MAX_SECONDS = 300.0
MAX_ROWS = 256


def signature(labels: Sequence[str]) -> ModelSignature:
    """The model's contract, shown in the UI and checked by MLflow."""
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "label"),
        ColSpec(DataType.double, "probability"),
    ]
    outputs += [ColSpec(DataType.double, f"p_{label}") for label in labels]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "audio")]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("top_k", DataType.long, 0), ParamSpec("raw_scores", DataType.boolean, False)]),
    )


class SoundModel(PythonModel):
    """The pyfunc around a saved recogniser."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the recogniser from the model's own files."""
        self.recogniser: Recogniser = load(Path(context.artifacts["recogniser"]))

    # No annotations: MLflow would read them as the model's input schema, which the signature states already.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Recognise clips.

        Raises:
            MlflowException: With INVALID_PARAMETER_VALUE (HTTP 400), naming every bad row and why.
        """
        params = params or {}
        clips = read_clips(model_input)
        labels = self.recogniser.labels
        top_k = int(params.get("top_k", 0))
        if not 0 <= top_k <= len(labels):
            raise _refusal(f"top_k is {top_k}; it must lie between 0 and {len(labels)}.")
        scores = self.recogniser.scores(clips)
        probabilities = self.recogniser.probabilities(scores)
        best = probabilities.argmax(axis=1)
        answer: dict[str, Any] = {
            "label": [labels[index] for index in best],
            "probability": probabilities[np.arange(len(best)), best],
        }
        answer |= {f"p_{label}": probabilities[:, column] for column, label in enumerate(labels)}
        if params.get("raw_scores"):
            answer |= {f"score_{label}": scores[:, column] for column, label in enumerate(labels)}
        if top_k:
            order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
            answer["top_labels"] = [[labels[index] for index in row] for row in order]
        return pd.DataFrame(answer)


def read_clips(model_input: Any) -> list[Decoded]:
    """Decode the rows of a request.

    Raises:
        MlflowException: No rows, too many, or rows that cannot be used, each with its number (from 0) and reason.
    """
    if not isinstance(model_input, pd.DataFrame) or "audio" not in model_input.columns:
        raise _refusal('Send {"dataframe_records": [{"audio": "<base64 of a sound file>"}]}.')
    rows = model_input["audio"].tolist()
    if not 0 < len(rows) <= MAX_ROWS:
        raise _refusal(f"The request has {len(rows)} rows; send 1 to {MAX_ROWS}.")
    clips: list[Decoded] = []
    problems: list[str] = []
    for number, value in enumerate(rows):
        try:
            clips.append(_decode(value))
        except AudioError as error:
            problems.append(f"row {number}: the clip {error}")
    if problems:
        raise _refusal("; ".join(problems) + ".")
    return clips


def _decode(value: Any) -> Decoded:
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise AudioError("is text that is not base64; send the bytes of a sound file, base64-encoded") from None
    if not isinstance(value, bytes | bytearray):
        raise AudioError(f"is a {type(value).__name__}; send the bytes of a sound file, base64-encoded")
    if len(value) > MAX_BYTES:
        raise AudioError(f"has {len(value):,} bytes; at most {MAX_BYTES:,} are taken")
    return decode(bytes(value), max_seconds=MAX_SECONDS)


def _refusal(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)
