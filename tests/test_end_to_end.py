"""The project as its user meets it: `mlflow run` on a tiny data set, the registry it fills, and the scoring server."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
import soundfile

from soak_bench.server import free_port
from soak_bench.workplace import CLASSES, RATE, sound, write_data
from test_page import RECOGNISE, Visitor
from waiting import PATIENCE

PROJECT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.e2e


class Workplace:
    """A tracking store and a cache of their own, and the commands a user types."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.table = write_data(folder)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`mlflow run` in the present environment."""
        command = [sys.executable, "-m", "mlflow", "run", str(PROJECT), "--env-manager", "local", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=3 * PATIENCE
        )

    def main(self, **more: object) -> subprocess.CompletedProcess[str]:
        """The whole project on the tiny data."""
        given = {
            "dataset": "csv",
            "data_dir": self.table,
            "name": "tiny",
            "cache_dir": self.cache,
            "epochs": 3,
            "systems": "crnn,efficientnet_lite0-imagenet",
            "served_limits": "max_seconds=240,max_clips=200",
            **more,
        }
        return self.run(*[word for name, value in given.items() for word in ("-P", f"{name}={value}")])

    def client(self):
        """A client of the workplace's store."""
        from mlflow.tracking import MlflowClient

        return MlflowClient(self.environment["MLFLOW_TRACKING_URI"])

    def runs(self) -> dict[str, list]:
        """All runs by name, newest first."""
        found: dict[str, list] = {}
        for run in self.client().search_runs(["0"], order_by=["attributes.start_time DESC"]):
            found.setdefault(run.info.run_name, []).append(run)
        return found

    def artifact(self, run, path: str) -> Path:
        """An artifact of a run, as a local file."""
        fetched = self.folder / "fetched" / run.info.run_id
        fetched.mkdir(parents=True, exist_ok=True)
        return Path(self.client().download_artifacts(run.info.run_id, path, str(fetched)))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workplace where the whole project has run once."""
    place = Workplace(tmp_path_factory.mktemp("workplace"))
    done = place.main()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mlflow models serve -m models:/tiny-fusion/1 " in done.stdout
    return place


def test_every_step_is_a_finished_child_of_one_parent(workplace: Workplace) -> None:
    runs = workplace.runs()
    parent = runs["tiny-main"][0]
    steps = {"tiny-extract", "tiny-crnn", "tiny-efficientnet_lite0-imagenet", "tiny-fusion"}
    assert steps | {"tiny-main"} == set(runs)
    for name in steps:
        assert runs[name][0].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert {run.info.status for found in runs.values() for run in found} == {"FINISHED"}


@pytest.mark.parametrize("name", ["tiny-crnn", "tiny-efficientnet_lite0-imagenet", "tiny-fusion"])
def test_a_model_run_keeps_the_contract(workplace: Workplace, name: str) -> None:
    run = workplace.runs()[name][0]
    for part in ("devel", "test"):
        for measure in ("accuracy", "macro_f1"):
            metrics = run.data.metrics
            value, low, high = (metrics[f"{part}_{measure}{end}"] for end in ("", "_ci_low", "_ci_high"))
            assert 0 <= low <= value <= high <= 1
        table = pd.read_parquet(workplace.artifact(run, f"predictions/{part}.parquet"))
        assert list(table.columns) == ["clip", "label", "fold", *[f"score_{label}" for label in CLASSES]]
        assert workplace.artifact(run, f"confusion/{part}.png").stat().st_size > 1000
        confusion = json.loads(workplace.artifact(run, f"confusion/{part}.json").read_text())
        assert np.sum(confusion["counts"]) == len(table)
        assert set(json.loads(workplace.artifact(run, f"per_class/{part}.json").read_text())) >= set(CLASSES)
    steps = [metric.step for metric in workplace.client().get_metric_history(run.info.run_id, "fold_macro_f1")]
    assert sorted(steps) == [1, 2, 3, 4]
    config = json.loads(workplace.artifact(run, "config.json").read_text())
    assert config["environment"]["packages"]["torch"]
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("tiny", run.data.tags["data_fingerprint"])
    version = workplace.client().get_model_version_by_alias(name, "champion")
    assert version.tags["data_fingerprint"] == run.data.tags["data_fingerprint"]
    assert float(version.tags["devel_macro_f1"]) == pytest.approx(run.data.metrics["devel_macro_f1"], abs=1e-6)


def test_the_crnn_logs_curves_by_epoch(workplace: Workplace) -> None:
    run = workplace.runs()["tiny-crnn"][0]
    history = workplace.client().get_metric_history(run.info.run_id, "curve/train_loss")
    assert [metric.step for metric in history] == [1, 2, 3]


def test_a_second_run_takes_everything_over(workplace: Workplace) -> None:
    before = workplace.runs()
    done = workplace.main()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 rows run, 3 reused" in done.stdout
    runs = workplace.runs()
    assert runs["tiny-extract"][0].data.metrics["examples_made"] == 0
    assert len(runs["tiny-crnn"]) == len(before["tiny-crnn"])
    scores = [f"{name}/{part}" for name in ("tiny-crnn", "tiny-fusion") for part in ("devel_macro_f1", "test_macro_f1")]
    again, first = runs["tiny-main"][0].data.metrics, before["tiny-main"][0].data.metrics
    assert {score: again[score] for score in scores} == {score: first[score] for score in scores}


def test_a_run_from_scratch_with_the_same_seed_scores_the_same(workplace: Workplace, tmp_path: Path) -> None:
    done = workplace.main(rerun="yes", cache_dir=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = workplace.runs()
    assert runs["tiny-extract"][0].data.metrics["examples_made"] == 30
    for name in ("tiny-crnn", "tiny-efficientnet_lite0-imagenet", "tiny-fusion"):
        again, first = runs[name][0].data.metrics, runs[name][-1].data.metrics
        for score in ("devel_accuracy", "devel_macro_f1", "test_accuracy", "test_macro_f1"):
            assert again[score] == first[score]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-e", "crnn", "-P", "epochs=0"], "epochs: '0' is not allowed"),
        (["-e", "crnn", "-P", "epcohs=3"], "did you mean epochs?"),
        (["-e", "deepspectrum", "-P", "dataset=csv", "-P", "data_dir=/nowhere/clips.csv"], "does not exist"),
    ],
)
def test_a_wrong_parameter_is_one_line_and_a_failed_run(tmp_path: Path, arguments: list[str], expected: str) -> None:
    place = Workplace(tmp_path)
    done = place.run(*arguments)
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if expected in line]
    assert len(ours) == 1
    assert "Traceback" not in done.stderr.split(expected)[0]
    assert {run.info.status for found in place.runs().values() for run in found} == {"FAILED"}


@pytest.fixture(scope="module")
def server(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real scoring server on the fusion: two workers, pickles forbidden."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/tiny-fusion@champion"]
    command += ["--env-manager", "local", "-p", str(port), "--workers", "2"]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = workplace.environment | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=workplace.folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + PATIENCE
            while not answers(address):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            yield address
        finally:
            os.killpg(process.pid, 15)
            process.wait(PATIENCE)


def answers(address: str) -> bool:
    """Whether the server has started."""
    try:
        return requests.get(f"{address}/ping", timeout=5).ok
    except (requests.ConnectionError, requests.Timeout):
        return False


def ask(server: str, clips: list[bytes], params: dict | None = None) -> requests.Response:
    """Post clips as a user does."""
    body: dict = {"dataframe_records": [{"audio": base64.b64encode(clip).decode()} for clip in clips]}
    if params:
        body["params"] = params
    return requests.post(f"{server}/invocations", json=body, timeout=PATIENCE)


def test_served_probabilities_equal_the_offline_ones(workplace: Workplace, server: str) -> None:
    run = workplace.runs()["tiny-fusion"][0]
    offline = pd.read_parquet(workplace.artifact(run, "predictions/test_probability.parquet"))
    answer = ask(server, [(workplace.folder / clip).read_bytes() for clip in offline["clip"]])
    assert answer.status_code == 200, answer.text
    served = pd.DataFrame(answer.json()["predictions"])
    for label in CLASSES:
        np.testing.assert_allclose(served[f"p_{label}"], offline[f"score_{label}"], atol=1e-4)
    assert served["label"].tolist() == [
        CLASSES[row.argmax()] for row in offline[[f"score_{label}" for label in CLASSES]].to_numpy()
    ]


@pytest.mark.usefixtures("in_a_terminal")
def test_the_page_answers_as_the_scoring_server_and_one_ctrl_c_ends_it(workplace: Workplace, server: str) -> None:
    clip = recording(3.0)
    command = [sys.executable, "-m", "mlflow", "run", str(PROJECT), "--env-manager", "local", "-e", "page"]
    command += ["-P", "model=tiny-fusion", "-P", f"port={free_port()}"]
    with subprocess.Popen(
        command,
        cwd=workplace.folder,
        env=workplace.environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        address = next(line for line in process.stdout if line.startswith("Page:")).split()[1]
        visitor = Visitor(address)
        shown = visitor.call(RECOGNISE, visitor.uploaded(clip))["data"]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        rest, _ = process.communicate(timeout=PATIENCE)
    assert "Stopped. What was corrected: " in rest
    (served,) = ask(server, [clip]).json()["predictions"]
    classes = {f"p_{each['label']}": each["confidence"] for each in shown[1]["confidences"]}
    assert classes == {name: value for name, value in served.items() if name.startswith("p_")}
    assert f"<strong>{served['label']}</strong>" in shown[0]
    assert re.search(r"When it said|Too few of them", shown[0])  # the development clips of the model's run were found
    assert workplace.runs()["page-tiny-fusion"][0].data.tags["soundstack.step"] == "page"


def test_an_ogg_and_a_stereo_wav_are_recognised_together(server: str) -> None:
    rng = np.random.default_rng(3)
    clips = []
    for label, kind, rate, channels in (("hiss", "OGG", 16000, 1), ("chirp", "WAV", RATE, 2)):
        stream = io.BytesIO()
        samples = np.repeat(sound(label, rng), rate // RATE)
        soundfile.write(stream, np.stack([samples] * channels, axis=1), rate, format=kind)
        clips.append(stream.getvalue())
    answer = ask(server, clips, {"top_k": 2})
    assert answer.status_code == 200, answer.text
    for row in answer.json()["predictions"]:
        assert row["top_labels"][0] == row["label"]
        assert len(row["top_labels"]) == 2
        assert sum(row[f"p_{label}"] for label in CLASSES) == pytest.approx(1)


def test_every_worker_answers_the_same_alone_and_in_a_batch(workplace: Workplace, server: str) -> None:
    clips = [path.read_bytes() for path in sorted(workplace.folder.glob("chirp-test-*"))]
    clips.append(recording(2.6))
    together = pd.DataFrame(ask(server, clips).json()["predictions"]).drop(columns="label")
    for _ in range(4):  # a connection each, which whichever worker is free takes
        alone = pd.DataFrame([ask(server, [clip]).json()["predictions"][0] for clip in clips]).drop(columns="label")
        np.testing.assert_allclose(alone, together, atol=1e-5)


def recording(seconds: float) -> bytes:
    """A clip of another length than the training's, which buzzes first and hisses then."""
    rng = np.random.default_rng(5)
    parts = [sound("buzz", rng)] * 3 + [sound("hiss", rng)] * 3
    stream = io.BytesIO()
    soundfile.write(stream, np.concatenate(parts)[: int(seconds * RATE)], RATE, format="FLAC")
    return stream.getvalue()


