"""The CRNN's training loop: plain and readable (paper section 3.2).

Adam (0.9, 0.999, eps 1e-7) on the cross-entropy; Keras's decay: the rate of update u is lr / (1 + 0.002 u). The last
epoch's model is used: no checkpoint is chosen on the held-out fold. Inputs are standardised by the training folds.

Every epoch draws its shuffling and dropout from a seed of its own, (seed, fold, epoch). A fold that was killed
continues from its last checkpoint and ends where an uninterrupted one would have ended. On disk, one file a fold,
``<cache>/training/<fingerprint>/fold-<fold>.pt``, written to a temporary name and renamed: state of the last
checkpoint, and for a finished fold its weights, history and held-out scores.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soundstack.errors import StoreError
from soundstack.networks.crnn import Crnn

DECAY = 0.002
CHECKPOINT_SECONDS = 5.0
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


def input_scaling(inputs: Tensor, standardise: str) -> tuple[Tensor, Tensor]:
    """Mean and deviation of training inputs (N, T, F): one pair, or one a band; shapes () or (F,)."""
    axes = (0, 1) if standardise == "band" else (0, 1, 2)
    double = inputs.double()
    mean, deviation = double.mean(dim=axes), double.std(dim=axes, correction=0)
    return mean.float(), deviation.float().clamp(min=1e-6)


def train_fold(
    inputs: Tensor,
    targets: Tensor,
    train: Tensor,
    held_out: Tensor,
    spec: TrainingSpec,
    *,
    classes: int,
    fold: str,
    device: torch.device,
    checkpoint: Path | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] = lambda epoch, values: None,
) -> FoldModel:
    """Train on the rows ``train`` and score the rows ``held_out``.

    Args:
        inputs: Log-mel spectrograms (N, T, F), float32, as they are in the cache.
        targets: Class indices (N,).
        train: Row numbers of the training folds.
        held_out: Row numbers of the held-out fold; they are scored, never learnt from.
        spec: The configuration.
        classes: Number of classes.
        fold: Name of the held-out fold; part of every seed.
        device: Where to train.
        checkpoint: File to continue from and to write to; ``None`` keeps nothing.
        on_epoch: Called after every epoch with its number (from 1) and the values of the history.

    Returns:
        The trained fold with held-out probabilities (len(held_out), classes).
    """
    saved = _load(checkpoint)
    if saved and saved["finished"]:
        done = FoldModel(
            saved["mean"],
            saved["deviation"],
            saved["weights"],
            saved["history"],
            saved["scores"].numpy(),
            reused=True,
        )
        for epoch in range(spec.epochs):
            on_epoch(epoch + 1, {name: done.history[name][epoch] for name in _HISTORY})
        return done

    torch.manual_seed(derived_seed(spec.seed, fold, "weights"))
    model = Crnn(spec.layout, inputs.shape[2], classes, spec.precision).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=spec.learning_rate, betas=(0.9, 0.999), eps=1e-7, fused=True)
    mean, deviation = input_scaling(inputs[train], spec.standardise)
    x_train, y_train = ((inputs[train] - mean) / deviation).to(device), targets[train].to(device)
    x_eval, y_eval = ((inputs[held_out] - mean) / deviation).to(device), targets[held_out].to(device)
    history: dict[str, list[float]] = {name: [] for name in _HISTORY}
    updates, first_epoch = 0, 0
    if saved:
        model.load_state_dict(saved["weights"])
        optimiser.load_state_dict(saved["optimiser"])
        history, updates, first_epoch = saved["history"], saved["updates"], saved["epoch"]
        for epoch in range(first_epoch):
            on_epoch(epoch + 1, {name: history[name][epoch] for name in _HISTORY})

    last_saved = time.monotonic()
    for epoch in range(first_epoch, spec.epochs):
        torch.manual_seed(derived_seed(spec.seed, fold, epoch))
        model.train()
        order = torch.randperm(len(x_train)).to(device)
        loss_sum, correct = 0.0, 0
        for batch in order.split(spec.batch_size):
            for group in optimiser.param_groups:
                group["lr"] = spec.learning_rate / (1 + DECAY * updates)
            logits = model(x_train[batch])
            loss = nn.functional.cross_entropy(logits, y_train[batch])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            updates += 1
            loss_sum += loss.item() * len(batch)
            correct += int((logits.argmax(1) == y_train[batch]).sum())
        probabilities = predict(model, x_eval)
        truth = y_eval.cpu()
        values = {
            "train_loss": loss_sum / len(x_train),
            "train_accuracy": correct / len(x_train),
            "devel_loss": float(nn.functional.nll_loss(probabilities.clamp(min=1e-12).log(), truth)),
            "devel_accuracy": float((probabilities.argmax(1) == truth).float().mean()),
            "learning_rate": optimiser.param_groups[0]["lr"],
        }
        for name, value in values.items():
            history[name].append(value)
        on_epoch(epoch + 1, values)
        if checkpoint and epoch + 1 < spec.epochs and time.monotonic() - last_saved > CHECKPOINT_SECONDS:
            state = {"weights": model.state_dict(), "optimiser": optimiser.state_dict(), "updates": updates}
            _save(checkpoint, {**state, "history": history, "epoch": epoch + 1, "finished": False})
            last_saved = time.monotonic()

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    scores = predict(model, x_eval).double()
    if checkpoint:
        finished = {
            "mean": mean,
            "deviation": deviation,
            "weights": weights,
            "history": history,
            "scores": scores,
        }
        _save(checkpoint, {**finished, "finished": True})
    return FoldModel(mean, deviation, weights, history, scores.numpy())


def predict(model: Crnn, inputs: Tensor, batch_size: int = 256) -> Tensor:
    """Class probabilities (N, K) of standardised spectrograms (N, T, F), on the CPU."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(part).softmax(dim=1).cpu() for part in inputs.split(batch_size)])


def _load(path: Path | None) -> dict[str, Any] | None:
    """Read a checkpoint; a damaged one counts as none."""
    if path is None or not path.is_file():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever torch raises on a torn file: the fold is trained anew
        path.unlink(missing_ok=True)
        return None
    return saved


def _save(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise StoreError(f"Cannot write {path} ({error}); free space or choose another cache_dir.") from error
