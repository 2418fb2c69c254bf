"""ResNet50 on pictures of spectrograms (paper section 3.3, [22]); torchvision's, BSD-3-Clause."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from soundstack.networks.picture_network import GlobalAveragePool, PictureNetwork, TorchvisionNetwork
from soundstack.networks.registry import network


@network(
    {
        "resnet50": {
            "dim": 2048,
            "url": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
            "sha256": "0676ba61",
        }
    },
    input="picture",
    pretraining="imagenet",
    layer="global average pool",
    licence="BSD-3-Clause (torchvision)",
    citation="He et al., Deep residual learning for image recognition, 2016 [22]",
)
class Resnet(TorchvisionNetwork):
    """The fully connected layer is dropped."""

    def features(self, whole: nn.Module) -> PictureNetwork:
        layers = OrderedDict(whole.named_children())
        del layers["avgpool"], layers["fc"]
        return PictureNetwork(nn.Sequential(layers | {"pool": GlobalAveragePool()}))
