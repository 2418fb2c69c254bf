"""Features from networks: the project's way beside the plain one, batch by batch.

    python benchmarks/networks.py [--clips 16] [--turns 3] [--network resnet50 ...]

Plain: float32 by torch, NCHW, the C library's allocator as it comes, one clip at a time. Ours: what a run does with the
same pictures, or waveforms of 5 s (of which openl3, that takes seconds a clip, gets two), in float32 and, where the
processor has it, in bfloat16. Each in a process of its own, in turns; all may use all cores. Weights are random where
the published ones do not come with the package; batch norms are given statistics and factors, so that folding them is
no empty exercise.

The note gives a bound: how long the operations of convolutions and linear layers would take at the speed of a large
matrix product of the same precision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from _common import Rival, Row, Step, cosine, parser, show, take_turns, timed  # isort: skip

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import _plain

#: By network: in float32, in bfloat16.
TARGETS = {
    "efficientnet_lite0": (1.6, 4.0),
    "densenet121": (1.6, 3.5),
    "resnet50": (1.6, 3.3),
    "vgg16": (1.6, 2.7),
    "vgg19": (1.6, None),
    "panns_cnn10": (1.6, None),
    "panns_cnn14": (1.6, 4.0),
    "panns_wavegram_logmel_cnn14": (1.6, None),
    "openl3_mel256_env_512": (1.6, None),
}
SECONDS = 5.0
"""Of a waveform."""
SLOW = 2
"""Clips a turn at most for openl3, which takes seconds a clip."""


def inputs(name: str, clips: int, turn: int) -> NDArray[Any]:
    """What the network is fed: pictures, or waveforms (clips, samples) of noise."""
    from soundstack.networks.registry import NETWORKS

    rate = NETWORKS[name].sample_rate
    if rate is None:
        return pictures(clips, turn)
    random = np.random.default_rng(turn)
    return (0.1 * random.standard_normal((clips, round(SECONDS * rate)))).astype(np.float32)


def pictures(clips: int, turn: int) -> NDArray[np.uint8]:
    """Pictures of noise that swells, with a step in the middle, (clips, 3, 224, 224)."""
    from soundstack.spectrograms.picture import DeepSpectrumPicture

    random = np.random.default_rng(turn)
    swell = np.linspace(0.01, 0.5, 16_000) * np.where(np.arange(16_000) < 8000, 0.1, 1)
    waves = (swell * random.standard_normal((clips, 16_000))).astype(np.float32)
    return DeepSpectrumPicture(16_000).batch(waves)


def network(name: str) -> nn.Module:
    """The network, its batch norms alive."""
    from soundstack.networks.build import build

    net = build(name, "imagenet" if name == "efficientnet_lite0" else "none", seed=0)
    if name == "efficientnet_lite0":
        return net
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return net


def plain(name: str, clips: int) -> Step:
    """One clip at a time through the network as it is."""
    net = network(name)
    batches = [torch.from_numpy(inputs(name, clips, turn)) for turn in range(2)]
    return lambda turn: _plain.features(net, batches[turn % 2])


def ours(name: str, clips: int, precision: str) -> Step:
    """As :class:`soundstack.deepspectrum.embedding.Embedder` does it."""
    from soundstack.audio.decode import AudioSpec
    from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec
    from soundstack.networks.registry import NETWORKS
    from soundstack.utils import devices

    device = devices.choose("cpu")
    rate = NETWORKS[name].sample_rate
    audio = AudioSpec(16_000, 1.0) if rate is None else AudioSpec(rate, SECONDS)
    embedder = Embedder(EmbeddingSpec(name, "none", audio, precision=precision), network(name), device)
    batches = [inputs(name, clips, turn) for turn in range(2)]
    return lambda turn: embedder.features(batches[turn % 2])


def peak(precision: str) -> float:
    """Billions of operations a second on the clock in a large matrix product, by torch or by OpenVINO."""
    from soundstack.networks.cpu import on_cpu

    class Product(nn.Linear):
        def embed(self, x: torch.Tensor) -> torch.Tensor:
            return self(x).mean(dim=1)

    size, kind = 4096, getattr(torch, precision)
    by_openvino, x = on_cpu(Product(size, size, bias=False), precision), torch.randn(1, size, size)
    one, other = x[0].to(kind), torch.randn(size, size, dtype=kind)
    with torch.inference_mode():
        ways = (lambda: by_openvino.embed(x), lambda: one @ other)
        return max(2 * size**3 / timed(way)[0] for _ in range(4) for way in ways) / 1e9


def operations(name: str) -> float:
    """Billions of float32 operations of convolutions and linear layers for a clip, done directly."""
    total = 0

    def count(module: Any, given: tuple[torch.Tensor, ...], found: torch.Tensor) -> None:
        nonlocal total
        total += 2 * module.weight[0].numel() * found.numel()

    net = network(name)
    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.inference_mode():
        net(torch.from_numpy(inputs(name, 1, 0)))
    return total / 1e9


def rows(names: list[str], clips: int, turns: int) -> Iterator[Row]:
    """Measure."""
    from soundstack.networks.cpu import computes_bfloat16

    precisions = ("float32", "bfloat16") if computes_bfloat16() else ("float32",)
    for name in names:
        count = min(clips, SLOW) if name.startswith("openl3") else clips
        with contextlib.ExitStack() as stack:
            contenders: dict[str, Step | Rival] = {"plain": stack.enter_context(Rival(plain, name, count))}
            for precision in precisions:
                contenders[precision] = stack.enter_context(Rival(ours, name, count, precision))
            timings, results = take_turns(contenders, turns)
        work, theirs = operations(name), np.array(timings["plain"].median) / count * 1000
        for precision, target in zip(precisions, TARGETS[name], strict=False):
            mine, best = np.array(timings[precision].median) / count * 1000, peak(precision)
            yield Row(
                f"features of {name}, {precision}",
                "torch, float32, NCHW, one clip at a time",
                "ms/clip",
                theirs[0],
                mine[0],
                theirs[0] / mine[0],
                theirs[1] / mine[1],
                target,
                f"cosine at least {min(map(cosine, results['plain'], results[precision])):.6f}",
                f"at the {best:.0f} G/s of a large matrix product in {precision}, {work:.2f} G operations take "
                f"{work / best * 1000:.1f} ms: {theirs[0] / (work / best * 1000):.1f}x at most",
            )


if __name__ == "__main__":
    command = parser(__doc__, clips=(16, "clips a turn"), turns=(3, "turns of each"))
    command.add_argument("--network", choices=TARGETS, action="append", help="may be repeated; default: all")
    given = command.parse_args()
    show(rows(given.network or list(TARGETS), given.clips, given.turns), given.json)
