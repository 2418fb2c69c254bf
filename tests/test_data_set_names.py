"""The data sets by name: each is one module, which registers it, and the command line knows no other."""

from __future__ import annotations

from typing import get_args

from soundstack.config.base import DataSetName
from soundstack.config.tools import DownloadConfig
from soundstack.datasets.catalogue import data_sets


def test_the_command_line_knows_the_data_sets_that_are_registered_and_no_other() -> None:
    known = {"csv", "dcase2017", "dcase2018", "demo", "esc10", "esc50"}
    assert set(get_args(DataSetName)) == known == data_sets().keys()
    published = {entry.source.name for entry in data_sets().values() if entry.source}
    assert published == set(get_args(DownloadConfig.model_fields["dataset"].annotation))
