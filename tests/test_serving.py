"""The pyfunc in-process: what it answers, and what it refuses with HTTP 400."""

from __future__ import annotations

import base64
import builtins
import io
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

import test_recognisers
from soundstack.audio.decoder import SoundReader
from soundstack.audio.limits import RequestLimits
from soundstack.fusion.recogniser import FusionRecogniser
from soundstack.recognisers import timelines
from soundstack.recognisers.base import Recogniser
from soundstack.serving import model as serving
from soundstack.serving.model import SoundModel
from test_prediction import fusion as fusion_of
from test_recognisers import LABELS, RATE, crnn

svm, fusion = test_recognisers.svm, test_recognisers.fusion  # fixtures


def serve(recogniser: Recogniser, **limits: Any) -> SoundModel:
    served = SoundModel()
    served.use(recogniser, RequestLimits(**limits))
    return served


_MODEL = serve(crnn())  # Hypothesis wants no fixtures


@pytest.fixture
def model() -> SoundModel:
    return _MODEL


@pytest.fixture(scope="module")
def fused(fusion: FusionRecogniser) -> SoundModel:
    return serve(fusion)


def encoded(
    kind: str = "WAV", *, seconds: float = 0.7, rate: int = RATE, channels: int = 1, seed: int = 0, **options: Any
) -> bytes:
    stream = io.BytesIO()
    samples = 0.1 * np.random.default_rng(seed).standard_normal((int(seconds * rate), channels))
    soundfile.write(stream, samples, rate, format=kind, **options)
    return stream.getvalue()


def ask(model: SoundModel, *audio: Any, **params: Any) -> pd.DataFrame:
    return model.predict(None, pd.DataFrame({"audio": list(audio)}), params)


def refusal(model: SoundModel, *audio: Any, **params: Any) -> str:
    """The message that a request is refused with, as HTTP 400."""
    with pytest.raises(MlflowException) as caught:
        ask(model, *audio, **params)
    assert caught.value.get_http_status_code() == 400
    assert "\n" not in caught.value.message
    return caught.value.message


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
        (b"", "is empty (0 bytes)"),
        (encoded(seconds=0), "holds no samples"),
        (encoded()[:-500], "truncated"),
        ("/etc/passwd", "not base64"),
        ("http://example.org/clip.wav", "not base64"),
        ("abc", "not base64"),
        ("\ud800é", "not base64"),
        (17, "is a number"),
        (None, "is null"),
        (math.nan, "is null"),
        ([b"RIFF"], "is a list"),
        (encoded(rate=1, seconds=50), "a rate of 1 Hz"),
        (encoded(rate=10_000_000, seconds=1e-4), "a rate of 10,000,000 Hz"),
        (encoded(channels=64, seconds=0.1), "has 64 channels; at most 8"),
        (encoded("FLAC", seconds=301), "is 301.0 s long; at most 300 s"),
    ],
)
def test_a_bad_row_is_named_with_its_reason(model: SoundModel, audio: Any, reason: str) -> None:
    message = refusal(model, encoded(), audio)
    assert message.startswith("row 1: the clip ")
    assert reason in message
    assert "row 0" not in message


def test_every_bad_row_is_named_but_of_very_many_the_first(model: SoundModel) -> None:
    assert refusal(model, b"x", encoded(), b"y").count("row ") == 2
    many = refusal(model, *[b"x"] * (serving.NAMED_ROWS + 1), encoded(), b"y")
    assert f"row {serving.NAMED_ROWS - 1}:" in many
    assert f"row {serving.NAMED_ROWS}:" not in many
    assert many.endswith("and 2 more rows.")


def test_a_refusal_holds_nothing_of_what_was_sent(model: SoundModel) -> None:
    secret = b"A secret that was sent as sound."
    for sent in (secret, base64.b64encode(secret).decode(), secret.decode(), [secret.decode()]):
        message = refusal(model, sent)
        assert secret.decode() not in message
        assert base64.b64encode(secret).decode()[:8] not in message


