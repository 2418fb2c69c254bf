"""Runs, registry and aliases, against a real store of their own."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient

from soundstack.audio.limits import RequestLimits
from soundstack.config.steps import ExtractConfig, FuseConfig
from soundstack.evaluation.evaluation import Evaluation, RegisteredModel
from soundstack.evaluation.score_table import ScoreTable
from soundstack.suites import summary
from soundstack.svm.cost_search import SearchSpec, search_cost
from soundstack.tracking import registered_models, registry, reuse
from soundstack.tracking import run as tracking
from soundstack.utils.errors import ConfigError, DataError, MemberError, StoreError
from test_recognisers import LABELS, crnn
from waiting import PATIENCE


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
    return Evaluation(devel, test, groups, 1.0)


def register(name: str, right: float, fingerprint: str = "data1") -> RegisteredModel:
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
        registry.register(run, ExtractConfig(), crnn(), result, tags, RequestLimits(max_clips=7))
    model = Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/demo-crnn/1"))
    (stored,) = model.glob("artifacts/*/limits.json")
    assert RequestLimits.load(stored.parent).max_clips == 7
    defaults = {param.name: param.default for param in mlflow.models.get_model_info(str(model)).signature.params}
    assert (defaults["max_clips"], defaults["max_seconds"]) == (7, RequestLimits().max_seconds)


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
        run.evaluation(Evaluation(devel, test, {clip: clip for clip in clips}, 1.0))
        search_cost(lambda costs: np.stack([scores] * len(costs)), truth, owner, 3, SearchSpec()).log(run)
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
        "from soundstack.tracking import run as tracking\n"
        "from soundstack.config.steps import ExtractConfig\n"
        "with tracking.run('demo-extract', ExtractConfig()) as run:\n"
        "    print(run.id, flush=True); os.kill(os.getpid(), 9)\n"
    )
    project = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", script]
    killed = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=PATIENCE)
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


def champion(name: str) -> str:
    return str(MlflowClient().get_model_version_by_alias(name, "champion").version)


def test_the_champion_changes_only_for_a_model_that_is_at_least_as_good(store: str) -> None:
    assert register("demo-crnn", 0.5).champion
    worse = register("demo-crnn", 0.3)
    assert not worse.champion
    assert re.fullmatch(
        r"champion stays models:/demo-crnn/1, devel macro-F1 50\.\d\d against 3\d\.\d\d here", worse.note
    )
    assert champion("demo-crnn") == "1"
    assert register("demo-crnn", 0.5).champion  # as good: the newer one
    assert champion("demo-crnn") == "3"


@pytest.mark.parametrize("environment", ["/home/me/.mlflow/envs/mlflow-1", "/home/me/venv"])
def test_a_better_score_on_other_clips_or_folds_does_not_move_the_champion(
    store: str, environment: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an environment that ``mlflow run`` made, the command is run by uvx; it is the same command."""
    monkeypatch.setattr(sys, "prefix", environment)
    assert register("demo-crnn", 0.3).champion
    better = register("demo-crnn", 1.0, "data2")
    assert not better.champion
    assert champion("demo-crnn") == "1"
    summary.after_model(better)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Note: ")]
    assert line.startswith("Note: the champion stays models:/demo-crnn/1, scored on other clips or folds, so that ")
    command = shlex.split(line.partition("To move it: ")[2])
    python = command.index("-c")
    assert command[0] == ("uvx" if ".mlflow" in environment else "python")
    assert command[python - 1] == "python"
    done = subprocess.run([sys.executable, *command[python:]], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert champion("demo-crnn") == "2", "the printed command moves the alias"


def test_a_champion_whose_files_are_gone_makes_way(store: str) -> None:
    register("demo-crnn", 1.0)
    shutil.rmtree(MlflowClient().get_model_version_download_uri("demo-crnn", "1").removeprefix("file://"))
    assert register("demo-crnn", 0.3, "data2").champion


def test_a_store_that_does_not_answer_is_not_one_without_a_champion(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object) -> None:
        raise MlflowException("no answer", TEMPORARILY_UNAVAILABLE)

    register("demo-crnn", 1.0)
    with monkeypatch.context() as patch, pytest.raises((MlflowException, StoreError)):
        patch.setattr(MlflowClient, "get_model_version_by_alias", silent)
        register("demo-crnn", 0.3)
    assert champion("demo-crnn") == "1"


def test_a_number_that_another_model_has_now_is_not_taken_for_the_one_that_was_deleted(store: str) -> None:
    first = register("demo-crnn", 0.5)
    done = reuse.find_done(ExtractConfig(), "data1")
    assert done is not None
    assert done.version == first.version
    MlflowClient().delete_registered_model("demo-crnn")
    assert register("demo-crnn", 0.5, "data2").version == first.version
    assert reuse.find_done(ExtractConfig(), "data1") is None


def test_a_fusion_of_a_member_that_was_deleted_and_trained_anew_is_not_taken_over(store: str) -> None:
    add_version("demo-crnn", {})
    with tracking.run("demo-fusion", FuseConfig()) as run:
        result, tags = evaluation(0.5), {"data_fingerprint": "1", "members": "demo-crnn/1"}
        run.evaluation(result)
        registry.register(run, FuseConfig(), crnn(), result, tags)
    assert reuse.find_done(FuseConfig(), "1") is not None
    MlflowClient().delete_registered_model("demo-crnn")
    add_version("demo-crnn", {})
    assert reuse.find_done(FuseConfig(), "1") is None


def test_a_take_over_says_which_version_is_champion_and_leaves_it(store: str) -> None:
    register("demo-crnn", 0.5)
    register("demo-crnn", 0.6, "data2")
    MlflowClient().set_registered_model_alias("demo-crnn", "champion", "2")
    done = reuse.find_done(ExtractConfig(), "data1")
    assert done is not None
    assert (done.version, done.champion) == ("1", False)
    assert done.note.startswith("champion is models:/demo-crnn/2, scored on other clips or folds")
    assert champion("demo-crnn") == "2"


# names of own tables -------------------------------------------------------------------------------------------------


def of_table(name: str, table: str, fingerprint: str = "data1") -> dict[str, str]:
    return {"dataset": name, "data_fingerprint": fingerprint, "table": table, "clips": "18"}


def add_version(name: str, tags: dict[str, str]) -> None:
    """Register a version that is nothing but its tags."""
    client = MlflowClient()
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name)
    client.create_model_version(name, "nowhere", tags=tags)


