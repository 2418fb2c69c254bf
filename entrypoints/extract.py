"""Make log-mel spectrograms of a data set into the cache, and log what they look like (paper section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.steps import ExtractConfig

if TYPE_CHECKING:
    from soundstack.datasets.corpus import Corpus


def run(config: ExtractConfig) -> Corpus:
    """Extract, and log previews, statistics and the data fingerprint as one MLflow run."""
    from soundstack.datasets.open_corpus import open_corpus
    from soundstack.evaluation import plots
    from soundstack.evaluation.evaluation import save_figure, write_json
    from soundstack.spectrograms.extract import extraction, log_mels_of, preview, statistics
    from soundstack.suites import summary
    from soundstack.tracking import ownership
    from soundstack.tracking import run as tracking
    from soundstack.utils.progress import bar

    with tracking.run(f"{config.data_name}-extract", config) as opened:
        with opened.stage("scan"):
            begun = extraction(config)
            corpus = open_corpus(config, begun)
        ownership.require(corpus.tags)  # before anything is trained: `main` begins here
        opened.corpus(corpus)
        with opened.stage("extract"), bar("log-mel", len(corpus.clips), "clips") as advance:
            made = log_mels_of(corpus, config, advance, begun)
        opened.settings(config, {"spectrogram": made.spec.to_json(), "audio": corpus.audio.to_json()})
        opened.metrics({"examples_made": made.report.made, "examples_reused": made.report.reused})
        opened.parts["scan"] = begun.report.seconds
        opened.parts["extract"] = made.report.seconds
        described = statistics(made.values)
        opened.metrics(described)
        with opened.stage("preview"):
            figure = plots.spectrogram_grid_figure(
                preview(corpus, made.values),
                corpus.audio.sample_rate,
                corpus.audio.seconds,
                unit="dB" if made.spec.front_end == "paper" else "",
                htk=made.spec.front_end == "audeep",
            )
            save_figure(figure, opened.folder / "preview.png")
            write_json(opened.folder / "statistics.json", described)
    summary.after_extract(corpus, made)
    return corpus


if __name__ == "__main__":
    cli.run(ExtractConfig, run)
