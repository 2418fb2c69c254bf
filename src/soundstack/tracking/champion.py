"""The alias ``champion``: the version of a model that is meant where no version is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

ALIAS = "champion"


def of(name: str) -> ModelVersion | None:
    """The version that holds the alias, if one does.

    Raises:
        MlflowException: The store does not answer, which is not the same as a store without a champion.
    """
    with _absence_allowed():
        return MlflowClient().get_model_version_by_alias(name, ALIAS)
    return None


def make_way(new: ModelVersion) -> str:
    """Move the alias to a new version unless that would be worse; return why it stays, empty where it moved.

    It moves if there is no champion, if the champion's model is gone, or if it was scored on the same clips and folds
    and the new devel macro-F1 is at least as good: other scores cannot be compared.
    """
    present = of(new.name)
    if present is not None and not (_comparable(present, new) and _devel(new) >= _devel(present)):
        with _absence_allowed():
            if mlflow.artifacts.list_artifacts(artifact_uri=f"models:/{present.name}/{present.version}"):
                return f"champion stays {beside(present, new)}"
    MlflowClient().set_registered_model_alias(new.name, ALIAS, new.version)
    return ""


def beside(champion: ModelVersion, other: ModelVersion) -> str:
    """Name the champion and what is known of it beside another version."""
    here = "scored on other clips or folds, so that the two cannot be compared"
    if _comparable(champion, other):
        here = f"devel macro-F1 {100 * _devel(champion):.2f} against {100 * _devel(other):.2f} here"
    return f"models:/{champion.name}/{champion.version}, {here}"


def _comparable(one: ModelVersion, other: ModelVersion) -> bool:
    return one.tags.get("data_fingerprint") == other.tags.get("data_fingerprint")


def _devel(version: ModelVersion) -> float:
    return float(version.tags.get("devel_macro_f1", "0"))


@contextmanager
def _absence_allowed() -> Iterator[None]:
    """Go on where MLflow says that a model, a version, an alias or its files are not there."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
