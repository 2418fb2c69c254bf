"""Stand-ins for the published weights, which no test fetches: the same keys and shapes, other numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstack.networks.registry import NETWORKS

_FACTS = json.loads((Path(__file__).parent / "data" / "network_shapes.json").read_text(encoding="utf-8"))
_FRONT_END = ("spectrogram_extractor.", "logmel_extractor.", "speclayer.")


def published_shapes(name: str, *, front_end: bool = True) -> dict[str, tuple[int, ...]]:
    """Every key of the published checkpoint and its shape, with or without those of the spectrogram."""
    shapes = _FACTS["checkpoints"][name]
    return {key: tuple(shape) for key, shape in shapes.items() if front_end or not key.startswith(_FRONT_END)}


def published_layers(name: str) -> dict[str, tuple[int, ...]]:
    """Output shapes, without the batch, of a PANNs network's modules for 16000 samples (authors' code)."""
    return {key: tuple(shape) for key, shape in _FACTS["layers_at_16000_samples"][name].items()}


def hollow_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of these shapes that take no space in memory or in a file, because each repeats one number."""
    return {
        key: torch.tensor(0) if key.endswith("num_batches_tracked") else torch.tensor([0.01]).expand(shape)
        for key, shape in shapes.items()
    }


def numbers(shape: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    """Numbers in -1..1 that are the same on every machine and in every release of NumPy."""
    count = int(np.prod(shape))
    raw = np.random.PCG64(seed).random_raw(min(count, 99_991))
    return np.resize((raw >> np.uint64(11)) / 2.0**52 - 1, count).reshape(shape)


def known_state(name: str) -> dict[str, Tensor]:
    """A state dict of known numbers of a sensible size, for comparison with the authors' code."""
    state: dict[str, Tensor] = {}
    for seed, (key, shape) in enumerate(sorted(published_shapes(name, front_end=False).items())):
        values = numbers(shape, seed)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
            continue
        if len(shape) > 1:
            values *= np.sqrt(6 / np.prod(shape[1:]))
        elif key.endswith(("running_var", "weight")):
            values = 1 + 0.5 * values
        else:
            values *= 0.1
        state[key] = torch.from_numpy(values.astype(np.float32))
    return state


def without_checksum(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let any file of the published name pass as a network's weights; the name is returned."""
    anything = replace(NETWORKS[name], sha256=None, md5=None, size=None)
    monkeypatch.setitem(NETWORKS, name, anything)
    return anything.file
