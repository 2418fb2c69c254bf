"""What is remembered is found again exactly as long as nothing that made it has changed: code, libraries, weights."""

import ast
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch

import soundstack
from soundstack.audio.decode import AudioSpec
from soundstack.config.base import DataConfig
from soundstack.config.steps import CrnnConfig, DeepSpectrumConfig, FuseConfig
from soundstack.crnn import system as crnn
from soundstack.datasets.open_data_set import open_data_set
from soundstack.deepspectrum import extract as deepspectrum
from soundstack.networks import cpu
from soundstack.networks.registry import NETWORKS
from soundstack.recognisers.base import MODULES
from soundstack.spectrograms import extract as spectrograms
from soundstack.tracking import reuse
from soundstack.training import cross_validation
from soundstack.utils import code_versions
from soundstack.utils.code_versions import code_version

SOURCE = Path(soundstack.__file__).parent
#: What is remembered, and by the code of what.
REMEMBERED = {
    "scans": ("audio.decode",),
    "log-mels": ("spectrograms.log_mel",),
    "features": ("deepspectrum.embedding", "utils.slices", NETWORKS["densenet121"].module),
    "folds": ("spectrograms.log_mel", "crnn.training"),
    "crnn": (CrnnConfig.made_by,),
    "deepspectrum": (DeepSpectrumConfig.made_by, NETWORKS["densenet121"].module),
    "fuse": (FuseConfig.made_by,),
    "predictions": ("prediction.run", *MODULES.values(), *sorted({spec.module for spec in NETWORKS.values()})),
    "demo": ("datasets.demo.dataset",),
}


def versions(package=SOURCE):
    return {what: code_version(*roots, package=package) for what, roots in REMEMBERED.items()}


@pytest.fixture
def changed_by(tmp_path):
    """What has another version once the text of a module is changed."""

    def changed(module, change):
        package = tmp_path / "soundstack"
        shutil.copytree(SOURCE, package)
        path = package / module
        text = path.read_text(encoding="utf-8")
        assert change(text) != text
        path.write_text(change(text), encoding="utf-8")
        before, after = versions(), versions(package)
        return {what for what in REMEMBERED if before[what] != after[what]}

    return changed


def another_constant(text):
    """A module that does something else."""
    return f"{text}\nANOTHER_CONSTANT = 1\n"


def test_the_same_code_in_another_folder_has_the_same_versions(tmp_path):
    shutil.copytree(SOURCE, tmp_path / "soundstack")
    assert versions(tmp_path / "soundstack") == versions()


def test_comments_and_docstrings_change_nothing_wherever_they_are(tmp_path):
    package = tmp_path / "soundstack"
    shutil.copytree(SOURCE, package)
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        if ast.get_docstring(tree):
            text = "\n" * 3 + text.replace('"""', '"""Said in other words. ', 1)
        path.write_text(f"# A comment.\n{text}\n# Another.\n", encoding="utf-8")
    assert versions(package) == versions()
    assert code_version(package=package) == code_version()


@pytest.mark.parametrize(
    "module", ["report/assemble.py", "tracking/card.py", "suites/summary.py", "serving/request_gate.py"]
)
def test_what_a_step_does_not_import_leaves_all_that_it_made(changed_by, module):
    assert changed_by(module, another_constant) == set()


def test_another_initialisation_of_random_networks_makes_their_features_anew(changed_by):
    changed = changed_by("networks/build.py", lambda text: text.replace("manual_seed(seed)", "manual_seed(seed + 1)"))
    assert "features" in changed
    assert not {"log-mels", "folds", "scans", "demo"} & changed


@pytest.mark.parametrize(
    ("network", "makes_anew"),
    [("densenet", {"features", "deepspectrum", "predictions"}), ("openl3", {"predictions"})],
)
def test_another_file_of_a_network_makes_anew_what_that_network_made(changed_by, network, makes_anew):
    assert changed_by(f"networks/{network}.py", another_constant) == makes_anew


def test_another_training_makes_folds_and_rows_anew_but_no_feature(changed_by):
    changed = changed_by("crnn/training.py", lambda text: text.replace("DECAY = 0.002", "DECAY = 0.003"))
    assert {"folds", "crnn"} <= changed
    assert not {"log-mels", "features", "scans", "demo"} & changed


def test_another_decoder_makes_everything_anew_that_was_decoded(changed_by):
    assert changed_by("audio/decode.py", another_constant) >= {
        "scans", "log-mels", "features", "folds", "crnn", "deepspectrum", "predictions"
    }  # fmt: skip


def test_imports_inside_functions_count_and_those_for_types_do_not(tmp_path):
    package = tmp_path / "soundstack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    lines = ["from typing import TYPE_CHECKING", "if TYPE_CHECKING:", "    from soundstack import hint"]
    (package / "root.py").write_text("\n".join([*lines, "def f():", "    from soundstack.late import value", ""]))

    def version(hint, late):
        (package / "hint.py").write_text(hint)
        (package / "late.py").write_text(late)
        code_versions._module.cache_clear()
        code_version.cache_clear()
        return code_version("root", package=package)

    first = version("a = 1", "value = 1")
    assert version("a = 2", "value = 1") == first
    assert version("a = 1", "value = 2") != first


