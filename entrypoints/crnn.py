"""Train the CRNN with cross-validation, score it on devel and test, and register it (paper section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.steps import CrnnConfig

if TYPE_CHECKING:
    from soundstack.evaluation.evaluation import RegisteredModel


def run(config: CrnnConfig) -> RegisteredModel:
    """Train, tune where asked, evaluate and register as one MLflow run (trials are its children)."""
    from _steps import log_folds, register, scan_and_extract
    from soundstack.crnn import search as crnn_tuning
    from soundstack.crnn import system as crnn
    from soundstack.spectrograms.extract import extraction
    from soundstack.suites import summary
    from soundstack.tracking import run as tracking
    from soundstack.training import cross_validation
    from soundstack.utils import devices
    from soundstack.utils.progress import bar

    device = devices.choose(config.device)
    with tracking.run(config.model_name, config) as opened:
        data_set, spectrograms = scan_and_extract(opened, config, extraction(config), "log-mel")
        with opened.stage("train"):
            if config.trials > 1:
                spec = crnn_tuning.tune(data_set, spectrograms, config, device, opened)
            else:
                spec = crnn.training_spec(config)
            parts = cross_validation.parts_of(data_set, nested=config.nested)
            with bar("training", spec.epochs * len(parts), "epochs") as advance:
                models = crnn.train_folds(data_set, spectrograms, spec, config, device, parts=parts, progress=advance)
        with opened.stage("evaluate"):
            trained = crnn.finish(data_set, spectrograms, spec, models, device, config.none_rate)
        trained_on = devices.working(config.cluster, config.cluster_gpus, device)
        opened.settings(
            config, spec.to_json() | {"spectrogram": spectrograms.recipe.spec.to_json(), "device": trained_on.type}
        )
        with opened.stage("track"):
            log_folds(opened, trained.folds)
            registered = register(opened, config, data_set, trained, "crnn")
    return summary.after_model(registered)


if __name__ == "__main__":
    cli.run(CrnnConfig, run)
