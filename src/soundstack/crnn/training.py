"""The CRNN's training loop: plain and readable (paper section 3.2).

Adam (0.9, 0.999, eps 1e-7) on the cross-entropy; Keras's decay: the rate of update u is lr / (1 + 0.002 u). The last
epoch's model is used: no checkpoint is chosen on the held-out fold. Inputs are standardised by the training folds. With
class_weight=balanced the loss of an example, also as ``train_loss``, is multiplied by the weight of its class among the
training rows, whose mean is 1; the held-out loss stays as it is. With ``augment`` the paper is left: training rows are
altered and mixed (:mod:`soundstack.training.augment`), those that are scored never.

Every epoch draws its shuffling and dropout from a seed of its own, (seed, fold, epoch); see
:mod:`soundstack.training.fold`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soundstack.crnn.network import Crnn
from soundstack.training.augment import MIXUP, altered, mixed
from soundstack.training.fold import FoldJob, derived_seed
from soundstack.utils.devices import moved

DECAY = 0.002
#: Examples that are scored at a time, and read at a time to find their mean.
_PREDICTED, _PART = 256, 4096


@dataclass(frozen=True)
class TrainingSpec:
    """What fixes a training run, next to the data."""

    layout: str
    learning_rate: float
    batch_size: int
    epochs: int
    standardise: str = "scalar"
    precision: str = "float32"
    augment: float = 0.0
    class_weight: str = "none"
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self)


class CrnnJob(FoldJob):
    """A fold of the CRNN; its inputs are log-mel spectrograms (N, T, F), float32."""

    spec: TrainingSpec

    def begin(self, saved: dict[str, Any]) -> _Fold:
        """See :class:`FoldJob`."""
        return _Fold(self, saved)


class _Fold:
    """A fold under way: the examples, and what an epoch changes (network, optimiser, history)."""

    def __init__(self, job: CrnnJob, saved: dict[str, Any]) -> None:
        self._job, spec = job, job.spec
        values = job.values
        self.mean, self.deviation = input_scaling(values, job.train, spec.standardise)
        self._class_weights = job.class_weights(job.train)
        self._values = values if isinstance(job.inputs, Path) else values.to(job.device)  # of a file, batch by batch
        torch.manual_seed(derived_seed(spec.seed, job.fold, "weights"))
        self.model = Crnn(spec.layout, values.shape[2], job.classes, spec.precision).to(job.device)
        self._optimiser = torch.optim.Adam(
            self.model.parameters(), lr=spec.learning_rate, betas=(0.9, 0.999), eps=1e-7, fused=True
        )
        self.history: dict[str, list[float]] = saved.get("history", {})
        if saved:
            self.model.load_state_dict(saved["weights"])
            self._optimiser.load_state_dict(saved["optimiser"])

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.history.get("train_loss", ()))

    @property
    def done(self) -> bool:
        """Whether no epoch is left."""
        return self.epochs >= self._job.spec.epochs

    def state(self) -> dict[str, Any]:
        """All that the next epochs depend on."""
        weights, optimiser = self.model.state_dict(), self._optimiser.state_dict()
        return {"weights": weights, "optimiser": optimiser, "history": self.history}

    def result(self) -> dict[str, Any]:
        """See :class:`soundstack.training.fold.Fold`."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        scaling = {"mean": self.mean, "deviation": self.deviation}
        return scaling | {"weights": weights, "history": self.history, "scores": self.score().double()}

    def learn(self) -> None:
        """One epoch: learn from the training rows in a new order, and score the held-out ones."""
        job, spec, optimiser = self._job, self._job.spec, self._optimiser
        torch.manual_seed(derived_seed(spec.seed, job.fold, self.epochs))
        self.model.train()
        order = job.train[torch.randperm(len(job.train))]
        updates = self.epochs * math.ceil(len(order) / spec.batch_size)
        # Summed up where they are: to ask a GPU for a number after every step would keep it waiting.
        loss_sum = torch.zeros((), dtype=torch.float64, device=job.device)
        correct = torch.zeros((), dtype=torch.int64, device=job.device)
        for update, (inputs, truth) in enumerate(self._batches(order, spec.batch_size), start=updates):
            optimiser.param_groups[0]["lr"] = spec.learning_rate / (1 + DECAY * update)
            target = truth
            if spec.augment:
                shares = nn.functional.one_hot(truth, job.classes).float()
                inputs, target = mixed(altered(inputs, spec.augment), shares, spec.augment * MIXUP)
            logits = self.model(inputs)  # (B, K)
            loss = self._loss(logits, target)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            loss_sum += loss.detach().double() * len(truth)
            correct += (logits.argmax(1) == truth).sum()
        probabilities, truth = self.score(), job.targets[job.held_out]
        values = {
            "train_loss": loss_sum.item() / len(order),
            "train_accuracy": correct.item() / len(order),
            "devel_loss": float(nn.functional.nll_loss(probabilities.clamp(min=1e-12).log(), truth)),
            "devel_accuracy": float((probabilities.argmax(1) == truth).float().mean()),
            "learning_rate": optimiser.param_groups[0]["lr"],
        }
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if self._class_weights is None:
            return nn.functional.cross_entropy(logits, target)
        # Not torch's weighted mean: it divides by the weights in the batch, and one without small classes would weigh
        # as much as one with them.
        return nn.functional.cross_entropy(logits, target, self._class_weights, reduction="sum") / len(target)

    def score(self) -> Tensor:
        """Class probabilities (N, K) of the held-out rows, on the CPU."""
        return torch.cat([predict(self.model, inputs) for inputs, _ in self._batches(self._job.held_out, _PREDICTED)])

    def _batches(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Standardised spectrograms (B, T, F) and class indices (B,) of rows (N,), so many at a time, on the device."""
        place, device = self._values.device, self._job.device
        mean, deviation = self.mean.to(place), self.deviation.to(place)
        targets = self._job.targets.to(place)
        for part in rows.to(place).split(size):
            yield moved((self._values[part] - mean) / deviation, device), moved(targets[part], device)


def predict(model: Crnn, inputs: Tensor, batch_size: int = _PREDICTED) -> Tensor:
    """Class probabilities (N, K) of standardised spectrograms (N, T, F), on the CPU."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(part).softmax(dim=1) for part in inputs.split(batch_size)]).cpu()


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
