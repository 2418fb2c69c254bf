"""Recognisers: raw audio in, class scores out; the same objects in evaluation, prediction and serving.

A recogniser is saved as a folder: ``recogniser.json`` says what it is, ``*.safetensors`` hold the numbers, a fusion
has its members in ``members/``. Nothing is pickled, nothing outside the folder is needed to load it.
"""

from __future__ import annotations

import importlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from soundstack.audio.decode import AudioSpec, Samples, prepare
from soundstack.evaluation.calibration import probabilities
from soundstack.evaluation.none_rule import NONE, NoneRule
from soundstack.evaluation.score_table import Kind
from soundstack.recognisers.class_distance import ClassDistance
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
        self._kept: dict[tuple[int, str], NDArray[Any]] = {}

    def of(self, spec: AudioSpec) -> list[Samples]:
        """Return the examples (E, spec.samples) of every clip."""
        if spec not in self._made:
            self._made[spec] = [prepare(samples, rate, spec) for samples, rate in self._clips]
        return self._made[spec]

    def once(self, owner: Recogniser, what: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return what a recogniser makes of the clips, made the first time; for scores and none scores alike."""
        key = (id(owner), what)
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


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
    """What all recognisers share: the classes, the kind of their scores, the calibration, and when they say none."""

    type: ClassVar[str]
    kind: ClassVar[Kind]
    labels: tuple[str, ...]
    inverse_temperature: float = 1.0
    none: NoneRule | None = None
    class_distance: ClassDistance | None = None

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

    def judge(self, clips: Sequence[Decoded]) -> tuple[Scores, Scores | None]:
        """Return class scores (N, K) of decoded clips and, where there is a rule for it, their none scores (N,)."""
        if self.none is None:
            return self.scores(clips), None
        examples = Examples(clips)
        scores = examples.once(self, "scores", lambda: self.score_examples(examples))
        return scores, self.none_scores(examples, self.none)

    def none_scores(self, examples: Examples, rule: NoneRule) -> Scores:
        """Return none scores (N,) of clips; see :mod:`soundstack.evaluation.none_rule`."""
        if not rule.by_class:
            return rule.ranks(self.distances(examples))
        scores = examples.once(self, "scores", lambda: self.score_examples(examples))
        return self.probabilities(scores)[:, self.labels.index(NONE)]

    def distances(self, examples: Examples) -> Scores:
        """Return how far clips are from all classes (N,), where there is a rule by distance."""
        raise NotImplementedError

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
        if self.none is not None:
            content["none"] = self.none.to_json()
        if self.class_distance is not None:
            self.class_distance.save(folder)
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
        features = examples.once(self, "features", lambda: self.features(np.concatenate(parts)))
        return self._by_clip(self.score_features(features), parts)

    def summary(self, features: NDArray[np.float32]) -> NDArray[Any]:
        """Return what the distance from the classes is of: (E, D) of features (E, ...), the features themselves."""
        return features

    def distances(self, examples: Examples) -> Scores:
        """Return the distances (N,) of clips from all classes."""
        assert self.class_distance is not None
        parts = examples.of(self.audio)
        features = examples.once(self, "features", lambda: self.features(np.concatenate(parts)))
        return self._by_clip(self.class_distance.distances(self.summary(features)), parts)

    @staticmethod
    def _by_clip(values: Scores, parts: Sequence[Samples]) -> Scores:
        """Average what is known of examples (E, ...) over those of each clip."""
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return np.stack([part.mean(axis=0) for part in np.split(values, ends)])


def has_rule(folder: Path) -> bool:
    """Whether a saved recogniser may answer none."""
    return bool(json.loads((folder / FILE).read_text(encoding="utf-8")).get("none"))


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
    recogniser = _TYPES[content["type"]]._load(folder, content, device or torch.device("cpu"))
    recogniser.none = NoneRule.from_json(content.get("none"))
    recogniser.class_distance = ClassDistance.load(folder)
    return recogniser
