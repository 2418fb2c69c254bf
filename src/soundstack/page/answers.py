"""What the page tells of a sound: the answer of the served model, its members' opinions, and what its numbers mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from soundstack.audio.decode import Samples
from soundstack.audio.decoder import SoundReader
from soundstack.audio.limits import RequestLimits
from soundstack.evaluation.metrics import calibration
from soundstack.evaluation.score_table import ScoreTable
from soundstack.fusion.recogniser import FusionRecogniser
from soundstack.recognisers.base import Recogniser
from soundstack.serving.model import SoundModel
from soundstack.utils.errors import AudioError

#: Fewer clips say nothing about how often an answer is right.
FEWEST_CLIPS = 5


@dataclass(frozen=True)
class Opinion:
    """What a model says of a sound: the class and its calibrated probability."""

    model: str
    label: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """The served model's answer, ``record``, with the timeline; and what each member of a fusion says by itself."""

    record: dict[str, Any]
    opinions: list[Opinion]

    @property
    def label(self) -> str:
        """The recognised class."""
        return str(self.record["label"])

    @property
    def probability(self) -> float:
        """Its calibrated probability."""
        return float(self.record["probability"])

    @property
    def probabilities(self) -> dict[str, float]:
        """The calibrated probability of every class."""
        return {name.removeprefix("p_"): value for name, value in self.record.items() if name.startswith("p_")}

    @property
    def timeline(self) -> list[dict[str, Any]]:
        """A record a window: ``start`` and ``end`` in seconds, ``label``, ``probability``, ``p_<label>``."""
        return list(self.record["timeline"])


class Listener:
    """A registered model as the page asks it: by the code, within the limits and with the answers of the served one."""

    def __init__(self, name: str, recogniser: Recogniser, limits: RequestLimits) -> None:
        self.name, self.labels, self.limits = name, recogniser.labels, limits
        self._model = _served(recogniser, limits)
        members = recogniser.members if isinstance(recogniser, FusionRecogniser) else {}
        self._members = {member: _served(of_member, limits) for member, of_member in members.items()}

    def answer(self, content: bytes) -> Answer:
        """Recognise an encoded sound file.

        Raises:
            AudioError: It cannot be used, or is over the model's limits.
        """
        record = _asked(self._model, content, timeline=True)
        opinions = [(name, _asked(member, content)) for name, member in self._members.items()]
        return Answer(record, [Opinion(name, each["label"], each["probability"]) for name, each in opinions])

    def samples(self, content: bytes) -> tuple[Samples, int]:
        """Decode an encoded sound file to samples (frames, channels), -1..1, and its rate in Hz.

        Raises:
            AudioError: It cannot be used, or is over the model's limits.
        """
        with SoundReader(content, self.limits) as sound:
            return np.concatenate(list(sound.blocks())), sound.rate


def _served(recogniser: Recogniser, limits: RequestLimits) -> SoundModel:
    model = SoundModel()
    model.use(recogniser, limits)
    return model


def _asked(model: SoundModel, content: bytes, **options: Any) -> dict[str, Any]:
    (record,) = model.recognise([content], {"on_error": "null", **options})
    if problem := record.pop("error"):
        raise AudioError(str(problem).removeprefix("the clip "))
    return record


def reliability(devel: ScoreTable | None) -> Callable[[float], str]:
    """Make the function that says in a sentence how far an answer of a probability can be trusted.

    Args:
        devel: The calibrated out-of-fold probabilities of the development clips, where they are at hand.
    """
    bins = calibration(devel.scores, devel.truth) if devel is not None and devel.kind == "probability" else None

    def sentence(probability: float) -> str:
        general = "The probabilities are calibrated on clips that the model was not trained on."
        if bins is None:
            return general
        at = min(max(math.ceil(probability * len(bins.clips)) - 1, 0), len(bins.clips) - 1)  # (low, high]
        clips = int(bins.clips[at])
        low, high = (round(100 * edge) for edge in bins.edges[at : at + 2])
        if clips < FEWEST_CLIPS:
            return f"{general} Too few of them got {low} to {high} % to say how often that was right."
        right = round(clips * float(bins.accuracy[at]))
        return (
            f"When it said {low} to {high} %, it was right {round(100 * right / clips)} of 100 times "
            f"({right} of {clips} clips that it was not trained on)."
        )

    return sentence
