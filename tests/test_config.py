"""What a user may set: checked types and ranges, nothing from the environment, a fingerprint of what matters."""

import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from soak_bench.config import SoakConfig
from soundstack.config import base as config_base
from soundstack.config.base import Config, DataConfig
from soundstack.config.finetune import FinetuneConfig
from soundstack.config.lowdata import LowdataConfig
from soundstack.config.steps import PAPER_COSTS, CrnnConfig, DeepSpectrumConfig, ExtractConfig, FuseConfig, MainConfig
from soundstack.config.tools import DownloadConfig, PredictConfig, ReportConfig, TestConfig
from soundstack.networks.registry import NETWORKS
from soundstack.utils.errors import ConfigError
from soundstack.utils.project import PROJECT, fingerprint

TRAINING = [ExtractConfig, CrnnConfig, DeepSpectrumConfig, FinetuneConfig, FuseConfig, MainConfig]
MODELS = [*TRAINING, LowdataConfig, DownloadConfig, TestConfig]

#: Another allowed value of every parameter.
OTHER = {
    "dataset": "esc10",
    "data_dir": "/elsewhere",
    "channels": "first",
    "clips": "3,all",
    "draws": 7,
    "clip_seconds": 3.0,
    "sample_rate": 16000,
    "on_error": "skip",
    "cache_dir": "/elsewhere",
    "device": "cpu",
    "seed": 1,
    "split_seed": 1,
    "jobs": 3,
    "cluster": "auto",
    "cluster_cpus": 2,
    "cluster_gpus": 0.5,
    "front_end": "audeep",
    "clip_db": -60.0,
    "learning_rate": 0.01,
    "batch_size": 64,
    "epochs": 7,
    "layout": "three_blocks",
    "standardise": "band",
    "trials": 20,
    "suffix": "variant",
    "network": "vgg16",
    "pretraining": "none",
    "layer": 3,
    "colour_map": "viridis",
    "window": 0.32,
    "feature_bound": "none",
    "augment": 0.5,
    "depth": 0.25,
    "rate_decay": 0.5,
    "weight_decay": 0.1,
    "label_smoothing": 0.2,
    "views": 3,
    "mixup": 1.0,
    "patience": 5,
    "gradient_checkpoints": True,
    "class_weight": "balanced",
    "test_model": "folds",
    "precision": "bfloat16",
    "shortcuts": False,
    "weights_dir": "/elsewhere",
    "name": "birds",
    "members": "crnn",
    "ensemble": 5,
    "crnn_scores": "probability",
    "suite": "table3",
    "systems": "crnn",
    "seeds": 3,
    "parallel_trials": 2,
    "cost_path": "rising",
    "nested": True,
    "none_rate": 0.05,
    "served_limits": "max_clips=9",
    "studies": "postgresql://host/studies",
    "rerun": True,
    "parts": "evaluation",
    "keep_archives": True,
    "base_url": "https://mirror.example",
    "options": "-x",
}
IRRELEVANT = {
    "data_dir", "name", "cache_dir", "device", "jobs", "on_error", "suffix", "weights_dir", "studies", "rerun",
    "cluster", "cluster_cpus", "cluster_gpus",
}  # fmt: skip


@pytest.mark.parametrize("model", TRAINING)
def test_the_fingerprint_ignores_what_changes_no_result_and_only_that(model):
    config = model()
    ignored = {
        name
        for name in model.model_fields
        if config.model_copy(update={name: OTHER[name]}).fingerprint() == config.fingerprint()
    }
    assert ignored == IRRELEVANT & set(model.model_fields)


def test_a_fingerprint_depends_on_values_not_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [2.0, "x"]}) == fingerprint({"b": [2.0, "x"], "a": 1})
    assert len(fingerprint({})) == 12
    values = [{"a": 1}, {"a": 2}, {"a": 1.5}, {"a": 1.5000000000000002}, {"a": "1"}, {"b": 1}, {"a": None}]
    assert len({fingerprint(value) for value in values}) == len(values)


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_has_a_default_and_says_what_it_is(model):
    for name, field in model.model_fields.items():
        assert not field.is_required(), name
        assert field.description, name


