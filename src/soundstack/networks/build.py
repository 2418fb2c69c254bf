"""A network by its name: raw input in, features out, evaluation mode, nothing trainable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from soundstack.networks.registry import OpenNetwork, Settings, load, network_spec
from soundstack.networks.weights import find_or_fetch, load_state_dict, load_strictly


def build(
    name: str,
    pretraining: str,
    *,
    seed: int,
    weights_dir: Path | str | None = None,
    allow_download: bool = True,
    settings: Settings | None = None,
) -> nn.Module:
    """Make a network that maps a batch to features float32 (N, dim).

    Its input is what its :class:`~soundstack.networks.registry.NetworkSpec` says: pictures uint8 (N, 3, 224,
    224), or waveforms float32 (N, samples) in -1..1, mono, at ``sample_rate``. Normalisation, spectrograms,
    framing and the average over a clip's frames are inside, so that features are made in one way everywhere.

    Args:
        name: of a listed network, or of an open one.
        pretraining: ``"imagenet"``, ``"audioset"``, ``"birdsong"`` or ``"pretrained"``: the published weights;
            ``"none"``: the network's published random initialisation, batch norm at mean 0 and variance 1.
        seed: of the random weights; the global random state is neither used nor changed.
        weights_dir: where weights lie or are fetched to; default: torch hub's cache.
        allow_download: fetch weights that are not there.
        settings: of an open network, as its family looks them up.

    Raises:
        ConfigError: no such network, or none with such weights.
        WeightsError: the weights cannot be had, or are not the published ones.
    """
    spec, network = network_spec(name, pretraining), load(name, settings)
    if isinstance(network, OpenNetwork):
        with _own_random_state(seed):
            random = pretraining == "none"
            whole = network.create() if random else network.published(weights_dir, allow_download=allow_download)
        net = _frozen(network.features(whole))
        network.try_out(net)
        return net
    if pretraining == "none":
        with _own_random_state(seed):
            whole = network.create()
    else:
        path = find_or_fetch(spec, weights_dir, allow_download=allow_download)
        with torch.device("meta"):  # laid out only: drawing 138 million numbers to overwrite them takes seconds
            whole = network.create()
        load_strictly(whole, network.adapt(load_state_dict(path), str(path)), str(path))
    return _frozen(network.features(whole))


def restore(
    name: str, state: Mapping[str, Tensor], source: str = "the given state", settings: Settings | None = None
) -> nn.Module:
    """Make a network from the ``state_dict()`` of one that :func:`build` made, from no other file (serving).

    An open network is made from its ``settings``.

    Raises:
        ConfigError: no such network.
        WeightsError: the state is not of this network.
    """
    network = load(name, settings)
    # Others' modules may compute constants when they are made, which no state holds: not on the meta device.
    place: AbstractContextManager[object] = _own_random_state(0) if settings else torch.device("meta")
    with place:
        net = network.features(network.create())
    load_strictly(net, state, source)
    return _frozen(net)


def _frozen(net: nn.Module) -> nn.Module:
    return net.eval().requires_grad_(False)


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator for a while; ``torch.manual_seed`` would reset the GPUs' as well."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
