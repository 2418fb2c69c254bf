"""The page without a browser: its answers, what it keeps, and what it refuses to whoever asks by hand."""

from __future__ import annotations

import base64
import csv
import io
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
import soundfile
from pydantic import ValidationError

import test_recognisers
from soak_bench.server import free_port
from soundstack.audio.decoder import SoundReader
from soundstack.audio.limits import RequestLimits
from soundstack.config.tools import PageConfig
from soundstack.datasets import csv_table
from soundstack.evaluation.score_table import ScoreTable
from soundstack.fusion.recogniser import FusionRecogniser
from soundstack.page import app, corrections, gate, pictures
from soundstack.page.answers import Listener, reliability
from soundstack.page.corrections import Recognised
from soundstack.recognisers import base as recognisers
from soundstack.serving import shipped
from soundstack.serving.model import SoundModel
from soundstack.utils.errors import AudioError, ConfigError, StoreError
from test_recognisers import crnn
from test_serving import encoded
from test_shown_commands import of_a_run
from waiting import PATIENCE, until

svm, fusion = test_recognisers.svm, test_recognisers.fusion  # fixtures

PROJECT = Path(__file__).resolve().parents[1]
LIMITS = RequestLimits(max_seconds=20, max_bytes=1 << 20)
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 2)).astype(np.float32)


def of(content: bytes) -> tuple[Any, int]:
    with SoundReader(content) as sound:
        return np.concatenate(list(sound.blocks())), sound.rate


# answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_the_answer_is_the_served_models_and_a_members_opinion_what_it_says_alone(
    kind: str, fusion: FusionRecogniser, tmp_path: Path
) -> None:
    fusion.save(tmp_path / "model")
    LIMITS.save(tmp_path / "model")
    served = SoundModel()  # as `mlflow models serve` has it: restored from its folder, asked in base64
    served.use(recognisers.load(tmp_path / "model"), RequestLimits.load(tmp_path / "model"))
    clip = encoded(kind, seconds=2.6, rate=16_000)
    sent = pd.DataFrame({"audio": [base64.b64encode(clip).decode()]})
    answer = Listener("demo-fusion/1", fusion, LIMITS).answer(clip)
    assert answer.record == served.predict(None, sent, {"timeline": True}).iloc[0].to_dict()
    assert len(answer.timeline) > 1
    assert answer.probabilities[answer.label] == answer.probability == max(answer.probabilities.values())
    assert [opinion.model for opinion in answer.opinions] == ["crnn", "svm"]
    for opinion, member in zip(answer.opinions, fusion.members.values(), strict=True):
        alone = SoundModel()
        alone.use(member, LIMITS)
        (said,) = alone.recognise([clip], {})
        assert (opinion.label, opinion.probability) == (said["label"], said["probability"])


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (b"no sound", "cannot be decoded"),
        (b"", "is empty"),
        (encoded(seconds=30, rate=4000), "is 30.0 s long; at most 20 s"),
        (encoded(channels=9), "has 9 channels"),
        (bytes(1 << 21), "has 2,097,152 bytes"),
    ],
    ids=["no sound", "empty", "long", "channels", "bytes"],
)
def test_what_the_served_model_refuses_is_refused_with_its_reason(clip: bytes, reason: str) -> None:
    with pytest.raises(AudioError, match=reason):
        Listener("demo-crnn/1", crnn(), LIMITS).answer(clip)


def test_a_label_is_shown_as_it_is_and_never_run(tmp_path: Path) -> None:
    recogniser = crnn()
    recogniser.labels = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$c$")
    listener = Listener("<b>", recogniser, LIMITS)
    answer = listener.answer(encoded(seconds=2))
    samples, rate = listener.samples(encoded(seconds=2))
    shown = [
        pictures.verdict(answer, "fine"),
        pictures.spectrogram(answer, samples, rate),
        pictures.opinions(answer.opinions, answer),
        pictures.told(recogniser.labels[0]),
        pictures.refusal(recogniser.labels[0]),
    ]
    for text in shown:
        assert "<script" not in text
        assert text.count("<img") == text.count('<img src="data:image/png;base64,')


