"""The type checker, with the configuration in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

import pytest
from mypy import api

PROJECT = Path(__file__).resolve().parents[1]


def test_source_and_entry_points_are_well_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)  # the configuration's folders are looked for where one stands
    settings = ["--config-file", str(PROJECT / "pyproject.toml"), "--cache-dir", str(tmp_path)]
    folders = [str(PROJECT / name) for name in ("src", "entrypoints", "soak_bench")]
    report, errors, status = api.run([*settings, *folders])
    assert status == 0, report + errors
