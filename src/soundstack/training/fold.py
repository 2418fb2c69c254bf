"""One fold of a cross-validation: trained epoch by epoch, kept after each of them, and scored on what it never saw.

A fold that was killed continues after its last finished epoch and ends where an uninterrupted one would have ended, to
the last bit, since every epoch draws from a seed of its own. Kept is one file a fold,
``<cache>/training/<fingerprint>/fold-<fold>.pt`` (:mod:`~soundstack.training.checkpoints`): the state after the last
epoch, and for a finished fold its weights, history and held-out scores.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstack.training import checkpoints
from soundstack.training.checkpoints import Checkpoint
from soundstack.utils.class_weights import balanced

#: Called with the number of epochs done since the last call.
Progress = Callable[[int], object]


class Epochs(Protocol):
    """What fixes a training run, next to the data."""

    @property
    def epochs(self) -> int: ...


class Fold(Protocol):
    """A fold under way: the examples, and what an epoch changes."""

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""

    @property
    def done(self) -> bool:
        """Whether no epoch is left."""

    def learn(self) -> None:
        """One epoch."""

    def state(self) -> dict[str, Any]:
        """All that the next epochs depend on."""

    def result(self) -> dict[str, Any]:
        """The fields of a :class:`FoldModel`, ``scores`` as a tensor."""


@dataclass
class FoldModel:
    """A trained fold: its input scaling, its weights, its history by epoch and its scores on the held-out fold."""

    mean: Tensor
    deviation: Tensor
    weights: dict[str, Tensor]
    history: dict[str, list[float]] = field(default_factory=dict)
    scores: NDArray[np.float64] | None = None
    reused: bool = False


@dataclass(frozen=True, eq=False)
class FoldJob(ABC):
    """All that the training of one fold takes in.

    Attributes:
        inputs: Examples (N, ...) as they are in the cache; or the ``.npy`` file that holds them, where they are too
            many for the memory: its rows are then read batch by batch.
        targets: Class indices (N,).
        train: Row numbers of the training folds.
        held_out: Row numbers of the held-out fold; they are scored, never learnt from.
        fold: Name of the held-out fold; part of every seed.
        checkpoint: File or URI to continue from and to write to; ``None`` keeps nothing.
    """

    inputs: Tensor | Path
    targets: Tensor
    train: Tensor
    held_out: Tensor
    spec: Any
    classes: int
    fold: str
    device: torch.device
    checkpoint: Checkpoint = None

    @property
    def values(self) -> Tensor:
        """The inputs (N, ...); those of a file stay there until they are used."""
        inputs = self.inputs
        return torch.from_numpy(np.load(inputs, mmap_mode="c")) if isinstance(inputs, Path) else inputs

    def class_weights(self, rows: Tensor) -> Tensor | None:
        """Weights of the classes (K,), whose mean over the rows that are learnt from is 1; ``None``: all are alike."""
        if self.spec.class_weight == "none":
            return None
        weights = balanced(self.targets[rows].numpy(), self.classes)
        return torch.from_numpy(weights).float().to(self.device)

    @abstractmethod
    def begin(self, saved: dict[str, Any]) -> Fold:
        """Begin, or go on from what :meth:`Fold.state` told."""

    def finished(self) -> FoldModel | None:
        """The trained fold, if the checkpoint has it."""
        saved = checkpoints.load(self.checkpoint)
        if "scores" not in saved:
            return None
        return FoldModel(**saved | {"scores": saved["scores"].numpy(), "reused": True})


def inputs_of(values: NDArray[Any]) -> Tensor | Path:
    """Values (N, ...) as a job takes them: those in a mapped file by that file, which workers map themselves."""
    mapped = getattr(values, "filename", None)
    return Path(mapped) if mapped else torch.from_numpy(values)


def train_fold(job: FoldJob, progress: Progress = lambda count: None) -> FoldModel:
    """Train on the training folds' rows and score the held-out fold's, or reuse what its checkpoint has.

    Returns:
        The trained fold with held-out probabilities (len(held_out), classes).

    Raises:
        StoreError: The checkpoint cannot be written, or its store not be asked.
    """
    done = job.finished()
    if done is None:
        with checkpoints.held(job.checkpoint, f"fold {job.fold}"):
            done = job.finished()  # another process may have finished it meanwhile
            if done is None:
                return _train(job, progress)
    progress(job.spec.epochs)
    return done


def _train(job: FoldJob, progress: Progress) -> FoldModel:
    """Train from the last finished epoch on, or from the start."""
    fold, is_due = job.begin(checkpoints.load(job.checkpoint)), checkpoints.pace(job.checkpoint)
    if fold.epochs:
        progress(fold.epochs)
    while not fold.done:
        fold.learn()
        if not fold.done and is_due():  # some 25 ms, where an epoch of a real data set takes seconds
            checkpoints.save(job.checkpoint, fold.state())
        progress(1)
    if fold.epochs < job.spec.epochs:  # it stopped early
        progress(job.spec.epochs - fold.epochs)
    done = fold.result()
    checkpoints.save(job.checkpoint, done)
    return FoldModel(**done | {"scores": done["scores"].numpy()})


def packed(models: Sequence[FoldModel]) -> dict[str, Tensor]:
    """What models score with as named tensors, to be saved; :func:`unpacked` is the way back."""
    tensors: dict[str, Tensor] = {}
    for number, model in enumerate(models):
        tensors |= {f"{number}.mean": model.mean, f"{number}.deviation": model.deviation}
        tensors |= {f"{number}.weights.{name}": tensor for name, tensor in model.weights.items()}
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def unpacked(tensors: Mapping[str, Tensor], count: int) -> list[FoldModel]:
    """So many models of the tensors of :func:`packed`."""
    models = []
    for number in range(count):
        prefix = f"{number}.weights."
        weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        models.append(FoldModel(tensors[f"{number}.mean"], tensors[f"{number}.deviation"], weights))
    return models


def derived_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on all parts, so that no two uses share a stream."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
