"""What a user may set: one frozen, validated model an entry point.

The same models check ``mlflow run -P name=value``, ``python entrypoints/NAME.py --name value`` and calls from code.
Nothing heavy is imported here, so a wrong parameter is refused within a second. ``auto`` means: chosen by the
data set or the machine, and logged as what was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from soundstack.config import suite as suites
from soundstack.config.base import (
    Augment,
    Auto,
    Bound,
    CacheDir,
    ClassWeight,
    Config,
    CostPath,
    CostTrials,
    DataConfig,
    DataSetName,
    Epochs,
    NoneRate,
    OwnName,
    ParallelTrials,
    Seed,
    ServedLimits,
    Studies,
    Suffix,
    Switch,
    WeightsDir,
    absolute,
    local_cache,
    run_name,
)
from soundstack.config.finetune import FinetuneConfig
from soundstack.config.network import NetworkConfig, Systems
from soundstack.networks.registry import slug

#: The paper's ten values of the SVM's complexity (section 3.3): 1e-9 ... 1, one a decade.
PAPER_COSTS: tuple[float, ...] = tuple(10.0**power for power in range(-9, 1))


def _untuned(nested: bool, info: ValidationInfo) -> bool:
    if nested and info.data.get("trials", 1) > 1:
        raise ValueError(
            "yes needs trials=1, since tuning has seen every fold; give the tuned learning_rate and batch_size of "
            "other data, or leave one of the two out"
        )
    return nested


#: Whether devel scores come from nested cross-validation, too; stands after ``trials``.
NestedCrnn = Annotated[Switch, AfterValidator(_untuned)]


class SpectrogramConfig(DataConfig):
    """Parameters of the CRNN's log-mel spectrograms (paper section 3.1)."""

    front_end: Literal["paper", "audeep"] = "paper"
    """paper: centred frames, Slaney mel, dB; audeep: the auDeep toolkit's spectrogram"""
    clip_db: Annotated[float, Field(ge=-200, lt=0)] | Auto = "auto"
    """values below this many dB under the clip's maximum are raised to it; auto: -80"""


class ExtractConfig(SpectrogramConfig):
    """Make log-mel spectrograms of a data set into the cache, and show them.

    Example: mlflow run . -e extract -P dataset=esc10 -P data_dir=path/to/ESC-50
    """