def test_how_often_an_answer_is_right_is_counted_on_the_development_clips() -> None:
    # Of ten clips with 75 %, six are right; of two with 95 %, both.
    shares = np.array([[0.75, 0.25]] * 10 + [[0.95, 0.05]] * 2)
    labels = tuple(["a"] * 6 + ["b"] * 4 + ["a"] * 2)
    table = ScoreTable(tuple(map(str, range(12))), labels, ("1",) * 12, shares, ("a", "b"), "probability")
    sentence = reliability(table)
    assert sentence(0.8) == (
        "When it said 70 to 80 %, it was right 60 of 100 times (6 of 10 clips that it was not trained on)."
    )
    assert "Too few of them got 90 to 100 %" in sentence(1.0)
    assert reliability(None)(0.8) == "The probabilities are calibrated on clips that the model was not trained on."


# corrections -----------------------------------------------------------------------------------------------------


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / corrections.TABLE).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_corrected_is_a_table_that_can_be_trained_on(tmp_path: Path) -> None:
    for number, label in enumerate(("bell", "ein neuer Klang, größer")):
        for take in range(5):
            clip = encoded("OGG", seconds=0.3, seed=10 * number + take, channels=1 + take % 2)
            corrections.save(tmp_path, of(clip), label, "", Recognised("demo-fusion/1", "wind", 0.51234))
    table = csv_table.load(tmp_path / corrections.TABLE, seed=0)
    assert len(table.clips) == len({clip.group for clip in table.clips}) == 10
    assert {clip.label for clip in table.clips} == {"bell", "ein neuer Klang, größer"}
    row = rows_of(tmp_path)[0]
    assert (row["recognised"], row["probability"], row["model"]) == ("wind", "0.5123", "demo-fusion/1")


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24"])
def test_a_sound_is_kept_to_the_last_bit(subtype: str, tmp_path: Path) -> None:
    sound = of(encoded(subtype=subtype, channels=2))
    path, _ = corrections.save(tmp_path, sound, "a", "", Recognised("m"))
    samples, rate = of(path.read_bytes())
    assert rate == sound[1]
    np.testing.assert_array_equal(samples, sound[0])


def test_a_sound_beyond_full_scale_is_kept_too(tmp_path: Path) -> None:
    path, _ = corrections.save(tmp_path, (4 * NOISE, 8000), "a", "", Recognised("m"))
    assert path.suffix == ".wav"
    np.testing.assert_array_equal(of(path.read_bytes())[0], 4 * NOISE)


def test_of_two_labels_of_one_sound_the_later_one_stays(tmp_path: Path) -> None:
    corrections.save(tmp_path, (NOISE, 8000), "a", "", Recognised("m"))
    corrections.save(tmp_path, (NOISE / 2, 8000), "a", "", Recognised("m"))
    _, rows = corrections.save(tmp_path, (NOISE, 8000), "b", "monday", Recognised("m"))
    assert rows == 2
    assert [(row["label"], row["group"] == "monday") for row in rows_of(tmp_path)] == [("a", False), ("b", True)]
    assert len(list((tmp_path / "sounds").iterdir())) == 2


def _saved(folder: Path, number: int) -> None:
    corrections.save(folder, (NOISE * (number + 1) / 100, 8000), f"class {number}", "", Recognised("m"))


def test_many_save_at_a_time_and_nothing_is_lost(tmp_path: Path) -> None:
    # Threads, as of one page, and processes, as of several.
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_saved, args=(tmp_path, number)) for number in range(6)]
    for other in others:
        other.start()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: _saved(tmp_path, number), range(6, 18)))
    for other in others:
        other.join(PATIENCE)
    assert sorted(row["label"] for row in rows_of(tmp_path)) == sorted(f"class {number}" for number in range(18))
    assert not list(tmp_path.rglob("*.tmp"))


def test_columns_that_the_user_added_stay(tmp_path: Path) -> None:
    table = tmp_path / corrections.TABLE
    table.write_text("filename,label,group,checked by\nx.wav,a,g,me\n", encoding="utf-8")
    corrections.save(tmp_path, (NOISE, 8000), "b", "", Recognised("m", "a", 1.0))
    first, second = rows_of(tmp_path)
    assert first == {"filename": "x.wav", "label": "a", "group": "g", "checked by": "me"}
    assert (second["label"], second["checked by"]) == ("b", "")


