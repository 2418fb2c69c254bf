"""VGG16 and VGG19 on pictures of spectrograms (paper section 3.3, [21]); torchvision's, BSD-3-Clause."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from soundstack.networks.picture_network import PictureNetwork, TorchvisionNetwork
from soundstack.networks.registry import network


@network(
    {
        "vgg16": {"dim": 4096, "url": "https://download.pytorch.org/models/vgg16-397923af.pth", "sha256": "397923af"},
        "vgg19": {"dim": 4096, "url": "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", "sha256": "dcbb9e9d"},
    },
    input="picture",
    pretraining="imagenet",
    layer="classifier[4]: second to last fully connected, after ReLU",
    licence="BSD-3-Clause (torchvision)",
    citation="Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition, 2015 [21]",
)
class Vgg(TorchvisionNetwork):
    """Convolutions, and three fully connected layers, of which the last one is dropped."""

    def features(self, whole: Any) -> PictureNetwork:
        layers = OrderedDict(whole.named_children())
        layers["classifier"] = layers["classifier"][:5]  # linear, ReLU, dropout, linear, ReLU
        layers.update(flat=nn.Flatten())
        layers.move_to_end("classifier")
        return PictureNetwork(nn.Sequential(layers))
