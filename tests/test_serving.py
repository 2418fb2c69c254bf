"""The pyfunc in-process: what it answers, and what it refuses with HTTP 400."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from mlflow.exceptions import MlflowException

from soundstack import serving
from soundstack.serving import SoundModel
from test_recognisers import LABELS, RATE, crnn


@pytest.fixture(scope="module")
def model() -> SoundModel:
    served = SoundModel()
    served.recogniser = crnn()
    return served


def encoded(kind: str = "WAV", *, seconds: float = 0.7, rate: int = RATE, channels: int = 1) -> bytes:
    stream = io.BytesIO()
    samples = 0.1 * np.random.default_rng(0).standard_normal((int(seconds * rate), channels))
    soundfile.write(stream, samples, rate, format=kind)
    return stream.getvalue()


def ask(model: SoundModel, *audio: Any, **params: Any) -> pd.DataFrame:
    return model.predict(None, pd.DataFrame({"audio": list(audio)}), params)


def test_formats_rates_channels_and_lengths_mix_in_one_request(model: SoundModel) -> None:
    answer = ask(
        model,
        encoded("WAV"),
        encoded("FLAC", rate=16000, channels=2),
        encoded("OGG", seconds=3),
        encoded("MP3", rate=44100),
    )
    assert list(answer.columns) == ["label", "probability", *[f"p_{label}" for label in LABELS]]
    shares = answer[[f"p_{label}" for label in LABELS]].to_numpy()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(answer["probability"], shares.max(axis=1))
    assert answer["label"].tolist() == [LABELS[best] for best in shares.argmax(axis=1)]


def test_base64_text_and_bytes_answer_the_same(model: SoundModel) -> None:
    clip = encoded()
    pd.testing.assert_frame_equal(ask(model, clip), ask(model, base64.b64encode(clip).decode()))


def test_top_k_lists_the_best_labels_first(model: SoundModel) -> None:
    row = ask(model, encoded(), top_k=2).iloc[0]
    ranked = sorted(LABELS, key=lambda label: -row[f"p_{label}"])
    assert row["top_labels"] == ranked[:2]


def test_raw_scores_come_on_request(model: SoundModel) -> None:
    answer = ask(model, encoded(), raw_scores=True)
    assert {f"score_{label}" for label in LABELS} < set(answer.columns)


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        (b"Not a sound at all.", "cannot be decoded"),
        (b"", "cannot be decoded"),
        (encoded(seconds=0), "holds no samples"),
        (encoded()[:-500], "truncated"),
        ("/etc/passwd", "not base64"),
        ("http://example.org/clip.wav", "not base64"),
        (17, "is a int"),
        (None, "is a NoneType"),
    ],
)
def test_a_bad_row_is_named_with_its_reason(model: SoundModel, audio: Any, reason: str) -> None:
    with pytest.raises(MlflowException, match=f"row 1: the clip .*{reason}") as caught:
        ask(model, encoded(), audio)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    assert "row 0" not in str(caught.value)


def test_every_bad_row_is_named(model: SoundModel) -> None:
    with pytest.raises(MlflowException, match=r"row 0: .*; row 2: "):
        ask(model, b"x", encoded(), b"y")


def test_a_clip_that_is_too_long_is_refused_before_it_is_decoded(
    model: SoundModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MAX_SECONDS", 0.5)
    with pytest.raises(MlflowException, match=r"0\.7 s long; at most 0\.5 s"):
        ask(model, encoded())


def test_too_many_bytes_and_rows_are_refused(model: SoundModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_BYTES", 100)
    with pytest.raises(MlflowException, match="at most 100 are taken"):
        ask(model, encoded())
    monkeypatch.setattr(serving, "MAX_ROWS", 1)
    with pytest.raises(MlflowException, match="2 rows; send 1 to 1"):
        ask(model, encoded(), encoded())


def test_no_rows_and_no_audio_column_are_refused(model: SoundModel) -> None:
    with pytest.raises(MlflowException, match="0 rows"):
        ask(model)
    with pytest.raises(MlflowException, match="dataframe_records"):
        model.predict(None, pd.DataFrame({"sound": [b""]}), {})


def test_top_k_out_of_range_is_refused(model: SoundModel) -> None:
    with pytest.raises(MlflowException, match="between 0 and 3"):
        ask(model, encoded(), top_k=4)
