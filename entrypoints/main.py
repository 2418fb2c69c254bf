"""Run a suite on one data set as children of one MLflow run: extract, train, fuse, and a table of all systems."""

from __future__ import annotations

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.base import DataConfig
from soundstack.config.steps import ExtractConfig, MainConfig


def run(config: MainConfig) -> None:
    """Run the steps one after the other in this process; a step that fails is a FAILED child of a FAILED parent."""
    import crnn
    import deepspectrum
    import extract
    import finetune
    import fuse
    from soundstack.suites import summary
    from soundstack.suites.runner import Steps, run_suite
    from soundstack.tracking import run as tracking

    shared = {name: getattr(config, name) for name in DataConfig.model_fields}
    with tracking.run(f"{config.data_name}-main", config) as opened:
        opened.settings(config, {"suite": config.chosen_suite.model_dump_json()})
        with opened.stage("extract"):
            data_set = extract.run(ExtractConfig(**shared))
        opened.tags({"dataset": config.data_name})  # no fingerprint: that marks the runs of models
        steps: Steps = {each.__name__: each.run for each in (crnn, deepspectrum, finetune, fuse)}
        outcomes = run_suite(config, steps, data_set.fingerprint)
        for outcome in outcomes:
            opened.stages[outcome.name] = opened.stages.get(outcome.name, 0.0) + outcome.seconds
        note = summary.unequal_classes(data_set.devel_counts(), config.class_weight)
        summary.log(opened, outcomes, note)
    summary.after_main(outcomes, note)


if __name__ == "__main__":
    cli.run(MainConfig, run)
