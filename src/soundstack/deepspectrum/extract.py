"""The deep features of a data set, by way of the cache (paper section 3.3).

Apart from what is learnt from them (:mod:`soundstack.deepspectrum.system`), which the hosts of a cluster need not load.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from soundstack.audio.decode import AudioSpec
from soundstack.config.network import NetworkConfig
from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec, by_openvino
from soundstack.features.extract import Extracted, Extraction
from soundstack.features.hosts import Hosts
from soundstack.features.make import Recipe, TwoStageTransform
from soundstack.features.store import FeatureStore
from soundstack.networks import cpu
from soundstack.networks.registry import Settings, load_open, network_spec
from soundstack.networks.weights import identity
from soundstack.utils import devices
from soundstack.utils.code_versions import code_version
from soundstack.utils.errors import ConfigError
from soundstack.utils.slices import in_slices


def embedding_spec(
    config: NetworkConfig, audio: AudioSpec, device: torch.device, settings: Settings | None = None
) -> EmbeddingSpec:
    """Resolve the configuration: pictures are drawn at the data's rate, audio networks fed at their own.

    ``settings`` are those of an open network.

    Raises:
        ConfigError: bfloat16 is asked for, and OpenVINO has none on this processor.
    """
    rate = network_spec(config.network, settings=settings).sample_rate or audio.sample_rate
    return EmbeddingSpec(
        network=config.network,
        pretraining=config.chosen_pretraining,
        audio=AudioSpec(rate, audio.seconds, audio.channels),
        colour_map=config.colour_map,
        window=None if config.window == "auto" else config.window,
        precision=_precision(config, device),
        shortcuts=config.shortcuts,
        seed=config.seed if config.chosen_pretraining == "none" else 0,
        settings=settings or {},
    )


def _precision(config: NetworkConfig, device: torch.device) -> str:
    openvino = by_openvino(device, config.shortcuts)
    if not network_spec(config.network).bfloat16:
        return "float32"
    if config.precision == "auto":
        return "bfloat16" if openvino and cpu.computes_bfloat16() else "float32"
    if config.precision == "bfloat16" and openvino:
        _require_bfloat16()
    return config.precision


def _require_bfloat16(processor: str = "this processor") -> None:
    if not cpu.computes_bfloat16():
        raise ConfigError(
            f"precision: {processor} has no bfloat16; use auto or float32 (shortcuts=no lets torch imitate it)."
        )


@dataclass(frozen=True)
class EmbeddingRecipe(Recipe):
    """How deep features are made, and on what device; ``embedder`` builds the network when it is first asked for."""

    spec: EmbeddingSpec
    device: torch.device
    weights_dir: str | None

    @cached_property
    def embedder(self) -> Embedder:
        """The network; a ConfigError where another processor than this one was to run it."""
        devices.choose(self.device.type)
        if self.spec.precision == "bfloat16" and by_openvino(self.device, self.spec.shortcuts):
            _require_bfloat16(f"the processor of {platform.node()}")
        return Embedder.build(self.spec, self.device, self.weights_dir)

    def make_transform(self) -> TwoStageTransform:
        """See :class:`Recipe`."""
        prepares = "picture" if self.spec.described.input == "picture" else ""
        return TwoStageTransform(self.embedder.inputs, self.embedder.features, names=(prepares, "forward"))


#: The deep features of all examples (E, dim).
Features = Extracted[EmbeddingRecipe]


#: Of the audio spec of a data set: what an embedding is made by, and all that changes it.
Planned = Callable[[AudioSpec], tuple[EmbeddingSpec, dict[str, Any]]]


def planned(config: NetworkConfig, device: torch.device) -> Planned:
    """Resolve a network's configuration on a device; an open network is looked up.

    Raises:
        ConfigError, WeightsError: An open network is not there or cannot be used.
    """
    folder = config.weights_folder
    network, opened = network_spec(config.network), load_open(config.network)
    settings: Settings = {}
    if opened is not None:
        layer, random = None if config.layer == "auto" else config.layer, config.chosen_pretraining == "none"
        found = opened.look_up(layer, folder, random=random)
        settings = json.loads(json.dumps(found))  # lists, where a saved model has lists

    def plan(audio: AudioSpec) -> tuple[EmbeddingSpec, dict[str, Any]]:
        spec = embedding_spec(config, audio, device, settings)
        return spec, {
            "embedding": spec.to_json(),
            "device": device.type,
            "weights": identity(network, spec.pretraining, folder),
            "code": code_version(Embedder.__module__, in_slices.__module__, network.module),
        }

    return plan


def extraction(config: NetworkConfig, device: torch.device) -> Extraction[EmbeddingRecipe]:
    """The extraction of a data set's deep features; the network is built only where they are missing.

    Its methods raise :class:`WeightsError` where published weights are missing and cannot be fetched.

    Raises:
        ConfigError, WeightsError: See :func:`planned`.
    """
    device = devices.working(config.cluster, config.cluster_gpus, device)
    planning = planned(config, device)

    def plan(audio: AudioSpec) -> EmbeddingRecipe:
        spec, description = planning(audio)
        kind = f"{spec.described.slug}-{spec.pretraining}"
        store = FeatureStore(config.cache_path, kind, description, config.cache_uri)
        return EmbeddingRecipe(store, spec.audio, spec, device, config.weights_folder)

    return Extraction(plan, config.workers, Hosts.of(config))
