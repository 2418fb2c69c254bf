"""What a user may set: one frozen, validated model per entry point.

The same models check ``mlflow run -P name=value``, ``python entrypoints/NAME.py --name value`` and calls from code.
Nothing heavy is imported here, so a wrong parameter is refused within a second. ``auto`` means: chosen by the
data set or the machine, and logged as what was chosen.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from soundstack.audio.limits import Limits
from soundstack.config import data_set_names, naming
from soundstack.config import suite as suites
from soundstack.networks.spec import NETWORKS

PROJECT = Path(__file__).resolve().parents[2]

_DATA_SETS = tuple(data_set_names.modules())
if TYPE_CHECKING or not _DATA_SETS:  # a served model ships without them
    DataSetName = str
else:
    DataSetName = Literal[*_DATA_SETS]
Auto = Literal["auto"]
Seconds = Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)]
Rate = Annotated[int, Field(ge=1000, le=384_000)]
Decibel = Annotated[float, Field(ge=-200, lt=0, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
Epochs = Annotated[int, Field(ge=1, le=10_000)]
Bound = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Suffix = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]{1,40}$")]
OwnName = Annotated[str, AfterValidator(naming.checked)]


def _limits(text: str) -> str:
    Limits.parse(text)
    return text.strip()


ServedLimits = Annotated[
    str,
    AfterValidator(_limits),
    Field(
        description="what the served model takes at most: pairs as in max_seconds=60,max_clips=16; a request may lower "
        "them, never raise them. Names: " + ", ".join(Limits.model_fields)
    ),
]

#: The paper's ten values of the SVM's complexity (section 3.3): 1e-9 ... 1, one a decade.
PAPER_COSTS: tuple[float, ...] = tuple(10.0**power for power in range(-9, 1))


def _absolute(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty; give a path")
    try:
        return str(Path(value).expanduser().absolute())
    except RuntimeError as error:
        raise ValueError(f"{value}: {error}") from None


#: A path, made absolute as it is given: what is relative starts where the user stands.
Place = Annotated[str, AfterValidator(_absolute)]
PlaceOrAuto = Annotated[str, AfterValidator(lambda value: value if value == "auto" else _absolute(value))]


class Config(BaseSettings):
    """Base of all configurations: frozen, unknown names refused, filled from arguments only (no environment)."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        cli_kebab_case=False,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )
    #: Fields that never change a result; the rest make up the fingerprint.
    irrelevant: ClassVar[frozenset[str]] = frozenset()
    #: The module that, with all that it imports, makes the results; empty: any of the package may.
    made_by: ClassVar[str] = ""

    @property
    def continues(self) -> bool:
        """Whether the same command, given again after an interruption, goes on from the work that was finished."""
        return False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from arguments alone: an environment variable named SEED must not change a run."""
        return (init_settings,)

    def fingerprint(self) -> str:
        """Return 12 hex digits that change exactly when a result-changing field changes."""
        return fingerprint(self.model_dump(mode="json", exclude=set(self.irrelevant)))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fingerprint(content: Any) -> str:
    """Return 12 hex digits of the SHA-256 of JSON-able content (keys sorted, floats in full precision)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _name(*parts: str, suffix: str) -> str:
    return "-".join(parts if suffix == "none" else (*parts, suffix))


def _refuse_name(dataset: str, name: str) -> None:
    if dataset != "csv" and name != "auto":
        raise ValueError(f"name: {dataset} keeps its own; leave name out, or give dataset=csv with a table of yours")


