"""A network cut in two for fine-tuning: what stays as it is, and the layers on top of it that are trained further.

A network that is a chain says so by its methods ``front`` (raw input to what its first stage takes) and ``stages``
(modules, one after another the same as ``embed``); what lies below the trained stages is then computed once a sound.
The first stage is never trained. Of another network all is computed at every step, and its lower layers are held: its
layers are the longest list of modules in it (the blocks of a transformer, say).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor, nn

from soundstack.utils.errors import ConfigError


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
        layers: the weights to be trained, layer by layer, from the bottom to the top.
    """

    lower: nn.Module | None
    upper: nn.Module
    layers: list[list[nn.Parameter]]


def flat(*modules: nn.Module) -> Iterator[nn.Module]:
    """The modules of a chain; an ``nn.Sequential`` counts as those in it."""
    for module in modules:
        if type(module) is nn.Sequential:
            yield from flat(*module)
        else:
            yield module


def split(net: nn.Module, depth: float) -> Split:
    """Cut a network so that this share of its layers is trained, at least one; 0 trains none.

    Raises:
        ConfigError: it has no weights of torch's.
    """
    if not any(True for _ in net.parameters()):
        raise ConfigError("network: its published file holds no weights that can be trained further; choose another.")
    net.requires_grad_(False)
    if hasattr(net, "stages"):
        chained = cast(ChainedNetwork, net)
        first, *others = chained.stages()
        owners = [number for number, stage in enumerate(others) if any(True for _ in stage.parameters())]
        if len(owners) > 1:
            chosen = owners[len(owners) - _count(depth, len(owners)) :]
            cut = chosen[0] if chosen else len(others) - 1
            lower, upper = _Lower(chained.front, [first, *others[:cut]]), Chain(*others[cut:])
            return Split(lower, upper, [_trained(others[number]) for number in chosen])
    layers = _layers(net)
    return Split(None, net, [_trained(*layer) for layer in layers[len(layers) - _count(depth, len(layers)) :]])


def _count(share: float, layers: int) -> int:
    return max(1, round(share * layers)) if share else 0


def _trained(*modules: nn.Module) -> list[nn.Parameter]:
    """The weights of a layer, which from now on have gradients."""
    weights = [weight for module in modules for weight in module.parameters() if weight.is_floating_point()]
    for weight in weights:
        weight.requires_grad_(True)
    return weights


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
    below = [_Own(module) for module in leaves if order.index(id(module)) < first]
    above = [_Own(module) for module in leaves if order.index(id(module)) > first]
    layers: list[list[Any]] = [below, *([layer] for layer in longest), above]
    return [layer for layer in layers if any(True for module in layer for _ in module.parameters())]


class _Own(nn.Module):
    """The weights that a module has itself, without those of the modules in it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, weight in module._parameters.items():
            self.register_parameter(name, weight)


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
