"""Recognise sound files of any length with a registered model, as tables and, on request, timeline pictures."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.places import project
from soundstack.config.tools import PredictConfig
from soundstack.utils.project import cores

if TYPE_CHECKING:
    import torch

    from soundstack.audio.find import SoundFile
    from soundstack.prediction.store import PredictionStore
    from soundstack.prediction.tables import Totals
    from soundstack.tracking.run import Run

#: Tables larger than this, together, stay in the output folder and are not copied into the tracking store.
LARGEST_ARTIFACTS = 20 * 1024 * 1024


def run(config: PredictConfig) -> Totals:
    """Find the model and the files, score what is not done yet, and write the tables, as one MLflow run."""
    from soundstack.prediction import run as prediction
    from soundstack.prediction import tables as prediction_tables
    from soundstack.prediction import timelines as prediction_timelines
    from soundstack.prediction.store import claim, model_key
    from soundstack.recognisers import base as recognisers
    from soundstack.suites import summary
    from soundstack.tracking import registered_models
    from soundstack.tracking import run as tracking
    from soundstack.utils.errors import AudioError
    from soundstack.utils.progress import bar

    files = _found(config.input)
    model = registered_models.find_model(config.model)
    print(f"Model: {model.shown}{model.chosen and f', {model.chosen}'}")
    output, shown = config.output_path(model.name), config.output_uri or str(config.output_path(model.name))
    device, scored_by = _devices(config)
    with (
        tracking.run(f"predict-{model.name}", config) as opened,
        claim(output, model_key(model.folder, model.shown, scored_by)) as parts,
    ):
        with opened.stage("load"):
            recogniser = recognisers.load(model.folder, device)
        todo = [file for file in files if file not in parts]
        opened.settings(config, {"model": model.shown, "output_dir": shown, "files": len(files)})
        started = time.perf_counter()
        with opened.stage("score"), bar("Recognising", sum(file.size for file in todo), "B") as advance:
            if config.cluster == "none":
                prediction.predict(recogniser, todo, parts, jobs=config.jobs or cores(), advance=advance)
            else:
                _score_on_hosts(config, opened, model.folder, files, parts, advance)
        spent = time.perf_counter() - started
        with opened.stage("write"):
            totals = prediction_tables.write(output, files, parts, recogniser.labels, model.shown, recogniser.none)
            _keep_tables(config, opened, output)
        if config.timeline:
            with opened.stage("draw"), bar("Drawing timelines", len(files), "files") as advance:
                prediction_timelines.draw(
                    output,
                    files,
                    parts,
                    recogniser.labels,
                    model.shown,
                    advance,
                    uri=config.output_uri,
                    rule=recogniser.none,
                )
        found = (parts.read(file) for file in todo)
        scored_seconds = sum(each.seconds for each in found if not isinstance(each, AudioError))
        opened.metrics(
            {
                "files": totals.files,
                "files_bad": totals.bad,
                "files_scored": len(todo),
                "windows": totals.windows,
                "hours": totals.seconds / 3600,
            }
        )
        if todo:
            opened.metrics({"files_per_second": len(todo) / spent, "audio_seconds_per_second": scored_seconds / spent})
    summary.after_prediction(
        totals,
        model=model.shown,
        output=shown,
        taken=len(files) - len(todo),
        spent=spent,
        scored_seconds=scored_seconds,
        next_command=_next(config, model.shown, shown),
    )
    return totals


def _found(wanted: str) -> list[SoundFile]:
    from soundstack.audio import find as sound_files
    from soundstack.audio.find_stored import find_stored
    from soundstack.utils import object_store

    return find_stored(wanted) if object_store.is_uri(wanted) else sound_files.find(wanted)


def _devices(config: PredictConfig) -> tuple[torch.device, str]:
    """The device of this machine, and the kind of that which scores: of a cluster, the hosts'."""
    from soundstack.utils import devices

    here = devices.choose(config.device if config.cluster == "none" else "cpu")
    return here, devices.working(config.cluster, config.cluster_gpus, here).type


def _score_on_hosts(
    config: PredictConfig,
    opened: Run,
    model: Path,
    files: Sequence[SoundFile],
    parts: PredictionStore,
    advance: Callable[[int], object],
) -> None:
    """Score what is not done yet on the hosts of a cluster."""
    from _steps import tell_processors
    from soundstack.prediction import hosts
    from soundstack.utils.cluster import Cluster

    cluster = Cluster(config.cluster, config.cluster_cpus, config.cluster_gpus)
    processors = hosts.score(cluster, model, files, parts, config.output_uri, advance=advance)
    tell_processors(opened, processors, "scored these files")


def _keep_tables(config: PredictConfig, opened: Run, output: Path) -> None:
    """Send the tables to the store where they belong, and small ones to the run."""
    from soundstack.prediction.tables import TABLES
    from soundstack.utils import object_store

    tables = [output / name for name in TABLES]
    if config.output_uri:
        for table in tables:
            object_store.upload(table, f"{config.output_uri}/{table.name}")
    if sum(table.stat().st_size for table in tables) < LARGEST_ARTIFACTS:
        for table in tables:
            shutil.copyfile(table, opened.folder / table.name)


def _next(config: PredictConfig, model: str, output: str) -> str:
    if config.timeline:
        return f"Pictures: {output}/timelines"
    given = {"model": model, "input": config.input, "output_dir": output}
    if config.cluster != "none":
        given |= {"cluster": config.cluster}
    parameters = " ".join(f"-P {name}={shlex.quote(value)}" for name, value in given.items())
    return f"Draw timelines of them: mlflow run {project()} -e predict {parameters} -P timeline=yes"


if __name__ == "__main__":
    cli.run(PredictConfig, run)
