"""Train the CRNN with cross-validation, score it on devel and test, and register it (paper section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.steps import CrnnConfig

if TYPE_CHECKING:
    from soundstack.evaluation.evaluation import Trained


def run(config: CrnnConfig) -> Trained:
    """Train, tune where asked, evaluate and register as one MLflow run (trials are its children)."""
    from soundstack.crnn import search as crnn_tuning
    from soundstack.crnn import system as crnn
    from soundstack.datasets.open_corpus import open_corpus
    from soundstack.evaluation import plots
    from soundstack.evaluation.evaluation import save_figure
    from soundstack.spectrograms.extract import extraction, log_mels_of
    from soundstack.suites import summary
    from soundstack.tracking import ownership, registry
    from soundstack.tracking import run as tracking
    from soundstack.utils import devices
    from soundstack.utils.progress import bar

    device = devices.choose(config.device)
    with tracking.run(config.model_name, config) as opened:
        with opened.stage("scan"):
            begun = extraction(config)
            corpus = open_corpus(config, begun)
        ownership.require(corpus.tags)
        opened.corpus(corpus)
        with opened.stage("extract"), bar("log-mel", len(corpus.clips), "clips") as advance:
            spectrograms = log_mels_of(corpus, config, advance, begun)
        opened.parts["scan"] = begun.report.seconds
        opened.parts["extract"] = spectrograms.report.seconds
        with opened.stage("train"):
            if config.trials > 1:
                spec = crnn_tuning.tune(corpus, spectrograms, config, device, opened)
            else:
                spec = crnn.training_spec(config)
            parts = crnn.parts_of(corpus, nested=config.nested == "yes")
            with bar("training", spec.epochs * len(parts), "epochs") as advance:
                models = crnn.train_folds(
                    corpus,
                    spectrograms,
                    spec,
                    config,
                    device,
                    parts=parts,
                    on_epoch=lambda fold, epoch, values: advance(1),
                )
        with opened.stage("evaluate"):
            trained = crnn.finish(corpus, spectrograms, spec, models, device)
            folds = trained.folds
        opened.settings(config, spec.to_json() | {"spectrogram": spectrograms.spec.to_json(), "device": device.type})
        with opened.stage("track"):
            opened.metrics({"folds_reused": sum(fold.reused for fold in folds.values())})
            for step, values in crnn.curves(folds):
                opened.metrics(values, step)
            save_figure(
                plots.learning_curves_figure(crnn.histories(folds)),
                opened.folder / "curves" / "learning_curves.png",
            )
            opened.evaluation(trained.evaluation)
            registered = registry.register(
                opened,
                config,
                trained.recogniser,
                trained.evaluation,
                corpus.tags | {"family": "crnn"},
                config.limits,
            )
    return summary.after_model(registered)


if __name__ == "__main__":
    cli.run(CrnnConfig, run)