class DataConfig(Config):
    """Parameters that say which sound goes in, shared by all steps."""

    irrelevant: ClassVar[frozenset[str]] = frozenset({"data_dir", "name", "cache_dir", "device", "jobs", "on_error"})

    dataset: DataSetName = Field("demo", description="data set to work on; csv is your own table of clips")
    data_dir: PlaceOrAuto = Field(
        "auto",
        description="folder of the extracted data set, or the CSV file for dataset=csv; "
        "auto: data/<dataset> (demo writes itself into the cache)",
    )
    name: OwnName = Field(
        "auto",
        description="what runs and models of your own table (dataset=csv) are called; a name belongs to one table. "
        "auto: its file's name, or its folder's where the file's says nothing, as in birds/clips.csv",
    )
    channels: Literal["mean", "first", "each"] = Field(
        "mean",
        description="several channels: their mean, the first one, or each channel as an example whose scores "
        "are averaged at prediction",
    )
    clip_seconds: Seconds | Auto = Field(
        "auto",
        description="nominal clip length; shorter clips are zero-padded at the end, longer ones cropped. "
        "auto: the data set's own, for csv the longest clip but at most 10 s",
    )
    sample_rate: Rate | Auto = Field(
        "auto",
        description="rate in Hz that clips of another rate are resampled to; auto: the data set's most common",
    )
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="a damaged clip: fail and name it, or skip it and report"
    )
    cache_dir: Place = Field("cache", description="folder of the feature cache, safe to delete")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is a usable GPU")
    seed: int = Field(0, ge=0, lt=2**32, description="fixes every random choice of the run")
    split_seed: Seed | Auto = Field(
        "auto", description="draws the folds that a csv table does not give; auto: the seed"
    )
    jobs: int = Field(0, ge=0, le=1024, description="decoding threads; 0: all cores")

    @model_validator(mode="after")
    def _data_is_there(self) -> Self:
        _refuse_name(self.dataset, self.name)
        if self.dataset == "demo":
            if self.data_dir != "auto":
                raise ValueError("data_dir: dataset=demo writes its own clips into the cache; leave data_dir out")
            return self
        place = self.data_path
        try:
            there = place.exists()
        except OSError:  # a name that no file can have
            there = False
        if self.data_dir == "auto" and self.dataset == "csv":
            raise ValueError("data_dir: dataset=csv needs data_dir=<your table>.csv with columns filename,label")
        if not there:
            hint = {
                "csv": "give the path of a CSV file with columns filename,label",
                "esc10": "fetch it with `-e download -P dataset=esc50` (esc10 is a part of it) or give its folder",
            }.get(self.dataset, f"fetch it with `-e download -P dataset={self.dataset}` or give its folder")
            raise ValueError(f"data_dir: {place} does not exist; {hint}")
        return self

    @property
    def continues(self) -> bool:
        """See :class:`Config`."""
        return True

    @property
    def data_path(self) -> Path:
        """Where the data set lies: ``data_dir``, or ``data/<dataset>`` for ``auto``."""
        if self.data_dir != "auto":
            return Path(self.data_dir)
        return Path("data", "esc50" if self.dataset == "esc10" else self.dataset).absolute()

    @property
    def data_name(self) -> str:
        """What runs and models are called after: the data set; for a table of one's own, its name."""
        if self.dataset != "csv":
            return self.dataset
        return naming.of_table(self.data_path) if self.name == "auto" else self.name

    @property
    def cache_path(self) -> Path:
        """The cache folder as an absolute path."""
        return Path(self.cache_dir)

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


def _refuse_tuned(nested: str, trials: int) -> None:
    if nested == "yes" and trials > 1:
        raise ValueError(
            "nested: yes needs trials=1, since tuning has seen every fold; give the tuned learning_rate and batch_size "
            "of other data, or leave one of the two out"
        )


class SpectrogramConfig(DataConfig):
    """Parameters of the CRNN's log-mel spectrograms (paper section 3.1)."""

    front_end: Literal["paper", "audeep"] = Field(
        "paper", description="paper: centred frames, Slaney mel, dB; audeep: the auDeep toolkit's spectrogram"
    )
    clip_db: Decibel | Auto = Field(
        "auto", description="values below this many dB under the clip's maximum are raised to it; auto: -80"
    )