def test_bad_rows_are_null_with_their_reason_on_request(model: SoundModel) -> None:
    answer = ask(model, encoded(), b"x", None, on_error="null", timeline=True, top_k=2, raw_scores=True)
    good = ask(model, encoded(), timeline=True, top_k=2, raw_scores=True)
    assert list(answer.columns) == [*good.columns, "error"]
    pd.testing.assert_frame_equal(answer.iloc[:1].drop(columns="error"), good, check_dtype=False)
    assert answer["error"].tolist() == [
        None,
        "the clip cannot be decoded (format not recognised); send or store WAV, FLAC, OGG, MP3, M4A, WebM or WMA",
        "the clip is null; send the bytes of a sound file, base64-encoded",
    ]
    for row in answer.to_dict(orient="records")[1:]:
        assert [name for name, value in row.items() if value is not None] == ["error"]


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_sound_too_loud_to_score_spoils_only_its_own_row(model: SoundModel, kind: str) -> None:
    stream = io.BytesIO()
    soundfile.write(stream, np.full(RATE, 1e38), RATE, format="WAV", subtype="FLOAT")
    answer = ask(model, encoded(kind), stream.getvalue(), on_error="null")
    assert answer["error"].notna().tolist() == [False, True]
    assert answer["label"][0] == ask(model, encoded(kind))["label"][0]


def test_scores_that_are_no_numbers_are_an_error_of_their_row(monkeypatch: pytest.MonkeyPatch) -> None:
    recogniser = crnn()
    model = serve(recogniser)
    scores = recogniser.scores(test_recognisers.clips(2))
    scores[1] = np.nan
    monkeypatch.setattr(recogniser, "scores", lambda clips: scores)
    assert refusal(model, encoded(), encoded()).startswith("row 1: the clip is too loud")


def test_no_text_opens_a_file(model: SoundModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clip").write_bytes(encoded())  # its name is base64 as well
    opened: list[Any] = []
    monkeypatch.setattr(builtins, "open", lambda *path, **_: opened.append(path))
    for name in ("clip", str(tmp_path / "clip"), f"file://{tmp_path}/clip", b"clip"):
        assert "row 0: the clip" in refusal(model, name)
    assert opened == []


# limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_seconds": 0.5}, "0.7 s long; at most 0.5 s"),
        ({"max_bytes": 100}, "at most 100 are taken"),
        ({"max_samples": 100}, "5,600 samples; at most 100"),
        ({"min_rate": 16000}, "8,000 Hz; 16,000 to"),
        ({"max_rate": 4000}, "8,000 Hz; 1,000 to 4,000"),
        ({"max_clips": 1}, "2 rows; send 1 to 1"),
        ({"max_request_bytes": 12_000}, "send at most 12,000 in a request"),
        ({"max_request_seconds": 1.0}, "1 s long; send at most 1 s in a request"),
    ],
)
def test_a_limit_holds_whether_the_model_or_the_request_sets_it(limits: dict[str, Any], reason: str) -> None:
    recogniser = crnn()
    for sent in (base64.b64encode(encoded()).decode(), encoded()):
        assert reason in refusal(serve(recogniser, **limits), sent, sent)
        assert reason in refusal(serve(recogniser), sent, sent, **limits)


def test_a_clip_that_is_too_long_is_refused_before_it_is_decoded(
    model: SoundModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = io.BytesIO()
    soundfile.write(hours, np.zeros(RATE * 3600, dtype=np.int16), RATE, format="FLAC")
    monkeypatch.setattr(SoundReader, "_decode", lambda self: pytest.fail("decoded"))
    assert "3,600.0 s long" in refusal(model, hours.getvalue())


def test_a_request_may_lower_a_limit_but_not_raise_it(model: SoundModel) -> None:
    assert len(ask(model, encoded(), max_seconds=299, min_rate=8000)) == 1
    assert "max_seconds: 301 is over this model's limit of 300" in refusal(model, encoded(), max_seconds=301)
    assert "min_rate: 999 is under this model's limit of 1,000" in refusal(model, encoded(), min_rate=999)


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, "10", None, [1], True])
def test_a_limit_that_is_no_positive_number_is_refused(model: SoundModel, value: Any) -> None:
    assert "params: max_seconds: " in refusal(model, encoded(), max_seconds=value)


def test_limits_are_kept_beside_the_recogniser(tmp_path: Path) -> None:
    limits = RequestLimits(max_seconds=12.5, max_channels=2)
    limits.save(tmp_path)
    assert RequestLimits.load(tmp_path) == limits
    assert RequestLimits.load(tmp_path / "of an earlier version") == RequestLimits()


