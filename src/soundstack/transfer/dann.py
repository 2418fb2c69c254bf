"""Domain-adversarial training (DANN; Ganin et al. 2016, Journal of Machine Learning Research 17), on given features.

A bottleneck feeds a classifier, which sees the source's labels, and a discriminator of the two domains, whose gradient
comes back to the bottleneck reversed: its features are to tell the classes and not the domains. The weight of that
gradient grows as 2 / (1 + exp(-10 p)) - 1 with the progress p from 0 to 1, and the learning rate falls as
0.01 / (1 + 10 p)^0.75; both are the paper's. Nothing is chosen by looking at a score, and no epoch is picked.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soundstack.training.fold import derived_seed

Floats = NDArray[np.floating[Any]]
BOTTLENECK, BATCH = 256, 64
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, DROPOUT = 0.01, 0.9, 1e-2, 0.5


class DannSpec(NamedTuple):
    """What fixes a training, next to the data; an ``adversary`` of 0 leaves the target out: a plain network."""

    adversary: float = 1.0
    steps: int = 500
    seed: int = 0


class Trained(NamedTuple):
    """Log-probabilities (T, K) of the scored clips, answers (M,) on the target, and bottleneck features of source and
    target (N, B), (M, B).
    """

    scores: NDArray[np.float64]
    answers: NDArray[np.intp]
    source: NDArray[np.float32]
    target: NDArray[np.float32]


def weight_at(progress: float) -> float:
    """The weight of the reversed gradient, in 0..1, at a progress in 0..1."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


def learning_rate_at(progress: float) -> float:
    """The learning rate at a progress in 0..1."""
    return LEARNING_RATE / (1 + 10 * progress) ** 0.75


class ReversedGradient(torch.autograd.Function):
    """The identity; its gradient is turned round and weighted."""

    @staticmethod
    def forward(context: Any, values: Tensor, weight: float) -> Tensor:
        """Return the values as they are."""
        context.weight = weight
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient times minus the weight."""
        return -context.weight * gradients[0], None


class Dann(nn.Module):
    """Bottleneck, classifier of K classes, and discriminator of two domains, on features of ``dim`` values."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.bottleneck = nn.Sequential(nn.Linear(dim, BOTTLENECK), nn.ReLU(), nn.Dropout(DROPOUT))
        self.classifier = nn.Linear(BOTTLENECK, classes)
        self.discriminator = nn.Sequential(nn.Linear(BOTTLENECK, BOTTLENECK), nn.ReLU(), nn.Linear(BOTTLENECK, 1))

    def loss(self, source: Tensor, truth: Tensor, target: Tensor, weight: float) -> Tensor:
        """Loss of a batch: source (B, dim) with class indices (B,), and target (B, dim) unless the weight is 0."""
        found = self.bottleneck(source)
        loss = nn.functional.cross_entropy(self.classifier(found), truth)
        if weight == 0:
            return loss
        both = torch.cat([found, self.bottleneck(target)])
        domain = torch.cat([torch.ones(len(source)), torch.zeros(len(target))]).to(both.device)
        told = self.discriminator(ReversedGradient.apply(both, weight))[:, 0]
        return loss + nn.functional.binary_cross_entropy_with_logits(told, domain)


def train(
    source: Floats, truth: NDArray[np.intp], target: Floats, scored: Floats, spec: DannSpec, device: torch.device
) -> Trained:
    """Train on a source (N, dim) with class indices (N,) and an unlabelled target (M, dim); score other clips (T, dim).

    Half of each batch is drawn from either domain. All inputs are standardised already.
    """
    torch.manual_seed(derived_seed(spec.seed, "dann"))
    values, others, judged = (torch.from_numpy(np.asarray(x, np.float32)).to(device) for x in (source, target, scored))
    labels = torch.from_numpy(truth.astype(np.int64)).to(device)
    model = Dann(source.shape[1], int(truth.max()) + 1).to(device)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, foreach=True
    )
    for step in range(spec.steps):
        progress = step / spec.steps
        optimiser.param_groups[0]["lr"] = learning_rate_at(progress)
        of_source, of_target = (torch.randint(len(x), (BATCH // 2,)).to(device) for x in (values, others))
        weight = spec.adversary * weight_at(progress)
        loss = model.loss(values[of_source], labels[of_source], others[of_target], weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    model.eval()
    with torch.inference_mode():
        found, there, asked = (model.bottleneck(x) for x in (values, others, judged))
        answers = model.classifier(there).argmax(dim=1).cpu().numpy()
        scores = model.classifier(asked).log_softmax(dim=1).double().cpu().numpy()
    return Trained(scores, answers, found.cpu().numpy(), there.cpu().numpy())
