"""Recognisers: raw audio in, class scores out; the same objects in evaluation, prediction and serving.

A recogniser is saved as a folder: ``recogniser.json`` says what it is, ``*.safetensors`` hold the numbers, a fusion
has its members in ``members/``. Nothing is pickled, nothing outside the folder is needed to load it.
"""

from __future__ import annotations

import importlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from soundstack.audio.decode import AudioSpec, Samples, prepare
from soundstack.evaluation.calibration import probabilities
from soundstack.evaluation.score_table import Kind
from soundstack.utils import deadlines
from soundstack.utils.errors import StoreError
from soundstack.utils.markdown import escape

FORMAT = 1
FILE = "recogniser.json"
#: The module of each type of recogniser, ``recogniser.py`` of its package: found by its text, and imported when one of
#: that type is loaded, so that no list names the systems.
MODULES = {
    name: f"{path.parent.name}.recogniser"
    for path in sorted(Path(__file__).parents[1].glob("*/recogniser.py"))
    for name in re.findall(r'^    type: ClassVar\[str\] = "(\w+)"$', path.read_text(encoding="utf-8"), re.MULTILINE)
}

#: A decoded clip: samples (frames, channels) and the rate in Hz.
Decoded = tuple[Samples, int]
Scores = NDArray[np.float64]

_TYPES: dict[str, type[Recogniser]] = {}


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


class System(NamedTuple):
    """A single system as a model card describes it.

    ``text`` says in a sentence of Markdown what the system is; ``network`` is the name of its network, or empty;
    ``licence`` is that of the network's published weights.
    """

    text: str
    audio: AudioSpec
    network: str = ""
    pretraining: str = "none"
    licence: str = ""


@dataclass(kw_only=True)
class Recogniser(ABC):
    """What all recognisers share: the classes, the kind of their scores, and the calibration."""

    type: ClassVar[str]
    kind: ClassVar[Kind]
    labels: tuple[str, ...]
    inverse_temperature: float = 1.0

    def __init_subclass__(cls) -> None:
        if "type" in vars(cls):
            _TYPES[cls.type] = cls

    @property
    def modules(self) -> set[str]:
        """Modules by which it is loaded again: with what they import, the code that a registered model ships."""
        return {type(self).__module__}

    @property
    @abstractmethod
    def seconds(self) -> float:
        """Length of the clips it was trained on."""

    @property
    @abstractmethod
    def systems(self) -> tuple[System, ...]:
        """The system itself, or those of a fusion's members."""

    @property
    def shared_audio(self) -> AudioSpec | None:
        """The form of examples that all of it is fed; None where it has none, or its members' differ.

        A clip that :func:`soundstack.audio.decode.prepare` brought into this form is left as it is a second time.
        """
        return None

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
        return probabilities(scores, self.kind, self.inverse_temperature)

    def save(self, folder: Path) -> None:
        """Write the recogniser into a new folder."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "type": self.type, "labels": self.labels, "sharpness": self.inverse_temperature}
        (folder / FILE).write_text(json.dumps(content | self._save(folder), indent=1), encoding="utf-8")


@dataclass(kw_only=True)
class SingleRecogniser(Recogniser):
    """A recogniser with one kind of features: audio -> examples -> features -> scores, a clip's examples averaged."""

    audio: AudioSpec

    @property
    def seconds(self) -> float:
        """Length of the clips it was trained on."""
        return self.audio.seconds

    @property
    def systems(self) -> tuple[System, ...]:
        """Itself."""
        return (System(f"{escape(self.type)}, a system of its own.", self.audio),)

    @property
    def shared_audio(self) -> AudioSpec:
        """The form of its examples."""
        return self.audio

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
    if content["type"] not in _TYPES:
        importlib.import_module(f"soundstack.{MODULES[content['type']]}")
    return _TYPES[content["type"]]._load(folder, content, device or torch.device("cpu"))
