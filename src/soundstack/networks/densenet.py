"""DenseNet121 on pictures of spectrograms (paper section 3.3, [23]); torchvision's, BSD-3-Clause."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from soundstack.networks.picture_network import GlobalAveragePool, PictureNetwork, TorchvisionNetwork
from soundstack.networks.registry import network

# The published file still has the names of torchvision's first release: denselayer1.norm.1 for denselayer1.norm1.
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


@network(
    {
        "densenet121": {
            "dim": 1024,
            "url": "https://download.pytorch.org/models/densenet121-a639ec97.pth",
            "sha256": "a639ec97",
        }
    },
    input="picture",
    pretraining="imagenet",
    layer="global average pool of features, after ReLU",
    licence="BSD-3-Clause (torchvision)",
    citation="Huang et al., Densely connected convolutional networks, 2017 [23]",
)
class Densenet(TorchvisionNetwork):
    """The classifier is dropped."""

    def adapt(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        del source
        return {_OLD_NAME.sub(r"\1\2", key): tensor for key, tensor in state.items()}

    def features(self, whole: nn.Module) -> PictureNetwork:
        layers = OrderedDict(whole.named_children())
        del layers["classifier"]
        return PictureNetwork(nn.Sequential(layers | {"relu": nn.ReLU(), "pool": GlobalAveragePool()}))
