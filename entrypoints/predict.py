"""Recognise sound files of any length with a registered model, as tables and, on request, timeline pictures."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.places import project
from soundstack.config.tools import PredictConfig
from soundstack.utils.project import cores

if TYPE_CHECKING:
    from soundstack.prediction.tables import Totals

#: Tables larger than this, together, stay in the output folder and are not copied into the tracking store.
LARGEST_ARTIFACTS = 20 * 1024 * 1024


def run(config: PredictConfig) -> Totals:
    """Find the model and the files, score what is not done yet, and write the tables, as one MLflow run."""
    from soundstack.audio import find as sound_files
    from soundstack.prediction import run as prediction
    from soundstack.prediction import tables as prediction_tables
    from soundstack.prediction import timelines as prediction_timelines
    from soundstack.prediction.store import claim, model_key
    from soundstack.recognisers import base as recognisers
    from soundstack.suites import summary
    from soundstack.tracking import registered_models
    from soundstack.tracking import run as tracking
    from soundstack.utils import devices
    from soundstack.utils.errors import AudioError
    from soundstack.utils.progress import bar

    files = sound_files.find(config.input)
    model = registered_models.find_model(config.model)
    print(f"Model: {model.shown}{model.chosen and f', {model.chosen}'}")
    output = config.output_path(model.name)
    device = devices.choose(config.device)
    with (
        tracking.run(f"predict-{model.name}", config) as opened,
        claim(output, model_key(model.folder, model.shown, device.type)) as parts,
    ):
        with opened.stage("load"):
            recogniser = recognisers.load(model.folder, device)
        todo = [file for file in files if file not in parts]
        opened.settings(config, {"model": model.shown, "output_dir": output, "files": len(files)})
        started = time.perf_counter()
        with opened.stage("score"), bar("Recognising", sum(file.size for file in todo), "B") as advance:
            prediction.predict(recogniser, todo, parts, jobs=config.jobs or cores(), advance=advance)
        spent = time.perf_counter() - started
        with opened.stage("write"):
            totals = prediction_tables.write(output, files, parts, recogniser.labels, model.shown)
        if config.timeline:
            with opened.stage("draw"), bar("Drawing timelines", len(files), "files") as advance:
                prediction_timelines.draw(output, files, parts, recogniser.labels, model.shown, advance)
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
        tables = [output / name for name in prediction_tables.TABLES]
        if sum(table.stat().st_size for table in tables) < LARGEST_ARTIFACTS:
            for table in tables:
                shutil.copyfile(table, opened.folder / table.name)
    summary.after_prediction(
        totals,
        model=model.shown,
        output=output,
        taken=len(files) - len(todo),
        spent=spent,
        scored_seconds=scored_seconds,
        next_command=_next(config, model.shown, output),
    )
    return totals


def _next(config: PredictConfig, model: str, output: Path) -> str:
    if config.timeline:
        return f"Pictures: {output / 'timelines'}"
    given = {"model": model, "input": config.input, "output_dir": str(output)}
    parameters = " ".join(f"-P {name}={shlex.quote(value)}" for name, value in given.items())
    return f"Draw timelines of them: mlflow run {project()} -e predict {parameters} -P timeline=yes"


if __name__ == "__main__":
    cli.run(PredictConfig, run)
