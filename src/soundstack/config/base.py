"""What configurations share: the base class, types of parameters, and the parameters that say which sound goes in."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, ValidationInfo, model_validator

from soundstack.audio.limits import RequestLimits
from soundstack.audio.tables import TABLE_SUFFIXES
from soundstack.config import naming
from soundstack.utils import object_store
from soundstack.utils.cluster import checked as checked_cluster
from soundstack.utils.errors import DataError
from soundstack.utils.project import cores, fingerprint

#: Former names of parameters. They are still taken, from the command line and in suites, and read in what was logged.
FORMER_NAMES = {"clip_features": "feature_bound"}


def absolute(value: str) -> str:
    """A path from the root on, unless it is empty or of an unknown user; the relative starts where the user stands."""
    if not value.strip():
        raise ValueError("is empty; give a path")
    if object_store.is_uri(value):
        raise ValueError("must be a path of this machine")
    try:
        return str(Path(value).expanduser().absolute())
    except RuntimeError as error:
        raise ValueError(f"{value}: {error}") from None


def anywhere(value: str) -> str:
    """A path as :func:`absolute` makes it, or the URI of a place in an object store or on a disk that hosts share."""
    return object_store.checked(value) if object_store.is_uri(value) else absolute(value)


def require_seen(name: str, place: str) -> None:
    """Check that the hosts of a cluster see a place, which a parameter of that name says.

    Raises:
        ValueError: It is a path of this machine.
    """
    if not object_store.is_uri(place):
        raise ValueError(
            f"{name}: the hosts of a cluster do not see {place} of this machine; give s3://bucket/folder, or "
            "file:///folder if all of them, and this machine, mount the same one"
        )


def _own_name(name: str, info: ValidationInfo) -> str:
    dataset = info.data.get("dataset", "csv")
    if dataset != "csv" and name != "auto":
        raise ValueError(f"{dataset} keeps its own; leave name out, or give dataset=csv with a table of yours")
    return naming.checked(name)


def _studies(address: str) -> str:
    """Check the address of a database; no refusal shows it, since it may hold a password."""
    if address == "auto":
        return address
    if not re.match(r"postgresql(\+psycopg2?)?://.|sqlite:///.", address):
        raise ValueError("give auto, or a database as in postgresql://USER@HOST/NAME or sqlite:///studies.db")
    rest = address.partition("://")[2]
    if ":" in rest.rpartition("@")[0] or "password" in rest.partition("?")[2].lower():
        raise ValueError(
            "holds a password, and parameters are logged; leave it out, and set PGPASSWORD or write it into ~/.pgpass"
        )
    return f"sqlite:///{absolute(rest[1:])}" if address.startswith("sqlite") else address


if TYPE_CHECKING:
    DataSetName = str
else:
    DataSetName = Literal[*naming.data_set_modules()]
Auto = Literal["auto"]
Seconds = Annotated[float, Field(gt=0, le=600)]
Epochs = Annotated[int, Field(ge=1, le=10_000)]
Bound = Annotated[float, Field(gt=0)] | Literal["none"]
Suffix = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,40}$")]
OwnName = Annotated[str, AfterValidator(_own_name)]
#: A path, made absolute as it is given.
Place = Annotated[str, AfterValidator(absolute)]
PlaceOrAuto = Annotated[str, AfterValidator(lambda value: value if value == "auto" else absolute(value))]
#: The same, or a URI.
Anywhere = Annotated[str, AfterValidator(anywhere)]
AnywhereOrAuto = Annotated[str, AfterValidator(lambda value: value if value == "auto" else anywhere(value))]
#: A Ray cluster whose hosts work, and what a task takes of one of them.
ClusterAddress = Annotated[str, AfterValidator(checked_cluster)]
HostCores = Annotated[int, Field(ge=1, le=1024, description="cores that a task takes of a host")]
HostGpus = Annotated[
    float,
    Field(ge=0, le=16, description="GPUs, or the share of one, that a task takes of a host, and then computes on"),
]
#: Taken as yes/no, true/false or 1/0; shown and logged as yes or no.
Switch = Annotated[bool, PlainSerializer(lambda value: "yes" if value else "no", when_used="json")]

# The same parameter at several entry points, with what it means.
ClassWeight = Annotated[
    Literal["none", "balanced"],
    Field(
        description="none: every clip counts alike in training; balanced: every class does, by weights of its clips "
        "n / (K n_class), for sets whose classes differ much in size"
    ),
]
Augment = Annotated[
    float,
    Field(
        ge=0,
        le=2,
        description="strength of augmentation in training: time shift, masks on spectrograms (the CRNN: and mixup; "
        "fine-tuning: and gain and noise); 0: none, as in the paper",
    ),
]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="fixes every random choice of the run")]
Threads = Annotated[int, Field(ge=0, le=1024, description="decoding threads; 0: all cores")]
Device = Annotated[Literal["auto", "cpu", "cuda"], Field(description="auto: CUDA where there is a usable GPU")]
CacheDir = Annotated[
    Anywhere,
    Field(description="folder of the feature cache, or its URI in an object store, as s3://...; safe to delete"),
]
WeightsDir = Annotated[AnywhereOrAuto, Field(description="folder or URI of weight files; auto: torch's hub cache")]
Studies = Annotated[
    str,
    AfterValidator(_studies),
    Field(
        description="database that keeps the finished trials of searches for other machines and later commands, as in "
        "postgresql://USER@HOST/NAME (password in PGPASSWORD or ~/.pgpass) or sqlite:///studies.db; auto: none"
    ),
]
ParallelTrials = Annotated[
    int,
    Field(
        ge=1,
        le=1000,
        description="trials that are chosen at a time, from those before; on a cluster their folds are trained side by "
        "side, here one after another, and the search is the same",
    ),
]
NoneRate = Annotated[
    Annotated[float, Field(gt=0, lt=1)] | Literal["off"],
    Field(
        description="let the model answer none, for sounds of none of its classes. With negatives in the table (label "
        "none or empty): at most this share of them is taken for a class; without: at most this share of the known "
        "clips is answered none; both as told by out-of-fold development scores"
    ),
]
CostTrials = Annotated[
    int, Field(ge=0, le=1000, description="0: the paper's ten values of C (1e-9 to 1); more: that many Optuna samples")
]
CostPath = Annotated[
    Literal["all", "rising"],
    Field(
        description="all: every one of the ten values of C; rising: from the smallest up, and no further once devel "
        "macro-F1 has clearly fallen, which saves the slowest ones"
    ),
]
ServedLimits = Annotated[
    str,
    AfterValidator(lambda text: RequestLimits.parse(text) and text.strip()),
    Field(
        description="what the served model takes at most: pairs as in max_seconds=60,max_clips=16; a request may lower "
        "them, never raise them. Names: " + ", ".join(RequestLimits.model_fields)
    ),
]


class Config(BaseModel):
    """Base of all configurations: frozen, unknown names refused, filled from arguments only (no environment)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    #: Fields that never change a result; the rest make up the fingerprint.
    irrelevant: ClassVar[frozenset[str]] = frozenset()
    #: The module that, with all that it imports, makes the results; empty: any of the package may.
    made_by: ClassVar[str] = ""
    #: Whether finished parts of the work are kept, and found by the next run of the same configuration.
    keeps_work: ClassVar[bool] = False

    @property
    def continues(self) -> bool:
        """Whether the same command, given again after an interruption, goes on from the work that was finished."""
        return self.keeps_work

    @classmethod
    def step(cls) -> str:
        """The name of the entry point."""
        return cls.__name__.removesuffix("Config").lower()

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The default of every parameter as it is shown and logged."""
        return cls.model_construct().model_dump(mode="json")

    def fingerprint(self) -> str:
        """Return 12 hex digits that change exactly when a result-changing field changes."""
        return fingerprint(self.model_dump(mode="json", exclude=set(self.irrelevant)))

    @classmethod
    def as_logged(cls, params: Mapping[str, str]) -> dict[str, str]:
        """Parameters of a run of this step by their names of today, and switches as yes or no.

        ``mlflow run`` logs what it is given before we see it: a former name, or ``true`` for ``yes``.
        """
        spelt = {"true": "yes", "1": "yes", "false": "no", "0": "no"}
        today = {name: value for name, value in params.items() if name not in FORMER_NAMES}
        today |= {name: params[former] for former, name in FORMER_NAMES.items() if former in params}
        switches = {name for name, field in cls.model_fields.items() if field.annotation is bool}
        return {name: spelt.get(value.lower(), value) if name in switches else value for name, value in today.items()}

    @model_validator(mode="before")
    @classmethod
    def _take_former_names(cls, values: Any) -> Any:
        for former, name in FORMER_NAMES.items():
            if isinstance(values, dict) and former in values and name in cls.model_fields:
                default = cls.model_fields[name].default  # `mlflow run` passes it beside the former name
                if str(values.get(name, default)) != str(default):
                    raise ValueError(f"{former}: is the former name of {name}; give {name} alone")
                values = {each: value for each, value in values.items() if each != former} | {name: values[former]}
                _note(f"{former} is called {name} now.")
        return values


@cache
def _note(text: str) -> None:
    """Say something on stderr, once."""
    print(text, file=sys.stderr)


def run_name(*parts: str, suffix: str) -> str:
    """Join the parts of the name of a run and of its registered model."""
    return "-".join(parts if suffix == "none" else (*parts, suffix))


def kept_here(place: str, below: str) -> Path:
    """A folder on this machine: of one in an object store, what is kept of it, in ``below`` where the user stands."""
    return Path(below, "stores", fingerprint(place)).absolute() if object_store.is_uri(place) else Path(place)


def local_cache(cache_dir: str) -> Path:
    """The folder of a cache on this machine: of one in an object store, below ``cache`` where the user stands."""
    return kept_here(cache_dir, "cache")


class DataConfig(Config):
    """Parameters that say which sound goes in, shared by all steps."""

    irrelevant: ClassVar[frozenset[str]] = frozenset(
        {"data_dir", "name", "cache_dir", "device", "jobs", "on_error", "cluster", "cluster_cpus", "cluster_gpus"}
    )
    keeps_work: ClassVar[bool] = True

    dataset: DataSetName = "demo"
    """data set to work on; csv is your own: a table of clips, or a folder with one folder a class"""
    data_dir: AnywhereOrAuto = "auto"
    """folder of the extracted data set; for dataset=csv a table with columns filename,label (and start,end in seconds,
    for stretches of recordings), the folder of one, a folder with one folder a class (below train, val, test, if you
    have splits), or one of recordings with Audacity label tracks beside them; or the URI of any of these. auto:
    data/<dataset> (demo writes itself into the cache)"""
    name: OwnName = "auto"
    """what runs and models of your own table or folder (dataset=csv) are called; a name belongs to one table. auto: its
    file's name, or its folder's where the file's says nothing, as in birds/clips.csv"""
    channels: Literal["mean", "first", "each"] = "mean"
    """several channels: their mean, the first one, or each channel as an example whose scores are averaged at
    prediction"""
    clip_seconds: Seconds | Auto = "auto"
    """nominal clip length; shorter clips are zero-padded at the end, longer ones cropped. auto: the data set's own, for
    csv the longest clip but at most 10 s"""
    sample_rate: Annotated[int, Field(ge=1000, le=384_000)] | Auto = "auto"
    """rate in Hz that clips of another rate are resampled to; auto: the data set's most common"""
    on_error: Literal["fail", "skip"] = "fail"
    """a damaged clip: fail and name it, or skip it and report"""
    cache_dir: CacheDir = "cache"
    device: Device = "auto"
    seed: Seed = 0
    split_seed: Seed | Auto = "auto"
    """draws the folds that a csv table does not give; auto: the seed"""
    none_rate: NoneRate = "off"
    jobs: Threads = 0
    cluster: ClusterAddress = "none"
    """Ray cluster whose hosts make the features and train the CRNN: none: this machine does; auto: the one it belongs
    to; or HOST:PORT"""
    cluster_cpus: HostCores = 1
    cluster_gpus: HostGpus = 0.0

    @model_validator(mode="after")
    def _hosts_reach_it(self) -> Self:
        for name in ("data_dir", "cache_dir", "weights_dir") if self.cluster != "none" else ():
            place = getattr(self, name, "auto")
            is_theirs = place == "auto" and (name == "weights_dir" or self.dataset == "demo")
            if not is_theirs:
                require_seen(name, place)
        return self

    @model_validator(mode="after")
    def _data_is_there(self) -> Self:
        if self.dataset == "demo" and self.data_dir != "auto":
            raise ValueError("data_dir: dataset=demo writes its own clips into the cache; leave data_dir out")
        if self.dataset == "csv" and self.data_dir == "auto":
            raise ValueError(
                "data_dir: dataset=csv needs data_dir=<your table>.csv with columns filename,label, or a folder with "
                "one folder a class"
            )
        # False, too, for a name that no file can have.
        there = object_store.is_uri(self.data_dir) or self.dataset == "demo"
        if not there and not os.path.exists(self.data_path):  # noqa: PTH110
            hint = {
                "csv": "give a CSV file with columns filename,label, or a folder with one folder a class",
                "esc10": "fetch it with `-e download -P dataset=esc50` (esc10 is a part of it) or give its folder",
            }.get(self.dataset, f"fetch it with `-e download -P dataset={self.dataset}` or give its folder")
            raise ValueError(f"data_dir: {self.data_path} does not exist; {hint}")
        return self

    @property
    def data_path(self) -> Path:
        """Where the data set lies: ``data_dir``, or ``data/<dataset>`` for ``auto``; of one in a store, its image."""
        uri, folder = self.data_store
        if uri:
            return folder / self.data_dir.removeprefix(uri).lstrip("/")
        if self.data_dir != "auto":
            return Path(self.data_dir)
        return Path("data", "esc50" if self.dataset == "esc10" else self.dataset).absolute()

    @property
    def data_store(self) -> tuple[str, Path]:
        """The URI of the data set's folder, or empty, and where on this machine it is shown."""
        if not object_store.is_uri(self.data_dir):
            return "", Path()
        is_table = self.dataset == "csv" and PurePosixPath(self.data_dir).suffix.lower() in TABLE_SUFFIXES
        uri = self.data_dir.rpartition("/")[0] if is_table else self.data_dir
        return uri, self.cache_path / ("data" if self.cluster == "none" else "listed") / fingerprint(uri)

    def place_of(self, path: Path) -> str:
        """Return where all hosts find a sound file of the data set.

        Raises:
            DataError: It lies where they do not see it.
        """
        for uri, folder in (self.data_store, (self.cache_uri, self.cache_path)):
            if uri and path.is_relative_to(folder) and ".." not in path.parts:
                return f"{uri}/{path.relative_to(folder).as_posix()}"
        raise DataError(f"{path}: the hosts of a cluster do not see it; all sounds must lie below {self.data_dir}.")

    @property
    def data_name(self) -> str:
        """What runs and models are called after: the data set; for a table of one's own, its name."""
        if self.dataset != "csv":
            return self.dataset
        return naming.of_table(Path(self.data_dir)) if self.name == "auto" else self.name

    @property
    def cache_path(self) -> Path:
        """The cache folder on this machine as an absolute path; of one in an object store, what is kept of it here."""
        return local_cache(self.cache_dir)

    @property
    def cache_uri(self) -> str:
        """Where the cache lies in an object store, if it does; else empty."""
        return self.cache_dir if object_store.is_uri(self.cache_dir) else ""

    @property
    def drawn_with(self) -> int:
        """The seed that missing folds are drawn with."""
        return self.seed if self.split_seed == "auto" else self.split_seed

    @property
    def is_random(self) -> bool:
        """Whether another seed may give another result: here, by other folds."""
        return self.dataset == "csv" and self.split_seed == "auto"

    @property
    def workers(self) -> int:
        """Number of decoding threads."""
        return self.jobs or cores()
