"""The alias ``champion``: the version of a model that is meant where no version is named."""

from __future__ import annotations

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

ALIAS = "champion"
#: What MLflow says of a model, version or alias that is not there.
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def of(name: str) -> ModelVersion | None:
    """The version that holds the alias, if one does.

    Raises:
        MlflowException: The store does not answer, which is not the same as a store without a champion.
    """
    try:
        return MlflowClient().get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return None
        raise


def make_way(new: ModelVersion) -> str:
    """Move the alias to a new version unless that would be worse; return why it stays, empty where it moved.

    It moves if there is no champion, if the champion's model is gone, or if it was scored on the same clips and folds
    and the new devel macro-F1 is at least as good: other scores cannot be compared.
    """
    present = of(new.name)
    as_good = present is None or (_comparable(present, new) and _devel(new) >= _devel(present))
    if present is not None and not as_good and _has_model(present):
        return f"champion stays {beside(present, new)}"
    MlflowClient().set_registered_model_alias(new.name, ALIAS, new.version)
    return ""


def beside(champion: ModelVersion, other: ModelVersion) -> str:
    """Name the champion and what is known of it beside another version."""
    here = (
        f"devel macro-F1 {100 * _devel(champion):.2f} against {100 * _devel(other):.2f} here"
        if _comparable(champion, other)
        else "scored on other clips or folds, so that the two cannot be compared"
    )
    return f"models:/{champion.name}/{champion.version}, {here}"


def _comparable(one: ModelVersion, other: ModelVersion) -> bool:
    return one.tags.get("data_fingerprint") == other.tags.get("data_fingerprint")


def _devel(version: ModelVersion) -> float:
    return float(version.tags.get("devel_macro_f1", "0"))


def _has_model(version: ModelVersion) -> bool:
    """Tell whether the files of a version are still there."""
    try:
        return bool(mlflow.artifacts.list_artifacts(artifact_uri=f"models:/{version.name}/{version.version}"))
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return False
        raise
