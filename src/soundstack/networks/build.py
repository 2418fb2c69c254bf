"""A network by its name: raw input in, features out, evaluation mode, nothing trainable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from soundstack.networks import imagenet, openl3, panns
from soundstack.networks.spec import NetworkSpec, network_spec
from soundstack.networks.weights import find_or_fetch, load_state_dict, load_strictly


@dataclass(frozen=True)
class _Family:
    """How the networks of one origin are made, by name.

    ``create`` gives the network as published, whose state dict has the published names; ``adapt`` turns a
    published state dict into exactly those names; ``finish`` leaves what the features need.
    """

    create: Callable[[str], nn.Module]
    adapt: Callable[[str, Mapping[str, Tensor], str], dict[str, Tensor]]
    finish: Callable[[str, nn.Module], nn.Module]


_IMAGENET = _Family(imagenet.create, imagenet.adapt, imagenet.finish)
_PANNS = _Family(panns.create, panns.adapt, lambda name, net: net)
_OPENL3 = _Family(openl3.create, openl3.adapt, lambda name, net: net)


def build(
    name: str,
    pretraining: str,
    *,
    seed: int,
    weights_dir: Path | None = None,
    allow_download: bool = True,
) -> nn.Module:
    """Make a network that maps a batch to features float32 (N, dim).

    Its input is what its :class:`~soundstack.networks.spec.NetworkSpec` says: pictures uint8 (N, 3, 224,
    224), or waveforms float32 (N, samples) in -1..1, mono, at ``sample_rate``. Normalisation, spectrograms,
    framing and the average over a clip's frames are inside, so that features are made in one way everywhere.

    Args:
        name: a key of :data:`~soundstack.networks.spec.NETWORKS`.
        pretraining: ``"imagenet"`` or ``"audioset"``: the published weights; ``"none"``: the network's
            published random initialisation, batch norm at mean 0 and variance 1.
        seed: of the random weights; the global random state is neither used nor changed.
        weights_dir: where weights lie or are fetched to; default: torch hub's cache.
        allow_download: fetch weights that are not there.

    Raises:
        ConfigError: no such network, or none with such weights.
        WeightsError: the weights cannot be had, or are not the published ones.
    """
    spec = network_spec(name, pretraining)
    family = _family(spec)
    if pretraining == "none":
        with _own_random_state(seed):
            whole = family.create(name)
    else:
        path = find_or_fetch(spec, weights_dir, allow_download=allow_download)
        with torch.device("meta"):  # laid out only: drawing 138 million numbers to overwrite them takes seconds
            whole = family.create(name)
        load_strictly(whole, family.adapt(name, load_state_dict(path), str(path)), str(path))
    return _frozen(family.finish(name, whole))


def restore(name: str, state: Mapping[str, Tensor], source: str = "the given state") -> nn.Module:
    """Make a network from the ``state_dict()`` of one that :func:`build` made, from no other file (serving).

    Raises:
        ConfigError: no such network.
        WeightsError: the state is not of this network.
    """
    family = _family(network_spec(name))
    with torch.device("meta"):
        net = family.finish(name, family.create(name))
    load_strictly(net, state, source)
    return _frozen(net)


def _family(spec: NetworkSpec) -> _Family:
    if spec.family == "deepspectrum":
        return _IMAGENET
    return _PANNS if spec.name.startswith("panns") else _OPENL3


def _frozen(net: nn.Module) -> nn.Module:
    return net.eval().requires_grad_(False)


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator for a while; ``torch.manual_seed`` would reset the GPUs' as well."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
