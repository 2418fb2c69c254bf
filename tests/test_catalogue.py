"""The data sets by name: each is one module, which registers it, and the command line knows no other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import soundstack
from soundstack.config.steps import DataSetName, DownloadConfig
from soundstack.datasets.catalogue import data_sets


def test_the_command_line_knows_the_data_sets_that_are_registered_and_no_other() -> None:
    assert (
        set(get_args(DataSetName)) == {"csv", "dcase2017", "dcase2018", "demo", "esc10", "esc50"} == data_sets().keys()
    )
    published = {entry.source.name for entry in data_sets().values() if entry.source}
    assert published == set(get_args(DownloadConfig.model_fields["dataset"].annotation))


TWO_TONES = '''
"""Two classes of tones; files are named <label>-<fold>.wav."""

from soundstack.datasets.catalogue import data_set
from soundstack.datasets.clips import Clip, ClipTable, check_splits


@data_set("two_tones")
def configured(config):
    paths = sorted(config.data_path.glob("*.wav"))
    clips = tuple(Clip(path.name, path, *path.stem.split("-"), group=path.name) for path in paths)
    check_splits(clips)
    return ClipTable("two_tones", clips, seconds=0.5, sample_rate=8000, licence="CC0")
'''

OPENED = """
import sys
from soundstack.config.base import DataConfig
from soundstack.datasets.open_data_set import open_data_set

data_set = open_data_set(DataConfig(dataset="two_tones", data_dir=sys.argv[1], cache_dir=sys.argv[2]))
print(data_set.clip_table.name, *data_set.clip_table.labels, *data_set.clip_table.folds, len(data_set.clip_table.test))
"""


def test_a_data_set_is_added_in_one_file(tmp_path: Path, tone: Callable[..., Path]) -> None:
    package = tmp_path / "src" / "soundstack"
    shutil.copytree(Path(soundstack.__file__).parent, package)
    (package / "datasets" / "two_tones.py").write_text(TWO_TONES)
    for label, hertz in (("low", 200), ("high", 900)):
        for number, fold in enumerate(("1", "2", "test")):
            tone(f"{label}-{fold}.wav", hertz=hertz + number)
    command = [sys.executable, "-c", OPENED, str(tmp_path), str(tmp_path / "cache")]
    opened = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(package.parent)}, capture_output=True, text=True, check=True
    )
    assert opened.stdout.split() == ["two_tones", "high", "low", "1", "2", "2"]
