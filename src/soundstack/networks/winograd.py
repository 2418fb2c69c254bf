"""Convolutions by Winograd's minimal filtering, F(4x4, 3x3): a quarter of the multiplications.

An output tile of 4 x 4 is ``A' [(G g G') * (B' d B)] A`` of an input tile ``d`` of 6 x 6 and the kernel ``g``: 36
multiplications a pair of channels in place of 144. Summed over channels, the products are 36 matrix products. All
transforms are matrix products as well, by the Kronecker products of A and B, tile by tile of all channels; they pay
where there are many channels. A processor whose direct convolutions run at its peak has no other way to be faster in
float32. The result differs from the direct one by about 2e-6 of its size.

Origin: Lavin and Gray, Fast algorithms for convolutional neural networks, 2016 (section 4.1 and the appendix).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TILE = 4
"""Height and width of an output tile; an input tile has two more."""

LEAST_CHANNELS = 128
"""With fewer, the transforms cost more than the multiplications that they save."""

_BLOCK = 1 << 23  # values of transformed tiles at once: bounds the memory, and stays near the cache

_B = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float64,
)
_G = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64) / 24
_A = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    dtype=torch.float64,
)


class WinogradConv:
    """A 3x3 convolution with stride 1 and padding 1, its bias and a ReLU.

    Args:
        weight: (out, in, 3, 3).
        bias: (out,).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.bias = bias
        self._into, self._back = torch.kron(_B, _B).float(), torch.kron(_A, _A).float()  # (36, 36), (16, 36)
        kernels = torch.einsum("ai,bj,koij->abok", _G, _G, weight.double())
        self._kernels = kernels.flatten(0, 1).float().contiguous()  # (36, in, out)

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve (N, in, H, W), channels-last, to (N, out, H, W)."""
        count, inputs, height, width = x.shape
        outputs = self._kernels.shape[2]
        down, across = -(-height // TILE), -(-width // TILE)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, TILE * across - width + 1, 1, TILE * down - height + 1))
        tiles = padded.unfold(1, TILE + 2, TILE).unfold(2, TILE + 2, TILE).permute(4, 5, 0, 1, 2, 3)
        y = x.new_empty((count, down, TILE, across, TILE, outputs))
        of_tiles = y.permute(2, 4, 0, 1, 3, 5)  # (4, 4, N, down, across, out)
        for clips, lines in _blocks(count, down, _BLOCK // (36 * across * (inputs + outputs))):
            given = tiles[:, :, clips, lines].reshape(36, -1)  # (36, tiles * in)
            products = torch.bmm(torch.mm(self._into, given).view(36, -1, inputs), self._kernels)
            found = torch.mm(self._back, products.view(36, -1)).view(16, -1, outputs)
            target = of_tiles[:, :, clips, lines]
            target.copy_(found.add_(self.bias).relu_().view(target.shape))
        whole = y.view(count, TILE * down, TILE * across, outputs)[:, :height, :width].permute(0, 3, 1, 2)
        return whole.contiguous(memory_format=torch.channels_last)


def pays(conv: nn.Conv2d) -> bool:
    """Whether a convolution can be done this way and is faster so."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS


def _blocks(count: int, down: int, lines: int) -> list[tuple[slice, slice]]:
    """Parts of (clips, lines of tiles): some lines of one clip, or several whole clips."""
    if lines < down:
        step = max(1, lines)
        return [(slice(n, n + 1), slice(at, at + step)) for n in range(count) for at in range(0, down, step)]
    step = lines // down
    return [(slice(n, n + step), slice(None)) for n in range(0, count, step)]
