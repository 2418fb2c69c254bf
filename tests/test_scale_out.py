"""The pure parts of the set-up of several machines, which itself needs root, Ray, Swift and PostgreSQL."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from soundstack.utils import cluster

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "scale_out"
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    for path in FOLDER.glob("*.py"):  # `run` is another script elsewhere
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])


def module(name: str) -> ModuleType:
    return import_module(name)


def test_environments_have_the_projects_pins_and_extras() -> None:
    required, extras = module("run").pins((ROOT / "conda.yaml").read_text(encoding="utf-8"))
    assert len(required) > 30 and all(pin.count("==") == 1 for pin in required)
    assert extras[0] == cluster.REQUIREMENT
    assert extras[1].startswith("psycopg[binary]==") and len(extras) == 2


def test_every_figure_says_what_it_shows_and_stands_on_the_page_with_its_command() -> None:
    for name, figure in module("run").FIGURES.items():
        assert figure.__doc__
        assert f"`{name}`" in PAGE, f"docs/scale.md: Measured lacks {name}"


def test_a_host_sees_what_it_keeps_of_hidden_folders_and_nothing_else_of_them() -> None:
    lines = module("bed")._boot("one", [Path("/home/me")], [Path("/home/me/a b")], "peer-1", "10.77.0.11")
    kept, hidden, back = (lines.index(line) for line in (
        "mount --bind '/home/me/a b' /mnt/0",
        "mount -t tmpfs none /home/me",
        "mount --bind /mnt/0 '/home/me/a b'",
    ))  # fmt: skip
    assert kept < hidden < back
    assert lines[0] == "set -e"


def test_machines_have_addresses_of_their_own() -> None:
    names = module("machines").NAMES
    assert len(set(names.values())) == len(names) == 5


def test_only_indices_of_shards_count_as_stored() -> None:
    names = ["logmel-1/spec.json", "logmel-1/a.npy", "logmel-1/a.json", "logmel-1/b.npy"]
    assert module("machines").finished(names) == ["logmel-1/a.json"]


@pytest.mark.parametrize("there", [{}, {"a": "1"}, {"a": "1", "b": "3"}, {"a": "1", "b": "2", "c": "3"}])
def test_files_that_lack_or_differ_or_are_more_are_not_equal(there: dict[str, str]) -> None:
    machines = module("machines")
    here = {"a": "1", "b": "2"}
    assert machines.compare(here, dict(here)) == 2
    with pytest.raises(module("bed").BedError):
        machines.compare(here, there)


def test_files_of_a_kind_of_features_have_the_digests_of_what_they_hold(tmp_path: Path) -> None:
    for name, text in {"logmel-1/a.npy": "x", "logmel-1/a.json": "x", "logmel-1/.lock": "", "vgg-1/a.npy": "y"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = module("machines").digests(tmp_path, "logmel")
    assert sorted(found) == ["logmel-1/a.json", "logmel-1/a.npy"]
    assert set(found.values()) == {"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}


def test_processor_time_is_that_between_two_slices_of_one_process() -> None:
    assert module("inside")._steps([(1, 2.0), (2, 10.0), (1, 3.0), (2, 10.5), (3, 99.0)]) == [1.0, 0.5]


def test_slurms_figure_takes_the_script_of_the_page() -> None:
    slurm = module("slurm")
    script = slurm.script(PAGE)
    assert script.startswith("#!/bin/bash\n#SBATCH --nodes=2 ") and "--dataset esc10" in script
    with pytest.raises(module("bed").BedError):
        slurm.script(PAGE.replace("#SBATCH --nodes=4", "#SBATCH --nodes=8"))


def test_a_wait_is_bounded() -> None:
    bed = module("bed")
    assert bed.until(lambda: True, 1, "it") < 1
    with pytest.raises(bed.BedError, match="it: not within 0 s"):
        bed.until(lambda: False, 0, "it")