def test_a_request_is_never_whole_in_memory_and_answered_as_if_it_were(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [encoded("FLAC", seconds=3.3, rate=44100, channels=2, seed=seed) for seed in range(5)]  # 30 windows
    recogniser = fusion_of(1.0)  # its members differ, so that windows wait as they came
    wanted = ask(serve(recogniser), *clips)
    held: list[int] = []
    score = recogniser.scores
    most = 5 * 44100 * 2  # samples of five windows
    monkeypatch.setattr(timelines, "SAMPLES", most)
    monkeypatch.setattr(recogniser, "scores", lambda w: held.append(sum(x.size for x, _ in w)) or score(w))
    pd.testing.assert_frame_equal(ask(serve(recogniser), *clips), wanted, atol=1e-5)
    assert held == 6 * [most]


def test_a_clip_that_holds_more_than_its_header_says_is_answered_but_counted() -> None:
    lying = bytearray(encoded("FLAC"))
    lying[22:26] = (100).to_bytes(4, "big")  # of 5600 samples
    clips = [encoded("FLAC"), bytes(lying), bytes(lying), encoded("FLAC")]
    answer = ask(serve(crnn()), *clips)
    pd.testing.assert_frame_equal(answer, ask(serve(crnn()), *[clips[0]] * 4), atol=1e-5)
    assert "s long; send at most 1.5 s in a request" in refusal(serve(crnn()), *clips, max_request_seconds=1.5)


def test_nothing_is_scored_of_a_request_that_will_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recogniser = crnn()
    model = serve(recogniser, max_samples=5600)  # a clip is a group
    monkeypatch.setattr(recogniser, "scores", lambda clips: pytest.fail("scored"))
    assert refusal(model, encoded(), None, encoded(), b"x").count("row ") == 2
    assert refusal(model, encoded()[:-500], encoded()).count("row ") == 1


# parameters ------------------------------------------------------------------------------------------------------


def test_an_unknown_parameter_is_refused_with_those_there_are(model: SoundModel) -> None:
    message = refusal(model, encoded(), topk=3)
    assert "'topk' is unknown" in message
    for name in ("top_k", "raw_scores", "timeline", "on_error", "max_seconds"):
        assert name in message


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"top_k": 4}, "0 to 3"),
        ({"top_k": -1}, "top_k: "),
        ({"top_k": "3"}, "top_k: "),
        ({"top_k": True}, "top_k: "),
        ({"timeline": 1}, "timeline: "),
        ({"on_error": "ignore"}, "on_error: "),
    ],
)
def test_a_parameter_of_the_wrong_kind_is_refused(model: SoundModel, params: dict[str, Any], reason: str) -> None:
    message = refusal(model, encoded(), **params)
    assert message.startswith("params: ")
    assert reason in message


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.one_of(st.text(max_size=8), st.sampled_from(["top_k", "timeline", "on_error", "max_bytes", "max_seconds"])),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers())),
        max_size=3,
    )
)
def test_any_parameters_are_taken_or_refused(params: dict[str, Any]) -> None:
    model = _MODEL
    try:
        options, limits = model.read_params(params)
    except MlflowException as error:
        assert error.get_http_status_code() == 400
        assert "\n" not in error.message
    else:
        assert params.keys() <= options.model_dump().keys() | limits.model_dump().keys()


def test_no_rows_and_no_audio_column_are_refused(model: SoundModel) -> None:
    assert "0 rows" in refusal(model)
    with pytest.raises(MlflowException, match="dataframe_records"):
        model.predict(None, pd.DataFrame({"sound": [b""]}), {})


# longer sound ----------------------------------------------------------------------------------------------------


def test_a_long_clip_is_the_mean_of_its_windows(model: SoundModel) -> None:
    row = ask(model, encoded(seconds=3.3), timeline=True).iloc[0]
    windows = row["timeline"]
    assert [(part["start"], part["end"]) for part in windows] == [
        *[(start / 2, start / 2 + 1) for start in range(5)],
        (2.3, 3.3),
    ]
    for label in LABELS:
        assert row[f"p_{label}"] == pytest.approx(np.mean([part[f"p_{label}"] for part in windows]))
    for part in windows:
        assert part["probability"] == max(part[f"p_{label}"] for label in LABELS) == part[f"p_{part['label']}"]


def test_a_short_clip_is_one_window_and_answers_as_without_a_timeline(model: SoundModel) -> None:
    answer = ask(model, encoded(), timeline=True)
    assert len(answer["timeline"][0]) == 1
    pd.testing.assert_frame_equal(answer.drop(columns="timeline"), ask(model, encoded()))


