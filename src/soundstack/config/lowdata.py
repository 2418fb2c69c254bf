"""What a user may set of the comparison of systems by the number of clips that they learn from."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from soundstack.config.base import Auto, DataConfig, Epochs, WeightsDir
from soundstack.config.network import Systems, listed

ALL = "all"
#: What needs no download: frozen and fine-tuned ImageNet weights, random ones, and training from scratch.
DEFAULT = "efficientnet_lite0-imagenet,finetune-efficientnet_lite0-imagenet,densenet121-none,crnn"


def _clips(value: str) -> str:
    """Numbers of clips in rising order, ``all`` at the end."""
    words = listed(value, f"give numbers of clips a class, as in 1,2,4,{ALL}")
    numbers = {int(word) for word in words if word.isascii() and word.isdigit()}
    if any(word != ALL and not word.isdigit() for word in words) or min(numbers, default=1) < 1:
        raise ValueError(f"{value!r} is not allowed; give numbers of clips a class from 1 on, and {ALL}")
    return ",".join([*map(str, sorted(numbers)), *([ALL] if ALL in words else [])])


class LowdataConfig(DataConfig):
    """Score systems by the number of clips a class that they learn from (the future work of paper section 5).

    All learn from the same draws of development clips and are scored on the same test clips.
    Examples: mlflow run . -e lowdata -P dataset=esc10 -P data_dir=path/to/ESC-50
              mlflow run . -e lowdata -P dataset=csv -P data_dir=birds -P systems=crnn,birdnet-birdsong -P clips=5,10
    """

    irrelevant: ClassVar[frozenset[str]] = DataConfig.irrelevant | {"weights_dir"}

    systems: Systems = "auto"
    """comma-separated: <network>-<pretraining> (frozen, with an SVM), finetune-<network>-<pretraining>, or crnn; auto:
    efficientnet_lite0-imagenet, frozen and fine-tuned, densenet121-none and crnn"""
    clips: Annotated[str, AfterValidator(_clips)] = f"1,2,4,8,16,{ALL}"
    """development clips a class, comma-separated; all: every one"""
    draws: Annotated[int, Field(ge=2, le=1000)] = 5
    """how often clips are drawn; of trained systems, as many models for each number of clips"""
    epochs: Epochs | Auto = "auto"
    """passes of trained systems over all clips, of which fewer clips are passed more often; auto: each system's own"""
    weights_dir: WeightsDir = "auto"

    @property
    def chosen_systems(self) -> list[str]:
        """The systems to compare."""
        return (DEFAULT if self.systems == "auto" else self.systems).split(",")
