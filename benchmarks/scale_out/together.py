"""Figures of everything together: two hosts give commands to one cluster, with PostgreSQL, MLflow and the store."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bed import BedError, kill, until
from machines import Setup
from services import ADDRESS, STUDIES, TRACKING

if TYPE_CHECKING:
    from mlflow.entities import Run

_SUITE: dict[str, str | int] = {"dataset": "esc10", "suite": "quick", "epochs": 3}
_SYSTEMS = 4
_SEARCH: dict[str, str | int] = {"dataset": "esc10", "epochs": 2, "trials": 4, "parallel_trials": 2, "suffix": "search"}
#: Steps of learning may take so long.
_PATIENCE = 590.0


def rows(setup: Setup) -> str:
    """A run whose host was switched off is closed by another one; of two hosts, one trains each row, both use it."""
    import mlflow

    setup.embedded("main", **_SUITE)
    _hosts(setup)
    command = setup.command("main", **_SUITE, **_places("rows"))
    mlflow.set_tracking_uri(TRACKING)
    setup.hosts["a"].begin(command, "rows-killed")
    until(lambda: bool(_claims()), 300, "rows: a first row under way", 0.5)
    orphan, killed = _claims()[0], time.monotonic()
    setup.hosts["a"].kill()
    both = [setup.hosts["b"].begin(command, "rows")]
    try:
        until(lambda: mlflow.get_run(orphan).info.status == "KILLED", 400, "rows: the dead run is closed", 1)
        closed = time.monotonic() - killed
        setup.leave("a")
        both.append(setup.join("a", 0).begin(command, "rows"))
        codes = [process.wait(_PATIENCE) for process in both]
    finally:
        for process in both:
            kill(process)
    said = [setup.hosts[name].said("rows") for name in ("a", "b")]
    if any(codes):
        raise BedError(f"rows: ended with {codes}; {said[0][-800:]} {said[1][-800:]}")
    reused = [text.count("done already, reused") for text in said]
    trained = [run for run in _models(TRACKING) if run.info.run_name in _newest(_local(setup))]
    if sum(reused) != _SYSTEMS or len(trained) != _SYSTEMS:
        raise BedError(f"rows: {len(trained)} runs of models, {reused} reused, of {_SYSTEMS}")
    _check_same(setup, [run.info.run_name for run in trained])
    return (
        f"the run of a host that was switched off closed by another one after {closed:.0f} s; {_SYSTEMS} rows trained "
        f"once, {reused[0]} reused by the first host, which came back; {time.monotonic() - killed:.0f} s in all; "
        "predictions equal"
    )


def folds(setup: Setup) -> str:
    """Folds and trials of a search of the CRNN, two trials at a time, as tasks: equal to one machine's."""
    import mlflow

    setup.embedded("crnn", **_SEARCH)
    _hosts(setup)
    started = time.monotonic()
    _must(setup, setup.command("crnn", **_SEARCH, **_places("folds")))
    seconds = time.monotonic() - started
    name = "esc10-crnn-search"
    _check_same(setup, [name])
    values = []
    for uri in (_local(setup), TRACKING):
        mlflow.set_tracking_uri(uri)
        history = mlflow.MlflowClient().get_metric_history(_newest(uri)[name], "trial_macro_f1")
        values.append(sorted((each.step, each.value) for each in history))
    if values[0] != values[1] or len(values[0]) < 2:
        raise BedError(f"folds: trials differ: {values}")
    told = f"{_SEARCH['trials']} trials, {_SEARCH['parallel_trials']} at a time, {seconds:.0f} s"
    return f"{told}; trials' scores and predictions equal"


def predict(setup: Setup) -> str:
    """Predictions for an archive in the store, with the tables there: equal to one machine's."""
    from soundstack.utils import object_store

    setup.embedded("main", **_SUITE)
    _hosts(setup)
    if "esc10-fusion" not in _newest(TRACKING):
        _must(setup, setup.command("main", **_SUITE, **_places("rows")))
    here, there = setup.place.work / "reference" / "predicted", "s3://out/predicted"
    shutil.rmtree(here, ignore_errors=True)
    setup.embedded("predict", model="esc10-fusion", input=str(setup.sounds / "audio"), output_dir=str(here))
    started = time.monotonic()
    given = {"model": "esc10-fusion", "input": "s3://sounds/esc10/audio", "output_dir": there, "cluster": ADDRESS}
    _must(setup, setup.command("predict", **given))
    seconds = time.monotonic() - started
    for name in ("predictions.csv", "files.csv", "errors.csv"):
        local, stored = (here / name).read_text(), object_store.read(f"{there}/{name}").decode()
        if without_places(local) != without_places(stored):
            raise BedError(f"predict: {name} differs from that of one machine")
    number = len((here / "files.csv").read_text().splitlines()) - 1
    return f"{number} files in {seconds:.0f} s; tables equal"


def without_places(table: str) -> str:
    """A table without the folders of its files and the version of its model, which are of each place."""
    return re.sub(r"(s3:/)?/[^,\n\"]*/|esc10-fusion/\d+", "", table)


def _hosts(setup: Setup) -> None:
    setup.workers()
    if "b" not in setup.hosts:
        setup.join("b", 0)


def _places(name: str) -> dict[str, str | int]:
    cache = f"s3://cache/{name}"
    return {"data_dir": "s3://sounds/esc10", "cache_dir": cache, "cluster": ADDRESS, "studies": STUDIES}


def _must(setup: Setup, command: list[str]) -> None:
    done = setup.hosts["a"].run(command, _PATIENCE)
    if done.returncode:
        raise BedError(f"ended with {done.returncode}: {done.stderr[-2000:]}")


def _local(setup: Setup) -> str:
    return f"sqlite:///{setup.place.work}/reference/mlflow.db"


def _claims() -> list[str]:
    """Open runs that have a row under way."""
    import mlflow

    query = "attributes.status = 'RUNNING'"
    found = mlflow.search_runs(search_all_experiments=True, filter_string=query, output_format="list")
    return [run.info.run_id for run in found if any(tag.startswith("soundstack.claim") for tag in run.data.tags)]


def _models(uri: str) -> list[Run]:
    """The finished runs of models of a tracking store, the newest first."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    query = "attributes.status = 'FINISHED' and tags.registered_model LIKE '%'"
    return mlflow.search_runs(search_all_experiments=True, filter_string=query, output_format="list")


def _newest(uri: str) -> dict[str, str]:
    """The newest runs of models by name."""
    return {run.info.run_name: run.info.run_id for run in reversed(_models(uri))}


def _check_same(setup: Setup, names: Sequence[str]) -> None:
    """Compare predictions by model.

    Raises:
        BedError: They are not equal to the last bit.
    """
    import mlflow
    import pandas as pd

    runs = {uri: _newest(uri) for uri in (_local(setup), TRACKING)}
    for name in names:
        for part in ("devel", "test"):
            tables = []
            for uri, of_name in runs.items():
                mlflow.set_tracking_uri(uri)
                at = {"run_id": of_name[name], "artifact_path": f"predictions/{part}.parquet"}
                tables.append(pd.read_parquet(mlflow.artifacts.download_artifacts(**at)))
            if not tables[0].equals(tables[1]):
                raise BedError(f"{name}: predictions of {part} differ from those of one machine")
