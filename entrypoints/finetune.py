"""Train the top of a pre-trained network further, cross-validate it, and register it (the paper's future work)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.finetune import FinetuneConfig

if TYPE_CHECKING:
    from soundstack.evaluation.evaluation import RegisteredModel


def run(config: FinetuneConfig) -> RegisteredModel:
    """Make the views, train, tune where asked, evaluate and register as one MLflow run (trials are its children)."""
    from _steps import log_folds, register, scan_and_extract
    from soundstack.finetune import search
    from soundstack.finetune import system as finetune
    from soundstack.finetune.extract import extraction
    from soundstack.suites import summary
    from soundstack.tracking import run as tracking
    from soundstack.training import cross_validation
    from soundstack.utils import devices
    from soundstack.utils.progress import bar

    device = devices.choose(config.device)
    with tracking.run(config.model_name, config) as opened:
        data_set, views = scan_and_extract(opened, config, extraction(config, device), "views")
        chosen = config
        with opened.stage("train"):
            if config.trials > 1:
                chosen = search.tune(data_set, config, device, opened)
                views = extraction(chosen, device).finish(data_set)
            spec = finetune.training_spec(chosen, views.recipe.spec)
            parts = cross_validation.parts_of(data_set, nested=False)
            with bar("training", spec.epochs * config.ensemble * len(parts), "epochs") as advance:
                models = finetune.train_folds(data_set, views, spec, chosen, device, parts=parts, progress=advance)
        with opened.stage("evaluate"):
            trained = finetune.finish(data_set, views, spec, models, chosen)
        opened.settings(config, spec.to_json() | {"device": device.type})
        with opened.stage("track"):
            log_folds(opened, trained.folds)
            registered = register(opened, config, data_set, trained, "finetune")
    return summary.after_model(registered)


if __name__ == "__main__":
    cli.run(FinetuneConfig, run)
