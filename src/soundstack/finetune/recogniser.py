"""Fine-tuned networks as a recogniser: the mean of the fold models' class probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from soundstack.audio.decode import AudioSpec, Samples
from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec, by_openvino
from soundstack.evaluation.score_table import Kind
from soundstack.finetune.network import LowerLayers, of_weights, predict
from soundstack.networks import cpu
from soundstack.networks.build import restore
from soundstack.networks.stages import split
from soundstack.recognisers.base import Scores, SingleRecogniser, System
from soundstack.training.fold import FoldModel, packed, unpacked
from soundstack.utils.markdown import escape


@dataclass(kw_only=True)
class FinetunedRecogniser(SingleRecogniser):
    """The mean of the fold models' class probabilities; what lies below their trained layers is computed once.

    Attributes:
        embedder: The network as it was before.
        depth: The share of its layers that was trained.
    """

    type: ClassVar[str] = "finetune"
    kind: ClassVar[Kind] = "probability"
    embedder: Embedder
    depth: float
    folds: list[FoldModel]

    def __post_init__(self) -> None:
        spec, device = self.embedder.spec, self.embedder.device
        self._lower = LowerLayers(self.embedder, self.depth)
        self._models = []
        for fold in self.folds:
            net = restore(spec.network, self.embedder.network.state_dict(), settings=spec.settings)
            scaling = (fold.mean, fold.deviation)
            model = of_weights(split(net, self.depth).upper, scaling, fold.weights, len(self.labels)).to(device)
            if by_openvino(device, spec.shortcuts):
                model.upper = cpu.on_cpu(model.upper, "float32")
            self._models.append(model)

    @property
    def modules(self) -> set[str]:
        """Its own module and that of its network."""
        return super().modules | {self.embedder.spec.described.module}

    @property
    def systems(self) -> tuple[System, ...]:
        """The network."""
        spec = self.embedder.spec
        text = (
            f"{escape(spec.network)} on {spec.fed}, {spec.origin}, fine-tuned: the upper {self.depth:.0%} of its "
            f"layers and a new head; the mean of {len(self.folds)} models, each trained without one fold."
        )
        return (System(text, self.audio, spec.network, spec.pretraining, spec.described.licence),)

    def features(self, examples: Samples) -> NDArray[Any]:
        """Return what the trained layers take (E, ...)."""
        return self._lower(self.embedder.inputs(examples))

    def summary(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Return the mean of every map (E, maps)."""
        values = features.astype(np.float32)
        return values.mean(axis=tuple(range(2, values.ndim))) if values.ndim > 2 else values

    def score_features(self, features: NDArray[Any]) -> Scores:
        """Return the mean of the fold models' probabilities (E, K)."""
        inputs = torch.from_numpy(np.ascontiguousarray(features))
        scores = [predict(model, inputs, self.embedder.device).double().numpy() for model in self._models]
        return np.mean(scores, axis=0)

    def _save(self, folder: Path) -> dict[str, Any]:
        self.embedder.save(folder)
        save_file(packed(self.folds), folder / "folds.safetensors")
        return {
            "audio": self.audio.to_json(),
            "embedding": self.embedder.spec.to_json(),
            "depth": self.depth,
            "folds": len(self.folds),
        }

    @classmethod
    def _load(cls, folder: Path, content: dict[str, Any], device: torch.device) -> FinetunedRecogniser:
        spec = EmbeddingSpec.from_json(content["embedding"])
        return cls(
            labels=tuple(content["labels"]),
            inverse_temperature=content["sharpness"],
            audio=AudioSpec(**content["audio"]),
            embedder=Embedder.load(spec, folder, device),
            depth=content["depth"],
            folds=unpacked(load_file(folder / "folds.safetensors"), content["folds"]),
        )
