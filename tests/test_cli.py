"""The command line: one clear line for every mistake, `--help` without waiting, the right exit status."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundstack.config import cli
from soundstack.config.finetune import FinetuneConfig
from soundstack.config.lowdata import LowdataConfig
from soundstack.config.steps import CrnnConfig, DeepSpectrumConfig, ExtractConfig, FuseConfig, MainConfig
from soundstack.config.tools import DownloadConfig, PageConfig, TestConfig
from soundstack.utils import signals
from soundstack.utils.errors import ConfigError, DataError
from waiting import PATIENCE

PROJECT = Path(__file__).resolve().parents[1]
ENTRY_POINTS = sorted(path.stem for path in (PROJECT / "entrypoints").glob("[!_]*.py"))
TRAINING = [ExtractConfig, CrnnConfig, DeepSpectrumConfig, FinetuneConfig, FuseConfig, MainConfig]
MODELS = [*TRAINING, LowdataConfig, DownloadConfig, PageConfig, TestConfig]


def refusal(model, *arguments):
    """The one line that arguments are refused with."""
    with pytest.raises(ConfigError) as caught:
        cli.parse(model, arguments)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# what is taken ---------------------------------------------------------------------------------------------------


def test_no_argument_gives_the_defaults():
    for model in MODELS:
        assert cli.parse(model, []) == model()


def test_values_come_as_their_types():
    config = cli.parse(
        CrnnConfig,
        ["--learning_rate", "1e-3", "--batch_size=32", "--clip_db", "-60", "--epochs", "auto", "--seed=7"],
    )
    assert (config.learning_rate, config.batch_size, config.clip_db, config.epochs, config.seed) == (
        0.001,
        32,
        -60.0,
        "auto",
        7,
    )


def test_every_default_given_on_the_command_line_is_the_default():
    # What `mlflow run` does: it passes every parameter, also those that the user did not set.
    for model in MODELS:
        arguments = [word for name, default in model.defaults().items() for word in (f"--{name}", str(default))]
        assert cli.parse(model, arguments).model_dump() == model().model_dump()


def test_none_is_a_value_where_it_is_offered():
    assert cli.parse(DeepSpectrumConfig, ["--feature_bound", "none"]).feature_bound == "none"
    assert cli.parse(CrnnConfig, ["--suffix", "none"]).model_name == "demo-crnn"


def test_a_former_name_is_taken_also_beside_the_default_that_mlflow_run_passes():
    for arguments in (["--clip_features", "none"], ["--feature_bound", "10.0", "--clip_features=none"]):
        assert cli.parse(DeepSpectrumConfig, arguments).feature_bound == "none"


@pytest.mark.parametrize("value", ["-k spectrogram", "-x", "--durations=3", "-x --durations=3"])
def test_options_for_pytest_may_begin_with_a_dash(value):
    assert cli.parse(TestConfig, ["--options", value]).options == value


@pytest.mark.parametrize("value", ["-60", "-6e1", "-60.0"])
def test_a_negative_number_is_a_value_however_it_is_written(value):
    assert cli.parse(CrnnConfig, ["--clip_db", value]).clip_db == -60


def test_environment_variables_do_not_reach_the_command_line(monkeypatch):
    monkeypatch.setenv("SEED", "5")
    monkeypatch.setenv("epochs", "5")
    config = cli.parse(CrnnConfig, ["--trials", "2"])
    assert (config.seed, config.epochs, config.trials) == (0, "auto", 2)


@pytest.mark.parametrize("model", MODELS)
def test_help_names_every_parameter_with_its_default_and_exits_0(model, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse(model, ["--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, default in model.defaults().items():
        assert f"--{name} " in shown
        assert f"default: {default}" in shown
    assert "mlflow run ." in shown
    assert "%%" not in shown


# mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "arguments", "tells"),
    [
        (CrnnConfig, ["--learning_rat", "1"], ["learning_rat: no such parameter", "did you mean learning_rate?"]),
        (CrnnConfig, ["--learning-rate", ".1"], ["learning-rate", "did you mean learning_rate?"]),
        (CrnnConfig, ["--see", "1"], ["see: no such parameter", "did you mean seed?"]),
        (FuseConfig, ["--zzz=1"], ["zzz: no such parameter", "allowed: dataset, name, members, crnn_scores"]),
        (FuseConfig, ["--zzz=1", "--yyy", "2"], ["zzz", "yyy"]),
        (CrnnConfig, ["word"], ["word", "--name value"]),
        (CrnnConfig, ["-s", "1"], ["-s", "--name value"]),
        (CrnnConfig, ["--epochs", "many"], ["epochs: 'many'", "whole number >= 1 and <= 10000 or 'auto'"]),
        (CrnnConfig, ["--epochs", "1.5"], ["epochs: '1.5'", "whole number"]),
        (CrnnConfig, ["--learning_rate", "2"], ["learning_rate: '2'", "number > 0 and <= 1 or 'auto'"]),
        (CrnnConfig, ["--clip_db", "3"], ["clip_db: '3'", "number >= -200 and < 0 or 'auto'"]),
        (CrnnConfig, ["--layout", "big"], ["layout: 'big'", "auto, three_blocks, four_blocks"]),
        (CrnnConfig, ["--suffix", "a b"], ["suffix: 'a b'", "1 to 40 letters"]),
        (CrnnConfig, ["--seed", str(2**32)], [f"seed: '{2**32}'", f"< {2**32}"]),
        (CrnnConfig, ["--dataset", "esc"], ["dataset: 'esc'", "csv, dcase2017, dcase2018, demo, esc10, esc50"]),
        (CrnnConfig, ["--seed", "-1", "--jobs", "x"], ["seed: '-1'", "jobs: 'x'"]),
        (CrnnConfig, ["--seed"], ["seed: has no value", "whole number"]),
        (CrnnConfig, ["--epochs", "--seed", "1"], ["epochs: has no value", "whole number"]),
        (CrnnConfig, ["--seed="], ["seed: ''", "whole number"]),
        (CrnnConfig, ["--seed", "1", "--seed=1"], ["--seed is given more than once"]),
        (CrnnConfig, ["--nested", "maybe"], ["nested: 'maybe'", "give yes or no"]),
        (CrnnConfig, ["--nested"], ["nested: has no value", "give yes or no"]),
        (CrnnConfig, ["--clip_features", "none"], ["clip_features: no such parameter"]),
        (FuseConfig, ["--clip_features"], ["clip_features: has no value", "number > 0 or 'none'"]),
        (FuseConfig, ["--clip_features", "0"], ["feature_bound: '0'", "number > 0 or 'none'"]),
        (FuseConfig, ["--clip_features", "3", "--feature_bound", "4"], ["clip_features", "give feature_bound alone"]),
        (CrnnConfig, ["--dataset", "esc50", "--data_dir", "/nowhere"], ["data_dir: /nowhere does not exist"]),
        (CrnnConfig, ["--dataset", "csv"], ["data_dir", "csv"]),
        (CrnnConfig, ["--data_dir", "."], ["data_dir", "demo"]),
        (DeepSpectrumConfig, ["--network", "vgg"], ["network: 'vgg'", "resnet50, vgg16, vgg19"]),
        (
            DeepSpectrumConfig,
            ["--network", "vgg16", "--pretraining", "audioset"],
            ["pretraining: vgg16 has no 'audioset'", "imagenet, none"],
        ),
        (MainConfig, ["--systems", "crnn,vgg16"], ["systems: 'vgg16'", "vgg16-imagenet"]),
        (MainConfig, ["--systems", "crnn,crnn"], ["systems", "twice"]),
        (MainConfig, ["--suite", "tabel1"], ["suite: 'tabel1'", "table1"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_parameter_and_what_is_allowed(model, arguments, tells):
    message = refusal(model, *arguments)
    for part in tells:
        assert part in message


@pytest.mark.parametrize("path", ["~nosuchuser/data", "a" * 300, "two\nlines", "nul\0"])
def test_a_path_that_cannot_be_is_refused_in_one_line(path):
    assert "data_dir" in refusal(CrnnConfig, "--dataset", "csv", "--data_dir", path)


_WORDS = st.one_of(
    st.sampled_from([f"--{name}" for name in CrnnConfig.model_fields]),
    st.sampled_from(["auto", "none", "1", "0.5", "-1", "csv", "[1]", "{}", "null", "true", "", "--", "-", "=", "--=1"]),
    st.text(st.characters(codec="ascii"), max_size=6),
    st.text(max_size=6).map(lambda text: f"--{text}"),
)


@settings(max_examples=120)
@given(st.lists(_WORDS.filter(lambda word: word != "--help" and not word.startswith("-h")), max_size=5))
def test_any_arguments_give_a_configuration_or_one_line(arguments):
    try:
        config = cli.parse(CrnnConfig, arguments)
    except ConfigError as error:
        assert str(error)
        assert len(str(error).splitlines()) == 1
        return
    assert isinstance(config, CrnnConfig)


# the run ---------------------------------------------------------------------------------------------------------


def test_a_good_run_gets_its_configuration_and_returns():
    seen = []
    cli.run(CrnnConfig, seen.append, ["--seed", "4"])
    assert [config.seed for config in seen] == [4]


def test_a_users_mistake_prints_one_line_and_exits_2(capsys):
    def action(config):
        raise DataError("clips.csv row 5: there is no file 'x.wav'.")

    for arguments, told in (([], "row 5"), (["--sed", "1"], "did you mean seed?")):
        with pytest.raises(SystemExit) as caught:
            cli.run(CrnnConfig, action, arguments)
        assert caught.value.code == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("crnn: ")
        assert told in shown.err
        assert shown.err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_exits_130_and_promises_nothing_before_it_began(number, capsys, in_a_terminal):
    def action(config):
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 5)
        pytest.fail("went on")

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        cli.run(CrnnConfig, action, [])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"
    assert signal.getsignal(number) is before


def test_what_an_interrupted_run_has_to_say_stands_in_the_same_line(capsys):
    def action(config):
        error = KeyboardInterrupt()
        error.add_note("Finished work is kept; the same command continues.")
        raise error

    with pytest.raises(SystemExit):
        cli.run(CrnnConfig, action, [])
    assert capsys.readouterr().err == "Interrupted. Finished work is kept; the same command continues.\n"


def test_an_interrupt_that_a_library_turned_into_an_error_is_still_one(capsys, in_a_terminal):
    def action(config):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 5)
        except KeyboardInterrupt:
            raise ValueError("Invalid bounding box") from None  # what matplotlib made of one

    with pytest.raises(SystemExit) as caught:
        cli.run(CrnnConfig, action, [])
    assert caught.value.code == 130
    assert "bounding box" not in capsys.readouterr().err
    assert not signals.interrupted()


def test_an_error_of_ours_keeps_its_traceback():
    def action(config):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(CrnnConfig, action, [])


_HEAVY = (
    "torch",
    "mlflow",
    "sklearn",
    "scipy",
    "matplotlib",
    "librosa",
    "pandas",
    "optuna",
    "timm",
    "transformers",
    "huggingface_hub",
    "gradio",
)
_ANSWERS = """
import contextlib, io, json, runpy, sys
entry_points, heavy = json.loads(sys.argv[1])
answers = {}
for path in entry_points:
    sys.path.insert(0, path.rpartition("/")[0])
    for argument in ("--help", "--no_such_parameter"):
        out, err = io.StringIO(), io.StringIO()
        sys.argv = [path, argument]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                runpy.run_path(path, run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code
        loaded = [name for name in heavy if name in sys.modules]
        answers[path + " " + argument] = [status, out.getvalue(), err.getvalue(), loaded]
print(json.dumps(answers))
"""


def test_help_and_a_mistake_are_answered_without_loading_anything_heavy():
    paths = [str(PROJECT / "entrypoints" / f"{name}.py") for name in ENTRY_POINTS]
    done = subprocess.run(
        [sys.executable, "-c", _ANSWERS, json.dumps([paths, _HEAVY])],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    answers = json.loads(done.stdout)
    assert len(answers) == 2 * len(ENTRY_POINTS) >= 12
    for path in paths:
        status, out, err, loaded = answers[f"{path} --help"]
        assert (status, err, loaded) == (0, "", []), path
        assert "usage:" in out
        status, out, err, loaded = answers[f"{path} --no_such_parameter"]
        assert (status, out, loaded) == (2, "", []), path
        assert err.count("\n") == 1
        assert "no_such_parameter" in err