def test_a_name_belongs_to_one_table_until_its_models_are_deleted(store: str) -> None:
    add_version("birds-crnn", of_table("birds", "A"))
    registered_models.require_name(of_table("birds", "A", "other folds"))
    registered_models.require_name({"dataset": "birds", "data_fingerprint": "x"})  # not an own table
    for free in ("bird", "birds.night", "b_rds"):
        registered_models.require_name(of_table(free, "B"))
    with pytest.raises(ConfigError) as caught:
        registered_models.require_name(of_table("birds", "B") | {"clips": "7"})
    assert re.fullmatch(
        r"name: birds belongs to another table, of 18 clips \(birds-crnn/1, made \d{4}-\d\d-\d\d \d\d:\d\d UTC\); this "
        r"one has 7\. Give this one a name of its own, -P name=OTHER, or first delete the models birds-\* in the "
        r"MLflow UI\.",
        str(caught.value),
    )
    MlflowClient().delete_registered_model("birds-crnn")
    registered_models.require_name(of_table("birds", "B"))


def test_of_two_tables_that_take_a_name_at_once_the_first_has_it(store: str) -> None:
    registered_models.require_name(of_table("birds", "B"))  # free when B begins
    add_version("birds-crnn", of_table("birds", "A"))
    with (
        pytest.raises(ConfigError, match="birds belongs to another table"),
        tracking.run("birds-vgg16-none", ExtractConfig()) as run,
    ):
        registry.register(run, ExtractConfig(), crnn(), evaluation(0.5), of_table("birds", "B"))
    assert MlflowClient().search_model_versions("name='birds-vgg16-none'") == []
    registered_models.require_name(of_table("birds", "A"))


