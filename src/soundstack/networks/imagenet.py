"""The image networks of DEEP SPECTRUM (paper section 3.3): torchvision's, and EfficientNet-Lite0.

They see pictures of spectrograms, and the activations of one of their top layers are the features: VGG's
second to last fully connected layer, the others' global average pool. Layers above that one are dropped once
the weights are loaded.

Origin: torchvision (BSD-3-Clause), ``efficientnet_lite_pytorch`` (Apache-2.0). The DEEP SPECTRUM toolkit's
    Keras networks have other weights and another normalisation (VGG: BGR without the mean); these are fed as
    torchvision's weights expect. EfficientNet-Lite0 takes (x - 127) / 128, as its TensorFlow original does.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
import torchvision.models
from torch import Tensor, nn

from soundstack.networks.spec import PICTURE_SIZE

_IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_IMAGENET_DEVIATION = (0.229 * 255, 0.224 * 255, 0.225 * 255)

# torchvision's file of DenseNet121 still has the names of its first release: denselayer1.norm.1 for
# denselayer1.norm1.
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


class PictureNetwork(nn.Module):
    """Normalisation and the layers up to the features.

    Args:
        trunk: normalised pictures float32 (N, 3, 224, 224) -> features (N, dim).
        mean: of red, green and blue, on 0..255.
        deviation: of red, green and blue, on 0..255.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, trunk: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.trunk = trunk
        # On the CPU even where the network is laid out on the meta device: no checkpoint brings these.
        self.register_buffer("mean", torch.tensor(mean, device="cpu").view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation, device="cpu").view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures uint8 (N, 3, 224, 224) -> features float32 (N, dim)."""
        if pictures.dtype != torch.uint8 or pictures.shape[1:] != (3, PICTURE_SIZE, PICTURE_SIZE):
            raise ValueError(
                f"Pictures must be uint8 (N, 3, {PICTURE_SIZE}, {PICTURE_SIZE}), not {pictures.dtype} "
                f"{tuple(pictures.shape)}."
            )
        x = pictures.to(torch.float32, memory_format=torch.channels_last)
        x = (x - self.mean) / self.deviation  # (N, 3, 224, 224)
        features: Tensor = self.trunk(x)  # (N, dim)
        return features.float()


class _GlobalAveragePool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C)
        return x.float().mean(dim=(2, 3))  # in float32 even where the convolutions ran in bfloat16


class _EfficientNetFeatures(nn.Module):
    """``extract_features``, because the package's ``forward`` prints to standard output."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, 224, 224) -> (N, 1280, 7, 7)
        features: Tensor = self.net.extract_features(x)  # type: ignore[operator]
        return features


def create(name: str) -> nn.Module:
    """The whole network as published, with its own random initialisation (drawn from torch's generator)."""
    if name == "efficientnet_lite0":
        from efficientnet_lite_pytorch import EfficientNet

        lite: nn.Module = EfficientNet.from_name("efficientnet-lite0")
        _initialise_as_tensorflow(lite)
        return lite
    whole: nn.Module = torchvision.models.get_model(name, weights=None)
    return whole


def _initialise_as_tensorflow(net: nn.Module) -> None:
    """EfficientNet's published initialisation, which the package lacks: He's normal one by fan-out.

    Without it, and with batch norm at mean 0 and variance 1, the features of random weights are of the order
    of 1e-8.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))


def adapt(name: str, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The published state dict with the names that :func:`create`'s modules have today."""
    del source
    if name != "densenet121":
        return dict(state)
    return {_OLD_DENSENET_NAME.sub(r"\1\2", key): tensor for key, tensor in state.items()}


def finish(name: str, whole: nn.Module) -> PictureNetwork:
    """Drop what lies above the features, and put the normalisation in front."""
    trunk: nn.Module
    layers = OrderedDict(whole.named_children())
    if name.startswith("vgg"):
        whole.classifier = whole.classifier[:5]  # type: ignore[index]  # linear, ReLU, dropout, linear, ReLU
        trunk = whole
    elif name == "resnet50":
        del layers["avgpool"], layers["fc"]
        trunk = nn.Sequential(layers | {"pool": _GlobalAveragePool()})
    elif name == "densenet121":
        del layers["classifier"]
        trunk = nn.Sequential(layers | {"relu": nn.ReLU(), "pool": _GlobalAveragePool()})
    else:
        whole._fc = nn.Identity()
        trunk = nn.Sequential(_EfficientNetFeatures(whole), _GlobalAveragePool())
        return PictureNetwork(trunk, (127.0,) * 3, (128.0,) * 3)
    return PictureNetwork(trunk, _IMAGENET_MEAN, _IMAGENET_DEVIATION)