@pytest.mark.parametrize(
    ("library", "makes_anew"),
    [
        ("numpy", set(REMEMBERED)),
        ("torchvision", {"features", "deepspectrum", "predictions"}),
        ("pillow", {"features", "deepspectrum", "predictions"}),
        ("mlflow", set()),
        ("requests", set()),
    ],
)
def test_another_version_of_a_library_makes_anew_what_is_computed_with_it(monkeypatch, library, makes_anew):
    before, installed = versions(), metadata.version

    def version(name):
        return "0.0.1" if name.lower() == library else installed(name)

    monkeypatch.setattr(code_versions.metadata, "version", version)
    code_version.cache_clear()
    after = versions()
    code_version.cache_clear()
    assert {what for what in REMEMBERED if before[what] != after[what]} == makes_anew


# what a store of features is found by ------------------------------------------------------------------------------


def store_of(tmp_path, device="cpu", **options):
    config = DeepSpectrumConfig(cache_dir=str(tmp_path / "cache"), **options)
    return deepspectrum.extraction(config, torch.device(device)).recipe(AudioSpec(16_000, 1.0)).store.folder


def test_another_device_precision_seed_or_form_of_the_network_has_other_features(tmp_path, monkeypatch):
    random = {"network": "vgg16", "pretraining": "none"}
    monkeypatch.setattr(cpu, "computes_bfloat16", lambda: True)
    folders = [
        store_of(tmp_path, **random),
        store_of(tmp_path, "cuda", **random),
        store_of(tmp_path, **random, precision="float32"),
        store_of(tmp_path, **random, shortcuts=False),
        store_of(tmp_path, **random, seed=1),
    ]
    assert len(set(folders)) == len(folders)
    assert store_of(tmp_path, **random) == folders[0]


def test_another_code_of_the_spectrograms_makes_folds_anew(tmp_path, tiny_csv, monkeypatch):
    folders = []
    monkeypatch.setattr(cross_validation, "train_fold", lambda job, progress: folders.append(job.checkpoint.parent))
    config = CrnnConfig(dataset="csv", data_dir=str(tiny_csv(tmp_path / "data")), cache_dir=str(tmp_path / "cache"))
    data_set = open_data_set(config)

    def train():
        made = spectrograms.extraction(config).finish(data_set)
        crnn.train_folds(data_set, made, crnn.training_spec(config), config, torch.device("cpu"), parts=["1"])

    train()
    train()
    monkeypatch.setattr(spectrograms, "code_version", lambda *roots: "another")
    train()
    first, again, other = folders
    assert first == again != other


def test_features_and_row_are_found_by_the_code_of_their_network(tmp_path, monkeypatch):
    for module in (deepspectrum, reuse):
        monkeypatch.setattr(module, "code_version", lambda *roots: " ".join(sorted(roots)))
    options = {"network": "densenet121", "pretraining": "none"}
    before = store_of(tmp_path, **options), reuse.row_key(DeepSpectrumConfig(**options), "data")
    moved = replace(NETWORKS["densenet121"], module="soundstack.networks.vgg")
    monkeypatch.setitem(NETWORKS, "densenet121", moved)
    after = store_of(tmp_path, **options), reuse.row_key(DeepSpectrumConfig(**options), "data")
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_another_file_of_weights_makes_features_and_row_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    options = {"network": "openl3_mel256_env_512", "weights_dir": str(tmp_path)}  # published without a checksum
    file = tmp_path / NETWORKS["openl3_mel256_env_512"].file
    row = DeepSpectrumConfig(**options)
    without = reuse.row_key(row, "data")
    file.write_bytes(b"some weights")
    first, first_row = store_of(tmp_path, **options), reuse.row_key(row, "data")
    assert store_of(tmp_path, **options) == first
    file.write_bytes(b"other weights")
    assert store_of(tmp_path, **options) != first
    assert len({without, first_row, reuse.row_key(row, "data")}) == 3


def test_published_weights_are_known_by_their_checksum_wherever_they_lie(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    assert store_of(tmp_path, network="vgg16", weights_dir=str(one)) == store_of(
        tmp_path, network="vgg16", weights_dir=str(other)
    )


def test_what_an_earlier_decoder_said_of_a_file_is_forgotten(tmp_path, tiny_csv):
    table, cache = tiny_csv(tmp_path / "data"), tmp_path / "cache"
    config = DataConfig(dataset="csv", data_dir=str(table), cache_dir=str(cache))
    whole = open_data_set(config)
    with closing(sqlite3.connect(cache / "scan.sqlite")) as database:
        ((name,),) = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        database.execute(f"UPDATE {name} SET frames = 17")
        database.commit()
        assert {scan.frames for scan in open_data_set(config).scans} == {17}, "it is remembered"
        database.execute(f"ALTER TABLE {name} RENAME TO scan_earlier")
        database.commit()
    assert open_data_set(config).scans == whole.scans
    with closing(sqlite3.connect(cache / "scan.sqlite")) as database:
        assert database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [(name,)]


def test_versions_that_hosts_compare_are_those_of_the_files_and_of_what_results_depend_on(tmp_path):
    names = code_versions.behind_results()
    here = code_versions.versions_of(names)
    assert {"soundstack", "torch", "numpy"} <= set(names) and not {"mlflow", "sqlalchemy"} & set(names)
    assert here["numpy"] == metadata.version("numpy")
    assert code_versions.versions_of(("no-such-thing",))["no-such-thing"] == "none"
    package = tmp_path / "soundstack"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert code_versions.versions_of(names, package) == here
    (package / "utils" / "folds.py").open("a").write("# another file\n")
    code_versions.versions_of.cache_clear()
    assert code_versions.versions_of(names, package)["soundstack"] != here["soundstack"]