def test_a_name_is_not_the_beginning_of_another_s_models(store: str) -> None:
    for name in ("a_b", "acb", "a_b.c"):
        add_version(f"{name}-crnn", of_table(name, name))
    add_version("csv-crnn", {"dataset": "csv"})  # of before tables had names
    assert [member.name for member in registered_models.find_members("a_b", "all")] == ["a_b-crnn"]
    assert [member.name for member in registered_models.find_members("csv", "all")] == ["csv-crnn"]
    with pytest.raises(ConfigError, match="csv belongs to another table"):
        registered_models.require_name(of_table("csv", "A"))
    with pytest.raises(
        ConfigError, match=r"needs the name of your table, -P name=NAME. There are: a_b, a_b.c, acb, csv\."
    ):
        registered_models.refuse_nameless()


def test_members_are_found_by_name_pattern_version_and_alias(store: str) -> None:
    for name in ("demo-crnn", "demo-vgg16-none", "demo-fusion"):
        register(name, 0.5)
    register("demo-crnn", 0.3)

    def found(wanted: str) -> list[str]:
        return [f"{member.name}/{member.version}" for member in registered_models.find_members("demo", wanted)]

    assert found("all") == ["demo-crnn/1", "demo-vgg16-none/1"]
    assert found("crnn, *-none") == ["demo-crnn/1", "demo-vgg16-none/1"]
    assert found("demo-crnn/2") == ["demo-crnn/2"]
    assert found("crnn@champion") == ["demo-crnn/1"]
    with pytest.raises(MemberError, match=r"'vgg19\*' fits no registered model of demo. There are: demo-crnn, demo-v"):
        found("vgg19*")
    with pytest.raises(MemberError, match="demo-crnn has no version /9"):
        found("crnn/9")
    with pytest.raises(MemberError, match="none; train some first"):
        registered_models.find_members("esc10", "all")


def test_a_registered_model_without_versions_is_no_member_and_is_not_offered(store: str) -> None:
    register("demo-crnn", 0.5)
    client = MlflowClient()
    for name in ("demo-begun-in-the-ui", "demo-vgg16-none"):
        client.create_registered_model(name)
    register("demo-vgg16-none", 0.5)
    client.delete_model_version("demo-vgg16-none", "1")
    assert [member.name for member in registered_models.find_members("demo", "all")] == ["demo-crnn"]
    assert [member.name for member in registered_models.find_members("demo", "*")] == ["demo-crnn"]
    with pytest.raises(MemberError, match=r"'vgg16-none' fits no registered model .* There are: demo-crnn\."):
        registered_models.find_members("demo", "vgg16-none")
    with pytest.raises(MemberError, match=r"There are: demo-crnn\."):
        registered_models.find_model("demo-fusion")


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


def test_fusing_models_of_other_data_is_refused_with_versions_that_saw_the_same(store: str) -> None:
    add_version("demo-crnn", {"data_fingerprint": "data1"})
    add_version("demo-vgg16-none", {"data_fingerprint": "data2"})
    with pytest.raises(MemberError, match=r"differ in data fingerprint \(data1 against data2\).*Train them again"):
        registered_models.find_members("demo", "all")
    MlflowClient().set_registered_model_alias("demo-crnn", "champion", "1")
    add_version("demo-crnn", {"data_fingerprint": "data2"})
    with pytest.raises(MemberError, match=r"These saw the same: -P members=demo-crnn/2,demo-vgg16-none/1\."):
        registered_models.find_members("demo", FuseConfig().members)
    assert len(registered_models.find_members("demo", "demo-crnn/2,demo-vgg16-none/1")) == 2
