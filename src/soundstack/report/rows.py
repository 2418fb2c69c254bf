"""What the paper's tables are made of: their rows, which run fills a row, and the command that makes that run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from soundstack.config.places import project
from soundstack.report import paper

#: Data sets in the order of Table 3, then those that the paper does not have; the user's own follow by name.
TITLES: Mapping[str, str] = {
    "dcase2018": "DCASE 2018",
    "dcase2017": "DCASE 2017",
    "esc50": "ESC-50",
    "esc10": "ESC-10",
    "demo": "demo",
}
MEASURES: Mapping[str, str] = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


@dataclass(frozen=True)
class TableRow:
    """A row of a table: the run's and registered model's name without ``<dataset>-``, and the paper's words for it.

    ``group`` is the heading over it and its like; ``step`` is the entry point that makes it, empty for rows that only
    cite others' work; ``members`` are the models that a fusion stacks.
    """

    name: str
    labels: tuple[str, ...]
    group: str
    step: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    members: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The labels as one text."""
        return ", ".join(label for label in self.labels if label)


@dataclass(frozen=True)
class Layout:
    """The form of one of the paper's tables on a data set."""

    number: int
    title: str
    labels: tuple[str, ...]
    rows: tuple[TableRow, ...]


def command(row: TableRow, dataset: str, data_dir: str = "auto") -> str:
    """Write the command that makes a row's run.

    >>> command(TABLE_2.rows[0], "dcase2018")
    'mlflow run . --env-manager local -e deepspectrum -P dataset=dcase2018 -P network=resnet50 -P pretraining=imagenet \
-P colour_map=cividis -P suffix=cividis'
    """
    settings = {"dataset": dataset} if dataset in TITLES else {"dataset": "csv", "name": dataset}
    if row.members:
        settings["members"] = ",".join(row.members)
    elif row.step != "fuse" and data_dir != "auto":
        settings["data_dir"] = data_dir
    settings.update(row.settings)
    given = " ".join(f"-P {shlex.quote(f'{name}={value}')}" for name, value in settings.items())
    return f"mlflow run {project()} --env-manager local -e {row.step} {given}"


def layouts(dataset: str) -> tuple[Layout, ...]:
    """The three tables' forms on a data set."""
    return TABLE_1, TABLE_2, table_3(dataset)


def is_fusion(name: str) -> bool:
    """Tell fusions of different systems from single systems; fused CRNNs of several thresholds count as one system."""
    return (name == "fusion" or name.startswith("fusion-")) and name != "fusion-crnn"


def _crnn(name: str) -> TableRow:
    suffix = name.removeprefix("crnn-")
    learning_rate, batch, decibel = re.findall(r"[\d.]+", suffix)
    settings = {"learning_rate": learning_rate, "batch_size": batch, "clip_db": f"-{decibel}", "suffix": suffix}
    return TableRow(name, (learning_rate, batch, f"−{decibel}"), "CRNN", "crnn", settings)


_FUSED_CRNNS = TableRow(
    name="fusion-crnn",
    labels=("Fusion of best 3 CRNNs", "", ""),
    group="Fusion",
    step="fuse",
    settings={"suffix": "crnn"},
    members=tuple(f"crnn-lr0.01_b64_{decibel}db" for decibel in (30, 45, 60)),
)

TABLE_1 = Layout(
    1,
    "CRNNs by learning rate, batch size and amplitude threshold",
    ("lr", "Batch size", "Threshold [dB]"),
    (
        *(_crnn(name) for name in paper.TABLES[1]["dcase2018"] if name.startswith("crnn-")),
        _FUSED_CRNNS,
        TableRow("baseline", ("0.0001", "256", "–"), "DCASE 2018, task 5 baseline [8]"),
    ),
)


def _colours(name: str) -> TableRow:
    colours = name.removeprefix("resnet50-imagenet").removeprefix("-")
    settings = {"network": "resnet50", "pretraining": "imagenet"}
    if colours:  # magma is the default and the row of Table 3: its run has no suffix
        settings |= {"colour_map": colours, "suffix": colours}
    return TableRow(name, ("ResNet50", "ImageNet", (colours or "magma").capitalize()), "", "deepspectrum", settings)


TABLE_2 = Layout(
    2,
    "colour maps of the pictures for an ImageNet pre-trained ResNet50",
    ("Network", "Pre-training", "Colour map"),
    tuple(map(_colours, paper.TABLES[2]["dcase2018"])),
)

