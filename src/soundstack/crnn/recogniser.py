"""The CRNN as a recogniser (paper sections 3.2 and 4.1): log-mel spectrograms to class probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from soundstack.audio.decode import AudioSpec, Samples
from soundstack.crnn.network import Crnn
from soundstack.crnn.training import predict
from soundstack.evaluation.score_table import Kind
from soundstack.recognisers.base import Scores, SingleRecogniser, System
from soundstack.spectrograms.log_mel import LogMel, SpectrogramSpec
from soundstack.training.fold import FoldModel, packed, unpacked
from soundstack.utils.markdown import escape


@dataclass(kw_only=True)
class CrnnRecogniser(SingleRecogniser):
    """The mean of the fold models' class probabilities (paper section 4.1)."""

    type: ClassVar[str] = "crnn"
    kind: ClassVar[Kind] = "probability"
    spectrogram: SpectrogramSpec
    layout: str
    folds: list[FoldModel]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self._log_mel = LogMel(self.spectrogram)
        self._models = []
        for fold in self.folds:
            model = Crnn(self.layout, self.spectrogram.bands, len(self.labels))
            model.load_state_dict(fold.weights)
            self._models.append(model.to(self.device).eval())

    @property
    def systems(self) -> tuple[System, ...]:
        """The CRNN."""
        text = (
            f"A convolutional recurrent network (CRNN, {escape(self.layout)}) on log-mel spectrograms, trained from "
            f"scratch; the mean of {len(self.folds)} fold models (Amiriparian et al. 2020, section 3.2)."
        )
        return (System(text, self.audio),)

    def features(self, examples: Samples) -> NDArray[np.float32]:
        """Return log-mel spectrograms (E, frames, bands)."""
        return self._log_mel(examples)

    def summary(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return mean and deviation over time of every band (E, 2 * bands)."""
        return np.concatenate([features.mean(axis=1), features.std(axis=1)], axis=1)

    def score_features(self, features: NDArray[np.float32]) -> Scores:
        """Return the mean of the fold models' probabilities (E, K)."""
        inputs = torch.from_numpy(np.ascontiguousarray(features))
        total = np.zeros((len(features), len(self.labels)))
        for model, fold in zip(self._models, self.folds, strict=True):
            total += predict(model, ((inputs - fold.mean) / fold.deviation).to(self.device)).double().numpy()
        return total / len(self.folds)

    def _save(self, folder: Path) -> dict[str, Any]:
        save_file(packed(self.folds), folder / "crnn.safetensors")
        return {
            "audio": self.audio.to_json(),
            "spectrogram": self.spectrogram.to_json(),
            "layout": self.layout,
            "folds": len(self.folds),
        }

    @classmethod
    def _load(cls, folder: Path, content: dict[str, Any], device: torch.device) -> CrnnRecogniser:
        return cls(
            labels=tuple(content["labels"]),
            inverse_temperature=content["sharpness"],
            audio=AudioSpec(**content["audio"]),
            spectrogram=SpectrogramSpec(**content["spectrogram"]),
            layout=content["layout"],
            folds=unpacked(load_file(folder / "crnn.safetensors"), content["folds"]),
            device=device,
        )
