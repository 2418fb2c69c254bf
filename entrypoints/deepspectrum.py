"""Train a linear SVM on the features of a pre-trained or random CNN, score it, and register it (paper section 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.steps import DeepSpectrumConfig
from soundstack.networks.spec import NETWORKS

if TYPE_CHECKING:
    from soundstack.evaluation.evaluation import Trained


def run(config: DeepSpectrumConfig) -> Trained:
    """Extract features, search C, evaluate and register as one MLflow run."""
    from soundstack.datasets.open_corpus import open_corpus
    from soundstack.deepspectrum import system as deepspectrum
    from soundstack.suites import summary
    from soundstack.tracking import ownership, registry
    from soundstack.tracking import run as tracking
    from soundstack.utils import devices
    from soundstack.utils.progress import bar

    device = devices.choose(config.device)
    with tracking.run(config.model_name, config) as opened:
        with opened.stage("scan"):
            begun = deepspectrum.extraction(config, device)
            corpus = open_corpus(config, begun)
        ownership.require(corpus.tags)
        opened.corpus(corpus)
        with opened.stage("extract"), bar(config.network, len(corpus.clips), "clips") as advance:
            features = deepspectrum.features_of(corpus, config, device, advance, begun)
        opened.parts["scan"] = begun.report.seconds
        opened.parts["extract"] = features.report.seconds
        with opened.stage("fit"):
            trained = deepspectrum.train(corpus, features, config, device)
        opened.settings(config, features.spec.to_json() | {"C": trained.search.chosen, "device": device.type})
        with opened.stage("track"):
            opened.metrics({"examples_made": features.report.made, "examples_reused": features.report.reused})
            opened.cost_search(trained.search)
            opened.evaluation(trained.evaluation)
            registered = registry.register(
                opened,
                config,
                trained.recogniser,
                trained.evaluation,
                corpus.tags | {"family": NETWORKS[config.network].family},
                config.limits,
            )
    return summary.after_model(registered)


if __name__ == "__main__":
    cli.run(DeepSpectrumConfig, run)
