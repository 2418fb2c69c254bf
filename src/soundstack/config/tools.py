"""What a user may set where nothing is trained: prediction, the page, report, download and tests."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from soundstack.config import naming
from soundstack.config.base import (
    AnywhereOrAuto,
    ClusterAddress,
    Config,
    Device,
    HostCores,
    HostGpus,
    Place,
    PlaceOrAuto,
    Seed,
    Switch,
    Threads,
    absolute,
    anywhere,
    kept_here,
    require_seen,
)
from soundstack.config.network import listed
from soundstack.utils import object_store


def _model_named(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty; name a registered model, e.g. demo-fusion")
    place = absolute(value)
    saved = any(os.path.isfile(f"{place}/{name}") for name in ("recogniser.json", "MLmodel"))  # noqa: PTH113
    return place if saved else value.strip()


ModelName = Annotated[str, AfterValidator(_model_named)]


class PredictConfig(Config):
    """Recognise sound files of any length with a registered model: a table of windows, one of files, one of bad files.

    Memory stays flat however long the recordings are; a killed run continues, and what is done is not done again.
    Examples: mlflow run . -e predict -P model=demo-fusion -P input=path/to/recordings
              mlflow run . -e predict -P model=esc10-fusion/2 -P input="field/**/*.wav" -P timeline=yes
    """

    irrelevant: ClassVar[frozenset[str]] = frozenset(
        {"output_dir", "timeline", "jobs", "device", "cluster", "cluster_cpus", "cluster_gpus"}
    )
    keeps_work: ClassVar[bool] = True

    model: ModelName = "auto"
    """registered model: NAME (its champion), NAME/version, NAME@alias or a models:/ URI; or the folder of a saved one.
    auto: the only registered fusion"""
    input: str = "none"
    """what to recognise: a folder (searched through), a glob in quotes, a sound file, or a table (.csv, .tsv, .txt)
    with a column filename (relative to the table); or the URI of any of these in an object store, as s3://...;
    required"""
    output_dir: AnywhereOrAuto = "auto"
    """folder of the tables, or its URI; auto: predictions/<model name>"""
    timeline: Switch = False
    """yes: also draw a timeline picture of every file"""
    jobs: Threads = 0
    device: Device = "auto"
    cluster: ClusterAddress = "none"
    """Ray cluster whose hosts score the files: none: this machine does; auto: the one it belongs to; or HOST:PORT"""
    cluster_cpus: HostCores = 1
    cluster_gpus: HostGpus = 0.0

    @field_validator("input")
    @classmethod
    def _input_given(cls, value: str) -> str:
        if value.strip() in {"", "none"}:
            raise ValueError("is required; give a folder of recordings, a quoted glob, a sound file, or a CSV")
        return anywhere(value)

    @model_validator(mode="after")
    def _hosts_reach_it(self) -> Self:
        for name in ("input", "output_dir") if self.cluster != "none" else ():
            require_seen(name, getattr(self, name))
        return self

    def output_path(self, model: str) -> Path:
        """The folder of the tables on this machine, for a model of that name; of one in a store, what is kept of it."""
        if self.output_dir == "auto":
            return Path("predictions", model).absolute()
        return kept_here(self.output_dir, "predictions")

    @property
    def output_uri(self) -> str:
        """Where the tables go in an object store, if they do; else empty."""
        return self.output_dir if object_store.is_uri(self.output_dir) else ""


class PageConfig(Config):
    """A page in the browser to try a registered model: record or drop a sound, see, hear and correct what it answers.

    What is corrected becomes a table for dataset=csv. The page is for this machine alone unless host says otherwise;
    then set the environment variable SOUNDSTACK_PAGE_PASSWORD to ask for a password (user name: soundstack).
    Example: mlflow run . -e page -P model=demo-fusion
    """

    irrelevant: ClassVar[frozenset[str]] = frozenset({"host", "port", "corrections_dir", "device"})

    model: ModelName = "auto"
    """registered model: NAME (its champion), NAME/version, NAME@alias or a models:/ URI; or the folder of a saved one.
    auto: the only registered fusion"""
    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0: every network that this machine is in, where anybody who reaches it can use it"""
    port: Annotated[int, Field(ge=1, le=65_535)] = 7860
    """port to listen on"""
    corrections_dir: PlaceOrAuto = "auto"
    """folder of the sounds that are corrected and of their table; auto: corrections/<model name>"""
    device: Device = "auto"

    @field_validator("host")
    @classmethod
    def _host_named(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9.-]+|[0-9A-Fa-f:.]+", value):
            raise ValueError(f"{value!r} is no address of this machine; give 127.0.0.1, 0.0.0.0, or one of its own")
        return value

    @property
    def on_this_machine_alone(self) -> bool:
        """Whether nobody else can reach the page."""
        return self.host == "localhost" or self.host == "::1" or self.host.startswith("127.")

    def corrections_path(self, model: str) -> Path:
        """The folder of what is corrected on the page of a model of that name."""
        return Path("corrections", model).absolute() if self.corrections_dir == "auto" else Path(self.corrections_dir)


