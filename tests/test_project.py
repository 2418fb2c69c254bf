"""The project's own files: one source of versions, parameters declared once, nothing of a run in git."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import test_layers
from soundstack.config.base import Config
from soundstack.networks.registry import NETWORKS
from soundstack.utils.cluster import REQUIREMENT

PROJECT = Path(__file__).resolve().parents[1]
MLPROJECT = yaml.safe_load((PROJECT / "MLproject").read_text())
CONDA = yaml.safe_load((PROJECT / "conda.yaml").read_text())
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
PIN = re.compile(r"(?<![\w.-])([A-Za-z][\w.-]*)==([0-9][\w.]*)")

SCRIPTS = {path.stem: path for path in sorted((PROJECT / "entrypoints").glob("[!_]*.py"))}


def model_of(script):
    """The configuration class that a script hands to `cli.run`."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    (run,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "cli.run"]
    name = ast.unparse(run.args[0])
    (module,) = [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}
    ]
    return getattr(importlib.import_module(module), name)


MODELS = {name: model_of(path) for name, path in SCRIPTS.items()}


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins():
    """Version by normalised name of everything that pip installs."""
    (listed,) = [entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict)]
    return {normalised(name): version for name, version in (line.split("==") for line in listed)}


def optional():
    """Version by normalised name of what stands in the environment's file behind a #, for users who want it."""
    lines = re.findall(r"^ *# - (\S+)", (PROJECT / "conda.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    return {normalised(name): version for name, version in (line.split("==") for line in lines)}


def extras():
    """What `conda.yaml` names, and does not install: version by name."""
    text = (PROJECT / "conda.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^# +- ([\w.-]+(?:\[\w+\])?)==([0-9][\w.]*)", text, re.MULTILINE))


def texts():
    """Every file that may name a version: prose, scripts, settings."""
    found = [PROJECT / name for name in ("README.md", "MLproject", "pyproject.toml", "CITATION.cff", ".ci/run")]
    found += [*(PROJECT / "docs").rglob("*.md"), *(PROJECT / "entrypoints").glob("*.py")]
    return [path for path in found if path.is_file()]


# versions --------------------------------------------------------------------------------------------------------


def test_the_environment_is_python_3_11_and_exact_versions():
    plain = [entry for entry in CONDA["dependencies"] if isinstance(entry, str)]
    assert plain == ["python=3.11", "pip"]
    (listed,) = [entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict)]
    assert all(PIN.fullmatch(line) for line in listed)
    assert len(pins()) == len(listed)


def test_there_is_one_environment_file():
    others = ("requirements*.txt", "environment*.y*ml", "python_env.y*ml", "Pipfile*", "poetry.lock", "uv.lock")
    assert [path for pattern in others for path in PROJECT.glob(pattern)] == []
    assert MLPROJECT["conda_env"] == "conda.yaml"
    assert not {"python_env", "docker_env"} & MLPROJECT.keys()


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.name)
def test_a_version_named_anywhere_is_the_environments(path):
    for name, version in PIN.findall(path.read_text(encoding="utf-8")):
        assert (pins() | optional())[normalised(name)] == version, f"{path.name} names {name}=={version}"


def test_the_python_named_anywhere_is_the_environments():
    for path in texts():
        for version in re.findall(r"--python[ =](\S+)", path.read_text(encoding="utf-8")):
            assert version == "3.11", path.name
    assert PYPROJECT["tool"]["mypy"]["python_version"] == "3.11"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py311"


def test_pyproject_names_no_versions_and_declares_no_package():
    assert PIN.findall((PROJECT / "pyproject.toml").read_text()) == []
    assert PYPROJECT.keys() == {"build-system", "tool"}


@pytest.mark.parametrize("build", ["build_wheel", "build_editable", "build_sdist"])
def test_an_installation_is_refused_with_what_to_do_instead(build):
    # What pip and uv do: they import the backend from its folder, and ask it to build.
    system = PYPROJECT["build-system"]
    code = f"import sys; sys.path[:0] = {system['backend-path']}; import {system['build-backend']} as backend\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{code}backend.{build}('.')"], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "mlflow run ." in done.stderr


def test_everything_that_is_imported_is_pinned():
    distributions = metadata.packages_distributions()
    entry_points = {path.stem for path in (PROJECT / "entrypoints").glob("*.py")}
    files = [path for folder in ("src", "entrypoints", "soak_bench") for path in (PROJECT / folder).rglob("*.py")]
    imported = set().union(*(test_layers.third_party(path) for path in files)) - entry_points - {"soak_bench"}
    assert {"numpy", "torch", "mlflow"} <= imported
    known = pins().keys() | optional().keys() | {name.partition("[")[0] for name in extras()}
    assert [name for name in imported if not {normalised(of) for of in distributions.get(name, [name])} & known] == []


