"""The layers: lower modules never import upper ones, and heavy libraries stay where they are used."""

import ast
import graphlib
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = PROJECT / "src"

#: The floors, from the ground up: what stands on a floor imports from floors below, and nothing beside itself.
FLOORS = """
utils
audio evaluation
networks
config
datasets svm
features recognisers
spectrograms fusion prediction serving training
crnn deepspectrum tracking
finetune
lowdata suites report page transfer
"""
#: What a command line may load before it answers.
LIGHT = {"pydantic", "yaml"}
#: Imported before everything, imports nothing.
ROOT = "soundstack"


@dataclass(frozen=True)
class Import:
    """One imported name: where it stands, and whether it is loaded with its module or later."""

    name: str
    eager: bool
    typing_only: bool


def modules():
    """Every module of the package by its dotted name without `soundstack.`; packages by their own name."""
    found = {}
    for path in sorted((SOURCE / ROOT).rglob("*.py")):
        parts = path.relative_to(SOURCE / ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def _walk(node, eager, typing_only):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, eager, typing_only)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative imports are not used here"
            for alias in child.names:
                yield Import(f"{child.module}.{alias.name}", eager, typing_only)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(child, eager, True)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, eager and not inside, typing_only)


@cache
def imports_of(path):
    return tuple(_walk(ast.parse(path.read_text(encoding="utf-8")), True, False))


def own(name):
    """The module of ours that an imported name is or lies in, or None."""
    if name != ROOT and not name.startswith(f"{ROOT}."):
        return None
    name = name.removeprefix(ROOT).removeprefix(".")
    return name if name in MODULES else name.rpartition(".")[0]


def own_imports(module, *, eager_only=False):
    """The modules of ours that a module imports when it runs."""
    return {
        target
        for item in imports_of(MODULES[module])
        if not item.typing_only
        and (item.eager or not eager_only)
        and (target := own(item.name)) is not None
        and target != module
    }


def third_party(path, *, eager_only=False):
    """The top-level packages of others that a file imports."""
    return {
        top
        for item in imports_of(path)
        if not item.typing_only
        and (item.eager or not eager_only)
        and (top := item.name.partition(".")[0]) not in sys.stdlib_module_names
        and top != ROOT
    }


def reached(module, *, eager_only=False):
    """A module and all modules of ours that its imports lead to."""
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += own_imports(name, eager_only=eager_only)
    return seen


def packages_reached(module, *, eager_only=False):
    return {
        package: name
        for name in reached(module, eager_only=eager_only)
        for package in third_party(MODULES[name], eager_only=eager_only)
    }


PLACED = [module for module in MODULES if module]
FLOOR = {package: number for number, line in enumerate(FLOORS.split("\n")) for package in line.split()}


def test_packages_import_from_lower_floors_only():
    assert {module.partition(".")[0] for module in PLACED} == FLOOR.keys()
    arrows = {(module.partition(".")[0], name.partition(".")[0]) for module in PLACED for name in own_imports(module)}
    arrows -= {(package, to) for package, to in arrows if to in ("", package)}
    assert [(package, to) for package, to in arrows if FLOOR[to] >= FLOOR[package]] == []


def test_no_imports_go_in_circles():
    graph = {module: own_imports(module) - {""} for module in PLACED}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) >= len(PLACED)


def test_the_package_imports_no_entry_point():
    names = {path.stem for path in (PROJECT / "entrypoints").glob("*.py")}
    for module, path in MODULES.items():
        assert not names & third_party(path), module


@pytest.mark.parametrize("module", [name for name in PLACED if name.startswith("evaluation.")])
def test_evaluation_is_pure(module):
    assert not {"mlflow", "torch"} & packages_reached(module).keys()


@pytest.mark.parametrize("module", [name for name in PLACED if name.startswith("datasets.")])
def test_data_sets_need_neither_torch_nor_mlflow(module):
    assert not {"mlflow", "torch", "torchaudio", "torchvision"} & packages_reached(module).keys()


def test_mlflow_is_known_to_tracking_and_serving_alone():
    files = [*MODULES.values(), *(PROJECT / "entrypoints").glob("*.py")]
    users = {path.parent.name for path in files if "mlflow" in third_party(path)}
    assert users == {"tracking", "serving"}


def test_tracking_knows_no_data_set_and_no_search():
    known = {
        name.partition(".")[0] for module in PLACED if module.startswith("tracking.") for name in own_imports(module)
    }
    assert not known & {"datasets", "svm", "features", "spectrograms"}
    assert not any("optuna" in third_party(path) for module, path in MODULES.items() if module.startswith("tracking."))


@pytest.mark.parametrize("module", ["config.steps", "config.cli", "config.suite", "networks.registry"])
def test_what_a_command_line_needs_loads_nothing_heavy(module):
    assert packages_reached(module, eager_only=True).keys() <= LIGHT


@pytest.mark.parametrize("path", sorted((PROJECT / "entrypoints").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_an_entry_point_loads_what_it_runs_only_when_it_runs(path):
    eager = [item.name for item in imports_of(path) if item.eager and not item.typing_only]
    assert third_party(path, eager_only=True) - {"soak_bench"} == {"_project"}
    for module in filter(None, map(own, eager)):
        assert packages_reached(module, eager_only=True).keys() <= LIGHT, module


def test_plots_are_drawn_without_the_global_state_of_pyplot():
    for module, path in MODULES.items():
        assert not any(item.name.startswith("matplotlib.pyplot") for item in imports_of(path)), module


def test_nothing_that_is_read_from_a_file_is_unpickled():
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            assert not called.endswith(("pickle.load", "pickle.loads", "joblib.load")), module
            assert called != "torch.load" or options.get("weights_only") == "True", module
            assert options.get("allow_pickle", "False") == "False", module