class ExtractConfig(SpectrogramConfig):
    """Make log-mel spectrograms of a data set into the cache, and show them.

    Example: mlflow run . -e extract -P dataset=esc10 -P data_dir=path/to/ESC-50
    """


class CrnnConfig(SpectrogramConfig):
    """Train the CRNN of paper section 3.2 with cross-validation, score it on devel and test, and register it.

    Example: mlflow run . -e crnn -P dataset=esc10 -P data_dir=path/to/ESC-50 -P trials=20
    """

    irrelevant: ClassVar[frozenset[str]] = DataConfig.irrelevant | {"suffix"}
    made_by: ClassVar[str] = "systems.crnn_tuning"

    learning_rate: LearningRate | Auto = Field("auto", description="Adam's learning rate; auto: the paper's")
    batch_size: BatchSize | Auto = Field("auto", description="clips a batch; auto: the paper's or 16 for small sets")
    epochs: Epochs | Auto = Field("auto", description="passes over the training folds; auto: the paper's")
    layout: Literal["auto", "three_blocks", "four_blocks"] = Field(
        "auto", description="convolutional blocks; auto: three for dcase2018, four elsewhere"
    )
    standardise: Literal["scalar", "band"] = Field(
        "scalar", description="inputs are standardised by one mean and deviation, or one pair per mel band"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="arithmetic of training steps; bfloat16: faster on GPUs and on processors with AMX or "
        "AVX512-BF16, many times slower on others",
    )
    trials: int = Field(
        1,
        ge=1,
        le=1000,
        description="1: train once; more: Optuna tunes learning rate and batch size, one run a trial",
    )
    nested: Literal["no", "yes"] = Field(
        "no",
        description="yes: also devel scores by nested cross-validation, for which a further model is trained for every "
        "pair of folds (with 4 folds twice the time in all); not with trials > 1",
    )
    served_limits: ServedLimits = "default"
    suffix: Suffix = Field("none", description="registered as <dataset>-crnn-<suffix>, to keep variants apart")

    @model_validator(mode="after")
    def _nothing_has_seen_a_nested_fold(self) -> Self:
        _refuse_tuned(self.nested, self.trials)
        return self

    @property
    def model_name(self) -> str:
        """Name of the run and of the registered model."""
        return _name(self.data_name, "crnn", suffix=self.suffix)

    @property
    def is_random(self) -> bool:
        """Whether another seed may give another result: always, by its weights and its batches."""
        return True

    @property
    def limits(self) -> Limits:
        """What the served model takes at most."""
        return Limits.parse(self.served_limits)