class CrnnConfig(SpectrogramConfig):
    """Train the CRNN of paper section 3.2 with cross-validation, score it on devel and test, and register it.

    Example: mlflow run . -e crnn -P dataset=esc10 -P data_dir=path/to/ESC-50 -P trials=20
    """

    irrelevant: ClassVar[frozenset[str]] = DataConfig.irrelevant | {"suffix", "studies"}
    made_by: ClassVar[str] = "crnn.search"

    learning_rate: Annotated[float, Field(gt=0, le=1)] | Auto = "auto"
    """Adam's learning rate; auto: the paper's"""
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    """clips a batch; auto: the paper's or 16 for small sets"""
    epochs: Epochs | Auto = "auto"
    """passes over the training folds; auto: the paper's"""
    layout: Literal["auto", "three_blocks", "four_blocks"] = "auto"
    """convolutional blocks; auto: three for dcase2018, four elsewhere"""
    standardise: Literal["scalar", "band"] = "scalar"
    """inputs are standardised by one mean and deviation, or one pair per mel band"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """arithmetic of training steps; bfloat16: faster on GPUs and on processors with AMX or AVX512-BF16, many times
    slower on others"""
    augment: Augment = 0.0
    class_weight: ClassWeight = "none"
    trials: Annotated[int, Field(ge=1, le=1000)] = 1
    """1: train once; more: Optuna tunes learning rate and batch size, one run a trial"""
    parallel_trials: ParallelTrials = 1
    studies: Studies = "auto"
    nested: NestedCrnn = False
    """yes: also devel scores by nested cross-validation, for which a further model is trained for every pair of folds
    (with 4 folds twice the time in all); not with trials > 1"""
    served_limits: ServedLimits = "default"
    suffix: Suffix = "none"
    """registered as <dataset>-crnn-<suffix>, to keep variants apart"""

    @property
    def model_name(self) -> str:
        """Name of the run and of the registered model."""
        return run_name(self.data_name, "crnn", suffix=self.suffix)

    @property
    def is_random(self) -> bool:
        """Whether another seed may give another result: always, by its weights and its batches."""
        return True


@dataclass(frozen=True)
class CrnnPreset:
    """What ``auto`` means for the CRNN on a data set (paper sections 3.2.1, 3.2.2 and 4.1)."""

    layout: str
    epochs: int
    learning_rate: float
    batch_size: int
    clip_db: float


#: DCASE 2018's are the best row of Table 1. For the others the paper gives the learning rate, the epochs and the
#: threshold; the batch of 16 is ours: their training folds hold a few hundred clips, a few batches of 64.
PRESETS: dict[str, CrnnPreset] = {
    "dcase2018": CrnnPreset("three_blocks", 30, 0.01, 64, -60.0),
    "dcase2017": CrnnPreset("four_blocks", 50, 0.001, 64, -80.0),
    "esc50": CrnnPreset("four_blocks", 100, 0.001, 64, -80.0),
    "esc10": CrnnPreset("four_blocks", 100, 0.001, 16, -80.0),
    "demo": CrnnPreset("four_blocks", 40, 0.001, 16, -80.0),
    "csv": CrnnPreset("four_blocks", 100, 0.001, 16, -80.0),
}


class DeepSpectrumConfig(NetworkConfig):
    """Extract deep features with a pre-trained or random CNN and train a linear SVM on them (paper section 3.3).

    Example: mlflow run . -e deepspectrum -P network=densenet121 -P pretraining=none
    """

    irrelevant: ClassVar[frozenset[str]] = NetworkConfig.irrelevant | {"suffix"}
    made_by: ClassVar[str] = "deepspectrum.system"

    feature_bound: Bound = 10.0
    """standardised features are clipped to +- this; none: the paper's plain standardisation"""
    test_model: Literal["refit", "folds"] = "refit"
    """test scores from an SVM refitted on all devel clips, or the mean of the fold SVMs"""
    class_weight: ClassWeight = "none"
    trials: CostTrials = 0
    cost_path: CostPath = "all"
    nested: Switch = False
    """yes: also devel scores by nested cross-validation: for each fold, C is chosen on the others alone"""
    served_limits: ServedLimits = "default"
    suffix: Suffix = "none"
    """registered as <dataset>-<network>-<pretraining>-<suffix>"""

    @property
    def model_name(self) -> str:
        """Name of the run and of the registered model."""
        return run_name(self.data_name, slug(self.network), self.chosen_pretraining, suffix=self.suffix)

    @property
    def is_random(self) -> bool:
        """Whether another seed may give another result: by random weights, sampled values of C, or other folds."""
        return self.chosen_pretraining == "none" or self.trials > 0 or super().is_random