_IMAGE_NETWORKS = {"densenet121": "Densenet121", "resnet50": "ResNet50", "vgg16": "VGG16", "vgg19": "VGG19"}
_AUDIO_NETWORKS = {"openl3_mel256_env_512": "openl3 [28]", "panns_wavegram_logmel_cnn14": "PANN [30]"}
_MORE_AUDIO_NETWORKS = {
    "openl3_mel256_env_6144": "openl3, 6144 values",
    "openl3_mel128_env_512": "openl3, 128 bands",
    "openl3_mel128_env_6144": "openl3, 128 bands, 6144 values",
    "panns_cnn14": "PANN, CNN14",
    "panns_cnn10": "PANN, CNN10",
}
_PRETRAININGS = {"imagenet": "ImageNet", "none": "None", "audioset": "AudioSet", "birdsong": "Birdsong"}
_OFFLINE_BEST = {"suite": "offline_best"}
_CITED = {
    "baseline": "Challenge baselines with CNNs [8, 31, 32]",
    "cnn_augmentation": "CNN + data augmentation [2]",
    "gan_augmentation": "Data augmentation with GANs [44]",
    "finetuned_panns": "Fine-tuned PANNs [30]",
}


def _networks(group: str, networks: Mapping[str, str], *pretrainings: str) -> Iterator[TableRow]:
    for (network, label), pretraining in product(networks.items(), pretrainings):
        settings = {"network": network, "pretraining": pretraining}
        labels = (label, _PRETRAININGS[pretraining])
        yield TableRow(f"{network}-{pretraining}", labels, group, "deepspectrum", settings)


def _fusions(crnns: Sequence[str], group: str) -> Iterator[TableRow]:
    imagenet = [f"{network}-imagenet" for network in _IMAGE_NETWORKS]
    untrained = [f"{network}-none" for network in _IMAGE_NETWORKS]
    audioset = [f"{network}-audioset" for network in _AUDIO_NETWORKS]
    for suffix, label, members in (
        ("imagenet", "ImageNet pre-trained DEEP SPECTRUM", imagenet),
        ("untrained", "All untrained DEEP SPECTRUM", untrained),
        ("deepspectrum", "All DEEP SPECTRUM", imagenet + untrained),
        ("crnn_deepspectrum", "CRNN + DEEP SPECTRUM", [*crnns, *imagenet, *untrained]),
        ("deepspectrum_audioset", "DEEP SPECTRUM + AudioSet nets", imagenet + untrained + audioset),
        ("all", "CRNN + AudioSet nets + DEEP SPECTRUM", [*crnns, *imagenet, *untrained, *audioset]),
    ):
        yield TableRow(f"fusion-{suffix}", (label, ""), group, "fuse", {"suffix": suffix}, tuple(members))


def table_3(dataset: str) -> Layout:
    """The form of Table 3 on a data set: its CRNN is a fusion of three on DCASE 2018."""
    deep_spectrum, audio, fusion = "Proposed DEEP SPECTRUM [42]", "Pre-trained audio models", "Proposed fusion"
    crnn = TableRow("crnn", ("Proposed CRNN", ""), fusion, "crnn")
    if dataset == "dcase2018":
        crnn = replace(_FUSED_CRNNS, labels=("Proposed CRNN (3 thresholds)", ""), group=fusion)
    return Layout(
        3,
        "DEEP SPECTRUM, pre-trained audio models, CRNN and their fusion",
        ("System", "Pre-training"),
        (
            *_networks(deep_spectrum, _IMAGE_NETWORKS, "imagenet", "none"),
            *_networks(deep_spectrum, {"efficientnet_lite0": "EfficientNet-Lite0"}, "imagenet", "none"),
            *_networks(audio, _AUDIO_NETWORKS | _MORE_AUDIO_NETWORKS, "audioset"),
            *_networks(audio, {"birdnet": "BirdNET"}, "birdsong"),
            crnn,
            *_fusions(crnn.members or (crnn.name,), fusion),
            TableRow("fusion", ("Quick suite's fusion", ""), fusion, "main"),
            TableRow("fusion-offline_best", ("BirdNET + EfficientNet-Lite0", ""), fusion, "main", _OFFLINE_BEST),
            *(TableRow(name, (text, ""), "Baselines and SOTA") for name, text in _CITED.items()),
        ),
    )