class DeepSpectrumConfig(DataConfig):
    """Extract deep features with a pre-trained or random CNN and train a linear SVM on them (paper section 3.3).

    Example: mlflow run . -e deepspectrum -P network=densenet121 -P pretraining=none
    """

    irrelevant: ClassVar[frozenset[str]] = DataConfig.irrelevant | {"suffix", "weights_dir"}
    made_by: ClassVar[str] = "systems.deepspectrum"

    network: str = Field("efficientnet_lite0", description="one of: " + ", ".join(NETWORKS))
    pretraining: Literal["auto", "imagenet", "audioset", "none"] = Field(
        "auto", description="what the network was trained on; none: random weights from the seed"
    )
    colour_map: Literal["magma", "viridis", "cividis", "hot", "gray"] = Field(
        "magma", description="colours of the DEEP SPECTRUM picture"
    )
    window: Seconds | Auto = Field(
        "auto",
        description="FFT window of the picture in seconds; auto: the toolkit's (next power of two >= 25 ms)",
    )
    clip_features: Bound | Literal["none"] = Field(
        10.0,
        description="standardised features are clipped to +- this; none: the paper's plain standardisation",
    )
    test_model: Literal["refit", "folds"] = Field(
        "refit",
        description="test scores from an SVM refitted on all devel clips, or the mean of the fold SVMs",
    )
    trials: int = Field(
        0,
        ge=0,
        le=1000,
        description="0: the paper's ten values of C (1e-9 to 1); more: that many Optuna samples",
    )
    cost_path: Literal["all", "rising"] = Field(
        "all",
        description="all: every one of the ten values of C; rising: from the smallest up, and no further once devel "
        "macro-F1 has clearly fallen, which saves the slowest ones",
    )
    nested: Literal["no", "yes"] = Field(
        "no",
        description="yes: also devel scores by nested cross-validation: for each fold, C is chosen on the others alone",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="arithmetic of the network's forward pass; bfloat16: coarser features, faster on GPUs and on "
        "processors with AMX or AVX512-BF16, many times slower on others",
    )
    shortcuts: Literal["yes", "no"] = Field(
        "yes",
        description="yes: networks run in float32 on the CPU in a form arranged for speed, equal to rounding; "
        "no: layer by layer as published",
    )
    weights_dir: PlaceOrAuto = Field("auto", description="folder of weight files; auto: torch's hub cache")
    served_limits: ServedLimits = "default"
    suffix: Suffix = Field("none", description="registered as <dataset>-<network>-<pretraining>-<suffix>")

    @property
    def model_name(self) -> str:
        """Name of the run and of the registered model."""
        return _name(self.data_name, self.network, self.chosen_pretraining, suffix=self.suffix)

    @property
    def is_random(self) -> bool:
        """Whether another seed may give another result: by random weights, sampled values of C, or other folds."""
        return self.chosen_pretraining == "none" or self.trials > 0 or super().is_random

    @property
    def limits(self) -> Limits:
        """What the served model takes at most."""
        return Limits.parse(self.served_limits)

    @field_validator("network")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in NETWORKS:
            raise ValueError(f"{value!r} is not known; allowed: {', '.join(NETWORKS)}")
        return value

    @model_validator(mode="after")
    def _pretraining_exists(self) -> Self:
        offered = NETWORKS[self.network].pretrainings
        if self.pretraining not in ("auto", *offered):
            raise ValueError(
                f"pretraining: {self.network} has no {self.pretraining!r} weights; allowed: {', '.join(offered)}"
            )
        return self

    @property
    def chosen_pretraining(self) -> str:
        """The pretraining with ``auto`` resolved to the network's first (its published weights)."""
        return NETWORKS[self.network].pretrainings[0] if self.pretraining == "auto" else self.pretraining


class FuseConfig(Config):
    """Stack registered models of one data set with a linear SVM on their out-of-fold scores (paper section 3.4).

    Everything comes from the registry; the sound files are not needed.
    Example: mlflow run . -e fuse -P dataset=esc10 -P members="crnn,*-imagenet"
    """

    irrelevant: ClassVar[frozenset[str]] = frozenset({"name", "suffix", "cache_dir"})
    made_by: ClassVar[str] = "systems.stacking"

    dataset: DataSetName = Field("demo", description="data set whose registered models are stacked")
    name: OwnName = Field("auto", description="the name that your own table was trained under; needed for dataset=csv")
    members: str = Field(
        "all",
        description="comma-separated names or glob patterns of registered models, with or without the leading "
        "'<dataset>-'; NAME/3 or NAME@alias picks a version (default: the champion)",
    )
    crnn_scores: Literal["log", "probability"] = Field(
        "log", description="the CRNN's probabilities enter the stack as logarithms, or plainly as in the paper"
    )
    clip_features: Bound | Literal["none"] = Field(
        10.0, description="standardised scores are clipped to +- this; none: plain standardisation"
    )
    trials: int = Field(
        0,
        ge=0,
        le=1000,
        description="0: the paper's ten values of C (1e-9 to 1); more: that many Optuna samples",
    )
    cost_path: Literal["all", "rising"] = Field(
        "all",
        description="all: every one of the ten values of C; rising: from the smallest up, and no further once devel "
        "macro-F1 has clearly fallen, which saves the slowest ones",
    )
    nested: Literal["no", "yes"] = Field(
        "no",
        description="yes: also devel scores by nested cross-validation: for each fold, the stack and its members are "
        "chosen and trained on the others alone; needs members that were trained with nested=yes",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="fixes every random choice of the run")
    served_limits: ServedLimits = "default"
    suffix: Suffix = Field("none", description="registered as <dataset>-fusion-<suffix>")
    cache_dir: Place = Field("cache", description="folder of the feature cache")

    @model_validator(mode="after")
    def _named(self) -> Self:
        _refuse_name(self.dataset, self.name)
        return self

    @property
    def data_name(self) -> str:
        """What runs and models are called after: the data set; for a table of one's own, its name (``auto``: none)."""
        return self.name if self.dataset == "csv" else self.dataset

    @property
    def model_name(self) -> str:
        """Name of the run and of the registered model."""
        return _name(self.data_name, "fusion", suffix=self.suffix)

    @property
    def is_random(self) -> bool:
        """Whether another seed may give another result of the same members: by sampled values of C."""
        return self.trials > 0

    @property
    def limits(self) -> Limits:
        """What the served model takes at most."""
        return Limits.parse(self.served_limits)


