"""Recognisers: raw audio in, class scores out; the same objects in evaluation, prediction and serving.

A recogniser is saved as a folder: ``recogniser.json`` says what it is, ``*.safetensors`` hold the numbers, a fusion
has its members in ``members/``. Nothing is pickled, nothing outside the folder is needed to load it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import Tensor

from soundstack.audio.decode import AudioSpec, Samples, prepare
from soundstack.crnn.network import Crnn
from soundstack.crnn.training import FoldModel, predict
from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec
from soundstack.evaluation.calibration import probabilities
from soundstack.evaluation.score_table import Kind
from soundstack.fusion.stacking import stack
from soundstack.spectrograms.log_mel import LogMel, SpectrogramSpec
from soundstack.svm.linear_svm import LinearSvm
from soundstack.utils import deadlines
from soundstack.utils.errors import StoreError

FORMAT = 1
FILE = "recogniser.json"

#: A decoded clip: samples (frames, channels) and the rate in Hz.
Decoded = tuple[Samples, int]
Scores = NDArray[np.float64]


class Examples:
    """Decoded clips, brought into each form of examples once, however many members of a fusion want it."""

    def __init__(self, clips: Sequence[Decoded]) -> None:
        self._clips = clips
        self._made: dict[AudioSpec, list[Samples]] = {}

    def of(self, spec: AudioSpec) -> list[Samples]:
        """Return the examples (E, spec.samples) of every clip."""
        if spec not in self._made:
            self._made[spec] = [prepare(samples, rate, spec) for samples, rate in self._clips]
        return self._made[spec]


@dataclass(kw_only=True)
class Recogniser(ABC):
    """What all recognisers share: the classes, the kind of their scores, and the calibration."""

    type: ClassVar[str]
    kind: ClassVar[Kind]
    labels: tuple[str, ...]
    sharpness: float = 1.0

    @property
    @abstractmethod
    def seconds(self) -> float:
        """Length of the clips it was trained on."""

    def scores(self, clips: Sequence[Decoded]) -> Scores:
        """Return class scores (N, K) of decoded clips, in the order of ``labels``."""
        return self.score_examples(Examples(clips))

    @abstractmethod
    def score_examples(self, examples: Examples) -> Scores:
        """Return class scores (N, K) of clips that others may score as well."""

    @abstractmethod
    def _save(self, folder: Path) -> dict[str, Any]:
        """Write the numbers into ``folder`` and return what ``recogniser.json`` must say."""

    @classmethod
    @abstractmethod
    def _load(cls, folder: Path, content: dict[str, Any], device: torch.device) -> Recogniser:
        """Undo :meth:`_save`."""

    def probabilities(self, scores: Scores) -> Scores:
        """Calibrated probabilities (N, K) of scores (N, K)."""
        return probabilities(scores, self.kind, self.sharpness)

    def save(self, folder: Path) -> None:
        """Write the recogniser into a new folder."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "type": self.type, "labels": self.labels, "sharpness": self.sharpness}
        (folder / FILE).write_text(json.dumps(content | self._save(folder), indent=1), encoding="utf-8")


@dataclass(kw_only=True)
class SingleRecogniser(Recogniser):
    """A recogniser with one kind of features: audio -> examples -> features -> scores, a clip's examples averaged."""

    audio: AudioSpec

    @property
    def seconds(self) -> float:
        """Length of the clips it was trained on."""
        return self.audio.seconds

    @abstractmethod
    def features(self, examples: Samples) -> NDArray[np.float32]:
        """Return features (E, ...) of examples (E, samples)."""

    @abstractmethod
    def score_features(self, features: NDArray[np.float32]) -> Scores:
        """Return class scores (E, K) of features."""

    def score_examples(self, examples: Examples) -> Scores:
        """Return class scores (N, K) of clips."""
        deadlines.check()
        parts = examples.of(self.audio)
        scores = self.score_features(self.features(np.concatenate(parts)))
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return np.stack([part.mean(axis=0) for part in np.split(scores, ends)])


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

    def features(self, examples: Samples) -> NDArray[np.float32]:
        """Return log-mel spectrograms (E, frames, bands)."""
        return self._log_mel(examples)

    def score_features(self, features: NDArray[np.float32]) -> Scores:
        """Return the mean of the fold models' probabilities (E, K)."""
        inputs = torch.from_numpy(np.ascontiguousarray(features))
        total = np.zeros((len(features), len(self.labels)))
        for model, fold in zip(self._models, self.folds, strict=True):
            total += predict(model, ((inputs - fold.mean) / fold.deviation).to(self.device)).double().numpy()
        return total / len(self.folds)

    def _save(self, folder: Path) -> dict[str, Any]:
        tensors: dict[str, Tensor] = {}
        for number, fold in enumerate(self.folds):
            tensors[f"{number}.mean"], tensors[f"{number}.deviation"] = fold.mean, fold.deviation
            tensors |= {f"{number}.weights.{name}": tensor for name, tensor in fold.weights.items()}
        save_tensors(
            {name: tensor.clone().contiguous() for name, tensor in tensors.items()},
            folder / "crnn.safetensors",
        )
        return {
            "audio": self.audio.to_json(),
            "spectrogram": self.spectrogram.to_json(),
            "layout": self.layout,
            "folds": len(self.folds),
        }

    @classmethod
    def _load(cls, folder: Path, content: dict[str, Any], device: torch.device) -> CrnnRecogniser:
        tensors = load_tensors(folder / "crnn.safetensors")
        folds = []
        for number in range(content["folds"]):
            prefix = f"{number}.weights."
            weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            folds.append(FoldModel(tensors[f"{number}.mean"], tensors[f"{number}.deviation"], weights))
        return cls(
            labels=tuple(content["labels"]),
            sharpness=content["sharpness"],
            audio=AudioSpec(**content["audio"]),
            spectrogram=SpectrogramSpec(**content["spectrogram"]),
            layout=content["layout"],
            folds=folds,
            device=device,
        )


