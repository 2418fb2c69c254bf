"""Convolutions as oneDNN does them best on a CPU: what the arranged networks are built of.

Everything is float32 and channels-last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from soundstack.networks.cpu.winograd import Pool, WinogradConv, pays

#: A batch of inputs or maps -> a batch of maps or features.
Forward = Callable[[Tensor], Tensor]

BATCH = 16
"""Inputs at once; only a hint for the packed layout, other batches are right as well."""

_SCALARS: dict[str, list[float]] = {"none": [], "relu": [], "hardtanh": [0.0, 6.0]}  # hardtanh: ReLU6


def available() -> bool:
    """Whether this machine's torch has the operations."""
    names = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


class FusedConv:
    """Convolution, bias, addition and activation in one operation.

    Args:
        weight: (out, in / groups, height, width), without the height for a 1-D convolution, whose maps are one high.
        bias: (out,).
        like: the convolution whose stride, dilation and groups hold.
        activation: ``none``, ``relu`` or ``hardtanh`` (ReLU6).
        size: height and width of the input, for the choice of the packed layout; others are right as well.
        padding: on all sides; by default that of ``like``.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        like: nn.Conv1d | nn.Conv2d,
        activation: str = "none",
        *,
        size: int,
        padding: tuple[int, ...] | None = None,
    ) -> None:
        self.bias = bias
        self.activation = activation
        if padding is None:
            assert isinstance(like.padding, tuple)
            padding = like.padding
        self.out_size = (size + 2 * padding[0] - like.dilation[0] * (weight.shape[2] - 1) - 1) // like.stride[0] + 1
        stride, dilation, shape = like.stride, like.dilation, (size, size)
        if isinstance(like, nn.Conv1d):
            weight = weight[:, :, None]
            padding, stride, dilation, shape = (0, *padding), (1, *stride), (1, *dilation), (1, size)
        self.geometry = (padding, stride, dilation, like.groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight.contiguous(memory_format=torch.channels_last), *self.geometry, (BATCH, like.in_channels, *shape)
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve (N, in, H, W) and activate."""
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, self.activation, _SCALARS[self.activation], ""
        )
        return y

    def add_to(self, target: Tensor, x: Tensor) -> Tensor:
        """Convolve ``x``, add it to ``target`` in place, and activate there (``none`` or ``relu``)."""
        activation = None if self.activation == "none" else self.activation
        y: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
            target, x, self.weight, self.bias, *self.geometry, "add", 1.0, activation, [], ""
        )
        return y


def folded(conv: nn.Conv1d | nn.Conv2d, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the batch norm behind it."""
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return weight.detach(), bias.detach()


def conv_norm(
    conv: nn.Conv1d | nn.Conv2d, norm: nn.BatchNorm1d | nn.BatchNorm2d, activation: str, size: int
) -> FusedConv:
    """A convolution with the batch norm behind it and an activation."""
    return FusedConv(*folded(conv, norm), conv, activation, size=size)


def spatial(
    weight: Tensor,
    bias: Tensor,
    conv: nn.Conv2d,
    activation: Literal["none", "relu"] = "relu",
    *,
    size: int,
    pool: Pool = "none",
    two_wide: bool = False,
) -> Forward:
    """A convolution, an activation and a pool of 2 x 2, by the way that is faster; see :class:`WinogradConv`."""
    if pays(conv):
        return WinogradConv(weight, bias, activation, pool=pool, two_wide=two_wide)
    fused = FusedConv(weight, bias, conv, activation, size=size)
    if pool == "none":
        return fused
    reduce = F.max_pool2d if pool == "maximum" else F.avg_pool2d
    return lambda x: reduce(fused(x), 2)