class ReportConfig(Config):
    """Report tracked runs as Tables 1-3 of the paper, with intervals, confusions and paired tests.

    Nothing is trained: scores and predictions come from the tracking store.
    Example: mlflow run . -e report -P datasets=esc10
    """

    irrelevant: ClassVar[frozenset[str]] = frozenset({"output_dir"})

    datasets: str = "all"
    """comma-separated data sets, own ones by name; all: every one with runs"""
    rows: str = "auto"
    """comma-separated names of models, with or without the leading '<dataset>-', for per-class F1 and paired tests;
    auto: best single system, CRNN and best fusion, as judged on devel"""
    output_dir: Place = "reports"
    """folder that the files are copied to"""
    swaps: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    """random swaps of the paired tests"""
    seed: Seed = Field(0, description="fixes the random swaps")

    @field_validator("datasets")
    @classmethod
    def _datasets_known(cls, value: str) -> str:
        names = listed(value, f"name at least one data set, {', '.join(naming.PUBLISHED)} or your own, or all")
        for name in names:
            if name not in naming.PUBLISHED:
                naming.checked(name)
        return "all" if "all" in names else ",".join(dict.fromkeys(names))

    @field_validator("rows")
    @classmethod
    def _rows_named(cls, value: str) -> str:
        names = listed(value, "name at least one model, e.g. crnn,fusion, or auto")
        if "auto" in names and len(names) > 1:
            raise ValueError("auto stands alone; name the models, or leave rows out")
        return ",".join(dict.fromkeys(names))


class DownloadConfig(Config):
    """Fetch a published data set: verified, resumable, and only what is missing.

    Example: mlflow run . -e download -P dataset=esc50
    """

    keeps_work: ClassVar[bool] = True

    dataset: Literal["esc50", "dcase2017", "dcase2018"] = "esc50"
    """esc50 (about 0.6 GB; holds esc10), dcase2017 (about 15 GB) or dcase2018 (about 90 GB)"""
    data_dir: PlaceOrAuto = "auto"
    """folder to put it in; auto: data/<dataset>"""
    parts: str = "all"
    """comma-separated parts such as development or evaluation/meta; or all"""
    keep_archives: Switch = False
    """yes: keep the archives after unpacking"""
    base_url: str = "official"
    """fetch the same files from a mirror, http(s)://...; official: where they were published"""
    jobs: Annotated[int, Field(ge=1, le=16)] = 4
    """files fetched at the same time"""

    @property
    def folder(self) -> Path:
        """Where the data set goes."""
        return Path("data", self.dataset).absolute() if self.data_dir == "auto" else Path(self.data_dir)


class TestConfig(Config):
    """Run the project's tests.

    Example: mlflow run . -e test -P options="-k spectrogram"
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    options: str = "none"
    """further options for pytest, in quotes; none: the whole suite"""
