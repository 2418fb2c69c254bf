"""A network is added by one file: the example of docs/architecture.md, from the command line to the served model."""

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
pytestmark = pytest.mark.e2e

SERVE = """
import sys, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/tiny-bands-audioset@champion")
answers = model.predict(pandas.DataFrame({"audio": [open(path, "rb").read() for path in sys.argv[1:]]}))
print(*answers["label"])
"""


def example() -> str:
    """The file that the documentation shows."""
    page = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = re.search(r"^#+ Add a network\n.*?```python\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def weights(folder: Path) -> str:
    """Write the example's published weights, by which pitches can be told apart; return their checksum."""
    time = torch.arange(64) / 16_000
    filters = torch.sin(2 * torch.pi * torch.linspace(150, 900, 8)[:, None] * time)
    folder.mkdir()
    torch.save({"module.filters.weight": filters[:, None], "module.filters.bias": torch.zeros(8)}, folder / "bands.pth")
    return hashlib.sha256((folder / "bands.pth").read_bytes()).hexdigest()


def test_a_network_in_one_file_is_known_trained_and_served(
    tmp_path: Path, tiny_csv: Callable[..., Path], store_file: Path
) -> None:
    shutil.copy(store_file, tmp_path / "mlflow.db")
    table = tiny_csv(tmp_path / "data")
    for folder in ("src", "entrypoints"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "src" / "soundstack" / "networks" / "bands.py"
    file.write_text(example().replace("0123abcd", weights(tmp_path / "weights")), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON"))}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def python(*arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert "bands" in python("entrypoints/deepspectrum.py", "--help")

    options = {"network": "bands", "dataset": "csv", "data_dir": table, "name": "tiny", "weights_dir": "weights"}
    python("entrypoints/deepspectrum.py", *(f"--{name}={value}" for name, value in options.items()))

    file.unlink()  # the model brings its own
    shutil.rmtree(tmp_path / "weights")
    clips = [str(table.parent / f"pitch{label}-test-0.wav") for label in range(3)]
    assert python("-c", SERVE, *clips).split() == ["pitch0", "pitch1", "pitch2"]
