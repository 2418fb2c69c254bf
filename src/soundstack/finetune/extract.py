"""What the trained layers take of every view of every clip of a data set, by way of the cache.

It is computed like deep features: what lies below the trained layers (:mod:`soundstack.networks.stages`), on a CPU by
OpenVINO.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from soundstack.audio.decode import AudioSpec, Samples
from soundstack.config.finetune import FinetuneConfig
from soundstack.deepspectrum.extract import EmbeddingRecipe, planned
from soundstack.features.extract import Extracted, Extraction
from soundstack.features.hosts import Hosts
from soundstack.features.make import TwoStageTransform
from soundstack.features.store import FeatureStore
from soundstack.finetune.network import LowerLayers
from soundstack.finetune.views import Views
from soundstack.utils import devices
from soundstack.utils.code_versions import code_version


@dataclass(frozen=True)
class ViewSpec:
    """Which views, and what of them: ``depth`` is the share of the network's layers that is trained, not computed."""

    depth: float
    count: int
    strength: float
    seed: int


@dataclass(frozen=True)
class ViewRecipe(EmbeddingRecipe):
    """How the views are made."""

    views: ViewSpec

    @cached_property
    def lower(self) -> LowerLayers:
        """What lies below the trained layers."""
        return LowerLayers(self.embedder, self.views.depth)

    def make_transform(self) -> TwoStageTransform:
        """See :class:`soundstack.features.make.Recipe`."""
        spec, lower = self.views, self.lower
        views = Views(self.embedder, spec.count, spec.strength, spec.seed)

        def of_clip(waves: Samples) -> NDArray[Any]:
            return np.stack([lower(views(wave)) for wave in waves])  # (E, count, ...)

        return TwoStageTransform(clip=of_clip, names=("views", ""))


#: All examples' views (E, count, ...).
ExtractedViews = Extracted[ViewRecipe]


def extraction(config: FinetuneConfig, device: torch.device) -> Extraction[ViewRecipe]:
    """The extraction of a data set's views; errors as of :func:`soundstack.deepspectrum.extract.extraction`."""
    device = devices.working(config.cluster, config.cluster_gpus, device)
    planning = planned(config, device)
    spec = ViewSpec(config.chosen_depth, config.views if config.augment else 1, config.augment, config.seed)

    def plan(audio: AudioSpec) -> ViewRecipe:
        embedding, description = planning(audio)
        whole = description | {"views": asdict(spec), "code": [description["code"], code_version(__name__)]}
        kind = f"views-{embedding.described.slug}-{embedding.pretraining}"
        store = FeatureStore(config.cache_path, kind, whole, config.cache_uri)
        return ViewRecipe(store, embedding.audio, embedding, device, config.weights_folder, spec)

    return Extraction(plan, config.workers, Hosts.of(config))
