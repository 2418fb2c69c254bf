"""What a user may set of a pre-trained network: which one, with what weights, and how it is fed and computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from soundstack.config.base import Auto, DataConfig, Seconds, Switch, WeightsDir, absolute
from soundstack.networks.registry import NETWORKS, SCHEMES, folder_of, network_spec
from soundstack.utils.errors import ConfigError

#: Before the network of a system that is fine-tuned.
FINETUNE = "finetune-"


def listed(value: str, otherwise: str) -> list[str]:
    """The words of a list with commas; the error says ``otherwise`` where there are none."""
    if names := [name.strip() for name in value.split(",") if name.strip()]:
        return names
    raise ValueError(otherwise)


def checked_network(value: str) -> str:
    """The name of a network, with the folder in it spelt in one way, checked without loading what loads it."""
    if (folder := folder_of(value)) is not None:
        value = f"{value.partition(':')[0]}:{Path(absolute(str(folder))).resolve()}"
    try:
        network_spec(value)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("network: ").rstrip(".")) from None
    if (folder := folder_of(value)) is not None and not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    return value


def checked_trainable(network: str) -> str:
    """The name of a network, if it can be trained further."""
    if not network_spec(network).random:
        raise ValueError(f"{network} cannot be trained further: its published file computes, and does not learn")
    return network


def checked_systems(value: str) -> str:
    """A list of systems: ``crnn``, ``<network>-<pretraining>`` (frozen, with an SVM), or the latter after finetune-."""
    names = listed(value, "name at least one system, e.g. crnn,efficientnet_lite0-imagenet")
    known = ["crnn", *(f"{network}-{each}" for network, spec in NETWORKS.items() for each in spec.pretrainings)]
    forms = [f"{scheme.form}-pretrained" for scheme in SCHEMES.values()]
    for number, name in enumerate(names):
        frozen = name.removeprefix(FINETUNE)
        network, _, pretraining = frozen.rpartition("-")
        if network.partition(":")[0] in SCHEMES and pretraining in ("pretrained", "none"):
            names[number] = f"{name.removesuffix(frozen)}{checked_network(network)}-{pretraining}"
        elif frozen not in known or (frozen != name and frozen == "crnn"):
            raise ValueError(f"{name!r} is not a system; allowed: {', '.join(known + forms)}, {FINETUNE}<network>-...")
        elif frozen != name:
            checked_trainable(network)
    if len(set(names)) < len(names):
        raise ValueError("a system is named twice")
    return ",".join(names)


#: A comma-separated list of systems, or ``auto``.
Systems = Annotated[str, AfterValidator(lambda value: value if value == "auto" else checked_systems(value))]


class NetworkConfig(DataConfig):
    """Parameters of the steps that begin with a pre-trained network (paper section 3.3)."""

    irrelevant: ClassVar[frozenset[str]] = DataConfig.irrelevant | {"weights_dir"}

    network: Annotated[str, AfterValidator(checked_network)] = Field(
        "efficientnet_lite0",
        description=f"one of: {', '.join(NETWORKS)}; or any other: timm:NAME, an image network of timm; "
        "hf:ORG/NAME[@REVISION], an audio encoder of the Hugging Face hub; timm:/FOLDER or hf:/FOLDER, one of yours",
    )
    pretraining: Literal["auto", "imagenet", "audioset", "birdsong", "pretrained", "none"] = "auto"
    """what the network was trained on; pretrained: the published weights of timm:... and hf:..., whatever that was;
    none: random weights from the seed"""
    layer: Annotated[int, Field(ge=-1000, le=1000)] | Auto = "auto"
    """hidden layer of an hf:... network whose mean over time is the features: 0 is before the first one, -1 the last;
    auto: what leaves the encoder"""
    colour_map: Literal["magma", "viridis", "cividis", "hot", "gray"] = "magma"
    """colours of the DEEP SPECTRUM picture"""
    window: Seconds | Auto = "auto"
    """FFT window of the picture in seconds; auto: the toolkit's (next power of two >= 25 ms)"""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """arithmetic of the network; bfloat16: coarser features in half the time; auto: bfloat16 on processors that have it
    (AVX512-BF16, AMX), float32 on others and on GPUs"""
    shortcuts: Switch = True
    """yes: OpenVINO runs the network on a CPU, equal to rounding and several times faster; no: torch, layer by layer as
    published"""
    weights_dir: WeightsDir = "auto"

    @field_validator("pretraining")
    @classmethod
    def _offered(cls, value: str, info: ValidationInfo) -> str:
        network = info.data.get("network", "")
        if value != "auto" and network and value not in (offered := network_spec(network).pretrainings):
            raise ValueError(f"{network} has no {value!r} weights; allowed: {', '.join(offered)}")
        return value

    @field_validator("layer")
    @classmethod
    def _has_layers(cls, value: int | str, info: ValidationInfo) -> int | str:
        network = info.data.get("network", "")
        if value != "auto" and network and not network_spec(network).has_layers:
            raise ValueError(f"{network} gives the features of one layer alone; leave layer out")
        return value

    @field_validator("precision")
    @classmethod
    def _computes_so(cls, value: str, info: ValidationInfo) -> str:
        network = info.data.get("network", "")
        if value == "bfloat16" and network and not network_spec(network).bfloat16:
            raise ValueError(f"{network} computes in float32 alone; leave precision out")
        return value

    @property
    def weights_folder(self) -> str | None:
        """Where weights lie or are fetched to; ``None``: torch hub's cache."""
        return None if self.weights_dir == "auto" else self.weights_dir

    @property
    def chosen_pretraining(self) -> str:
        """The pretraining with ``auto`` resolved to the network's first (its published weights)."""
        return network_spec(self.network).pretrainings[0] if self.pretraining == "auto" else self.pretraining
