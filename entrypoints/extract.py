"""Make log-mel spectrograms of a data set into the cache, and log what they look like (paper section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.steps import ExtractConfig

if TYPE_CHECKING:
    from soundstack.datasets.data_set import DataSet


def run(config: ExtractConfig) -> DataSet:
    """Extract, and log previews, statistics and the data fingerprint as one MLflow run."""
    from _steps import scan_and_extract
    from soundstack.evaluation import sound_plots
    from soundstack.spectrograms.extract import extraction, preview, statistics
    from soundstack.suites import summary
    from soundstack.tracking import run as tracking
    from soundstack.utils.files import save_figure, write_json

    with tracking.run(f"{config.data_name}-extract", config) as opened:
        data_set, made = scan_and_extract(opened, config, extraction(config), "log-mel")
        spec = made.recipe.spec
        opened.settings(config, {"spectrogram": spec.to_json(), "audio": data_set.audio.to_json()})
        opened.metrics({"examples_made": made.report.made, "examples_reused": made.report.reused})
        described = statistics(made.values)
        opened.metrics(described)
        with opened.stage("preview"):
            figure = sound_plots.spectrogram_grid_figure(
                preview(data_set, made.values),
                data_set.audio.sample_rate,
                data_set.audio.seconds,
                unit="dB" if spec.front_end == "paper" else "",
                htk=spec.front_end == "audeep",
            )
            save_figure(figure, opened.folder / "preview.png")
            write_json(opened.folder / "statistics.json", described)
    summary.after_extract(data_set, made)
    return data_set


if __name__ == "__main__":
    cli.run(ExtractConfig, run)
