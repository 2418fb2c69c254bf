"""Fine-tuning of one fold: first the new head alone, then with it the upper layers of the network.

AdamW with weight decay on the cross-entropy of smoothed and mixed targets; a warm-up, then a cosine. The head has a
higher rate than the layers below it, and each of them a smaller one than the layer above. Batch norm keeps the
statistics of the pre-training: those of small batches would be worse. An epoch takes another view of every clip. The
last epoch's weights are used, or with ``patience`` those of the epoch with the lowest loss on training clips that were
kept back, by group; the held-out fold has no say. Every epoch draws from a seed of its own; see
:mod:`soundstack.training.fold`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss, one_hot

from soundstack.deepspectrum.embedding import EmbeddingSpec, by_openvino
from soundstack.finetune.network import FinetunedNetwork, predict, pretrained, scaling_of
from soundstack.networks import cpu
from soundstack.training.augment import mixed
from soundstack.training.fold import FoldJob, derived_seed
from soundstack.utils.devices import moved
from soundstack.utils.errors import ConfigError

#: The head's rate, as a multiple of the highest layer's.
_HEAD_RATE = 5.0
#: Of the steps, the share of the warm-up; of the training clips with ``patience``, one in so many is kept back.
_WARM_UP, _KEPT_BACK = 0.1, 5
#: Views whose features are made at a time.
_AT_ONCE = 64
#: The head alone: passes over all views, clips a batch, rate.
_PROBE_EPOCHS, _PROBE_BATCH, _PROBE_RATE = 30, 32, 3e-3


@dataclass(frozen=True)
class FinetuneSpec:
    """What fixes a training run, next to the data; see :class:`soundstack.config.finetune.FinetuneConfig`."""

    embedding: EmbeddingSpec
    depth: float
    learning_rate: float
    rate_decay: float
    batch_size: int
    epochs: int
    weight_decay: float
    label_smoothing: float
    mixup: float
    patience: int = 0
    gradient_checkpoints: bool = False
    class_weight: str = "none"
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self) | {"embedding": self.embedding.to_json()}


@dataclass(frozen=True, eq=False)
class FinetuneJob(FoldJob):
    """A fold to fine-tune.

    Attributes:
        inputs: Views (N, V, ...), the first of them that of the clip as it is, which alone is scored.
        groups: Group numbers (N,), by which training clips are kept back; ``None``: each is one of its own.
        weights_dir: Where the network's published weights lie.
    """

    groups: Tensor | None = None
    weights_dir: str | None = None

    def begin(self, saved: dict[str, Any]) -> _Fold:
        """See :class:`FoldJob`."""
        return _Fold(self, saved)


class _Fold:
    """A fold under way: the views, and what an epoch changes (network, optimiser, history, the best epoch so far)."""

    def __init__(self, job: FinetuneJob, saved: dict[str, Any]) -> None:
        self._job, spec = job, job.spec
        self._views = job.values
        self._train, self._inner = self._kept_back() if spec.patience else (job.train, job.train[:0])
        self._class_weights = job.class_weights(self._train)
        # At which view each row begins.
        starts = (derived_seed(spec.seed, "view", row) % self._views.shape[1] for row in range(len(job.targets)))
        self._starts = torch.tensor(list(starts))
        cut = pretrained(spec.embedding, spec.depth, job.weights_dir)
        if spec.gradient_checkpoints:
            cut.save_memory()
        self._upper = cut.upper.to(job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        known = saved.get("weights", {})
        features = torch.empty(0) if saved else self._features()  # (len(train), V, dim)
        scaling = (known["mean"], known["deviation"]) if saved else scaling_of(features)
        self.model = FinetunedNetwork(self._upper, scaling, job.classes).to(job.device)
        self._mixes = spec.embedding.precision == "bfloat16"
        self._optimiser = torch.optim.AdamW(list(self._groups(cut.weights())))
        self._rates = [group["lr"] for group in self._optimiser.param_groups]
        self.history: dict[str, list[float]] = saved.get("history", {})
        self._best: dict[str, Tensor] = saved.get("best", {})
        if saved:
            self.model.load_state_dict(known)
            self._optimiser.load_state_dict(saved["optimiser"])
        else:
            self._learn_head(features)

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.history.get("train_loss", ()))

    @property
    def done(self) -> bool:
        """Whether no epoch is left, or none of the last ones was better."""
        patience, losses = self._job.spec.patience, self.history.get("inner_loss", ())
        waited = len(losses) - 1 - int(np.argmin(losses)) if losses else 0
        return self.epochs >= self._job.spec.epochs or bool(patience and waited >= patience)

    def state(self) -> dict[str, Any]:
        """See :class:`soundstack.training.fold.Fold`."""
        weights, optimiser = self.model.state_dict(), self._optimiser.state_dict()
        return {"weights": weights, "optimiser": optimiser, "history": self.history, "best": self._best}

    def result(self) -> dict[str, Any]:
        """See :class:`soundstack.training.fold.Fold`."""
        if self._best:
            self.model.load_state_dict(self._best)
        scaling = {"mean": self.model.mean.cpu(), "deviation": self.model.deviation.cpu()}
        scores = self._score(self._job.held_out)
        return scaling | {"weights": self.model.learnt(), "history": self.history, "scores": scores.double()}

    def learn(self) -> None:
        """One epoch: learn from a view of each training row in a new order, and score the held-out ones."""
        job, spec = self._job, self._job.spec
        torch.manual_seed(derived_seed(spec.seed, job.fold, self.epochs))
        self._to_train()
        order = self._train[torch.randperm(len(self._train))]
        steps = math.ceil(len(order) / spec.batch_size)
        losses, correct = [], []
        for step, rows in enumerate(order.split(spec.batch_size), start=self.epochs * steps):
            for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
                group["lr"] = rate * _share_of_rate(step, spec.epochs * steps)
            truth = job.targets[rows].to(job.device)
            inputs, targets = mixed(self._of_epoch(rows), one_hot(truth, job.classes).float(), spec.mixup)
            with torch.autocast(job.device.type, torch.bfloat16, enabled=self._mixes):
                logits = self.model(inputs)
            loss = self._loss(logits.float(), targets)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self._optimiser.step()
            losses.append(loss.detach() * len(rows))
            correct.append((logits.argmax(1) == truth).sum())
        self._note(float(sum(losses)) / len(order), float(sum(correct)) / len(order))

    def _note(self, loss: float, accuracy: float) -> None:
        """Add an epoch to the history, and keep its weights if it is the best on what was kept back."""
        held_out = self._judged(self._job.held_out)
        values = {"train_loss": loss, "train_accuracy": accuracy, "devel_loss": held_out[0]}
        values |= {"devel_accuracy": held_out[1], "learning_rate": self._optimiser.param_groups[0]["lr"]}
        if len(self._inner):
            values["inner_loss"] = self._judged(self._inner)[0]
            if values["inner_loss"] < min(self.history.get("inner_loss", [math.inf])):
                self._best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)

    def _judged(self, rows: Tensor) -> tuple[float, float]:
        """Cross-entropy and accuracy on rows, as coarse as the steps are."""
        with torch.autocast(self._job.device.type, torch.bfloat16, enabled=self._mixes):
            probabilities, truth = self._score(rows), self._job.targets[rows]
        loss = nll_loss(probabilities.clamp(min=1e-12).log(), truth)
        return float(loss), float((probabilities.argmax(1) == truth).float().mean())

    def _score(self, rows: Tensor) -> Tensor:
        """Class probabilities (N, K) of rows as they are, on the CPU."""
        return predict(self.model, self._views[rows, 0], self._job.device)

    def _of_epoch(self, rows: Tensor) -> Tensor:
        """The views (B, ...) that this epoch takes of rows; no two epochs of a row take the same until all were."""
        of_epoch = (self._starts[rows] + self.epochs) % self._views.shape[1]
        views = moved(self._views[rows, of_epoch], self._job.device).float()
        return views.contiguous(memory_format=torch.channels_last) if views.ndim == 4 else views

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        smoothing = self._job.spec.label_smoothing
        loss = cross_entropy(logits, targets, self._class_weights, reduction="sum", label_smoothing=smoothing)
        return loss / len(targets)

    def _to_train(self) -> None:
        """Batch norm learns its statistics only where nothing was learnt before."""
        self.model.train()
        self._upper.train(self._job.spec.embedding.pretraining == "none")

    def _groups(self, layers: list[list[nn.Parameter]]) -> Iterator[dict[str, Any]]:
        """Parameter groups: the head and layer by layer with falling rates; biases and scales do not decay."""
        spec = self._job.spec
        rates = [_HEAD_RATE, *(spec.rate_decay**below for below in range(len(layers)))]
        for share, weights in zip(rates, [list(self.model.head.parameters()), *reversed(layers)], strict=True):
            rate = spec.learning_rate * share
            for decay, chosen in ((spec.weight_decay, True), (0.0, False)):
                parameters = [weight for weight in weights if (weight.ndim > 1) == chosen]
                if parameters:
                    yield {"params": parameters, "lr": rate, "weight_decay": decay}

    @torch.no_grad()
    def _features(self) -> Tensor:
        """The network's features (N, V, dim) of all views of the training rows, before it is trained."""
        embedding, device = self._job.spec.embedding, self._job.device
        self._upper.eval()
        faster = cpu.on_cpu(self._upper, embedding.precision) if by_openvino(device, embedding.shortcuts) else None
        forward, views = faster or self._upper, self._views[self._train]
        parts = [forward(part.to(device).float()).float() for part in views.flatten(0, 1).split(_AT_ONCE)]
        return torch.cat(parts).unflatten(0, views.shape[:2])

    def _learn_head(self, features: Tensor) -> None:
        """Train the head on features (N, V, dim) that do not change yet: the layers below then learn from its errors.

        A random head's would undo what the network knows.
        """
        job, spec = self._job, self._job.spec
        torch.manual_seed(derived_seed(spec.seed, job.fold, "head"))
        self.model.train()
        optimiser = torch.optim.AdamW(self.model.head.parameters(), lr=_PROBE_RATE, weight_decay=spec.weight_decay)
        truth = one_hot(job.targets[self._train], job.classes).float().to(job.device)
        steps = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimiser, _PROBE_EPOCHS * math.ceil(len(truth) / _PROBE_BATCH)
        )
        for epoch in range(_PROBE_EPOCHS):
            for rows in torch.randperm(len(truth)).split(_PROBE_BATCH):
                logits = self.model.classified(features[rows, epoch % features.shape[1]])
                loss = self._loss(logits, truth[rows])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                steps.step()

    def _kept_back(self) -> tuple[Tensor, Tensor]:
        """Training rows to learn from, and those that tell when to stop: no group is in both."""
        job, rows = self._job, self._job.train.numpy()
        groups = np.arange(len(job.targets)) if job.groups is None else job.groups.numpy()
        folds = StratifiedGroupKFold(_KEPT_BACK, shuffle=True, random_state=derived_seed(job.spec.seed) % 2**32)
        if np.bincount(job.targets[rows]).max() < _KEPT_BACK or len(set(groups[rows])) < _KEPT_BACK:
            raise ConfigError("patience: there are too few training clips to keep some back; leave it out.")
        learnt, kept = next(folds.split(rows, job.targets[rows].numpy(), groups[rows]))
        return job.train[learnt], job.train[kept]


def _share_of_rate(step: int, steps: int) -> float:
    """Of the highest rate: up within the warm-up, and down as half a cosine."""
    warm = max(1, round(_WARM_UP * steps))
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