class MainConfig(DataConfig):
    """Run a suite on one data set: spectrograms, CRNN, deep features with SVMs, fusions, and a table of all.

    With no parameter: the suite quick on the demo data set, which needs no download. Rows that were done with the same
    configuration, data and code are taken over.
    Examples: mlflow run . -P dataset=esc10 -P data_dir=path/to/ESC-50
              mlflow run . -P suite=table3 -P dataset=esc50 -P seeds=3
    """

    irrelevant: ClassVar[frozenset[str]] = DataConfig.irrelevant | {"weights_dir", "rerun"}

    suite: str = Field("quick", description="quick, table1, table2, table3, full, or the path of your own YAML file")
    systems: str = Field(
        "auto",
        description="comma-separated systems instead of a suite: crnn, or <network>-<pretraining>; auto: the suite's",
    )
    epochs: Epochs | Auto = Field("auto", description="passes of the CRNN over its training folds; auto: the paper's")
    trials: int = Field(1, ge=1, le=1000, description="Optuna trials of the CRNN's learning rate and batch size")
    seeds: int = Field(1, ge=1, le=100, description="repeat what is random with so many seeds, counted up from seed")
    nested: Literal["no", "yes"] = Field(
        "no",
        description="yes: also devel scores by nested cross-validation, for which the CRNN is trained about twice as "
        "long; not with trials > 1",
    )
    served_limits: ServedLimits = Field(
        "default",
        description="what the served fusions take at most, as in max_seconds=60,max_clips=16 (see -e fuse)",
    )
    weights_dir: PlaceOrAuto = Field("auto", description="folder of weight files; auto: torch's hub cache")
    rerun: Literal["no", "yes"] = Field("no", description="yes: train again what is done already")

    @field_validator("suite")
    @classmethod
    def _suite_where_the_user_stands(cls, value: str) -> str:
        return _absolute(value) if Path(value).suffix in (".yaml", ".yml") else value

    @field_validator("systems")
    @classmethod
    def _systems_known(cls, value: str) -> str:
        if value == "auto":
            return value
        names = [name.strip() for name in value.split(",") if name.strip()]
        if not names:
            raise ValueError("name at least one system, e.g. crnn,efficientnet_lite0-imagenet")
        for name in names:
            network, _, pretraining = name.rpartition("-")
            if name != "crnn" and (network not in NETWORKS or pretraining not in NETWORKS[network].pretrainings):
                known = ", ".join(f"{n}-{p}" for n, spec in NETWORKS.items() for p in spec.pretrainings)
                raise ValueError(f"{name!r} is not a system; allowed: crnn, {known}")
        if len(set(names)) < len(names):
            raise ValueError("a system is named twice")
        return ",".join(names)

    @model_validator(mode="after")
    def _suite_is_there(self) -> Self:
        suites.load(self.suite)
        _refuse_tuned(self.nested, self.trials)
        return self

    @property
    def continues(self) -> bool:
        """See :class:`Config`."""
        return self.rerun == "no"

    @property
    def chosen_suite(self) -> suites.Suite:
        """The suite to run."""
        return suites.load(self.suite) if self.systems == "auto" else suites.of_systems(self.systems.split(","))


