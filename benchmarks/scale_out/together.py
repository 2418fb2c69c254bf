"""Figures of everything together: two hosts give commands to one cluster, with PostgreSQL, MLflow and the store."""

from __future__ import annotations

import time

from bed import BedError, kill, until
from machines import Setup
from services import ADDRESS, STUDIES, TRACKING

_SUITE: dict[str, str | int] = {"dataset": "esc10", "suite": "quick", "epochs": 3}
_SYSTEMS = 4


def rows(setup: Setup) -> str:
    """A suite whose host died is closed by others; of two hosts, one trains each row, the other reuses it."""
    import mlflow

    setup.embedded("main", **_SUITE)
    setup.workers()
    if "b" not in setup.hosts:
        setup.join("b", 0)
    places = {"data_dir": "s3://sounds/esc10", "cache_dir": "s3://cache/rows", "cluster": ADDRESS, "studies": STUDIES}
    command = setup.command("main", **_SUITE, **places)
    mlflow.set_tracking_uri(TRACKING)
    first = setup.hosts["a"].begin(command, "rows-killed")
    until(lambda: bool(_claims()), 300, "rows: a first row under way", 0.5)
    orphan = _claims()[0]
    kill(first)
    killed = time.monotonic()
    both = [setup.hosts[name].begin(command, "rows") for name in ("a", "b")]
    closed = until(lambda: mlflow.get_run(orphan).info.status == "KILLED", 400, "rows: the dead run is closed", 1)
    try:
        codes = [process.wait(580) for process in both]
    finally:
        for process in both:
            kill(process)
    said = [setup.hosts[name].said("rows") for name in ("a", "b")]
    if any(codes):
        raise BedError(f"rows: ended with {codes}; {said[0][-800:]} {said[1][-800:]}")
    reused = [text.count("done already, reused") for text in said]
    trained = _models(TRACKING)
    if sum(reused) != _SYSTEMS or len(trained) != _SYSTEMS:
        raise BedError(f"rows: {len(trained)} runs of models, {reused} reused, of {_SYSTEMS}")
    here = f"sqlite:///{setup.place.work}/reference/mlflow.db"
    _check_same(_models(here), trained, here)
    return (
        f"the killed run closed by another host after {closed:.0f} s; {_SYSTEMS} rows trained once, "
        f"{reused[0]} and {reused[1]} reused; {time.monotonic() - killed:.0f} s in all; predictions equal"
    )


def _claims() -> list[str]:
    """Open runs that have a row under way."""
    import mlflow

    query = "attributes.status = 'RUNNING'"
    found = mlflow.search_runs(search_all_experiments=True, filter_string=query, output_format="list")
    return [run.info.run_id for run in found if any(tag.startswith("soundstack.claim") for tag in run.data.tags)]


def _models(uri: str) -> dict[str, str]:
    """The finished runs of models of a tracking store, the newest by name."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    query = "attributes.status = 'FINISHED' and tags.registered_model LIKE '%'"
    found = mlflow.search_runs(search_all_experiments=True, filter_string=query, output_format="list")
    return {run.info.run_name: run.info.run_id for run in reversed(found)}


def _check_same(here: dict[str, str], there: dict[str, str], local: str) -> None:
    """Compare predictions by model.

    Raises:
        BedError: They are not equal to the last bit.
    """
    import mlflow
    import pandas as pd

    for name, run in there.items():
        for part in ("devel", "test"):
            tables = []
            for uri, each in ((local, here[name]), (TRACKING, run)):
                mlflow.set_tracking_uri(uri)
                path = mlflow.artifacts.download_artifacts(run_id=each, artifact_path=f"predictions/{part}.parquet")
                tables.append(pd.read_parquet(path))
            if not tables[0].equals(tables[1]):
                raise BedError(f"{name}: predictions of {part} differ from those of one machine")