def test_the_extras_are_named_once_and_what_asks_for_them_names_the_same_version():
    (ray,) = [f"{name}=={version}" for name, version in extras().items() if name.startswith("ray")]
    assert ray == REQUIREMENT
    for path in texts():
        for name, version in re.findall(r"([\w-]+\[\w+\])==([0-9][\w.]*)", path.read_text(encoding="utf-8")):
            assert extras()[name] == version, path.name
        for version in re.findall(r'rayVersion: "([\d.]+)"', path.read_text(encoding="utf-8")):
            assert f"=={version}" in REQUIREMENT, path.name


def test_ray_is_an_extra_that_one_module_imports():
    users = [name for name, path in test_layers.MODULES.items() if "ray" in test_layers.third_party(path)]
    assert users == ["utils.cluster"]
    assert "ray" not in pins()


def test_what_a_network_asks_to_be_installed_is_in_the_environments_file():
    asked = dict(PIN.findall(" ".join(spec.install for spec in NETWORKS.values())))
    assert {normalised(name): version for name, version in asked.items()} == optional()
    assert not optional().keys() & pins().keys()


def test_what_the_tests_and_the_checks_need_is_pinned():
    assert {"pytest", "hypothesis", "ruff", "mypy"} <= pins().keys()


# parameters ------------------------------------------------------------------------------------------------------


def test_every_entry_point_has_a_script_and_a_configuration_of_its_name():
    assert set(MLPROJECT["entry_points"]) == set(SCRIPTS)
    assert {"main", "extract", "crnn", "deepspectrum", "fuse", "test"} <= set(SCRIPTS)
    for name, model in MODELS.items():
        assert issubclass(model, Config)
        assert model.__name__.lower() == f"{name}config"


@pytest.mark.parametrize("name", sorted(MODELS))
def test_mlproject_has_the_parameters_and_defaults_of_the_configuration(name):
    declared = MLPROJECT["entry_points"][name]["parameters"]
    defaults = MODELS[name].defaults()
    assert list(declared) == list(defaults)
    for parameter, default in defaults.items():
        assert declared[parameter]["default"] == default, parameter
        assert type(declared[parameter]["default"]) is type(default), parameter
        # MLflow's `float` and `path` types would refuse `auto`, so what takes a word is a string.
        number = MODELS[name].model_fields[parameter].annotation is int
        assert declared[parameter]["type"] == ("int" if number else "string"), parameter


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_command_passes_every_parameter_and_no_other(name):
    words = re.split(r"[\s=]+", MLPROJECT["entry_points"][name]["command"].strip())
    assert words[:2] == ["python", f"entrypoints/{name}.py"]
    passed = list(zip(words[2::2], words[3::2], strict=True))
    assert passed == [(f"--{parameter}", f"{{{parameter}}}") for parameter in MODELS[name].model_fields]


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.name)
def test_commands_that_are_shown_use_parameters_that_exist(path):
    text = path.read_text(encoding="utf-8")
    for command in re.findall(r"(?:mlflow run|`-[eP]) [^`\n]*", text):
        name = (re.findall(r"-e (\w+)", command) or ["main"])[0]
        assert name in MODELS, command
        for parameter in re.findall(r"-P (\w+)=", command):
            assert any(parameter in MODELS[each].model_fields for each in ({name} if "-e" in command else MODELS))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_examples_of_an_entry_point_are_commands_for_it(name):
    examples = re.findall(r"mlflow run \.(.*)", MODELS[name].__doc__)
    assert examples
    for example in examples:
        assert (re.findall(r"-e (\w+)", example) or ["main"]) == [name]
        assert set(re.findall(r"-P (\w+)=", example)) <= set(MODELS[name].model_fields)


# the checkout ----------------------------------------------------------------------------------------------------


def tracked(*paths):
    """The files that git keeps below some paths."""
    if shutil.which("git") is None or not (PROJECT / ".git").exists():
        pytest.skip("needs git and a checkout: an unpacked archive has no history to look at")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--", *paths]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name]


def test_of_mlruns_git_keeps_the_folder_alone():
    assert tracked("mlruns") == ["mlruns/.gitkeep"]


def test_nothing_large_and_nothing_of_a_run_is_in_git():
    names = tracked(".")
    assert not [name for name in names if name.startswith(("cache/", "data/", "weights/", "reports/", "mlflow.db"))]
    assert not [name for name in names if name.endswith((".pyc", ".npy", ".pt", ".pth", ".pkl", ".wav", ".flac"))]
    present = [PROJECT / name for name in names if (PROJECT / name).is_file()]
    assert sum(path.stat().st_size for path in present) < 5_000_000


def test_no_file_names_a_path_of_the_machine_it_was_written_on():
    for name in tracked("."):
        path = PROJECT / name
        if path.is_file() and path.suffix not in {".png", ".parquet", ".onnx"}:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert str(PROJECT) not in text, name
            assert f"/home/{Path.home().name}/" not in text, name


def test_the_tests_run_on_the_python_of_the_environment():
    assert sys.version_info[:2] == (3, 11)