class PredictConfig(Config):
    """Recognise sound files of any length with a registered model: a table of windows, one of files, one of bad files.

    Memory stays flat however long the recordings are; a killed run continues, and what is done is not done again.
    Examples: mlflow run . -e predict -P model=demo-fusion -P input=path/to/recordings
              mlflow run . -e predict -P model=esc10-fusion/2 -P input="field/**/*.wav" -P timeline=yes
    """

    irrelevant: ClassVar[frozenset[str]] = frozenset({"output_dir", "timeline", "jobs", "device"})

    model: str = Field(
        "auto",
        description="registered model: NAME (its champion), NAME/version, NAME@alias or a models:/ URI; or the folder "
        "of a saved one. auto: the only registered fusion",
    )
    input: str = Field(
        "none",
        description="what to recognise: a folder (searched through), a glob in quotes, a sound file, or a CSV with a "
        "column filename (relative to the CSV); required",
    )
    output_dir: PlaceOrAuto = Field("auto", description="folder of the tables; auto: predictions/<model name>")
    timeline: Literal["no", "yes"] = Field("no", description="yes: also draw a timeline picture of every file")
    jobs: int = Field(0, ge=0, le=1024, description="decoding threads; 0: all cores")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is a usable GPU")

    @field_validator("model")
    @classmethod
    def _model_named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty; name a registered model, e.g. demo-fusion")
        place = Path(_absolute(value))
        try:
            saved = (place / "recogniser.json").is_file() or (place / "MLmodel").is_file()
        except (OSError, ValueError):  # a name that no file can have
            saved = False
        return str(place) if saved else value.strip()

    @field_validator("input")
    @classmethod
    def _input_given(cls, value: str) -> str:
        if value.strip() in {"", "none"}:
            raise ValueError("is required; give a folder of recordings, a quoted glob, a sound file, or a CSV")
        return _absolute(value)

    @property
    def continues(self) -> bool:
        """See :class:`Config`."""
        return True

    def output_path(self, model: str) -> Path:
        """The folder of the tables, for a model of that name."""
        return Path("predictions", model).absolute() if self.output_dir == "auto" else Path(self.output_dir)


class DownloadConfig(Config):
    """Fetch a published data set: verified, resumable, and only what is missing.

    Example: mlflow run . -e download -P dataset=esc50
    """

    dataset: Literal["esc50", "dcase2017", "dcase2018"] = Field(
        "esc50", description="esc50 (about 0.6 GB; holds esc10), dcase2017 (about 15 GB) or dcase2018 (about 90 GB)"
    )
    data_dir: PlaceOrAuto = Field("auto", description="folder to put it in; auto: data/<dataset>")
    parts: str = Field("all", description="comma-separated parts such as development or evaluation/meta; or all")
    keep_archives: Literal["no", "yes"] = Field("no", description="yes: keep the archives after unpacking")
    base_url: str = Field(
        "official", description="fetch the same files from a mirror, http(s)://...; official: where they were published"
    )
    jobs: int = Field(4, ge=1, le=16, description="files fetched at the same time")

    @property
    def continues(self) -> bool:
        """See :class:`Config`."""
        return True

    @property
    def folder(self) -> Path:
        """Where the data set goes."""
        return Path("data", self.dataset).absolute() if self.data_dir == "auto" else Path(self.data_dir)


class TestConfig(Config):
    """Run the project's tests.

    Example: mlflow run . -e test -P options="-k spectrogram"
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    options: str = Field("none", description="further options for pytest, in quotes; none: the whole suite")
