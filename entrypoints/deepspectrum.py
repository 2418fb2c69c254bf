"""Train a linear SVM on the features of a pre-trained or random CNN, score it, and register it (paper section 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.steps import DeepSpectrumConfig
from soundstack.networks.registry import network_spec

if TYPE_CHECKING:
    from soundstack.evaluation.evaluation import RegisteredModel


def run(config: DeepSpectrumConfig) -> RegisteredModel:
    """Extract features, search C, evaluate and register as one MLflow run."""
    from _steps import register, scan_and_extract
    from soundstack.deepspectrum import system as deepspectrum
    from soundstack.deepspectrum.extract import extraction
    from soundstack.suites import summary
    from soundstack.tracking import run as tracking
    from soundstack.utils import devices

    device = devices.choose(config.device)
    with tracking.run(config.model_name, config) as opened:
        begun = extraction(config, device)
        data_set, features = scan_and_extract(opened, config, begun, config.network)
        with opened.stage("fit"):
            trained = deepspectrum.train(data_set, features, config, device)
        opened.settings(config, features.recipe.spec.to_json() | {"C": trained.search.chosen, "device": device.type})
        with opened.stage("track"):
            opened.metrics({"examples_made": features.report.made, "examples_reused": features.report.reused})
            trained.search.log(opened)
            registered = register(opened, config, data_set, trained, network_spec(config.network).family)
    return summary.after_model(registered)


if __name__ == "__main__":
    cli.run(DeepSpectrumConfig, run)
