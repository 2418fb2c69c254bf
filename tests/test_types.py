"""The type checker, with the configuration in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from mypy import api

PROJECT = Path(__file__).resolve().parents[1]


def test_source_and_entry_points_are_well_typed(tmp_path: Path) -> None:
    settings = ["--config-file", str(PROJECT / "pyproject.toml"), "--cache-dir", str(tmp_path)]
    report, errors, status = api.run([*settings, str(PROJECT / "src"), str(PROJECT / "entrypoints")])
    assert status == 0, report + errors
