"""Run everything on one data set, as children of one MLflow run: extract, train, fuse, and a table of all systems."""

from __future__ import annotations

import _project  # noqa: F401  (first: makes src importable)
from soundstack import cli
from soundstack.config import (
    CrnnConfig,
    DataConfig,
    DeepSpectrumConfig,
    ExtractConfig,
    FuseConfig,
    MainConfig,
)


def run(config: MainConfig) -> None:
    """Run the steps one after the other in this process; a step that fails is a FAILED child of a FAILED parent."""
    import crnn
    import deepspectrum
    import extract
    import fuse
    from soundstack import summary, tracking

    shared = {name: getattr(config, name) for name in DataConfig.model_fields}
    with tracking.run(f"{config.dataset}-main", config) as opened:
        opened.settings(config, {})
        opened.tags({"dataset": config.dataset})
        with opened.stage("extract"):
            extract.run(ExtractConfig(**shared))
        trained = []
        for system in config.systems.split(","):
            with opened.stage(system):
                if system == "crnn":
                    trained.append(crnn.run(CrnnConfig(**shared, epochs=config.epochs, trials=config.trials)))
                else:
                    network, _, pretraining = system.rpartition("-")
                    settings = DeepSpectrumConfig.model_validate(
                        shared | {"network": network, "pretraining": pretraining}
                    )
                    trained.append(deepspectrum.run(settings))
        if len(trained) > 1:
            members = ",".join(f"{system.name}/{system.version}" for system in trained)
            with opened.stage("fuse"):
                trained.append(
                    fuse.run(
                        FuseConfig(
                            dataset=config.dataset,
                            members=members,
                            seed=config.seed,
                            cache_dir=config.cache_dir,
                        )
                    )
                )
        summary.log(opened, trained)
    summary.after_main(config.dataset, trained)


if __name__ == "__main__":
    cli.run(MainConfig, run)