def test_a_long_recording_has_a_timeline(server: str) -> None:
    answer = ask(server, [recording(6.0)], {"timeline": True})
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["predictions"]
    assert [part["start"] for part in row["timeline"]] == [start / 2 for start in range(11)]
    assert row["timeline"][-1]["end"] == 6.0
    for label in CLASSES:
        assert row[f"p_{label}"] == pytest.approx(np.mean([part[f"p_{label}"] for part in row["timeline"]]))


def test_a_text_file_sent_as_sound_is_refused_by_its_row_without_an_echo(workplace: Workplace, server: str) -> None:
    good = next(workplace.folder.glob("*.wav")).read_bytes()
    sent = b"Dear server, this is not a sound."
    answer = ask(server, [good, sent])
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("row 1: the clip cannot be decoded")
    assert "Dear" not in answer.text
    assert base64.b64encode(sent).decode()[:6] not in answer.text
    rows = ask(server, [good, sent], {"on_error": "null"}).json()["predictions"]
    assert [row["label"] is None for row in rows] == [False, True]
    assert rows[0]["error"] is None
    assert "cannot be decoded" in rows[1]["error"]


def test_hostile_requests_are_refused_and_the_server_goes_on(workplace: Workplace, server: str) -> None:
    address = f"{server}/invocations"
    good = base64.b64encode(next(workplace.folder.glob("*.wav")).read_bytes()).decode()
    zeros = io.BytesIO()
    soundfile.write(zeros, np.zeros(44100 * 3600, dtype=np.int16), 44100, format="FLAC")
    json_type = {"Content-Type": "application/json"}
    hostile: list[tuple[object, dict[str, str], int, str]] = [
        (json.dumps({"inputs": [good], "params": {"topk": 1}}), json_type, 400, "'topk' is unknown"),
        (json.dumps({"inputs": [good], "params": {"max_seconds": 1e6}}), json_type, 400, "limit of 240"),
        (json.dumps({"inputs": [good, None, 3, [good]]}), json_type, 400, "row 3: the clip is a list"),
        (json.dumps({"inputs": [good] * 300}), json_type, 400, "send 1 to 200"),
        (json.dumps({"inputs": [base64.b64encode(zeros.getvalue()).decode()]}), json_type, 400, "3,600.0 s long"),
        ('{"inputs":' + "[" * 100_000, json_type, 400, "JSON"),
        ('{"inputs":' + "[" * 3_000 + "]" * 3_000 + "}", json_type, 400, "nested too deeply"),
        ('{"inputs": [' + "9" * 5_000 + "]}", json_type, 400, "not valid JSON"),
        (b"\xff\xfe", json_type, 400, "not valid JSON"),
        (b"", json_type, 400, "not valid JSON"),
        (b" " * 100_000_000, json_type, 413, "too large"),
        ((b" " * 1_000_000 for _ in range(100)), json_type, 413, "too large"),
        (f"audio\n{good}", {"Content-Type": "text/csv"}, 415, "Send JSON"),
        (json.dumps({"inputs": [good]}).encode(), {}, 415, "Send JSON"),
    ]
    for data, headers, status, reason in hostile:
        answer = requests.post(address, data=data, headers=headers, timeout=PATIENCE)  # type: ignore[arg-type]
        assert answer.status_code == status, answer.text[:500]
        assert reason in answer.json()["message"]
        assert good[-200:] not in answer.text
    assert requests.post(address, json={"inputs": [good]}, timeout=PATIENCE).ok