@pytest.mark.parametrize("model", MODELS)
def test_a_configuration_cannot_be_changed_and_knows_no_other_names(model):
    config = model()
    name = next(iter(model.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, name, OTHER[name])
    with pytest.raises(ValidationError, match="no_such_name"):
        model(no_such_name=1)


@pytest.mark.parametrize("model", MODELS)
def test_environment_variables_named_like_parameters_do_not_leak_in(model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = model().model_dump()
    for name in model.model_fields:
        for variable in (name, name.upper(), f"SOUNDSTACK_{name.upper()}"):
            monkeypatch.setenv(variable, str(OTHER[name]))
    (tmp_path / ".env").write_text("".join(f"{name}={OTHER[name]}\n" for name in model.model_fields))
    assert model().model_dump() == before


@pytest.mark.parametrize(
    ("model", "name", "values"),
    [
        (DataConfig, "dataset", ["esc", "", None]),
        (DataConfig, "channels", ["median", 1]),
        (DataConfig, "clip_seconds", [0, -1, 601, float("nan"), float("inf"), "long"]),
        (DataConfig, "sample_rate", [999, 384_001, 44100.5, "fast"]),
        (DataConfig, "on_error", ["ignore"]),
        (DataConfig, "device", ["tpu"]),
        (DataConfig, "cache_dir", ["", " "]),
        (FuseConfig, "cache_dir", ["", " "]),
        (DataConfig, "seed", [-1, 2**32, 0.5, "none"]),
        (DataConfig, "split_seed", [-1, 2**32, 0.5, "none"]),
        (DataConfig, "jobs", [-1, 1025]),
        (CrnnConfig, "clip_db", [0, 5, -201, float("nan")]),
        (CrnnConfig, "front_end", ["mfcc"]),
        (CrnnConfig, "learning_rate", [0, -0.1, 1.1, float("nan")]),
        (CrnnConfig, "batch_size", [0, 4097]),
        (CrnnConfig, "epochs", [0, 10_001, 1.5]),
        (CrnnConfig, "layout", ["five_blocks"]),
        (CrnnConfig, "standardise", ["none"]),
        (CrnnConfig, "precision", ["float16"]),
        (CrnnConfig, "trials", [0, 1001]),
        (CrnnConfig, "suffix", ["", "a b", "a-b", "a/b", "x" * 41]),
        (
            DeepSpectrumConfig,
            "network",
            ["vgg", "VGG16", "timm:", "hf:ast", "hf:a/b/c", "hf:/no/such/folder", "http:a/b"],
        ),
        (DeepSpectrumConfig, "pretraining", ["audioset", "random"]),
        (DeepSpectrumConfig, "layer", ["last", 1.5, 1001, 2]),
        (DeepSpectrumConfig, "colour_map", ["jet"]),
        (DeepSpectrumConfig, "window", [0, -1]),
        (DeepSpectrumConfig, "feature_bound", [0, -10, float("inf")]),
        (DeepSpectrumConfig, "test_model", ["best"]),
        (DeepSpectrumConfig, "trials", [-1]),
        (DeepSpectrumConfig, "precision", ["float16"]),
        (DeepSpectrumConfig, "shortcuts", ["maybe", 2, ""]),
        (FuseConfig, "crnn_scores", ["logit"]),
        (FuseConfig, "cost_path", ["falling", True]),
        (FuseConfig, "nested", ["maybe", 2, "none"]),
        (
            FuseConfig,
            "served_limits",
            ["60", "max_seconds", "max_clips=0", "max_clips=1.5", "longest=3", "max_rate=500"],
        ),
        (MainConfig, "served_limits", ["max_clips=1,max_clips=2", "max_seconds=nan", "max_request_bytes=5"]),
        (MainConfig, "seeds", [0, 101]),
        (DownloadConfig, "dataset", ["demo", "csv"]),
        (DownloadConfig, "jobs", [0, 17]),
        (MainConfig, "systems", ["", ",", "crnn,crnn", "vgg16", "vgg16-audioset", "crnn,none"]),
    ],
)
def test_values_of_a_wrong_kind_or_out_of_range_are_refused(model, name, values):
    for value in values:
        with pytest.raises(ValidationError) as caught:
            model(**{name: value})
        assert name in str(caught.value)


def test_the_papers_costs_are_ten_from_a_billionth_to_one():
    assert PAPER_COSTS == (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def test_every_path_is_taken_from_where_the_user_stands_and_is_absolute(tmp_path, monkeypatch):
    (tmp_path / "table.csv").touch()
    monkeypatch.chdir(tmp_path)
    config = DataConfig(dataset="csv", data_dir="table.csv")
    assert config.data_path == tmp_path / "table.csv"
    assert config.cache_path == tmp_path / "cache"
    (tmp_path / "mine.yaml").write_text("rows: [{crnn: {}}]")
    model = tmp_path / "saved" / "MLmodel"
    model.parent.mkdir()
    model.touch()
    predict = PredictConfig(model="saved", input="field/*.wav", output_dir="out")
    given = [
        config.data_dir,
        MainConfig(suite="mine.yaml").suite,
        FuseConfig(cache_dir="c").cache_dir,
        DeepSpectrumConfig(weights_dir="w").weights_dir,
        DownloadConfig(data_dir="d").data_dir,
        *(predict.model, predict.input, predict.output_dir),
        ReportConfig(output_dir="r").output_dir,
        SoakConfig(output_dir="s").output_dir,
        str(PredictConfig(input="x").output_path("demo-crnn")),
        str(DownloadConfig(dataset="esc50").folder),
    ]
    names = ("table.csv", "mine.yaml", "c", "w", "d", "saved", "field/*.wav", "out", "r", "s")
    assert given == [str(tmp_path / name) for name in (*names, "predictions/demo-crnn", "data/esc50")]
    monkeypatch.chdir("/")
    assert MainConfig(suite=given[1]).chosen_suite.rows[0].step == "crnn"
    monkeypatch.chdir(tmp_path)
    assert DataConfig(cache_dir=str(tmp_path)).cache_path == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DataConfig(dataset="csv", data_dir="~/table.csv").data_path == tmp_path / "table.csv"
    assert DataConfig(cache_dir="~/cache").cache_path == tmp_path / "cache"


def test_auto_looks_for_a_data_set_where_the_user_stands(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, folder in (("esc50", "esc50"), ("esc10", "esc50"), ("dcase2018", "dcase2018")):
        (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        assert DataConfig(dataset=name).data_path == tmp_path / "data" / folder


@pytest.mark.parametrize("name", ["esc10", "esc50", "dcase2017", "dcase2018", "csv"])
def test_data_that_are_not_there_are_refused_with_the_place_and_what_to_do(name, tmp_path):
    with pytest.raises(ValidationError) as caught:
        DataConfig(dataset=name, data_dir=str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "give" in str(caught.value)


def test_csv_needs_a_table_and_demo_takes_none(tmp_path):
    with pytest.raises(ValidationError, match=r"data_dir=<your table>\.csv"):
        DataConfig(dataset="csv")
    with pytest.raises(ValidationError, match="leave data_dir out"):
        DataConfig(dataset="demo", data_dir=str(tmp_path))


def test_jobs_are_all_cores_unless_given():
    assert DataConfig(jobs=3).workers == 3
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4
    assert DataConfig().workers == cores


def test_model_names_are_those_of_the_contract():
    assert CrnnConfig().model_name == "demo-crnn"
    assert CrnnConfig(suffix="db45").model_name == "demo-crnn-db45"
    assert DeepSpectrumConfig(network="vgg16").model_name == "demo-vgg16-imagenet"
    assert DeepSpectrumConfig(network="vgg16", pretraining="none", suffix="x").model_name == "demo-vgg16-none-x"
    assert FuseConfig().model_name == "demo-fusion"
    assert FuseConfig(suffix="log").model_name == "demo-fusion-log"


def test_models_of_an_own_table_have_its_name(tmp_path):
    table = tmp_path / "Night birds.csv"
    table.touch()
    own = {"dataset": "csv", "data_dir": str(table)}
    assert CrnnConfig(**own).model_name == "night_birds-crnn"
    assert CrnnConfig(**own, name="owls", suffix="x").model_name == "owls-crnn-x"
    assert DeepSpectrumConfig(**own, name="owls").model_name == "owls-efficientnet_lite0-imagenet"
    assert FuseConfig(dataset="csv", name="owls").model_name == "owls-fusion"


@pytest.mark.parametrize("model", [DataConfig, FuseConfig])
def test_a_name_that_cannot_be_one_or_is_anothers_is_refused(model, tmp_path):
    table = tmp_path / "clips.csv"
    table.touch()
    own = {"dataset": "csv"} | ({"data_dir": str(table)} if model is DataConfig else {})
    for name in ("", "night-birds", "Birds", "a/b", "a%", ".", "_x", "x" * 41, "bïrds"):
        with pytest.raises(ValidationError, match="lower-case letters, digits"):
            model(**own, name=name)
    with pytest.raises(ValidationError, match="esc10 is the name of a published data set"):
        model(**own, name="esc10")
    with pytest.raises(ValidationError, match="demo keeps its own; leave name out"):
        model(name="birds")


@pytest.mark.parametrize("network", NETWORKS)
def test_pretraining_auto_is_the_networks_published_weights(network):
    config = DeepSpectrumConfig(network=network)
    assert config.chosen_pretraining == NETWORKS[network].pretrainings[0] != "none"
    if NETWORKS[network].random:
        assert DeepSpectrumConfig(network=network, pretraining="none").chosen_pretraining == "none"
    else:
        with pytest.raises(ValidationError, match=f"{network} has no 'none' weights"):
            DeepSpectrumConfig(network=network, pretraining="none")


def test_missing_folds_are_drawn_with_the_seed_unless_another_is_given():
    assert DataConfig(seed=3).drawn_with == 3
    assert DataConfig(seed=3, split_seed=5).drawn_with == 5
    assert DataConfig(seed=3, split_seed=0).drawn_with == 0


def test_a_suite_that_is_not_known_is_refused_with_those_that_are(tmp_path):
    for suite in ("tabel1", str(tmp_path / "nowhere.yaml")):
        with pytest.raises(ConfigError, match="table1") as caught:
            MainConfig(suite=suite)
        assert "\n" not in str(caught.value)


def test_systems_may_be_written_with_spaces():
    assert MainConfig(systems=" crnn , vgg16-none ").systems == "crnn,vgg16-none"


@pytest.mark.parametrize(
    ("spellings", "value", "logged"),
    [(["yes", "true", "True", "1", 1, True], True, "yes"), (["no", "false", "FALSE", "0", 0, False], False, "no")],
)
def test_a_switch_is_taken_in_every_spelling_and_logged_in_one(spellings, value, logged):
    for given in spellings:
        config = DeepSpectrumConfig(shortcuts=given)
        assert config.shortcuts is value
        assert config.model_dump(mode="json")["shortcuts"] == logged
        assert config.fingerprint() == DeepSpectrumConfig(shortcuts=logged).fingerprint()


@pytest.fixture
def notes(capsys):
    """What has been said on stderr, a line each; every note is said once."""
    config_base._note.cache_clear()
    return lambda: capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("model", [DeepSpectrumConfig, FuseConfig])
def test_a_former_name_is_taken_with_a_note_and_is_the_same_setting(model, notes):
    assert model(clip_features="none").fingerprint() == model(feature_bound="none").fingerprint()
    assert model(clip_features=3).feature_bound == 3
    assert notes() == ["clip_features is called feature_bound now."]
    with pytest.raises(ValidationError, match="clip_features: is the former name of feature_bound; give feature_bound"):
        model(clip_features=3, feature_bound=4)
    with pytest.raises(ValidationError, match="feature_bound"):
        model(clip_features=-3)
    with pytest.raises(ValidationError, match="clip_features"):
        CrnnConfig(clip_features=3)


def test_what_mlflow_run_and_earlier_versions_logged_is_read_by_todays_names_and_spellings():
    logged = {"feature_bound": "10.0", "clip_features": "none", "nested": "true", "shortcuts": "0", "trials": "1"}
    expected = {"feature_bound": "none", "nested": "yes", "shortcuts": "no", "trials": "1"}
    assert DeepSpectrumConfig.as_logged(logged) == expected
    assert CrnnConfig.as_logged({"nested": "1", "trials": "1"}) == {"nested": "yes", "trials": "1"}


@pytest.mark.parametrize("model", MODELS)
def test_a_configuration_survives_json(model):
    config = model()
    content = json.loads(json.dumps(config.model_dump(mode="json")))
    assert model(**content).fingerprint() == config.fingerprint()
    assert isinstance(config, Config)


def test_the_project_is_the_checkout():
    assert Path(__file__).resolve().parents[1] == PROJECT


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CrnnConfig(), True),
        (DeepSpectrumConfig(), False),
        (DeepSpectrumConfig(pretraining="none"), True),
        (DeepSpectrumConfig(trials=1), True),
        (DeepSpectrumConfig(cost_path="rising", nested=True, test_model="folds"), False),
        (DeepSpectrumConfig(dataset="csv", data_dir=__file__), True),
        (DeepSpectrumConfig(dataset="csv", data_dir=__file__, split_seed=0), False),
        (FuseConfig(), False),
        (FuseConfig(trials=1), True),
    ],
)
def test_a_setting_is_random_if_another_seed_may_give_another_result(config, expected):
    assert config.is_random is expected
