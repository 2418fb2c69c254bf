"""The soak bench: kills, faults, hostile requests, load and fuzzing; what held, what did not, and how fast."""

from __future__ import annotations

import tempfile
from pathlib import Path

import _project  # noqa: F401  (first: makes src importable)
from soak_bench.config import SoakConfig
from soundstack.config import cli


def run(config: SoakConfig) -> None:
    """Run the chosen parts on things of their own, and log what they found as the run ``soak``.

    Raises:
        SoakError: Something does not hold; the run is FAILED and has the results.
    """
    from soak_bench import bench, outcome
    from soundstack.tracking import run as tracking
    from soundstack.utils.errors import SoakError
    from soundstack.utils.files import copy_files

    with (
        tracking.run("soak", config) as opened,
        tempfile.TemporaryDirectory(prefix="soundstack-soak-", ignore_cleanup_errors=True) as folder,
    ):
        opened.settings(config, {})
        parts = []
        for part in bench.run(config, Path(folder)):
            parts.append(part)
            opened.stages[part.name] = part.figures.get("seconds", 0.0)
            opened.metrics({f"{part.name}/{name}": value for name, value in part.figures.items()})
            opened.metrics({f"{part.name}/checks_failed": len(part.failed)})
            files = outcome.write(parts, opened.folder)
        copy_files(opened.folder, files, Path(config.output_dir))
        print(
            f"Results:  {Path(config.output_dir) / files[0]}\n          They lie with the MLflow run {opened.id}, too"
        )
        if failed := [f"{part.name}: {check.what} ({check.detail})" for part in parts for check in part.failed]:
            raise SoakError(" ".join(f"{len(failed)} checks do not hold: {'; '.join(failed)}".split())[:2000])


if __name__ == "__main__":
    cli.run(SoakConfig, run)
