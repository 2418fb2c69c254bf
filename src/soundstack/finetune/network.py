"""The network that is fine-tuned: what stays of a pre-trained one, its upper layers, and a new linear head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec
from soundstack.networks.build import build
from soundstack.networks.stages import Split, split
from soundstack.utils import deadlines

#: Standardised features are clipped to +- this, as for the SVMs; share of them that training leaves out.
BOUND, DROPOUT = 10.0, 0.2
_PREDICTED = 64
_LARGEST = float(np.finfo(np.float16).max)


class LowerLayers:
    """What a network is fed to what its trained layers take."""

    def __init__(self, embedder: Embedder, depth: float) -> None:
        self._embedder, lower = embedder, split(embedder.network, depth).lower
        self._forward = embedder.faster(lower) if lower is not None else None

    def __call__(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Network inputs (B, ...) -> what the trained layers take (B, ...): float16, or the inputs themselves."""
        if self._forward is None:
            return inputs
        values = self._embedder.through(self._forward, inputs)
        return np.asarray(values.clamp(-_LARGEST, _LARGEST).numpy(), np.float16)


class FinetunedNetwork(nn.Module):
    """What the trained layers take (B, ...) to logits (B, classes).

    Args:
        upper: The layers, to features (B, dim).
        scaling: Mean and deviation (dim,) by which features are standardised.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, upper: nn.Module, scaling: tuple[Tensor, Tensor], classes: int) -> None:
        super().__init__()
        self.upper = upper
        self.register_buffer("mean", scaling[0])
        self.register_buffer("deviation", scaling[1])
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(len(scaling[0]), classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.classified(self.upper(x))

    def classified(self, features: Tensor) -> Tensor:
        """Features (B, dim) to logits (B, classes)."""
        standard = ((features.float() - self.mean) / self.deviation).clamp(-BOUND, BOUND)
        return self.head(self.dropout(standard)).float()

    def learnt(self) -> dict[str, Tensor]:
        """All that training may have changed, on the CPU; without the scaling."""
        state = self.state_dict()
        return {name: value.cpu().contiguous() for name, value in state.items() if name not in ("mean", "deviation")}


def scaling_of(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (dim,) of features (N, V, dim) of all views of the training rows."""
    return features.mean(dim=(0, 1)), features.std(dim=(0, 1)).clamp(min=1e-3)


def pretrained(spec: EmbeddingSpec, depth: float, weights_dir: str | None) -> Split:
    """A network with its published or random weights, cut for training.

    Raises:
        WeightsError: Published weights are missing and cannot be fetched.
    """
    net = build(spec.network, spec.pretraining, seed=spec.seed, weights_dir=weights_dir, settings=spec.settings)
    return split(net, depth)


def of_weights(
    upper: nn.Module, scaling: tuple[Tensor, Tensor], weights: Mapping[str, Tensor], classes: int
) -> FinetunedNetwork:
    """The trained network that :meth:`FinetunedNetwork.learnt` told."""
    model = FinetunedNetwork(upper, scaling, classes)
    # Taken over, not copied: what the network was made of may be shared with others.
    model.load_state_dict({**weights, "mean": scaling[0], "deviation": scaling[1]}, assign=True)
    return model.eval()


def predict(model: nn.Module, inputs: Tensor, device: torch.device) -> Tensor:
    """Class probabilities (N, K) of what the trained layers take (N, ...), on the CPU."""
    model.eval()
    found = []
    with torch.inference_mode():
        for part in inputs.split(_PREDICTED):
            deadlines.check()
            found.append(model(part.to(device).float()).softmax(dim=1).cpu())
    return torch.cat(found)
