"""docs/architecture.md is true: its examples work as they stand there, and its picture is that of today's imports."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).resolve().parents[1]
PAGE = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")

SERVE = """
import sys, mlflow, pandas
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[1]}@champion")
answers = model.predict(pandas.DataFrame({"audio": [open(path, "rb").read() for path in sys.argv[2:]]}))
print(*answers["label"])
"""
OPEN = """
import sys
sys.path.insert(0, "src")
from soundstack.config.base import DataConfig
from soundstack.datasets.open_data_set import open_data_set

table = open_data_set(DataConfig(dataset="two_tones", data_dir=sys.argv[1])).clip_table
print(table.name, *table.labels, *table.folds, len(table.test))
"""


def examples(heading: str) -> dict[str, str]:
    """The files that a section shows, by their path."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert section
    found = re.findall(r"```python\n# (\S+)\n(.*?)```", section[1], re.DOTALL)
    assert found
    return dict(found)


class Copy:
    """A copy of the project that examples are added to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("src", "entrypoints"):
            shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.environment = {k: value for k, value in os.environ.items() if not k.startswith(("MLFLOW_", "PYTHON"))}
        self.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"

    def add(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(text, encoding="utf-8")

    def python(self, *arguments: object) -> str:
        """What a Python process says that stands in the copy."""
        ended = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "copy")


def test_the_picture_is_that_of_the_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "docs"))
    import draw_architecture

    assert draw_architecture.drawn() == draw_architecture.text(draw_architecture.package_arrows())


def test_every_package_has_a_row_in_the_table() -> None:
    packages = {path.parent.name for path in (PROJECT / "src" / "soundstack").glob("*/__init__.py")}
    table = PAGE.partition("## The rooms")[2].partition("## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == packages


def test_every_file_that_is_named_is_there() -> None:
    text = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    for name in re.findall(r"`(\w+/\w+\.py)`", text):
        assert any((root / name).is_file() for root in (PROJECT, PROJECT / "src" / "soundstack")), name
    for name in re.findall(r"\]\((\S+?)\)", text):
        assert (PROJECT / "docs" / name).resolve().is_file(), name


def test_add_a_data_set(copy: Copy, tone: Callable[..., Path], tmp_path: Path) -> None:
    copy.add(examples("Add a data set"))
    for label, hertz in (("low", 200), ("high", 900)):
        for number, fold in enumerate(("1", "2", "test")):
            tone(f"{label}-{fold}.wav", hertz=hertz + number)
    assert copy.python("-c", OPEN, tmp_path).split() == ["two_tones", "high", "low", "1", "2", "2"]
    assert "two_tones" in copy.python("entrypoints/main.py", "--help")


def _weights(folder: Path) -> str:
    """Write the example's published weights, by which pitches can be told apart; return their checksum."""
    time = torch.arange(64) / 16_000
    filters = torch.sin(2 * torch.pi * torch.linspace(150, 900, 8)[:, None] * time)
    folder.mkdir()
    torch.save({"module.filters.weight": filters[:, None], "module.filters.bias": torch.zeros(8)}, folder / "bands.pth")
    return hashlib.sha256((folder / "bands.pth").read_bytes()).hexdigest()


def _clips(table: Path) -> list[Path]:
    return [table.parent / f"pitch{label}-test-0.wav" for label in range(3)]


@pytest.mark.e2e
def test_add_a_network(copy: Copy, tiny_csv: Callable[..., Path], tmp_path: Path) -> None:
    table, ((name, text),) = tiny_csv(tmp_path / "data"), examples("Add a network").items()
    copy.add({name: text.replace("0123abcd", _weights(copy.folder / "weights"))})
    assert "bands" in copy.python("entrypoints/deepspectrum.py", "--help")
    data = ("--dataset=csv", f"--data_dir={table}", "--name=tiny")
    copy.python("entrypoints/deepspectrum.py", "--network=bands", "--weights_dir=weights", *data)
    (copy.folder / name).unlink()  # the model brings its own
    shutil.rmtree(copy.folder / "weights")
    served = copy.python("-c", SERVE, "tiny-bands-audioset", *_clips(table))
    assert served.split() == ["pitch0", "pitch1", "pitch2"]


@pytest.mark.e2e
def test_add_a_system(copy: Copy, tiny_csv: Callable[..., Path], tmp_path: Path) -> None:
    table, files = tiny_csv(tmp_path / "data"), examples("Add a system")
    copy.add(files)
    data = ("--dataset=csv", f"--data_dir={table}", "--name=tiny")
    assert "models:/tiny-mean_spectrum/1" in copy.python("entrypoints/mean_spectrum.py", *data)
    copy.python("entrypoints/deepspectrum.py", "--pretraining=none", *data)
    fused = copy.python("entrypoints/fuse.py", "--dataset=csv", "--name=tiny", "--members=all")
    assert "models:/tiny-fusion/1" in fused
    for name in files:
        (copy.folder / name).unlink()
    for model in ("tiny-mean_spectrum", "tiny-fusion"):
        assert copy.python("-c", SERVE, model, *_clips(table)).split() == ["pitch0", "pitch1", "pitch2"]
