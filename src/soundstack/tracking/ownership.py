"""Which table of clips a name belongs to: the one that the oldest registered version of that name was trained on.

Two tables under one name would be one line of versions, and whoever asks for the name would be answered by either.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NoReturn

from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from soundstack.tracking.registered_models import versions
from soundstack.tracking.store import connect
from soundstack.utils.errors import ConfigError


def require(tags: Mapping[str, str], made: ModelVersion | None = None) -> None:
    """Check that a name is free or belongs to this table; data sets with a name of their own have no ``table`` tag.

    Args:
        tags: of the models to be registered: ``dataset`` (the name), ``table`` and ``clips``.
        made: a version that was registered just now; it is withdrawn where another table was first.

    Raises:
        ConfigError: The name belongs to another table.
    """
    if "table" not in tags:
        return
    connect()
    name = tags["dataset"]
    owner = min(
        versions(f"{name}-"),
        key=lambda version: (version.creation_timestamp, version.name, int(version.version)),
        default=None,
    )
    if owner is None or owner.tags.get("table") == tags["table"]:
        return
    if made is not None:
        MlflowClient().delete_model_version(made.name, made.version)
    since = datetime.fromtimestamp(owner.creation_timestamp / 1000, tz=UTC)
    raise ConfigError(
        f"name: {name} belongs to another table, of {owner.tags.get('clips', '?')} clips ({owner.name}/"
        f"{owner.version}, made {since:%Y-%m-%d %H:%M} UTC); this one has {tags['clips']}. Give this one a name of its "
        f"own, -P name=OTHER, or first delete the models {name}-* in the MLflow UI."
    )


def refuse_nameless() -> NoReturn:
    """Refuse work on a table of which only the name could tell which one it is.

    Raises:
        ConfigError: It lists the names that have registered models; ``csv`` holds those of no name.
    """
    connect()
    found = versions()
    there = sorted({v.tags["dataset"] for v in found if "table" in v.tags or v.tags.get("dataset") == "csv"})
    listed = ", ".join(there) or "none; train some first with -e crnn and -e deepspectrum"
    raise ConfigError(f"name: dataset=csv needs the name of your table, -P name=NAME. There are: {listed}.")
