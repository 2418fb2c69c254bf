"""Decision-level fusion (paper section 3.4): members' scores side by side into a stacked linear SVM, as a recogniser.

It has its members with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from soundstack.audio.decode import AudioSpec
from soundstack.evaluation.calibration import logits
from soundstack.evaluation.score_table import Kind
from soundstack.recognisers.base import Examples, Recogniser, Scores, System, load
from soundstack.svm.linear_svm import LinearSvm, load_svms, save_svms


def stack(parts: Iterable[tuple[Scores, str]], *, log_probabilities: bool) -> Scores:
    """Concatenate members' scores [(N, K), kind] into features (N, members * K)."""
    return np.concatenate([logits(scores, kind) if log_probabilities else scores for scores, kind in parts], axis=1)


@dataclass(kw_only=True)
class FusionRecogniser(Recogniser):
    """A linear SVM on the members' scores (paper section 3.4)."""

    type: ClassVar[str] = "fusion"
    kind: ClassVar[Kind] = "decision"
    members: dict[str, Recogniser]
    svm: LinearSvm
    log_probabilities: bool = False

    @property
    def modules(self) -> set[str]:
        """Its own module and those of its members."""
        return super().modules.union(*(member.modules for member in self.members.values()))

    @property
    def seconds(self) -> float:
        """Length of the clips its members were trained on."""
        return max(member.seconds for member in self.members.values())

    @property
    def systems(self) -> tuple[System, ...]:
        """Those of its members."""
        return tuple(system for member in self.members.values() for system in member.systems)

    @property
    def shared_audio(self) -> AudioSpec | None:
        """The form of examples that all members are fed, or None where they differ."""
        specs = {member.shared_audio for member in self.members.values()}
        return specs.pop() if len(specs) == 1 else None

    def score_examples(self, examples: Examples) -> Scores:
        """Return the stacked SVM's decision values (N, K)."""
        parts = ((_scores(member, examples), member.kind) for member in self.members.values())
        return self.svm.decision(stack(parts, log_probabilities=self.log_probabilities))

    def distances(self, examples: Examples) -> Scores:
        """Return the mean none scores (N,) of the members that have them."""
        rules = [(member, member.none) for member in self.members.values() if member.none is not None]
        return np.mean([member.none_scores(examples, rule) for member, rule in rules], axis=0)

    def _save(self, folder: Path) -> dict[str, Any]:
        for number, member in enumerate(self.members.values()):
            member.save(folder / "members" / str(number))
        save_svms([self.svm], folder / "svm.safetensors")
        return {"members": list(self.members), "log_probabilities": self.log_probabilities}

    @classmethod
    def _load(cls, folder: Path, content: dict[str, Any], device: torch.device) -> FusionRecogniser:
        members = {
            name: load(folder / "members" / str(number), device) for number, name in enumerate(content["members"])
        }
        return cls(
            labels=tuple(content["labels"]),
            inverse_temperature=content["sharpness"],
            members=members,
            svm=load_svms(folder / "svm.safetensors", 1)[0],
            log_probabilities=content["log_probabilities"],
        )


def _scores(member: Recogniser, examples: Examples) -> Scores:
    return examples.once(member, "scores", lambda: member.score_examples(examples))