@settings(max_examples=20)
@given(st.booleans(), st.booleans(), st.integers(0, 3), st.sampled_from(["refuse", "null"]))
def test_the_signature_names_and_types_every_column_of_every_answer(
    timeline: bool, raw_scores: bool, top_k: int, on_error: str
) -> None:
    rows = [encoded(seconds=1.6), *([b"x"] if on_error == "null" else [])]
    model = _MODEL
    records = model.recognise(
        rows, {"timeline": timeline, "raw_scores": raw_scores, "top_k": top_k, "on_error": on_error}
    )
    json.dumps(records, allow_nan=False)
    declared = {spec.name: spec for spec in serving.signature(LABELS, model.limits).outputs.inputs}
    for record in records:
        assert record.keys() == records[0].keys() <= declared.keys()
        for name, value in record.items():
            _check(value, declared[name].to_dict())


def _check(value: Any, declared: dict[str, Any]) -> None:
    """Hold a value against a type of MLflow's as the model's file has it."""
    if value is None:
        assert not declared["required"]
    elif declared["type"] == "array":
        for part in value:
            _check(part, declared["items"])
    elif declared["type"] == "object":
        assert value.keys() == declared["properties"].keys()
        for name, part in value.items():
            _check(part, declared["properties"][name])
    else:
        assert type(value) is {"double": float, "string": str}[declared["type"]]


def test_every_parameter_and_its_default_stand_in_the_signature(model: SoundModel) -> None:
    limits = RequestLimits(max_seconds=17.0)
    declared = {spec.name: spec.default for spec in serving.signature(LABELS, limits).params.params}
    assert declared == serving.Options().model_dump() | limits.model_dump()
    options, read = serve(_MODEL.recogniser, max_seconds=17.0).read_params(declared)  # as MLflow passes them
    assert (options, read) == (serving.Options(), limits)


# the same, whatever else -----------------------------------------------------------------------------------------

_CLIPS = st.builds(
    encoded,
    st.sampled_from(["WAV", "FLAC", "OGG", "MP3"]),
    seconds=st.floats(0.05, 3.5),
    rate=st.sampled_from([8000, 16000, 22050, 44100, 48000]),
    channels=st.integers(1, 2),
    seed=st.integers(0, 99),
)


@settings(max_examples=25)
@given(st.lists(st.one_of(_CLIPS, st.sampled_from([b"x", None, ""])), min_size=1, max_size=6))
def test_a_clip_is_answered_the_same_alone_and_beside_any_others(rows: list[Any]) -> None:
    model = _MODEL
    together = ask(model, *rows, on_error="null", raw_scores=True)
    alone = pd.concat([ask(model, row, on_error="null", raw_scores=True) for row in rows], ignore_index=True)
    assert together["error"].tolist() == alone["error"].tolist()
    names = [name for name in together.columns if name[:2] == "p_" or name[:6] == "score_"]
    np.testing.assert_allclose(together[names].astype(float), alone[names].astype(float), atol=1e-5)


def test_the_fusion_answers_the_same_alone_in_a_batch_and_from_many_threads(fused: SoundModel) -> None:
    clips = [
        encoded(("WAV", "OGG", "FLAC")[n % 3], seconds=0.4 + 0.5 * n, channels=1 + n % 2, seed=n) for n in range(5)
    ]
    together = ask(fused, *clips).drop(columns="label")
    with ThreadPoolExecutor(4) as pool:
        alone = pd.concat(pool.map(lambda clip: ask(fused, clip), clips), ignore_index=True).drop(columns="label")
    pd.testing.assert_frame_equal(together, alone, atol=1e-5, rtol=0)


def test_members_of_one_form_of_audio_share_its_examples(
    fusion: FusionRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    prepare = test_recognisers.recognisers.prepare
    monkeypatch.setattr(test_recognisers.recognisers, "prepare", lambda *given: made.append(1) or prepare(*given))
    ask(serve(fusion), encoded("OGG", rate=44100))
    assert len({member.audio for member in fusion.members.values()}) == 1  # type: ignore[attr-defined]
    assert len(made) == 1


def test_a_request_whose_time_is_up_is_given_back(model: SoundModel) -> None:
    with pytest.raises(MlflowException, match="try again later") as caught:
        model.recognise([encoded()], {}, deadline=time.monotonic() - 1)
    assert caught.value.get_http_status_code() == 429
    with model._scoring, pytest.raises(MlflowException, match="try again later"):
        model.recognise([encoded()], {}, deadline=time.monotonic() + 0.05)
    assert len(model.recognise([encoded()], {}, deadline=time.monotonic() + 60)) == 1
