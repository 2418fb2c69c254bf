"""Features from networks: the project's way beside the plain one, batch by batch.

    python benchmarks/networks.py [--clips 16] [--turns 3] [--network resnet50 ...]

Plain: float32, NCHW, the C library's allocator as it comes, one clip at a time. Ours: what a run does with the same
pictures, or waveforms of 5 s (of which openl3, that takes seconds a clip, gets two). Each in a process of its own, in
turns; both may use all cores. Weights are random where the published ones do not come with the package; batch norms are
given statistics and factors, so that folding them is no empty exercise.

The note gives two bounds, at the speed of a large float32 matrix product: the operations of convolutions and linear
layers done directly, and those that our form does, with Winograd's filtering and its transforms; and a profile of it.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would remark on GPUs

from _common import Rival, Row, Step, cosine, parser, show, take_turns, timed  # isort: skip

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import _plain

TARGETS = {
    "efficientnet_lite0": 4.0,
    "densenet121": 3.0,
    "resnet50": 2.6,
    "vgg16": 3.0,
    "vgg19": 3.0,
    "panns_cnn10": None,
    "panns_cnn14": None,
    "panns_wavegram_logmel_cnn14": None,
    "openl3_mel256_env_512": None,
}
Forward = Callable[[torch.Tensor], torch.Tensor]
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


def ours(name: str, clips: int, shortcuts: bool = True) -> Step:
    """As :class:`soundstack.deepspectrum.embedding.Embedder` does it."""
    from soundstack.audio.decode import AudioSpec
    from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec
    from soundstack.networks.registry import NETWORKS
    from soundstack.utils import devices

    device = devices.choose("cpu")
    rate = NETWORKS[name].sample_rate
    audio = AudioSpec(16_000, 1.0) if rate is None else AudioSpec(rate, SECONDS)
    embedder = Embedder(EmbeddingSpec(name, "none", audio, shortcuts=shortcuts), network(name), device)
    batches = [inputs(name, clips, turn) for turn in range(2)]
    return lambda turn: embedder.features(batches[turn % 2])


def peak() -> float:
    """Billions of float32 operations a second of processor time in a large matrix product."""
    one, other = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return max(2 * 1024**3 / timed(lambda: one @ other)[1] for _ in range(8)) / 1e9


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


def arranged(name: str) -> tuple[Forward, torch.Tensor]:
    """The project's form, and a batch for it."""
    from soundstack.networks.build import arrange
    from soundstack.networks.cpu.convolution import BATCH

    forward, clips = arrange(name, network(name)), 1 if name.startswith("openl3") else BATCH
    assert forward is not None
    return forward, torch.from_numpy(inputs(name, clips, 0))


def profile_of(forward: Forward, batch: torch.Tensor) -> str:
    """Where the time of the project's form goes, in per cent."""
    kinds = {
        "mkldnn::_convolution_pointwise": "direct convolutions",
        "mkldnn::_convolution_pointwise_": "direct convolutions",
        "aten::bmm": "Winograd's products",
        "aten::mm": "Winograd's transforms",
        "aten::addmm": "linear layers",
    }
    with torch.inference_mode():
        forward(batch)
        with torch.autograd.profiler.profile() as profile:
            forward(batch)
    shares: Counter[str] = Counter()
    for event in profile.key_averages():
        shares[kinds.get(event.key, "all else")] += event.self_cpu_time_total
    return ", ".join(f"{kind} {spent / shares.total():.0%}" for kind, spent in shares.most_common())


def arranged_operations(forward: Forward, batch: torch.Tensor) -> float:
    """Billions of operations a clip in the project's form; what is no convolution and no product counts nothing."""

    def convolution(x: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
        return 2 * math.prod(weight[1:]) * math.prod(out_shape)

    def added_convolution(target: Any, x: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
        return convolution(x, weight, out_shape=out_shape)

    oned = torch.ops.mkldnn
    mapping = {oned._convolution_pointwise: convolution, oned._convolution_pointwise_: added_convolution}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        forward(batch)
    return counter.get_total_flops() / len(batch) / 1e9


def rows(names: list[str], clips: int, turns: int) -> Iterator[Row]:
    """Measure."""
    best = peak()
    for name in names:
        count = min(clips, SLOW) if name.startswith("openl3") else clips
        with contextlib.ExitStack() as stack:
            contenders: dict[str, Step | Rival] = {
                "plain": stack.enter_context(Rival(plain, name, count)),
                "ours": stack.enter_context(Rival(ours, name, count)),
            }
            timings, results = take_turns(contenders, turns)
        theirs, mine = (np.array(timings[key].median) / count * 1000 for key in ("plain", "ours"))
        form = arranged(name)
        work, done = operations(name), arranged_operations(*form)
        yield Row(
            f"features of {name}",
            "float32, NCHW, one clip at a time",
            "ms/clip",
            theirs[0],
            mine[0],
            theirs[0] / mine[0],
            theirs[1] / mine[1],
            TARGETS[name],
            f"cosine at least {min(map(cosine, results['plain'], results['ours'])):.7f}",
            f"{mine[1]:.0f} ms of processor time a clip; at the {best:.0f} G/s of a large matrix product, {work:.2f} G "
            f"operations, done directly, take {work / best * 1000:.0f} ms, and the {done:.2f} G of our form "
            f"{done / best * 1000:.0f} ms: {theirs[1] / (done / best * 1000):.1f}x at most. "
            f"Profile: {profile_of(*form)}",
        )


if __name__ == "__main__":
    command = parser(__doc__, clips=(16, "clips a turn"), turns=(3, "turns of each"))
    command.add_argument("--network", choices=TARGETS, action="append", help="may be repeated; default: all")
    given = command.parse_args()
    show(rows(given.network or list(TARGETS), given.clips, given.turns), given.json)
