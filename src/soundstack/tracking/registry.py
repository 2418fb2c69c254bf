"""Registering a model: logged with the code that it needs, with its scores as tags and a card, and as champion.

A version is registered when everything its run says is in the store, and the alias comes last: whoever follows
``champion`` finds nothing half made.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from soundstack.audio.limits import RequestLimits
from soundstack.config.base import Config
from soundstack.evaluation.evaluation import Evaluation, RegisteredModel
from soundstack.recognisers.base import Recogniser
from soundstack.tracking import card as cards
from soundstack.tracking import champion, registered_models
from soundstack.tracking.reuse import RESTRICTION_TAG, ROW_TAG, row_key
from soundstack.tracking.run import Run
from soundstack.tracking.store import undisturbed


def register(
    run: Run,
    config: Config,
    recogniser: Recogniser,
    evaluation: Evaluation,
    tags: Mapping[str, str],
    limits: RequestLimits | None = None,
) -> RegisteredModel:
    """Log the recogniser as the run's model, register it under the run's name, and move the alias if it is as good.

    ``limits`` are what the served model takes at most. The card says what the run's folder holds by now: data,
    settings, contributions.

    Raises:
        ConfigError: Another table took the name since the run began; nothing is registered.
    """
    run.send()  # whoever finds the model finds what the run says about it, even if this process is killed now
    scores = {name: f"{evaluation.intervals[name].value:.6f}" for name in ("devel_macro_f1", "test_macro_f1")}
    restriction = cards.restriction(recogniser.systems)
    if restriction:
        scores[RESTRICTION_TAG] = restriction
    with undisturbed():
        version = _log_and_register(run, recogniser, dict(tags) | scores, limits or RequestLimits())
        registered_models.require_name(tags, made=version)
        facts = cards.facts_of(run.name, str(version.version), recogniser, evaluation, config, tags, run.folder)
        _describe(run, facts)
        key = row_key(config, tags["data_fingerprint"])
        run.tags({"registered_model": f"{run.name}/{version.version}", ROW_TAG: key})
        # Last: the alias never points to a version that lacks something.
        note = champion.make_way(MlflowClient().get_model_version(run.name, version.version))
    return RegisteredModel(run.name, str(version.version), not note, evaluation.row(run.name), note, restriction)


def _log_and_register(run: Run, recogniser: Recogniser, tags: Mapping[str, str], limits: RequestLimits) -> ModelVersion:
    with _quiet(), tempfile.TemporaryDirectory(dir=run.folder.parent, ignore_cleanup_errors=True) as folder:
        # MLflow remarks on the model class when it is defined.
        from soundstack.serving import model as serving
        from soundstack.serving import shipped

        saved = Path(folder, "model")
        recogniser.save(saved)
        limits.save(saved)
        model = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(serving.__file__).with_name("served_model.py")),
            artifacts={"recogniser": str(saved)},
            code_paths=[str(shipped.copy_code(recogniser.modules, Path(folder, "code")))],
            signature=serving.signature(recogniser.labels, limits, none=recogniser.none is not None),
            pip_requirements=shipped.requirements(recogniser.modules),
        )
        return mlflow.register_model(model.model_uri, run.name, tags=dict(tags))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's remarks on model logging (no input example, unknown pip) from the user's terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def _describe(run: Run, facts: cards.Facts) -> None:
    """Write the model card: whole as an artifact, shortened as the version's description."""
    client = MlflowClient()
    (run.folder / cards.FILE).write_text(cards.card(facts), encoding="utf-8")
    # The UI shows no pictures in the text itself, but those of a relative address that it serves.
    picture = f"get-artifact?path={quote(cards.CONFUSION_PICTURE, safe='')}&run_uuid={run.id}"
    description = cards.card(facts, picture, limit=cards.LONGEST_DESCRIPTION)
    client.update_model_version(facts.name, facts.version, description)
    if not client.get_registered_model(facts.name).description:  # a user's own text stays
        client.update_registered_model(facts.name, cards.family_description(facts))
