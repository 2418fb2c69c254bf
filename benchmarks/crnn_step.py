"""A training step of the CRNN: the project's beside the network as the paper writes it.

    python benchmarks/crnn_step.py [--clips 240] [--turns 11]

As written: convolution, batch norm, ELU, then max-pooling by 2x2 in every block, NCHW, Adam as it comes, batches from
a ``DataLoader`` with two workers, which stay. Ours: bands pooled early and time kept (the preset), pooling before the
ELU, channels last, the data one tensor. In between: as written, but pooled like ours, which is the part that is exact.
A turn is an epoch over the same clips, in one thread: folds train side by side, a core each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from _common import Rival, Row, Step, parser, show, take_turns  # isort: skip

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import _plain
from soundstack.crnn.network import FOUR_BLOCKS, Crnn

FRAMES, BANDS, CLASSES, BATCH = 32, 128, 10, 16


def data(clips: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((clips, FRAMES, BANDS), generator=generator), torch.arange(clips) % CLASSES


def as_written(pools: list[tuple[int, int]]) -> _plain.Crnn:
    return _plain.Crnn(FOUR_BLOCKS, pools, BANDS, CLASSES)


def written(clips: int, early: bool) -> Step:
    """An epoch by the DataLoader."""
    torch.set_num_threads(1)
    model = as_written([block.pool if early else (2, 2) for block in FOUR_BLOCKS]).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7)
    loader = DataLoader(
        TensorDataset(*data(clips)), batch_size=BATCH, shuffle=True, num_workers=2, persistent_workers=True
    )

    def epoch(turn: int) -> None:
        for x, y in loader:
            _plain.training_step(model, optimiser, x, y)

    return epoch


def ours(clips: int) -> Step:
    """An epoch as :func:`soundstack.crnn.training.train_fold` goes through it."""
    from soundstack.utils.devices import keep_pages

    keep_pages()
    torch.set_num_threads(1)
    model = Crnn("four_blocks", BANDS, CLASSES).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7, fused=True)
    x, y = data(clips)

    def epoch(turn: int) -> None:
        for batch in torch.randperm(clips).split(BATCH):
            _plain.training_step(model, optimiser, x[batch], y[batch])

    return epoch


def largest_difference() -> float:
    """Between the two forms' gradients of weights, relative to their size, at equal pooling and without dropout.

    In float64: in float32, rounding decides which of two nearly equal values a max-pool takes.
    """
    torch.manual_seed(0)
    one, other = as_written([block.pool for block in FOUR_BLOCKS]), Crnn("four_blocks", BANDS, CLASSES)
    x, y = data(BATCH)
    # The same layers in the same order, but for ELU and pooling, which have no weights.
    other.load_state_dict(dict(zip(other.state_dict(), one.state_dict().values(), strict=True)))
    for model in (one, other):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        nn.functional.cross_entropy(model.double().train()(x.double()), y).backward()
    differences = [
        float((a.grad - b.grad).abs().max() / a.grad.abs().max())
        for a, b in zip(one.parameters(), other.parameters(), strict=True)
        if a.ndim > 1 and a.grad is not None and b.grad is not None
    ]
    return max(differences)


def rows(clips: int, turns: int) -> Iterator[Row]:
    """Measure."""
    with contextlib.ExitStack() as stack:
        contenders: dict[str, Step | Rival] = {
            "written": stack.enter_context(Rival(written, clips, False)),
            "pooled early": stack.enter_context(Rival(written, clips, True)),
            "ours": stack.enter_context(Rival(ours, clips)),
        }
        timings, _ = take_turns(contenders, turns)
    theirs, same, mine = (np.array(timings[name].median) / clips * 1000 for name in contenders)
    equality = f"gradients within {largest_difference():.0e} of the same pooling as written, in float64"
    yield Row(
        "CRNN training step",
        "as the paper writes it, 2x2 pooling, NCHW, DataLoader",
        "ms/sample",
        theirs[0],
        mine[0],
        theirs[0] / mine[0],
        theirs[1] / mine[1],
        3.0,
        equality,
        "the baseline's processor time is without its DataLoader's workers",
    )
    yield Row(
        "CRNN training step, same pooling",
        "as written but pooled early, NCHW, DataLoader",
        "ms/sample",
        same[0],
        mine[0],
        same[0] / mine[0],
        same[1] / mine[1],
        None,
        equality,
    )


if __name__ == "__main__":
    given = parser(__doc__, clips=(240, "clips an epoch"), turns=(11, "epochs of each")).parse_args()
    show(rows(given.clips, given.turns), given.json)
