"""Convolutions by Winograd's minimal filtering, F(4x4, 3x3): a quarter of the multiplications.

An output tile of 4 x 4 is ``A' [(G g G') * (B' d B)] A`` of an input tile ``d`` of 6 x 6 and the kernel ``g``: 36
multiplications a pair of channels in place of 144. Summed over channels, the products are 36 matrix products. All
transforms are matrix products as well, by the Kronecker products of A and B, tile by tile of all channels; they pay
where there are many channels. A processor whose direct convolutions run at its peak has no other way to be faster in
float32. The result differs from the direct one by less than 1e-5 of the largest value.

Some tiles at a time go through all steps, in buffers that are used again and so stay in the cache.

Origin: Lavin and Gray, Fast algorithms for convolutional neural networks, 2016 (section 4.1 and the appendix).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

#: Of 2 x 2; a last odd line is left out.
Pool = Literal["none", "mean", "maximum"]

TILE = 4
"""Height and, but for :data:`_TWO`, width of an output tile; an input tile has two more."""

LEAST_PAIRS = 64 * 128
"""Of an input and an output channel: with fewer, the transforms cost what the multiplications save."""

TILES_AT_ONCE = 256
"""Fewer stay nearer in the cache; but kernels are fetched, and threads wait for one another, for every such part."""


@dataclass(frozen=True)
class _Line:
    """The transforms of one dimension: ``back @ ((kernel @ g) * (into @ d))``, in float64.

    Attributes:
        into: B', (products, inputs).
        kernel: G, (products, 3).
        back: A', (outputs, products).
        margin: how many of the inputs lie before the first output, and after the last one.
    """

    into: Tensor
    kernel: Tensor
    back: Tensor
    margin: int

    @property
    def outputs(self) -> int:
        """Values of an output tile."""
        return self.back.shape[0]


#: F(4, 3).
_FOUR = _Line(
    into=torch.tensor(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        dtype=torch.float64,
    ),
    kernel=torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64)
    / 24,
    back=torch.tensor(
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float64
    ),
    margin=1,
)

#: A whole line of two between zeros: ``g1 d0 + g2 d1`` and ``g0 d0 + g1 d1``, both with ``g1 (d0 + d1)``.
_TWO = _Line(
    into=torch.tensor([[1, 1], [0, 1], [1, 0]], dtype=torch.float64),
    kernel=torch.tensor([[0, 1, 0], [0, -1, 1], [1, -1, 0]], dtype=torch.float64),
    back=torch.tensor([[1, 1, 0], [1, 0, 1]], dtype=torch.float64),
    margin=0,
)


class WinogradConv:
    """A 3x3 convolution with stride 1 and padding 1, its bias, a ReLU, and a pool of 2 x 2 behind them.

    Args:
        weight: (out, in, 3, 3).
        bias: (out,).
        activation: ``none`` or ``relu``.
        pool: ``mean`` or ``maximum`` of 2 x 2, or ``none``.
        two_wide: whether all maps are two wide: half the multiplications of tiles half of which would lie outside.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        activation: Literal["none", "relu"] = "relu",
        *,
        pool: Pool = "none",
        two_wide: bool = False,
    ) -> None:
        self.bias = bias
        self.activation = activation
        self.pool = pool
        self._across = _TWO if two_wide else _FOUR
        self._into = torch.kron(_FOUR.into, self._across.into).float()  # (36, 36), or (18, 12) where two wide
        self._back = torch.kron(_FOUR.back, self._across.back).float()  # (16, 36), or (8, 18)
        kernels = torch.kron(_FOUR.kernel, self._across.kernel).float() @ weight.permute(2, 3, 1, 0).reshape(9, -1)
        self._kernels = kernels.view(len(kernels), weight.shape[1], weight.shape[0])  # (36 or 18, in, out)
        # This product comes once into every output of a tile: a bias added there is added to all.
        self._everywhere = int((self._back == 1).all(dim=0).nonzero()[0])

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve (N, in, H, W), channels-last, to (N, out, H, W); half as high and wide where it pools."""
        count, inputs, height, width = x.shape
        products, _, outputs = self._kernels.shape
        down, across = -(-height // TILE), -(-width // self._across.outputs)
        clips, lines = _block(count, down, across, TILES_AT_ONCE)

        step = 1 if self.pool == "none" else 2
        y = x.new_empty((count, height // step, width // step, outputs))
        margin = self._across.margin
        padded = x.new_zeros((clips, TILE * lines + 2, self._across.outputs * across + 2 * margin, inputs))
        buffers = x.new_empty((2, products * clips * lines * across * max(inputs, outputs)))
        for clip in range(0, count, clips):
            for line in range(0, down, lines):
                given = x[clip : clip + clips].permute(0, 2, 3, 1)
                shape = (len(given), min(lines, down - line), across)
                frame = padded[: shape[0], : TILE * shape[1] + 2]
                _fill(frame, given, TILE * line - 1, margin)
                tiles = self._tiles(frame, shape, buffers)
                first = TILE * line // step
                target = y[clip : clip + clips, first : first + tiles.shape[1]]
                target.copy_(tiles[:, : target.shape[1], : target.shape[2]])
        return y.permute(0, 3, 1, 2)

    def _tiles(self, frame: Tensor, shape: tuple[int, int, int], buffers: Tensor) -> Tensor:
        """Convolve a padded part of the maps, (clips, height, width, in), of so many tiles: (clips, lines, across).

        Returns:
            (clips, height, width, out) of whole tiles, in one of the two buffers, which take turns.
        """
        one, other = buffers
        inner, wide = TILE + 2, self._across.into.shape[1]
        products, inputs, outputs = self._kernels.shape
        count = shape[0] * shape[1] * shape[2]

        windows = frame.unfold(1, inner, TILE).unfold(2, wide, self._across.outputs).permute(4, 5, 0, 1, 2, 3)
        given = one[: windows.numel()].view(windows.shape).copy_(windows).view(inner * wide, -1)
        into = torch.mm(self._into, given, out=other[: products * count * inputs].view(products, -1))
        found = one[: products * count * outputs].view(products, count, outputs)
        torch.bmm(into.view(products, count, inputs), self._kernels, out=found)
        found[self._everywhere].add_(self.bias)
        back = other[: len(self._back) * count * outputs].view(len(self._back), -1)
        torch.mm(self._back, found.view(products, -1), out=back)
        tiles = self._pooled(back.view(TILE, self._across.outputs, *shape, outputs)).permute(2, 3, 0, 4, 1, 5)
        whole = one[: tiles.numel()].view(tiles.shape)
        if self.activation == "relu":
            torch.clamp(tiles, min=0, out=whole)
        else:
            whole.copy_(tiles)
        return whole.flatten(3, 4).flatten(1, 2)

    def _pooled(self, tiles: Tensor) -> Tensor:
        """Pool the first two dimensions: reductions of torch would be many times slower."""
        if self.pool == "maximum":
            tiles = torch.maximum(tiles[::2], tiles[1::2])
            return torch.maximum(tiles[:, ::2], tiles[:, 1::2])
        if self.pool == "mean":
            if self.activation == "relu":
                tiles = tiles.relu_()  # it comes before the pool; again behind it does no harm
            tiles = tiles[::2] + tiles[1::2]
            return (tiles[:, ::2] + tiles[:, 1::2]).mul_(0.25)
        return tiles


def pays(conv: nn.Conv2d) -> bool:
    """Whether a convolution can be done this way and is faster so."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and conv.in_channels * conv.out_channels >= LEAST_PAIRS


def _block(count: int, down: int, across: int, tiles: int) -> tuple[int, int]:
    """How many clips, and lines of tiles of each, go together: several whole clips, or some lines of one."""
    if tiles >= down * across:
        return min(count, tiles // (down * across)), down
    parts = -(-down * across // tiles)
    return 1, -(-down // parts)  # about as many lines in each part


def _fill(frame: Tensor, given: Tensor, top: int, margin: int) -> None:
    """Copy the lines from ``top`` of maps (N, H, W, C) into a frame, with zeros above the first and below the last."""
    begin, end = max(0, -top), min(frame.shape[1], given.shape[1] - top)
    frame[:, :begin].zero_()
    frame[:, end:].zero_()
    frame[:, begin:end, margin : margin + given.shape[2]] = given[:, top + begin : top + end]
