"""DEEP SPECTRUM and the AudioSet networks (paper section 3.3): deep features, linear SVM, C searched over the folds."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from soundstack.audio.decode import AudioSpec
from soundstack.config.steps import DeepSpectrumConfig
from soundstack.datasets.data_set import DataSet
from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec, by_openvino
from soundstack.deepspectrum.recogniser import SvmRecogniser
from soundstack.evaluation.calibration import fit_inverse_temperature
from soundstack.evaluation.evaluation import Evaluation
from soundstack.features.extract import Extracted, Extraction
from soundstack.features.hosts import Hosts
from soundstack.features.make import Recipe, TwoStageTransform
from soundstack.features.store import FeatureStore
from soundstack.networks import cpu
from soundstack.networks.registry import Settings, load_open, network_spec
from soundstack.networks.weights import identity
from soundstack.recognisers.evaluate import evaluate
from soundstack.svm.cost_search import CostSearch, SearchSpec, nested_decisions, search_cost
from soundstack.svm.linear_svm import PathProblem
from soundstack.utils import devices
from soundstack.utils.code_versions import code_version
from soundstack.utils.errors import ConfigError
from soundstack.utils.slices import in_slices


@dataclass(frozen=True)
class TrainedSvm:
    """A trained system: recogniser, evaluation, and the search for C."""

    recogniser: SvmRecogniser
    evaluation: Evaluation
    search: CostSearch


def embedding_spec(
    config: DeepSpectrumConfig, audio: AudioSpec, device: torch.device, settings: Settings | None = None
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


def _precision(config: DeepSpectrumConfig, device: torch.device) -> str:
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


def extraction(config: DeepSpectrumConfig, device: torch.device) -> Extraction[EmbeddingRecipe]:
    """The extraction of a data set's deep features; the network is built only where they are missing.

    Its methods raise :class:`WeightsError` where published weights are missing and cannot be fetched.

    Raises:
        ConfigError, WeightsError: An open network is not there or cannot be used.
    """
    weights_dir = None if config.weights_dir == "auto" else config.weights_dir
    network, opened = network_spec(config.network), load_open(config.network)
    settings: Settings = {}
    if opened is not None:
        layer, random = None if config.layer == "auto" else config.layer, config.chosen_pretraining == "none"
        found = opened.look_up(layer, weights_dir, random=random)
        settings = json.loads(json.dumps(found))  # lists, where a saved model has lists
    if config.cluster != "none":  # the hosts', whatever this machine has
        device = torch.device("cuda" if config.cluster_gpus else "cpu")

    def plan(audio: AudioSpec) -> EmbeddingRecipe:
        spec = embedding_spec(config, audio, device, settings)
        description = {
            "embedding": spec.to_json(),
            "device": device.type,
            "weights": identity(network, spec.pretraining, weights_dir),
            "code": code_version(Embedder.__module__, in_slices.__module__, network.module),
        }
        kind = f"{network.slug}-{spec.pretraining}"
        store = FeatureStore(config.cache_path, kind, description, config.cache_uri)
        return EmbeddingRecipe(store, spec.audio, spec, device, weights_dir)

    return Extraction(plan, config.workers, Hosts.of(config))


def train(data_set: DataSet, features: Features, config: DeepSpectrumConfig, device: torch.device) -> TrainedSvm:
    """Search C over the development folds, refit, calibrate on out-of-fold scores, and score the test clips."""
    folds, classes = data_set.example_folds, len(data_set.clip_table.labels)
    devel, devel_clips = folds != "test", len(data_set.clip_table.devel)
    spec = SearchSpec.of(config)
    x, y = features.values[devel], data_set.example_targets[devel]
    problem = PathProblem(x, y, folds[devel], n_classes=classes, clip=spec.clip, device=device)

    def by_clip(decisions: NDArray[np.float64]) -> NDArray[np.float64]:
        # Several examples of a clip (channels=each) are averaged before they are judged.
        scores = np.zeros((len(folds), classes))
        scores[devel] = decisions
        return data_set.clip_means(scores)[:devel_clips]

    truth = data_set.clip_targets[:devel_clips]
    search = search_cost(
        lambda costs: np.stack([by_clip(decisions) for decisions in problem.out_of_fold_decisions(costs)]),
        truth,
        np.array([clip.fold for clip in data_set.clip_table.devel]),
        classes,
        spec,
    )
    svms = problem.fold_models(search.chosen) if config.test_model == "folds" else [problem.refit(search.chosen)]
    recipe = features.recipe if features.recipe.device == device else replace(features.recipe, device=device)
    recogniser = SvmRecogniser(
        labels=data_set.clip_table.labels, audio=recipe.audio, embedder=recipe.embedder, svms=svms
    )
    recogniser.inverse_temperature = fit_inverse_temperature(search.decisions, truth, recogniser.kind)
    scores = np.zeros((len(folds), classes))
    scores[~devel] = recogniser.score_features(features.values[~devel])
    clip_scores = data_set.clip_means(scores)
    clip_scores[:devel_clips] = search.decisions
    nested = {}
    if config.nested:
        refit = config.test_model == "refit"
        by_fold = nested_decisions(lambda fold: x, y, folds[devel], classes, spec, refit=refit, device=device)
        nested = {fold: by_clip(decisions) for fold, decisions in by_fold.items()}
    return TrainedSvm(recogniser, evaluate(data_set, clip_scores, recogniser, nested), search)
