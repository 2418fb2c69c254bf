"""The CRNN's training loop: plain and readable (paper section 3.2).

Adam (0.9, 0.999, eps 1e-7) on the cross-entropy; Keras's decay: the rate of update u is lr / (1 + 0.002 u). The last
epoch's model is used: no checkpoint is chosen on the held-out fold. Inputs are standardised by the training folds.

Every epoch draws its shuffling and dropout from a seed of its own, (seed, fold, epoch). A fold that was killed
continues after its last finished epoch and ends where an uninterrupted one would have ended, to the last bit. On disk,
one file a fold, ``<cache>/training/<fingerprint>/fold-<fold>.pt``, written to a temporary name and renamed: the state
after the last epoch, and for a finished fold its weights, history and held-out scores. A lock a fold keeps two
processes from training the same: the second waits and takes over.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soundstack.crnn.network import Crnn
from soundstack.utils.devices import moved
from soundstack.utils.files import remove_unfinished, write_atomically
from soundstack.utils.locks import exclusive

DECAY = 0.002
_PART = 4096
#: What a checkpoint holds, by whether its fold is finished.
_STATE = {
    False: {"weights", "optimiser", "updates", "history", "epoch"},
    True: {"weights", "mean", "deviation", "history", "scores"},
}
#: Called after every epoch: its number (from 1), values of the history.
OnEpoch = Callable[[int, dict[str, float]], object]
_HISTORY = ("train_loss", "train_accuracy", "devel_loss", "devel_accuracy", "learning_rate")


@dataclass(frozen=True)
class TrainingSpec:
    """What fixes a training run, next to the data."""

    layout: str
    learning_rate: float
    batch_size: int
    epochs: int
    standardise: str = "scalar"
    precision: str = "float32"
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self)


@dataclass
class FoldModel:
    """A trained fold: its input scaling, its weights, its history by epoch and its scores on the held-out fold."""

    mean: Tensor
    deviation: Tensor
    weights: dict[str, Tensor]
    history: dict[str, list[float]] = field(default_factory=dict)
    scores: NDArray[np.float64] | None = None
    reused: bool = False


def derived_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on all parts, so that no two uses share a stream."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def input_scaling(inputs: Tensor, rows: Tensor, standardise: str) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the training rows of inputs (N, T, F): one pair, or one a band; shapes () or (F,).

    The rows are read twice, part by part: together they may be larger than the memory.
    """
    axes = (0, 1) if standardise == "band" else (0, 1, 2)
    parts = rows.split(_PART)
    count = len(rows) * inputs.shape[1:].numel() // (inputs.shape[2] if standardise == "band" else 1)
    mean = sum((inputs[part].double().sum(dim=axes) for part in parts), torch.zeros(())) / count
    squares = sum(((inputs[part].double() - mean).square().sum(dim=axes) for part in parts), torch.zeros(()))
    return mean.float(), (squares / count).sqrt().float().clamp(min=1e-6)


@dataclass(frozen=True, eq=False)
class FoldJob:
    """All that the training of one fold takes in.

    Attributes:
        inputs: Log-mel spectrograms (N, T, F), float32, as they are in the cache; or the ``.npy`` file that holds them,
            where they are too many for the memory: its rows are then read batch by batch.
        targets: Class indices (N,).
        train: Row numbers of the training folds.
        held_out: Row numbers of the held-out fold; they are scored, never learnt from.
        spec: The configuration.
        classes: Number of classes.
        fold: Name of the held-out fold; part of every seed.
        device: Where to train.
        checkpoint: File to continue from and to write to; ``None`` keeps nothing.
    """

    inputs: Tensor | Path
    targets: Tensor
    train: Tensor
    held_out: Tensor
    spec: TrainingSpec
    classes: int
    fold: str
    device: torch.device
    checkpoint: Path | None = None


def epochs(history: Mapping[str, Sequence[float]]) -> Iterator[tuple[int, dict[str, float]]]:
    """What ``on_epoch`` was called with, epoch by epoch."""
    for number, values in enumerate(zip(*(history[name] for name in _HISTORY), strict=True), start=1):
        yield number, dict(zip(_HISTORY, values, strict=True))


def _unheard(epoch: int, values: dict[str, float]) -> None:
    """What is called after an epoch when nobody listens."""


def train_fold(job: FoldJob, on_epoch: OnEpoch = _unheard) -> FoldModel:
    """Train on the training folds' rows and score the held-out fold's, or take over what its checkpoint has.

    ``on_epoch`` is called after every epoch with its number (from 1) and the values of the history.

    Returns:
        The trained fold with held-out probabilities (len(held_out), classes).

    Raises:
        StoreError: The checkpoint cannot be written.
    """
    if job.checkpoint is None:
        return _train(job, on_epoch)
    saved = _load(job.checkpoint)
    if not saved or not saved["finished"]:
        with exclusive(job.checkpoint.with_suffix(".lock"), f"fold {job.fold}"):
            remove_unfinished(job.checkpoint.parent, job.checkpoint.name)
            saved = _load(job.checkpoint)  # another process may have finished it meanwhile
            if not saved or not saved["finished"]:
                return _train(job, on_epoch, partial(_save, job.checkpoint), saved)
    for epoch, values in epochs(saved["history"]):
        on_epoch(epoch, values)
    return FoldModel(
        saved["mean"], saved["deviation"], saved["weights"], saved["history"], saved["scores"].numpy(), reused=True
    )


