"""Run the project's tests: ``mlflow run . -e test``; further pytest options go after ``--options``."""

from __future__ import annotations

import os
import shlex
import sys

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.tools import TestConfig
from soundstack.utils.project import PROJECT


def run(config: TestConfig) -> None:
    """Run pytest over ``tests``; its exit status is ours."""
    import pytest

    # The tests open runs of their own, in stores of their own.
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.chdir(PROJECT)
    sys.stdout.flush()
    given = [] if config.options == "none" else shlex.split(config.options)
    workers = str(min(4, os.cpu_count() or 1))
    status = pytest.main(["tests", "-n", workers, "--dist", "loadfile", *given])
    if status:
        raise SystemExit(int(status))


if __name__ == "__main__":
    cli.run(TestConfig, run)
