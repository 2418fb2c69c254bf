"""Deep features and linear SVMs as a recogniser (paper section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from soundstack.audio.decode import AudioSpec, Samples
from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec
from soundstack.evaluation.score_table import Kind
from soundstack.recognisers.base import Scores, SingleRecogniser, System
from soundstack.svm.linear_svm import LinearSvm, load_svms, save_svms
from soundstack.utils.markdown import escape


@dataclass(kw_only=True)
class SvmRecogniser(SingleRecogniser):
    """Deep features and linear SVMs; the mean of their decision values where there are several (paper section 3.3)."""

    type: ClassVar[str] = "svm"
    kind: ClassVar[Kind] = "decision"
    embedder: Embedder
    svms: list[LinearSvm]

    @property
    def modules(self) -> set[str]:
        """Its own module and that of its network."""
        return super().modules | {self.embedder.spec.described.module}

    @property
    def systems(self) -> tuple[System, ...]:
        """The network and its SVMs."""
        spec, network = self.embedder.spec, self.embedder.spec.described
        svms = "a linear SVM" if len(self.svms) == 1 else f"the mean of {len(self.svms)} linear SVMs"
        text = (
            f"Deep features and {svms}: {escape(spec.network)} on {spec.fed}, {spec.origin}; "
            f"{self.svms[0].coef.shape[1]} features from {escape(network.layer)} "
            "(Amiriparian et al. 2020, section 3.3)."
        )
        return (System(text, self.audio, spec.network, spec.pretraining, network.licence),)

    def features(self, examples: Samples) -> NDArray[np.float32]:
        """Return deep features (E, dim)."""
        return self.embedder(examples)

    def score_features(self, features: NDArray[np.float32]) -> Scores:
        """Return decision values (E, K)."""
        return np.mean([svm.decision(features) for svm in self.svms], axis=0)

    def _save(self, folder: Path) -> dict[str, Any]:
        self.embedder.save(folder)
        save_svms(self.svms, folder / "svm.safetensors")
        return {
            "audio": self.audio.to_json(),
            "embedding": self.embedder.spec.to_json(),
            "svms": len(self.svms),
        }

    @classmethod
    def _load(cls, folder: Path, content: dict[str, Any], device: torch.device) -> SvmRecogniser:
        spec = EmbeddingSpec.from_json(content["embedding"])
        return cls(
            labels=tuple(content["labels"]),
            inverse_temperature=content["sharpness"],
            audio=AudioSpec(**content["audio"]),
            embedder=Embedder.load(spec, folder, device),
            svms=load_svms(folder / "svm.safetensors", content["svms"]),
        )
