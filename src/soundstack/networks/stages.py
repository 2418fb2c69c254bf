"""A network cut in two for fine-tuning: what stays as it is, and the layers on top of it that are trained further.

A network that is a chain says so by its methods ``front`` (raw input to what its first stage takes) and ``stages``
(modules, one after another the same as ``embed``); what lies below the trained stages is then computed once a sound.
The first stage is never trained. Of another network all is computed at every step, and its lower layers are held: its
layers are the longest list of modules in it (the blocks of a transformer, say).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class ChainedNetwork(Protocol):
    """A network that is a chain of stages behind a front end without weights."""

    def front(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Raw input (N, ...) to what the first stage takes."""

    def stages(self) -> list[nn.Module]:
        """The stages; all but the first take what the one before gives, the last gives features (N, dim)."""


class Step(nn.Module):
    """A stage that is no module of its own: a function, and the modules with weights that it uses."""

    def __init__(self, function: Callable[..., Tensor], *used: nn.Module) -> None:
        super().__init__()
        self.used = nn.ModuleList(used)
        self._function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        """See the class."""
        return self._function(*inputs)


class Chain(nn.Sequential):
    """Stages in a row; on a CPU OpenVINO may run them (:func:`soundstack.networks.cpu.on_cpu`)."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """See the class."""
        return self.embed(*inputs)

    def embed(self, *inputs: Tensor) -> Tensor:
        """What the stages make of inputs (N, ...), one after another."""
        first, *others = self
        x: Tensor = first(*inputs)
        for stage in others:
            x = stage(x)
        return x


class _Lower(Chain):
    """The stages that stay as they are, behind the network's front end."""

    def __init__(self, front: Callable[[Tensor], tuple[Tensor, ...]], stages: list[nn.Module]) -> None:
        super().__init__(*stages)
        self._front = front

    def forward(self, *inputs: Tensor) -> Tensor:
        """Raw input (N, ...) -> what the trained stages take."""
        return self.embed(*self._front(*inputs))


@dataclass(frozen=True)
class Split:
    """A network in two.

    Attributes:
        lower: raw input (N, ...) -> what ``upper`` takes (N, ...); ``None``: ``upper`` takes the raw input.
        upper: the rest, to features (N, dim); some of it may be held, too.
        layers: the modules to be trained, layer by layer, from the bottom to the top, but for depthwise kernels; all
            other weights are held.
    """

    lower: nn.Module | None
    upper: nn.Module
    layers: list[list[nn.Module]]

    def weights(self) -> list[list[nn.Parameter]]:
        """The weights to be trained, layer by layer."""
        return [
            [weight for module in layer for weight in module.parameters() if weight.requires_grad]
            for layer in self.layers
        ]

    def save_memory(self) -> None:
        """Compute the activations inside a layer twice, instead of keeping them for the gradients."""
        for module in (module for layer in self.layers for module in layer):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)


def flat(*modules: nn.Module) -> Iterator[nn.Module]:
    """The modules of a chain; an ``nn.Sequential`` counts as those in it."""
    for module in modules:
        if type(module) is nn.Sequential:
            yield from flat(*module)
        else:
            yield module


def split(net: nn.Module, depth: float) -> Split:
    """Cut a network so that this share of its layers is trained, at least one; 0 trains none."""
    net.requires_grad_(False)
    lower, upper, layers = None, net, None
    if hasattr(net, "stages"):
        chained = cast(ChainedNetwork, net)
        first, *others = chained.stages()
        owners = [number for number, stage in enumerate(others) if any(True for _ in stage.parameters())]
        chosen = owners[len(owners) - _count(depth, len(owners)) :]
        cut = 0 if len(owners) < 2 else chosen[0] if chosen else len(others) - 1
        lower, upper = _Lower(chained.front, [first, *others[:cut]]), Chain(*others[cut:])
        layers = [[others[number]] for number in chosen] if len(owners) > 1 else None
    if layers is None:
        found = _layers(upper)
        layers = found[len(found) - _count(depth, len(found)) :]
    for module in (module for layer in layers for module in layer):
        module.requires_grad_(True)
        for each in module.modules():
            if isinstance(each, nn.Conv2d) and each.groups == each.in_channels > 1:
                each.requires_grad_(False)  # few weights, whose gradients take two thirds of a step on a processor
    return Split(lower, upper, layers)


def _count(share: float, layers: int) -> int:
    return max(1, round(share * layers)) if share else 0


def _layers(net: nn.Module) -> list[list[nn.Module]]:
    """The layers of a network that is no chain: what stands before its longest list, the list, and what follows."""
    lists = [module for module in net.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    longest = max(lists, key=lambda each: (len(each), _size(each)), default=None)
    if longest is None or len(longest) < 2:
        return [[net]]
    inside = {id(module) for module in longest.modules()}
    leaves = [module for module in net.modules() if id(module) not in inside and module._parameters]
    order = [id(module) for module in net.modules()]
    first = order.index(id(longest))
    below: list[nn.Module] = [_Own(module) for module in leaves if order.index(id(module)) < first]
    above: list[nn.Module] = [_Own(module) for module in leaves if order.index(id(module)) > first]
    layers: list[list[nn.Module]] = [below, *([layer] for layer in longest), above]
    return [layer for layer in layers if any(True for module in layer for _ in module.parameters())]


class _Own(nn.Module):
    """The weights that a module has itself, without those of the modules in it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, weight in module._parameters.items():
            self.register_parameter(name, weight)


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
