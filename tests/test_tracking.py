"""Runs, registry and aliases, against a real store of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from soundstack import registry, tracking
from soundstack.config import ExtractConfig, FuseConfig
from soundstack.errors import DataError, MemberError, StoreError
from soundstack.limits import Limits
from soundstack.results import Evaluation, Trained
from soundstack.scores import ScoreTable
from soundstack.tuning import SearchSpec, search_cost
from test_recognisers import LABELS, crnn


def evaluation(right: float) -> Evaluation:
    """Scores that are right for a share of the clips."""

    def table(folds: list[str]) -> ScoreTable:
        labels = [LABELS[number % 3] for number in range(len(folds))]
        scores = np.full((len(folds), 3), 0.1)
        for row, label in enumerate(labels):
            hit = row < right * len(folds)
            scores[row, (LABELS.index(label) + (0 if hit else 1)) % 3] = 0.8
        clips = tuple(f"{folds[0]}-{number}" for number in range(len(folds)))
        return ScoreTable(clips, tuple(labels), tuple(folds), scores, LABELS, "probability")

    devel, test = table(["1"] * 6 + ["2"] * 6), table(["test"] * 6)
    groups = {clip: clip for clip in (*devel.clips, *test.clips)}
    return Evaluation(devel, test, groups, devel.scores, test.scores)


def register(name: str, right: float, fingerprint: str = "data1") -> Trained:
    with tracking.run(name, ExtractConfig()) as run:
        result = evaluation(right)
        run.evaluation(result)
        return registry.register(
            run, ExtractConfig(), crnn(), result, {"data_fingerprint": fingerprint, "family": "crnn"}
        )


def test_chosen_limits_go_into_the_registered_model(store: str) -> None:
    with tracking.run("demo-crnn", ExtractConfig()) as run:
        result, tags = evaluation(1.0), {"data_fingerprint": "1", "family": "crnn"}
        run.evaluation(result)
        registry.register(run, ExtractConfig(), crnn(), result, tags, Limits(max_clips=7))
    model = Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/demo-crnn/1"))
    (stored,) = model.glob("artifacts/*/limits.json")
    assert Limits.load(stored.parent).max_clips == 7
    defaults = {param.name: param.default for param in mlflow.models.get_model_info(str(model)).signature.params}
    assert (defaults["max_clips"], defaults["max_seconds"]) == (7, Limits().max_seconds)


def test_scores_of_more_than_ten_folds_are_logged_under_the_folds_own_numbers(store: str) -> None:
    folds = tuple(str(number) for number in (1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12))  # there need be no fold 4
    labels = tuple(LABELS[row % 3] for row in range(6)) * len(folds)
    owner = np.repeat(folds, 6)
    truth = np.array([LABELS.index(label) for label in labels])
    scores = np.eye(3)[np.where(owner == "10", (truth + 1) % 3, truth)]
    clips = tuple(map(str, range(len(labels))))
    devel = ScoreTable(clips, labels, tuple(owner.tolist()), scores, LABELS, "decision")
    test = ScoreTable(clips, labels, ("test",) * len(labels), scores, LABELS, "decision")
    with tracking.run("csv-crnn", ExtractConfig()) as run:
        run.evaluation(Evaluation(devel, test, {clip: clip for clip in clips}, scores, scores))
        run.cost_search(search_cost(lambda costs: np.stack([scores] * len(costs)), truth, owner, 3, SearchSpec()))
    client = MlflowClient()
    history = client.get_metric_history(run.id, "fold_accuracy")
    assert {metric.step: metric.value for metric in history} == {int(fold): float(fold != "10") for fold in folds}
    found = client.get_run(run.id).data.metrics
    for measure in ("accuracy", "macro_f1"):
        logged = {name: value for name, value in found.items() if name.startswith(f"path/{measure}_fold_")}
        assert logged == {f"path/{measure}_fold_{fold}": float(fold != "10") for fold in folds}


def test_a_finished_run_has_its_artifacts_and_an_end(store: str) -> None:
    with tracking.run("demo-extract", ExtractConfig()) as run:
        run.settings(ExtractConfig(), {"answer": 42})
        (run.folder / "note.txt").write_text("hello")
        with run.stage("work"):
            pass
    found = MlflowClient().get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.data.params["resolved_answer"] == "42"
    assert "seconds/work" in found.data.metrics
    assert {"note.txt", "config.json", "time.png"} <= {item.path for item in MlflowClient().list_artifacts(run.id)}
    assert not run.folder.exists()


def test_a_failed_step_is_a_failed_run_that_keeps_what_it_had(store: str) -> None:
    with pytest.raises(DataError), tracking.run("demo-extract", ExtractConfig()) as run:
        (run.folder / "note.txt").write_text("so far")
        raise DataError("clip 7 is damaged.")
    found = MlflowClient().get_run(run.id)
    assert found.info.status == "FAILED"
    assert found.data.tags["soundstack.error"] == "clip 7 is damaged."
    assert [item.path for item in MlflowClient().list_artifacts(run.id)] == ["note.txt"]


def test_an_interrupted_run_is_killed_not_running(store: str) -> None:
    with pytest.raises(KeyboardInterrupt), tracking.run("demo-extract", ExtractConfig()) as run:
        raise KeyboardInterrupt
    assert MlflowClient().get_run(run.id).info.status == "KILLED"


def test_a_run_left_by_a_killed_process_is_closed_by_the_next_start(store: str) -> None:
    script = (
        "import os, sys; sys.path.insert(0, 'src')\n"
        "from soundstack import tracking\n"
        "from soundstack.config import ExtractConfig\n"
        "with tracking.run('demo-extract', ExtractConfig()) as run:\n"
        "    print(run.id, flush=True); os.kill(os.getpid(), 9)\n"
    )
    project = Path(__file__).resolve().parents[1]
    killed = subprocess.run([sys.executable, "-c", script], cwd=project, capture_output=True, text=True, timeout=120)
    orphan = killed.stdout.split()[-1]
    assert MlflowClient().get_run(orphan).info.status == "RUNNING"
    tracking.connect()
    assert MlflowClient().get_run(orphan).info.status == "KILLED"


def test_our_own_open_run_is_not_taken_for_an_orphan(store: str) -> None:
    with tracking.run("demo-main", ExtractConfig()) as run:
        tracking.connect.cache_clear()
        tracking.connect()
        assert MlflowClient().get_run(run.id).info.status == "RUNNING"


def test_artifacts_behind_a_server_are_noticed_before_work_starts(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = MlflowClient().create_experiment("from-the-ui", artifact_location="mlflow-artifacts:/1")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", other)
    with pytest.raises(StoreError, match=r"mlflow ui.*before the first run"):
        tracking.connect()


def test_the_champion_changes_only_for_a_model_that_is_at_least_as_good(store: str) -> None:
    client = MlflowClient()

    def champion() -> str:
        return str(client.get_model_version_by_alias("demo-crnn", "champion").version)

    assert register("demo-crnn", 0.5).champion
    assert not register("demo-crnn", 0.3).champion
    assert champion() == "1"
    assert register("demo-crnn", 0.5).champion  # as good: the newer one
    assert champion() == "3"
    assert register("demo-crnn", 0.1, "data2").champion  # other data: not comparable
    assert champion() == "4"


def test_members_are_found_by_name_pattern_version_and_alias(store: str) -> None:
    for name in ("demo-crnn", "demo-vgg16-none", "demo-fusion"):
        register(name, 0.5)
    register("demo-crnn", 0.3)

    def found(wanted: str) -> list[str]:
        return [f"{member.name}/{member.version}" for member in registry.find_members("demo", wanted)]

    assert found("all") == ["demo-crnn/1", "demo-vgg16-none/1"]
    assert found("crnn, *-none") == ["demo-crnn/1", "demo-vgg16-none/1"]
    assert found("demo-crnn/2") == ["demo-crnn/2"]
    assert found("crnn@champion") == ["demo-crnn/1"]
    with pytest.raises(MemberError, match=r"'vgg19\*' fits no registered model of demo. There are: demo-crnn, demo-v"):
        found("vgg19*")
    with pytest.raises(MemberError, match="demo-crnn has no version /9"):
        found("crnn/9")
    with pytest.raises(MemberError, match="none; train some first"):
        registry.find_members("esc10", "all")


def test_a_registered_model_without_versions_is_no_member_and_is_not_offered(store: str) -> None:
    register("demo-crnn", 0.5)
    client = MlflowClient()
    for name in ("demo-begun-in-the-ui", "demo-vgg16-none"):
        client.create_registered_model(name)
    register("demo-vgg16-none", 0.5)
    client.delete_model_version("demo-vgg16-none", "1")
    assert [member.name for member in registry.find_members("demo", "all")] == ["demo-crnn"]
    assert [member.name for member in registry.find_members("demo", "*")] == ["demo-crnn"]
    with pytest.raises(MemberError, match=r"'vgg16-none' fits no registered model .* There are: demo-crnn\."):
        registry.find_members("demo", "vgg16-none")
    with pytest.raises(MemberError, match=r"There are: demo-crnn\."):
        registry.find_model("demo-fusion")


def test_a_registered_model_loads_where_pickles_are_forbidden(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registered = register("demo-crnn", 0.5)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    model = mlflow.pyfunc.load_model(f"models:/demo-crnn/{registered.version}")
    import io

    import pandas as pd
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, np.zeros(4000), 8000, format="WAV")
    answer = model.predict(pd.DataFrame({"audio": [stream.getvalue()]}))
    assert answer["label"][0] in LABELS


def test_fusing_models_of_other_data_is_refused(store: str) -> None:
    from soundstack.systems import stacking

    register("demo-crnn", 0.5, "data1")
    register("demo-vgg16-none", 0.5, "data2")
    members = registry.find_members("demo", FuseConfig().members)
    with pytest.raises(MemberError, match=r"differ in data fingerprint \(data1 against data2\)"):
        stacking.fetch(members)