@dataclass(kw_only=True)
class SvmRecogniser(SingleRecogniser):
    """Deep features and linear SVMs; the mean of their decision values where there are several (paper section 3.3)."""

    type: ClassVar[str] = "svm"
    kind: ClassVar[Kind] = "decision"
    embedder: Embedder
    svms: list[LinearSvm]

    def features(self, examples: Samples) -> NDArray[np.float32]:
        """Return deep features (E, dim)."""
        return self.embedder(examples)

    def score_features(self, features: NDArray[np.float32]) -> Scores:
        """Return decision values (E, K)."""
        return np.mean([svm.decision(features) for svm in self.svms], axis=0)

    def _save(self, folder: Path) -> dict[str, Any]:
        weights = self.embedder.network.state_dict()
        save_tensors(
            {name: value.cpu().contiguous() for name, value in weights.items()},
            folder / "network.safetensors",
        )
        save_arrays(_numbered(self.svms), folder / "svm.safetensors")
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
            sharpness=content["sharpness"],
            audio=AudioSpec(**content["audio"]),
            embedder=Embedder.restore(spec, load_tensors(folder / "network.safetensors"), device),
            svms=_unnumbered(folder / "svm.safetensors", content["svms"]),
        )


@dataclass(kw_only=True)
class FusionRecogniser(Recogniser):
    """A linear SVM on the members' scores (paper section 3.4)."""

    type: ClassVar[str] = "fusion"
    kind: ClassVar[Kind] = "decision"
    members: dict[str, Recogniser]
    svm: LinearSvm
    log_probabilities: bool = False

    @property
    def seconds(self) -> float:
        """Length of the clips its members were trained on."""
        return max(member.seconds for member in self.members.values())

    def score_examples(self, examples: Examples) -> Scores:
        """Return the stacked SVM's decision values (N, K)."""
        parts = [(member.score_examples(examples), member.kind) for member in self.members.values()]
        return self.svm.decision(stack(parts, log_probabilities=self.log_probabilities))

    def _save(self, folder: Path) -> dict[str, Any]:
        for number, member in enumerate(self.members.values()):
            member.save(folder / "members" / str(number))
        save_arrays(_numbered([self.svm]), folder / "svm.safetensors")
        return {"members": list(self.members), "log_probabilities": self.log_probabilities}

    @classmethod
    def _load(cls, folder: Path, content: dict[str, Any], device: torch.device) -> FusionRecogniser:
        members = {
            name: load(folder / "members" / str(number), device) for number, name in enumerate(content["members"])
        }
        return cls(
            labels=tuple(content["labels"]),
            sharpness=content["sharpness"],
            members=members,
            svm=_unnumbered(folder / "svm.safetensors", 1)[0],
            log_probabilities=content["log_probabilities"],
        )


_TYPES: dict[str, type[Recogniser]] = {kind.type: kind for kind in (CrnnRecogniser, SvmRecogniser, FusionRecogniser)}


def load(folder: Path, device: torch.device | None = None) -> Recogniser:
    """Load a saved recogniser.

    Raises:
        StoreError: The folder holds none, or one of a later format.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder} holds no recogniser ({error}).") from None
    if content["format"] != FORMAT:
        raise StoreError(
            f"{folder} has format {content['format']}, this version reads {FORMAT}; update soundstack or train again."
        )
    return _TYPES[content["type"]]._load(folder, content, device or torch.device("cpu"))


def _numbered(svms: Sequence[LinearSvm]) -> dict[str, NDArray[Any]]:
    return {
        f"{number}.{name}": np.ascontiguousarray(array)
        for number, svm in enumerate(svms)
        for name, array in svm.to_arrays().items()
    }


def _unnumbered(path: Path, count: int) -> list[LinearSvm]:
    arrays = load_arrays(path)
    return [
        LinearSvm.from_arrays(
            {name.removeprefix(f"{number}."): array for name, array in arrays.items() if name.startswith(f"{number}.")}
        )
        for number in range(count)
    ]
