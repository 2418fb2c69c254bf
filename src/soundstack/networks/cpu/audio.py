"""The networks of waveforms arranged for speed on a CPU; see :mod:`soundstack.networks.cpu.image`.

Front ends, and the linear layers behind the convolutions, are those of the plain networks. Convolutions take the batch
norms behind them, and their pools where Winograd's filtering does them; those of the raw waveform are 2-D ones of maps
one high, in the same layout as the others. openl3's batch norm in front of the first convolution stays: its shift does
not go into a convolution that pads with zeros behind it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, cat, channels_last
from torch.nn import functional as F

from soundstack.networks.cpu.convolution import Forward, conv_norm, folded, spatial
from soundstack.networks.cpu.winograd import Pool

_BANDS = 64  # of PANNs' spectrograms
_LENGTH = 160_000  # samples of a waveform, as a hint: 5 s


def _one_channel(maps: Tensor) -> Tensor:
    """Maps (N, H, W) as (N, 1, H, W) with the strides of channels-last, by which convolutions choose their output's."""
    return maps[..., None].permute(0, 3, 1, 2)


class _ConvBlock:
    """Maps (N, in, T, F) -> (N, out, T / p, F / q).

    Args:
        block: a :class:`soundstack.networks.panns.ConvBlock`.
        bands: F.
    """

    def __init__(self, block: Any, bands: int) -> None:
        pool: Pool = "mean" if block.pool == (2, 2) else "none"
        two = bands == 2
        self.first = spatial(*folded(block.conv1, block.bn1), block.conv1, size=bands, two_wide=two)
        self.second = spatial(*folded(block.conv2, block.bn2), block.conv2, size=bands, pool=pool, two_wide=two)
        self.pool = block.pool if block.pool not in {(1, 1), (2, 2)} else None

    def __call__(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        return x if self.pool is None else F.avg_pool2d(x, self.pool)


class _Wavegram:
    """Waveforms (N, samples) -> maps (N, 64, samples / 640, 32)."""

    def __init__(self, network: Any) -> None:
        self.stem = conv_norm(network.pre_conv0, network.pre_bn0, "relu", _LENGTH)
        self.blocks: list[tuple[Forward, Forward]] = []
        size = self.stem.out_size
        for block in (network.pre_block1, network.pre_block2, network.pre_block3):
            first = conv_norm(block.conv1, block.bn1, "relu", size)
            self.blocks.append((first, conv_norm(block.conv2, block.bn2, "relu", size)))
            size //= 4
        self.last = _ConvBlock(network.pre_block4, _BANDS // 2)

    def __call__(self, waveforms: Tensor) -> Tensor:
        x = self.stem(_one_channel(waveforms[:, None]))
        for first, second in self.blocks:
            x = F.max_pool2d(second(first(x)), (1, 4))
        x = x[:, :, 0].unflatten(1, (4, 32)).transpose(2, 3)  # (N, 4, samples / 320, 32)
        return self.last(x.contiguous(memory_format=channels_last))


class Panns:
    def __init__(self, network: Any) -> None:
        self.network = network
        self.blocks = [
            _ConvBlock(network.get_submodule(f"conv_block{number + 1}"), _BANDS >> number)
            for number in range(network.blocks)
        ]
        self.wavegram = _Wavegram(network) if network.wavegram else None

    def __call__(self, waveforms: Tensor) -> Tensor:
        waveforms = self.network.padded(waveforms)
        x = _one_channel(self.network.spectrograms(waveforms)[:, 0])
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number == 0 and self.wavegram is not None:
                x = cat([x, self.wavegram(waveforms)], dim=1)
        embeddings: Tensor = self.network.embedded(x)
        return embeddings


class OpenL3:
    def __init__(self, network: Any) -> None:
        self.network = network
        self.layers: list[Forward] = []
        size = network.log_mel.bands
        for number in range(1, 8):
            conv = network.get_submodule(f"conv2d_{number}")
            weight, bias = folded(conv, network.get_submodule(f"batch_normalization_{number + 1}"))
            pools = number in (2, 4, 6)
            self.layers.append(spatial(weight, bias, conv, size=size, pool="maximum" if pools else "none"))
            size = size // 2 if pools else size
        last = network.audio_embedding_layer
        self.layers.append(spatial(last.weight.detach(), last.bias.detach(), last, "none", size=size))

    def __call__(self, waveforms: Tensor) -> Tensor:
        features: Tensor = self.network.by_windows(waveforms, self._embed)
        return features

    def _embed(self, windows: Tensor) -> Tensor:
        x = _one_channel(self.network.batch_normalization_1(self.network.log_mel(windows))[:, 0])
        for layer in self.layers:
            x = layer(x)
        return F.max_pool2d(x, self.network.pool).permute(0, 2, 3, 1).flatten(1)
