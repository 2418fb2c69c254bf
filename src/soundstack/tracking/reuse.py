"""Rows of a suite that are done: a finished run of the same name, configuration, data and code is not run again."""

from __future__ import annotations

from contextlib import suppress

import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from soundstack.config import naming
from soundstack.config.base import Config, DataConfig
from soundstack.config.network import NetworkConfig
from soundstack.evaluation.evaluation import SCORES, RegisteredModel
from soundstack.evaluation.statistics import Interval
from soundstack.evaluation.tables import SystemScores
from soundstack.networks.registry import network_spec
from soundstack.networks.weights import identity
from soundstack.tracking import champion
from soundstack.tracking.store import connect, whole
from soundstack.utils.code_versions import code_version
from soundstack.utils.errors import WeightsError
from soundstack.utils.project import fingerprint

#: The tag of a run that holds its row's key.
ROW_TAG = "soundstack.row"
#: The tag of a version that says what its use is restricted to.
RESTRICTION_TAG = "restriction"


def row_key(config: Config, data_fingerprint: str) -> str:
    """Identify a model run by its name, configuration, data and code: equal keys mean equal results."""
    name = getattr(config, "model_name", "")
    roots, weights = [config.made_by], ""
    if isinstance(config, DataConfig):
        roots.append(naming.data_set_modules()[config.dataset])
    if isinstance(config, NetworkConfig):
        network = network_spec(config.network)
        roots.append(network.module)
        with suppress(WeightsError):  # not there yet: then no row was made of them
            weights = identity(network, config.chosen_pretraining, config.weights_folder, allow_download=False)
    code = code_version(*roots) if config.made_by else code_version()
    return fingerprint([name, config.fingerprint(), data_fingerprint, code, weights])


@whole
def find_done(config: Config, data_fingerprint: str) -> RegisteredModel | None:
    """Return the newest finished, registered run of the same key, wherever in the store it is."""
    connect()
    query = f"attributes.status = 'FINISHED' and tags.`{ROW_TAG}` = '{row_key(config, data_fingerprint)}'"
    found = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=query,
        order_by=["attributes.start_time DESC"],
        max_results=5,  # the models of the others, too, were likely deleted on purpose
        output_format="list",
    )
    for run in found:
        if (stored := _complete(run)) is not None:
            present = champion.of(stored.name)
            holds = present is not None and present.version == stored.version
            note = f"champion is {champion.beside(present, stored)}" if present is not None and not holds else ""
            restriction = stored.tags.get(RESTRICTION_TAG, "")
            scores = _scores(run, stored.name)
            return RegisteredModel(stored.name, str(stored.version), holds, scores, note, restriction)
    return None


def _complete(run: Run) -> ModelVersion | None:
    """The version that a run registered; none where it, a member of it or its predictions (for a fusion) are gone."""
    client = MlflowClient()
    name, _, number = run.data.tags.get("registered_model", "").rpartition("/")
    try:
        stored = client.get_model_version(name, number)
        members = [member.rpartition("/") for member in stored.tags.get("members", "").split(",") if member]
        made_of = [client.get_model_version(name, number) for name, _, number in members]
        # What was deleted may have left its number to another model.
        same = stored.run_id == run.info.run_id and all(
            member.creation_timestamp <= stored.creation_timestamp for member in made_of
        )
        return stored if same and client.list_artifacts(run.info.run_id, "predictions") else None
    except MlflowException:
        return None


def _scores(run: Run, name: str) -> SystemScores:
    values = run.data.metrics
    intervals = {
        part: Interval(
            values[part],
            values[f"{part}_ci_low"],
            values[f"{part}_ci_high"],
            int(values.get(f"groups_{part.partition('_')[0]}", 0)) or None,
        )
        for part in SCORES
    }
    return SystemScores(name, **intervals)