WATCHED = """
import json, os, sys
folder, clip, temporary = sys.argv[1:]
seen = []
def watch(event, values):
    if event == "socket.connect" and isinstance(values[1], tuple) and values[1][0] not in ("127.0.0.1", "::1"):
        seen.append([event, str(values[1])])
        raise OSError("The network is cut off.")
    changes = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
    if event == "open" and not isinstance(values[0], int):
        path = values[0] if values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else None
    else:
        path = values[0] if event in changes else None
    allowed = (temporary, "/dev/", sys.prefix, sys.base_prefix)  # Python compiles the environment's own modules
    if path is not None and not os.path.realpath(os.fsdecode(path)).startswith(allowed):
        seen.append([event, os.fsdecode(path)])
sys.addaudithook(watch)
import mlflow, pandas
model = mlflow.pyfunc.load_model(folder)
with open(clip, "rb") as file:
    answer = model.predict(pandas.DataFrame({"audio": [file.read()]}))
print(json.dumps({"answer": answer.to_dict(orient="records"), "seen": seen}))
"""


def test_the_model_loads_and_answers_cut_off_and_writes_nothing(workplace: Workplace, tmp_path: Path) -> None:
    version = workplace.client().get_model_version_by_alias("tiny-fusion", "champion")
    model = Path(
        workplace.client().get_model_version_download_uri("tiny-fusion", version.version).removeprefix("file://")
    )
    shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    clip = next(workplace.folder.glob("hiss-test-*.wav"))
    temporary = (tmp_path / "temporary").resolve()
    hidden = ("MLFLOW_", "PYTHONDONTWRITEBYTECODE", "TORCHINDUCTOR")  # the last is set by torch, to our /tmp
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | {
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(temporary),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",  # `import mlflow` itself would note its identity in the home directory
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path / "model"), str(clip), str(temporary)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # MLflow compiles the one file that it runs itself, before that can ask it not to.
    theirs = str(tmp_path / "model" / "__pycache__")
    assert [what for what in found["seen"] if not what[1].startswith(theirs)] == []
    assert found["answer"][0]["label"] in CLASSES
    assert list((tmp_path / "home").iterdir()) == []