class FuseConfig(Config):
    """Stack registered models of one data set with a linear SVM on their out-of-fold scores (paper section 3.4).

    Everything comes from the registry; the sound files are not needed.
    Example: mlflow run . -e fuse -P dataset=esc10 -P members="crnn,*-imagenet"
    """

    irrelevant: ClassVar[frozenset[str]] = frozenset({"name", "suffix", "cache_dir"})
    made_by: ClassVar[str] = "fusion.system"

    dataset: DataSetName = "demo"
    """data set whose registered models are stacked"""
    name: OwnName = "auto"
    """the name that your own table was trained under; needed for dataset=csv"""
    members: str = "all"
    """comma-separated names or glob patterns of registered models, with or without the leading '<dataset>-'; NAME/3 or
    NAME@alias picks a version (default: the champion)"""
    crnn_scores: Literal["log", "probability"] = "log"
    """the CRNN's probabilities enter the stack as logarithms, or plainly as in the paper"""
    feature_bound: Bound = 10.0
    """standardised scores are clipped to +- this; none: plain standardisation"""
    class_weight: ClassWeight = "none"
    trials: CostTrials = 0
    cost_path: CostPath = "all"
    nested: Switch = False
    """yes: also devel scores by nested cross-validation: for each fold, the stack and its members are chosen and
    trained on the others alone; needs members that were trained with nested=yes"""
    seed: Seed = 0
    none_rate: NoneRate = "off"
    served_limits: ServedLimits = "default"
    suffix: Suffix = "none"
    """registered as <dataset>-fusion-<suffix>"""
    cache_dir: CacheDir = "cache"

    @property
    def data_name(self) -> str:
        """What runs and models are called after: the data set; for a table of one's own, its name (``auto``: none)."""
        return self.name if self.dataset == "csv" else self.dataset

    @property
    def model_name(self) -> str:
        """Name of the run and of the registered model."""
        return run_name(self.data_name, "fusion", suffix=self.suffix)

    @property
    def cache_path(self) -> Path:
        """See :class:`DataConfig`."""
        return local_cache(self.cache_dir)

    @property
    def is_random(self) -> bool:
        """Whether another seed may give another result of the same members: by sampled values of C."""
        return self.trials > 0


class MainConfig(DataConfig):
    """Run a suite on one data set: spectrograms, CRNN, deep features with SVMs, fusions, and a table of all.

    With no parameter: the suite quick on the demo data set, which needs no download. Rows that were done with the same
    configuration, data and code are reused.
    Examples: mlflow run . -P dataset=esc10 -P data_dir=path/to/ESC-50
              mlflow run . -P suite=table3 -P dataset=esc50 -P seeds=3
    """

    irrelevant: ClassVar[frozenset[str]] = DataConfig.irrelevant | {"weights_dir", "rerun", "studies"}

    suite: str = "quick"
    """quick, best, table1, table2, table3, full, offline_best, or the path of your own YAML file"""
    systems: Systems = "auto"
    """comma-separated systems instead of a suite: crnn, <network>-<pretraining>, as in
    timm:convnext_tiny.fb_in22k-pretrained, or finetune-<network>-<pretraining>; auto: the suite's"""
    epochs: Epochs | Auto = "auto"
    """passes of the CRNN over its training folds; auto: the paper's"""
    class_weight: ClassWeight = "none"
    trials: Annotated[int, Field(ge=1, le=1000)] = 1
    """Optuna trials of the CRNN's learning rate and batch size"""
    parallel_trials: ParallelTrials = 1
    studies: Studies = "auto"
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    """repeat what is random with so many seeds, counted up from seed"""
    nested: NestedCrnn = False
    """yes: also devel scores by nested cross-validation, for which the CRNN is trained about twice as long; not with
    trials > 1"""
    served_limits: ServedLimits = "default"
    weights_dir: WeightsDir = "auto"
    rerun: Switch = False
    """yes: train again what is done already"""

    @field_validator("suite")
    @classmethod
    def _suite_is_there(cls, value: str) -> str:
        place = absolute(value) if Path(value).suffix in (".yaml", ".yml") else value
        suites.load(place)
        return place

    @property
    def continues(self) -> bool:
        """See :class:`Config`."""
        return not self.rerun

    @property
    def chosen_suite(self) -> suites.Suite:
        """The suite to run."""
        return suites.load(self.suite) if self.systems == "auto" else suites.of_systems(self.systems.split(","))


ModelConfig = CrnnConfig | DeepSpectrumConfig | FinetuneConfig | FuseConfig
#: The entry points that register a model, by name.
MODEL_STEPS: Mapping[str, type[ModelConfig]] = {
    each.step(): each for each in (CrnnConfig, DeepSpectrumConfig, FinetuneConfig, FuseConfig)
}
