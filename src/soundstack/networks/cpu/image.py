"""The image networks arranged for speed on a CPU: the plain networks' function, to the rounding of float32.

:mod:`soundstack.networks.cpu.audio` has those of waveforms. Each is made from a network of
:func:`soundstack.networks.build.build`, and maps pictures uint8 (N, 3, 224, 224) to features float32 (N, dim). What
differs from the modules as published, which stay as they are:

- a batch norm behind a convolution is folded into its weights; activation and residual addition are done by the
  convolution itself (oneDNN), whose weights are packed once in the layout that it wants;
- DenseNet's batch norm and ReLU in front of a convolution become one clamp: ``relu(a x + b)`` is
  ``a max(x, -b / a) + b`` for ``a > 0``, a minimum for ``a < 0``; ``a`` and ``b`` go into the convolution;
- DenseNet's concatenations are slices of one buffer; its transitions pool before they convolve (both are linear);
- TensorFlow's uneven padding of EfficientNet's strided convolutions becomes zeros in the kernel;
- 3x3 convolutions of many channels are done by Winograd's minimal filtering, with the pool behind them.

Everything is float32 and channels-last.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from soundstack.networks.cpu.convolution import Forward, FusedConv, conv_norm, folded, spatial
from soundstack.networks.cpu.winograd import Pool
from soundstack.networks.registry import PICTURE_SIZE

_NEVER = 1e-12  # a batch norm's factor under this hides its input: the output is constant


class _NormClamp:
    """Batch norm and ReLU in front of a 1x1 convolution, as a clamp; the rest goes into the convolution."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        assert norm.running_mean is not None and norm.running_var is not None
        factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * factor
        seen = factor.abs() > _NEVER * (1 + shift.abs())
        pivot = torch.where(seen, -shift / factor.where(seen, torch.ones_like(factor)), torch.zeros_like(shift))
        infinite = torch.full_like(pivot, torch.inf)
        self.low = torch.where(factor < 0, -infinite, pivot).where(seen, pivot).view(1, -1, 1, 1)
        self.high = torch.where(factor > 0, infinite, pivot).where(seen, pivot).view(1, -1, 1, 1)
        self.factor = factor.where(seen, torch.zeros_like(factor))
        self.shift = shift.where(seen, shift.relu())

    def __call__(self, x: Tensor) -> Tensor:
        return torch.clamp(x, self.low, self.high)

    def folded(self, weight: Tensor, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
        """Weight and bias of the 1x1 convolution behind the clamp, with the batch norm behind that one."""
        bias = weight[:, :, 0, 0] @ self.shift
        weight = weight * self.factor.view(1, -1, 1, 1)
        if norm is None:
            return weight.detach(), bias.detach()
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        return weight.detach(), bias.detach()


def _normalised(network: Any, pictures: Tensor) -> Tensor:
    """Normalised pictures but for the division, which is in the first convolution's weights."""
    return pictures.to(torch.float32, memory_format=torch.channels_last).sub_(network.mean)


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))


class EfficientNetLite:
    def __init__(self, network: Any) -> None:
        self.network = network
        lite = network.trunk[0].net
        self.stem = _same(lite._conv_stem, lite._bn0, "hardtanh", PICTURE_SIZE, network.deviation)
        size = self.stem.out_size
        self.blocks: list[tuple[FusedConv | None, FusedConv, FusedConv, bool]] = []
        for block in lite._blocks:
            expand = None
            if hasattr(block, "_expand_conv"):
                expand = _same(block._expand_conv, block._bn0, "hardtanh", size)
            depthwise = _same(block._depthwise_conv, block._bn1, "hardtanh", size)
            project = _same(block._project_conv, block._bn2, "none", depthwise.out_size)
            same = size == depthwise.out_size and block._block_args.input_filters == block._block_args.output_filters
            self.blocks.append((expand, depthwise, project, same and block.id_skip))
            size = depthwise.out_size
        self.head = _same(lite._conv_head, lite._bn1, "hardtanh", size)

    def __call__(self, pictures: Tensor) -> Tensor:
        x = self.stem(_normalised(self.network, pictures))
        for expand, depthwise, project, skip in self.blocks:
            y = depthwise(x if expand is None else expand(x))
            x = project.add_to(x, y) if skip else project(y)
        return _mean(self.head(x))


def _same(conv: Any, norm: nn.BatchNorm2d, activation: str, size: int, deviation: Tensor | None = None) -> FusedConv:
    """A convolution padded as TensorFlow does: at an even size and stride 2, one more at the end than at the begin."""
    weight, bias = folded(conv, norm)
    if deviation is not None:
        weight = weight / deviation
    padding = (0, 0)
    if isinstance(conv.static_padding, nn.ZeroPad2d):
        begin, end = conv.static_padding.padding[:2]
        weight = F.pad(weight, (end - begin, 0, end - begin, 0))
        padding = (end, end)
    return FusedConv(weight, bias, conv, activation, size=size, padding=padding)


