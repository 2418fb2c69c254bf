"""Registered models found by what a user calls them: for a fusion and for prediction.

A name belongs to one table of clips: the one that the oldest registered version of that name was trained on. Two under
one name would be one line of versions, and whoever asks for the name would be answered by either.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from soundstack.config.places import project
from soundstack.networks.registry import slug
from soundstack.tracking import champion
from soundstack.tracking.store import connect, fetched, whole
from soundstack.utils.errors import ConfigError, MemberError


@dataclass(frozen=True)
class FoundModel:
    """A model to predict with or to fuse: a registered version, or a folder or a logged model that need not be one.

    ``source`` is the folder or URI of what is not registered; ``chosen`` tells why it is this version, where the user
    named none.
    """

    name: str
    version: str = ""
    run_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    chosen: str = ""

    @property
    def shown(self) -> str:
        """What the user may call it."""
        return self.source.removeprefix("models:/") or f"{self.name}/{self.version}"

    @property
    def uri(self) -> str:
        """Its ``models:/`` URI, or its folder."""
        return self.source or f"models:/{self.name}/{self.version}"

    @property
    def data_fingerprint(self) -> str:
        """Of the clips and folds that it was trained on."""
        return self.tags.get("data_fingerprint", "")

    @property
    def data_tags(self) -> dict[str, str]:
        """The tags that say what data it saw, for what is made of it."""
        names = ("dataset", "data_fingerprint", "table", "clips")
        return {name: self.tags[name] for name in names if name in self.tags}

    @cached_property
    def folder(self) -> Path:
        """The folder of its recogniser, fetched at first use: a run keeps what it fetches in its own temporary folder.

        Raises:
            MemberError: It is not there any more, or it is not one of this project.
        """
        model = Path(self.uri)
        if not model.is_absolute():
            model = fetched(self.shown, MemberError, artifact_uri=self.uri)
        for description in (model / "recogniser.json", *model.glob("artifacts/*/recogniser.json")):
            if description.is_file():
                return description.parent
        raise MemberError(f"{self.shown} is not a model of this project; name another one.")

    def artifact(self, path: str, remedy: str = " Train it again, or name other members.") -> Path:
        """Fetch an artifact of the run that trained it; a MemberError tells that it is gone, and the ``remedy``."""
        what = f"{self.shown}: its artifact {path}"
        return fetched(what, MemberError, remedy, run_id=self.run_id, artifact_path=path)


@whole
def _versions(prefix: str = "") -> list[ModelVersion]:
    """The versions of all registered models whose names begin so."""
    connect()
    found = mlflow.search_model_versions(filter_string=f"name LIKE '{prefix}%'")
    return [version for version in found if version.name.startswith(prefix)]  # in LIKE, _ is any character


def require_name(tags: Mapping[str, str], made: ModelVersion | None = None) -> None:
    """Check that a name is free or belongs to this table; data sets with a name of their own have no ``table`` tag.

    Args:
        tags: of the models to be registered: ``dataset`` (the name), ``table`` and ``clips``.
        made: a version that was registered just now; it is withdrawn where another table was first.

    Raises:
        ConfigError: The name belongs to another table.
    """
    if "table" not in tags:
        return
    name = tags["dataset"]
    found = sorted(_versions(f"{name}-"), key=lambda each: (each.creation_timestamp, each.name, int(each.version)))
    if not found or found[0].tags.get("table") == tags["table"]:
        return
    owner = found[0]
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
    there = {v.tags["dataset"] for v in _versions() if "table" in v.tags or v.tags.get("dataset") == "csv"}
    listed = ", ".join(sorted(there)) or "none; train some first with -e crnn and -e deepspectrum"
    raise ConfigError(f"name: dataset=csv needs the name of your table, -P name=NAME. There are: {listed}.")


def find_model(wanted: str) -> FoundModel:
    """Find a model by name (its champion), ``name/version``, ``name@alias``, ``models:/`` URI or folder.

    ``auto`` is the fusion where only one data set has one: which of several is meant, nobody but the user knows.

    Raises:
        MemberError: There is none, and what there is; or the folder holds no model of this project.
    """
    connect()
    if Path(wanted).is_absolute():
        in_folder = FoundModel(Path(wanted).name, source=wanted)
        assert in_folder.folder  # raises where it holds none
        return in_folder
    word = wanted.removeprefix("models:/")
    if re.fullmatch(r"m-[0-9a-f]{32}", word):  # a logged model that need not be registered
        return FoundModel(word, source=f"models:/{word}")
    registered = _versions()
    names = sorted({version.name for version in registered})
    there = ", ".join(names) or f"none; train some first with `mlflow run {project()}`"
    if word == "auto":
        fusions = [name for name in names if name.endswith("-fusion")]
        if len(fusions) != 1:
            raise MemberError(f"model: name the one to use, -P model=NAME. There are: {there}.")
        word = fusions[0]
    name, version = _split_version(word)
    if name not in names:
        raise MemberError(f"model: {name!r} is no registered model and no folder of one. There are: {there}.")
    model = _found(name, version)
    if model is None:
        numbers = sorted(int(found.version) for found in registered if found.name == name)
        aliases = sorted(MlflowClient().get_registered_model(name).aliases)
        given = ", ".join([*(f"{name}/{number}" for number in numbers), *(f"{name}@{alias}" for alias in aliases)])
        raise MemberError(f"model: {name} has no version {version.lstrip('/@')!r}. There are: {given or 'none'}.")
    return model


@whole
def find_members(dataset: str, wanted: str) -> list[FoundModel]:
    """Find registered models by name or glob pattern; the champion of each, or the version asked for.

    Raises:
        MemberError: A name or pattern fits nothing, and what there is; or the members saw different data, and which
            versions saw the same.
    """
    registered = _versions(f"{dataset}-")
    names = {version.name for version in registered}
    available = sorted(name for name in names if not f"{name}-".startswith(f"{dataset}-fusion-"))
    found: dict[str, FoundModel] = {}
    for word in [slug(part.strip()) for part in wanted.split(",") if part.strip()]:
        pattern, version = _split_version(word)
        patterns = ("*",) if pattern == "all" else (pattern, f"{dataset}-{pattern}")
        fitting = [name for name in available if any(fnmatch.fnmatchcase(name, each) for each in patterns)]
        if not fitting:
            there = ", ".join(available) or "none; train some first with -e crnn and -e deepspectrum"
            raise MemberError(f"members: {word!r} fits no registered model of {dataset}. There are: {there}.")
        for name in fitting:
            model = _found(name, version)
            if model is None:
                raise MemberError(f"members: {name} has no version {version or champion.ALIAS}.")
            found[name] = model
    members = [found[name] for name in sorted(found)]
    for member in members:
        if member.data_fingerprint != members[0].data_fingerprint:
            raise MemberError(_apart(members[0], member, registered, found))
    return members


def _split_version(word: str) -> tuple[str, str]:
    """Split ``name``, ``name/version`` or ``name@alias``; the version keeps its sign."""
    name, *version = re.split(r"(?=[@/])", word, maxsplit=1)
    return name, "".join(version)


def _found(name: str, version: str) -> FoundModel | None:
    """The version of a model that is meant, by number, by alias, or by none: then its champion or its newest."""
    client, chosen = MlflowClient(), ""
    try:
        if version.startswith("/"):
            found = client.get_model_version(name, version[1:])
        elif version.startswith("@"):
            found = client.get_model_version_by_alias(name, version[1:])
        elif (holder := champion.of(name)) is not None:
            found, chosen = holder, "the champion"
        else:
            newest = max(client.search_model_versions(f"name='{name}'"), key=lambda each: int(each.version))
            found, chosen = newest, "the newest version: no champion is set"
    except (MlflowException, ValueError):
        return None
    return FoundModel(name, str(found.version), found.run_id or "", found.tags, chosen=chosen)


def _apart(one: FoundModel, other: FoundModel, versions: Iterable[ModelVersion], wanted: Container[str]) -> str:
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