def _train(
    job: FoldJob,
    on_epoch: OnEpoch,
    keep: Callable[[dict[str, Any]], object] | None = None,
    saved: dict[str, Any] | None = None,
) -> FoldModel:
    """Train from the ``saved`` state on, or from the start, and hand the state after every epoch to ``keep``."""
    inputs, spec, device = job.inputs, job.spec, job.device
    mapped = isinstance(inputs, Path)
    values = inputs if isinstance(inputs, Tensor) else torch.from_numpy(np.load(inputs, mmap_mode="c"))
    torch.manual_seed(derived_seed(spec.seed, job.fold, "weights"))
    model = Crnn(spec.layout, values.shape[2], job.classes, spec.precision).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=spec.learning_rate, betas=(0.9, 0.999), eps=1e-7, fused=True)
    mean, deviation = input_scaling(values, job.train, spec.standardise)
    truth = job.targets[job.held_out]
    if not mapped:
        values = ((values - mean) / deviation).to(device)
    targets, held_out = job.targets.to(values.device), job.held_out.to(values.device)

    def examples(rows: Tensor) -> Tensor:
        return moved((values[rows] - mean) / deviation, device) if mapped else values[rows]

    def held_out_probabilities() -> Tensor:
        return torch.cat([predict(model, examples(rows)) for rows in held_out.split(_PART)])

    history: dict[str, list[float]] = {name: [] for name in _HISTORY}
    updates, first_epoch = 0, 0
    if saved:
        model.load_state_dict(saved["weights"])
        optimiser.load_state_dict(saved["optimiser"])
        history, updates, first_epoch = saved["history"], saved["updates"], saved["epoch"]
        for number, told in epochs(history):
            on_epoch(number, told)

    for epoch in range(first_epoch, spec.epochs):
        torch.manual_seed(derived_seed(spec.seed, job.fold, epoch))
        model.train()
        order = job.train[torch.randperm(len(job.train))].to(values.device)
        # Summed up where they are: to ask a GPU for a number after every step would keep it waiting.
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        for batch in order.split(spec.batch_size):
            for group in optimiser.param_groups:
                group["lr"] = spec.learning_rate / (1 + DECAY * updates)
            wanted = moved(targets[batch], device)
            logits = model(examples(batch))
            loss = nn.functional.cross_entropy(logits, wanted)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            updates += 1
            loss_sum += loss.detach().double() * len(batch)
            correct += (logits.argmax(1) == wanted).sum()
        probabilities = held_out_probabilities()
        measured = {
            "train_loss": loss_sum.item() / len(job.train),
            "train_accuracy": correct.item() / len(job.train),
            "devel_loss": float(nn.functional.nll_loss(probabilities.clamp(min=1e-12).log(), truth)),
            "devel_accuracy": float((probabilities.argmax(1) == truth).float().mean()),
            "learning_rate": optimiser.param_groups[0]["lr"],
        }
        for name, value in measured.items():
            history[name].append(value)
        if keep and epoch + 1 < spec.epochs:  # some 25 ms, where an epoch of a real data set takes seconds
            state = {"weights": model.state_dict(), "optimiser": optimiser.state_dict(), "updates": updates}
            keep({**state, "history": history, "epoch": epoch + 1, "finished": False})
        on_epoch(epoch + 1, measured)

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    scores = held_out_probabilities().double()
    if keep:
        finished = {
            "mean": mean,
            "deviation": deviation,
            "weights": weights,
            "history": history,
            "scores": scores,
        }
        keep({**finished, "finished": True})
    return FoldModel(mean, deviation, weights, history, scores.numpy())


def predict(model: Crnn, inputs: Tensor, batch_size: int = 256) -> Tensor:
    """Class probabilities (N, K) of standardised spectrograms (N, T, F), on the CPU."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(part).softmax(dim=1) for part in inputs.split(batch_size)]).cpu()


def _load(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint; a damaged one counts as none."""
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return saved if _STATE[saved["finished"]] <= saved.keys() else None
    except Exception:  # whatever torch raises on a missing or torn file: the fold is trained anew
        return None


def _save(path: Path, state: dict[str, Any]) -> None:
    # By way of the memory: on a full disk torch raises anything but an OSError.
    content = io.BytesIO()
    torch.save(state, content)
    write_atomically(path, content.getbuffer(), instead="cache_dir")