@pytest.mark.parametrize("content", [b"name;class\nx;y\n", b"filename,label,group\na,b,c,d\n", b"\xff\xfe\x00"])
def test_a_table_that_is_not_ours_is_not_written_over(content: bytes, tmp_path: Path) -> None:
    (tmp_path / corrections.TABLE).write_bytes(content)
    with pytest.raises(StoreError, match="choose another corrections_dir"):
        corrections.save(tmp_path, (NOISE, 8000), "b", "", Recognised("m"))
    assert (tmp_path / corrections.TABLE).read_bytes() == content


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "a\nb", "a\0", "x" * 101, "\u202eabc"])
def test_a_label_that_a_spreadsheet_would_run_or_none_can_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="label"):
        corrections.checked_text("label", text)


def test_a_label_of_the_model_is_taken_as_it_is() -> None:
    assert corrections.checked_text("label", "-x", ("-x",)) == "-x"
    assert corrections.checked_text("label", " Glocke ") == "Glocke"


# the server ------------------------------------------------------------------------------------------------------


class Visitor:
    """What a browser sends, sent by hand: an upload, and calls by their number with the values of their inputs."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.session = requests.Session()
        self.hash = uuid.uuid4().hex[:11]

    def get(self, path: str, **options: Any) -> requests.Response:
        """Fetch a path as it is written, with its dots."""
        request = requests.Request("GET", self.address, **options)
        prepared = self.session.prepare_request(request)
        prepared.url = self.address + path
        return self.session.send(prepared, timeout=PATIENCE)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.session.post(self.address + path, timeout=PATIENCE, **options)

    def upload(self, content: bytes, name: str = "clip.wav") -> requests.Response:
        return self.post("/gradio_api/upload", files={"files": (name, content)})

    def uploaded(self, content: bytes, name: str = "clip.wav") -> dict[str, Any]:
        (path,) = self.upload(content, name).json()
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def join(self, number: int, *values: Any) -> requests.Response:
        call = {"data": values, "fn_index": number, "trigger_id": None, "session_hash": self.hash, "event_data": None}
        return self.post("/gradio_api/queue/join", json=call)

    def call(self, number: int, *values: Any) -> dict[str, Any]:
        """The answer to a call: its ``data``, or its ``error``."""
        self.join(number, *values).raise_for_status()
        with self.session.get(
            f"{self.address}/gradio_api/queue/data?session_hash={self.hash}", stream=True, timeout=PATIENCE
        ) as stream:
            for line in stream.iter_lines():
                if line.startswith(b"data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed":
                        output = message["output"]
                        return output if isinstance(output, dict) else {"error": output}
        raise AssertionError("no answer")


#: The calls of the page, in the order in which they are made.
RECOGNISE, PLAY, SAVE = range(3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corrections")


@pytest.fixture(scope="module")
def address(folder: Path, fusion: FusionRecogniser) -> Iterator[str]:
    page = app.Page(Listener("demo-fusion/1", fusion, LIMITS), reliability(None), folder)
    with app.served(page, "127.0.0.1", free_port()) as found:
        yield found


@pytest.fixture
def visitor(address: str) -> Visitor:
    return Visitor(address)


def test_a_sound_is_recognised_heard_in_part_and_corrected(
    visitor: Visitor, folder: Path, fusion: FusionRecogniser
) -> None:
    clip = encoded("FLAC", seconds=2.5)
    sent = visitor.uploaded(clip, "../../Kitchen <1>.flac")
    shown = visitor.call(RECOGNISE, sent)["data"]
    answer = Listener("demo-fusion/1", fusion, LIMITS).answer(clip)
    verdict, classes, picture, opinions, end, label = shown[:6]
    assert f"<strong>{answer.label}</strong>" in verdict
    assert {each["label"]: each["confidence"] for each in classes["confidences"]} == answer.probabilities
    assert 'alt="Spectrogram and timeline. 0.0 to ' in picture
    assert "<td>crnn</td>" in opinions
    assert (end, label) == (2.5, answer.label)

    heard = visitor.call(PLAY, sent, 0.5, 1.25)["data"][0]["value"]
    assert heard["url"].startswith(f"{visitor.address}/gradio_api/file=")
    part = visitor.get(heard["url"].removeprefix(visitor.address))
    samples, rate = soundfile.read(io.BytesIO(part.content))
    np.testing.assert_allclose(samples, of(clip)[0][rate // 2 : rate * 5 // 4, 0], atol=1e-4)

    visitor.call(SAVE, sent, "bell", "monday", None)
    (row,) = [row for row in rows_of(folder) if row["label"] == "bell"]
    assert (row["group"], row["recognised"], row["model"]) == ("monday", answer.label, "demo-fusion/1")
    np.testing.assert_array_equal(of((folder / row["filename"]).read_bytes())[0], of(clip)[0])
    assert "Kitchen" not in str(rows_of(folder))


@pytest.mark.parametrize(
    ("number", "values", "told"),
    [
        (PLAY, (None, 0, 1), "Record or drop a sound first."),
        (SAVE, (None, "a", "", None), "Record or drop a sound first."),
        (PLAY, ("clip", 5, 6), "Give a start before the end, from 0 to 0.70 s."),
        (SAVE, ("clip", "", "", None), "Choose the right class"),
        (SAVE, ("clip", "=cmd()", "", None), "spreadsheets take = for a formula"),
        (SAVE, ("clip", "a", "@x", None), "recording: begin with a letter or a digit"),
        (SAVE, ("no clip", "a", "", None), "The sound cannot be decoded"),
    ],
)
def test_a_mistake_is_told_in_one_line(number: int, values: tuple[Any, ...], told: str, visitor: Visitor) -> None:
    sound = {"clip": encoded(), "no clip": b"Not a sound at all."}.get(values[0] or "")
    sent = visitor.uploaded(sound) if sound else None
    error = visitor.call(number, sent, *values[1:])["error"]
    assert told in error
    assert "\n" not in error


def test_what_cannot_be_recognised_is_told_where_the_answer_would_stand(visitor: Visitor) -> None:
    shown = visitor.call(RECOGNISE, visitor.uploaded(encoded(channels=9)))["data"]
    assert shown[0] == '<p role="alert">The sound has 9 channels; at most 8 are taken.</p>'
    assert shown[2] == ""


SECRETS = [
    "/etc/passwd",
    "{project}/conda.yaml",
    "{project}/src/../conda.yaml",
    "conda.yaml",
    "mlflow.db",
    "{store}",
    "{upload}/../../../../../../../../etc/passwd",
    "{upload}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/etc/passwd%00.wav",
    "file:///etc/passwd",
    "http://127.0.0.1:{port}/secret",
    "https://example.org/x.wav",
    "//etc/passwd",
    "/proc/self/environ",
    "{link}",
]


@pytest.fixture
def named(visitor: Visitor, tmp_path: Path) -> Any:
    """What ``SECRETS`` stand for: also a link to a secret within the folder of uploads."""
    (tmp_path / "mlflow.db").write_text("secret")
    uploaded = Path(visitor.uploaded(encoded())["path"])
    link = uploaded.with_name("link.wav")
    link.unlink(missing_ok=True)
    link.symlink_to("/etc/passwd")
    port = visitor.address.rpartition(":")[2]
    values = {
        "project": PROJECT,
        "store": tmp_path / "mlflow.db",
        "upload": uploaded.parent,
        "port": port,
        "link": link,
    }
    return lambda secret: secret.format(**values)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "route", ["/gradio_api/file=", "/file=", "/gradio_api/file/", "/gradio_api/proxy=", "/static/"]
)
def test_no_file_of_the_server_is_read(route: str, secret: str, visitor: Visitor, named: Any) -> None:
    answer = visitor.get(route + named(secret))
    assert answer.status_code in (403, 404), answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("number", [RECOGNISE, PLAY, SAVE])
def test_no_file_and_no_address_that_a_client_names_is_opened(
    number: int, secret: str, visitor: Visitor, named: Any
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        name = named(secret).replace(visitor.address.rpartition(":")[2], str(listening.getsockname()[1]))
        sent = {"path": name, "meta": {"_type": "gradio.FileData"}}
        for values in ([sent, 0, 1], [{**sent, "url": name, "is_stream": True}, 0, 1], [None, sent, [{"x": sent}]]):
            assert visitor.join(number, *values).status_code == 403
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.mark.parametrize(
    "path",
    [
        "/docs", "/openapi.json", "/redoc", "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/runs",
        "/monitoring", "/monitoring/summary", "/gradio_api/mcp/", "/gradio_api/token", "/gradio_api/app_id",
        "/gradio_api/vibe-code", "/gradio_api/dev/reload", "/gradio_api/deep_link", "/robots.txt", "/manifest.json",
        "/static/../../conda.yaml", "/assets/../../../__init__.py", "/assets/%2e%2e/%2e%2e/%2e%2e/__init__.py",
        "/custom_component/x/client/y/z", "//", "/config/..",
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(path: str, visitor: Visitor) -> None:
    assert visitor.get(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/run/predict", "/gradio_api/call/x", "/gradio_api/vibe-edit", "/gradio_api/process_recording", "/"],
)
def test_nothing_else_is_written_to(path: str, visitor: Visitor) -> None:
    assert visitor.post(path, json={"data": []}).status_code == 404


def test_other_web_sites_do_not_reach_it_through_a_visitors_browser(visitor: Visitor) -> None:
    assert visitor.get("/", headers={"Host": "rebound.example"}).status_code == 403
    assert visitor.get("/", headers={"Origin": "http://rebound.example"}).status_code == 403
    assert visitor.post("/gradio_api/upload", files={"files": b"x"}, headers={"Origin": "null"}).status_code == 403
    assert visitor.get("/").status_code == 200


def test_a_browser_is_told_to_load_nothing_from_elsewhere(visitor: Visitor) -> None:
    page = visitor.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "googleapis" not in page.text


def test_uploads_are_bounded_one_by_one_and_together(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert visitor.upload(bytes(LIMITS.max_bytes + (1 << 15))).status_code == 413
    assert visitor.upload(bytes(LIMITS.max_bytes + 10)).status_code == 413
    monkeypatch.setattr(gate, "KEPT", 0)
    assert visitor.upload(encoded()).status_code == 503
    chunks = iter([b"x" * 100])
    assert visitor.post("/gradio_api/upload", data=chunks).status_code == 411
    assert visitor.post("/gradio_api/queue/join", data=b" " * (gate.CALL_BYTES + 1)).status_code == 413
    for broken in (b"{", b"[" * 100_000, b"\xff"):
        assert visitor.post("/gradio_api/queue/join", data=broken).status_code == 400


def test_the_queue_is_bounded(visitor: Visitor) -> None:
    sent = visitor.uploaded(encoded(seconds=15))
    answers = [visitor.join(RECOGNISE, sent).status_code for _ in range(3 * app.WAITING)]
    assert 503 in answers
    until(lambda: visitor.join(PLAY, sent, 0, 1).status_code == 200)


def test_what_was_uploaded_is_deleted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(app, "DELETED", (1, 1))
    page = app.Page(Listener("demo-crnn/1", crnn(), LIMITS), reliability(None), tmp_path)
    monkeypatch.setenv("GRADIO_SHARE", "true")  # and what the user's environment says of Gradio does not count
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/etc")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    before = dict(os.environ)  # of another page, too, which other tests may have open
    with app.served(page, "127.0.0.1", free_port()) as address:
        visitor = Visitor(address)
        visitor.session.trust_env = False
        path = Path(visitor.uploaded(encoded())["path"])
        until(lambda: not path.exists())
        assert visitor.get("/gradio_api/file=/etc/passwd").status_code == 404
        path = Path(visitor.uploaded(encoded())["path"])
    assert not path.exists()
    assert dict(os.environ) == before
    assert not list(tmp_path.iterdir())


def test_a_password_guards_all_of_it(tmp_path: Path) -> None:
    page = app.Page(Listener("demo-crnn/1", crnn(), LIMITS), reliability(None), tmp_path)
    with app.served(page, "127.0.0.1", free_port(), password="open sesame", only_here=False) as address:
        visitor = Visitor(address)
        assert visitor.get("/config").status_code == 401
        assert visitor.upload(encoded()).status_code == 401
        assert visitor.join(RECOGNISE, None).status_code == 401
        assert "demo-crnn" not in visitor.get("/").text
        assert visitor.post("/login", data={"username": app.USER, "password": "wrong"}).status_code == 400
        assert visitor.post("/login", data={"username": app.USER, "password": "open sesame"}).status_code == 200
        assert visitor.get("/config").status_code == 200
        assert "<strong>" in visitor.call(RECOGNISE, visitor.uploaded(encoded()))["data"][0]


def test_a_port_that_is_taken_is_refused_in_one_line(tmp_path: Path) -> None:
    page = app.Page(Listener("demo-crnn/1", crnn(), LIMITS), reliability(None), tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f"port: {port} of 127.0.0.1 cannot be had"),
            app.served(page, "127.0.0.1", port),
        ):
            pytest.fail("it is not")


# the entry point -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model": " "}, "name a registered model"),
        ({"host": "my host"}, "is no address of this machine"),
        ({"port": 0}, "greater than or equal to 1"),
        ({"port": 70_000}, "less than or equal to 65535"),
    ],
)
def test_parameters_that_cannot_be_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        PageConfig(**values)


def test_who_can_reach_it_is_told_by_the_host() -> None:
    assert all(PageConfig(host=host).on_this_machine_alone for host in ("127.0.0.1", "localhost", "::1"))
    assert not any(PageConfig(host=host).on_this_machine_alone for host in ("0.0.0.0", "::", "192.168.1.4"))


def test_a_run_tells_how_to_open_the_page_of_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [line for line in of_a_run(capsys).splitlines() if line.startswith("In the browser:")]
    given = dict(re.findall(r"-P (\w+)=(\S+)", line))
    assert " -e page " in line
    assert PageConfig(**given).model == "demo-fusion/1"


def test_a_served_model_does_not_need_the_page() -> None:
    assert not any(name.startswith("gradio") for name in shipped.requirements(crnn().modules))


@pytest.mark.e2e
@pytest.mark.usefixtures("in_a_terminal")
def test_the_command_tells_the_address_and_ends_in_one_line(store: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    crnn().save(tmp_path / "saved")
    command = [sys.executable, str(PROJECT / "entrypoints" / "page.py"), "--model", "saved", "--port", str(free_port())]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == f"Model: {tmp_path / 'saved'}\n"
        shown = process.stdout.readline()
        assert shown.startswith("Page:  http://127.0.0.1:"), process.stderr.read()
        visitor = Visitor(shown.split()[1])
        assert "<strong>" in visitor.call(RECOGNISE, visitor.uploaded(encoded()))["data"][0]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert out == f"Stopped. What was corrected: {tmp_path / 'corrections' / 'saved'}\n"
    assert err == ""
    assert {path.name for path in tmp_path.iterdir()} <= {"saved", "mlflow.db", ".mlflow.db.lock", "artifacts"}
    (experiment,) = [each for each in MlflowClient().search_experiments() if each.name == "tests"]
    assert MlflowClient().search_runs([experiment.experiment_id]) == []


@pytest.mark.e2e
def test_mlflows_own_run_gets_a_name_and_the_settings(store: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    crnn().save(tmp_path / "saved")
    client = MlflowClient()
    (experiment,) = [each for each in client.search_experiments() if each.name == "tests"]
    run = client.create_run(experiment.experiment_id, run_name="merry-fox-17")
    command = [sys.executable, str(PROJECT / "entrypoints" / "page.py"), "--model", "saved", "--port", str(free_port())]
    environment = os.environ | {"MLFLOW_RUN_ID": run.info.run_id}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("Page:") for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    ended = client.get_run(run.info.run_id)
    assert (ended.info.run_name, ended.info.status) == ("page-saved", "FINISHED")
    assert ended.data.tags["soundstack.step"] == "page"
    assert ended.data.params["resolved_model"] == str(tmp_path / "saved")
