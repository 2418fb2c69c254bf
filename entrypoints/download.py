"""Fetch a published data set, verified and resumable, into the folder where the other entry points look for it."""

from __future__ import annotations

import shlex

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.places import project
from soundstack.config.tools import DownloadConfig


def run(config: DownloadConfig) -> None:
    """Download, verify and unpack what is missing; log what was fetched as one MLflow run."""
    from soundstack.datasets.download import download
    from soundstack.tracking import run as tracking

    with tracking.run(f"{config.dataset}-download", config) as opened:
        with opened.stage("download"):
            done = download(
                config.dataset,
                config.folder,
                base_url=None if config.base_url == "official" else config.base_url,
                keep_archives=config.keep_archives,
                jobs=config.jobs,
                parts=None if config.parts == "all" else [part.strip() for part in config.parts.split(",")],
            )
        opened.settings(config, {"folder": str(config.folder)})
        opened.metrics({"archives_fetched": len(done.fetched), "archives_present": len(done.present)})
        opened.tags({"dataset": config.dataset})
    given = f"-P dataset={config.dataset} -P data_dir={shlex.quote(str(config.folder))}"
    print(f"Next: mlflow run {project()} --env-manager local {given}")


if __name__ == "__main__":
    cli.run(DownloadConfig, run)