class Resnet:
    def __init__(self, network: Any) -> None:
        self.network = network
        trunk = network.trunk
        weight, bias = folded(trunk.conv1, trunk.bn1)
        self.stem = FusedConv(weight / network.deviation, bias, trunk.conv1, "relu", size=PICTURE_SIZE)
        self.pool = trunk.maxpool
        self.blocks = []
        size = self.stem.out_size // 2
        for layer in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            for block in layer:
                shortcut = None
                if block.downsample is not None:
                    shortcut = conv_norm(block.downsample[0], block.downsample[1], "none", size)
                narrow = conv_norm(block.conv1, block.bn1, "relu", size)
                middle = spatial(*folded(block.conv2, block.bn2), block.conv2, size=size)
                size //= block.conv2.stride[0]
                widen = conv_norm(block.conv3, block.bn3, "relu", size)
                self.blocks.append((shortcut, narrow, middle, widen))

    def __call__(self, pictures: Tensor) -> Tensor:
        x = self.pool(self.stem(_normalised(self.network, pictures)))
        for shortcut, narrow, middle, widen in self.blocks:
            y = middle(narrow(x))
            x = widen.add_to(x if shortcut is None else shortcut(x), y)
        return _mean(x)


class Densenet:
    def __init__(self, network: Any) -> None:
        self.network = network
        features = network.trunk.features
        weight, bias = folded(features.conv0, features.norm0)
        self.stem = FusedConv(weight / network.deviation, bias, features.conv0, "relu", size=PICTURE_SIZE)
        self.pool = features.pool0
        self.blocks: list[list[tuple[_NormClamp, FusedConv, FusedConv]]] = []
        self.transitions: list[tuple[_NormClamp, FusedConv]] = []
        size = self.stem.out_size // 2
        for number in range(1, 5):
            layers = []
            for layer in features.get_submodule(f"denseblock{number}").values():
                clamp = _NormClamp(layer.norm1)
                narrow = FusedConv(*clamp.folded(layer.conv1.weight, layer.norm2), layer.conv1, "relu", size=size)
                grow = FusedConv(layer.conv2.weight.detach(), None, layer.conv2, size=size)
                layers.append((clamp, narrow, grow))
            self.blocks.append(layers)
            if number < 4:
                transition = features.get_submodule(f"transition{number}")
                clamp = _NormClamp(transition.norm)
                size //= 2
                conv = FusedConv(*clamp.folded(transition.conv.weight, None), transition.conv, size=size)
                self.transitions.append((clamp, conv))
        self.last = features.norm5

    def __call__(self, pictures: Tensor) -> Tensor:
        x = self.pool(self.stem(_normalised(self.network, pictures)))
        for number, layers in enumerate(self.blocks):
            width = x.shape[1]
            growth = len(layers) * GROWTH
            joined = x.new_empty((x.shape[0], width + growth, *x.shape[2:])).to(memory_format=torch.channels_last)
            joined[:, :width] = x
            for clamp, narrow, grow in layers:
                joined[:, width : width + GROWTH] = grow(narrow(clamp(joined[:, :width])))
                width += GROWTH
            x = joined
            if number < len(self.transitions):
                clamp, conv = self.transitions[number]
                x = conv(F.avg_pool2d(clamp(x), 2))
        return _mean(self.last(x).relu_())


GROWTH = 32
"""Channels that each of DenseNet121's layers adds."""


class Vgg:
    def __init__(self, network: Any) -> None:
        self.network = network
        self.layers: list[Forward] = []
        size = PICTURE_SIZE
        modules = [module for module in network.trunk.features if not isinstance(module, nn.ReLU)]
        for conv, behind in pairwise([*modules, None]):
            if not isinstance(conv, nn.Conv2d):
                continue  # a pool, done by the convolution in front of it
            weight = conv.weight.detach()
            if not self.layers:
                weight = weight / network.deviation
            assert conv.bias is not None
            pools = isinstance(behind, nn.MaxPool2d)
            pool: Pool = "maximum" if pools else "none"
            self.layers.append(spatial(weight, conv.bias.detach(), conv, size=size, pool=pool))
            size = size // 2 if pools else size
        self.top = network.trunk.classifier

    def __call__(self, pictures: Tensor) -> Tensor:
        x = _normalised(self.network, pictures)
        for layer in self.layers:
            x = layer(x)
        features: Tensor = self.top(x.flatten(1))  # (N, 512, 7, 7), what the adaptive pool leaves as it is
        return features
