"""The convolutional recurrent network of paper section 3.2.

Block = convolution ("same" padding) -> batch norm -> ELU -> max-pool -> dropout 0.3; then two stacked GRUs of 256,
their last state, dropout 0.3 and a linear layer (softmax is in the loss). Batch norm uses Keras's defaults, which the
authors' framework had: eps 1e-3, momentum 0.99 (0.01 in torch's counting).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Of the 4 x 4 kernels; the padded copy is a small part of a step, and nobody who trains can do anything about it.
warnings.filterwarnings("ignore", message="Using padding='same' with even kernel lengths")


@dataclass(frozen=True)
class Block:
    """One convolutional block; pooling is given as (frames, bands)."""

    channels: int
    kernel: int
    pool: tuple[int, int]


#: DCASE 2018 (section 3.2.1): 2 * 2 * 32 = 128 bands exactly.
THREE_BLOCKS = (Block(64, 5, (2, 2)), Block(128, 4, (2, 2)), Block(128, 3, (2, 32)))
#: DCASE 2017 and ESC (section 3.2.2). The paper gives neither channels nor pooling; bands are pooled early, which is
#: cheap, and time is kept: a 5 s clip has 32 frames only.
FOUR_BLOCKS = (Block(32, 3, (2, 4)), Block(64, 3, (2, 4)), Block(128, 3, (1, 4)), Block(256, 3, (1, 2)))
LAYOUTS: dict[str, tuple[Block, ...]] = {"three_blocks": THREE_BLOCKS, "four_blocks": FOUR_BLOCKS}

HIDDEN = 256
DROPOUT = 0.3


class Crnn(nn.Module):
    """Standardised log-mel spectrograms (B, frames, bands) to logits (B, classes).

    ``precision`` is that of training steps, ``float32`` or ``bfloat16`` (by autocast); scores are made in float32.
    """

    def __init__(self, layout: str, bands: int, classes: int, precision: str = "float32") -> None:
        super().__init__()
        self.mixed = precision == "bfloat16"
        blocks = LAYOUTS[layout]
        width, previous = bands, 1
        self.blocks = nn.ModuleList()
        for block in blocks:
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(previous, block.channels, block.kernel, padding="same"),
                    nn.BatchNorm2d(block.channels, eps=1e-3, momentum=0.01),
                    # ELU is monotone, so pooling first gives the same values for a fraction of the ELUs.
                    nn.MaxPool2d(block.pool, ceil_mode=True),
                    nn.ELU(),
                    nn.Dropout(DROPOUT),
                )
            )
            width = -(-width // block.pool[1])
            previous = block.channels
        self.gru = nn.GRU(previous * width, HIDDEN, num_layers=2, batch_first=True)
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(HIDDEN, classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # what convolutions want

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Return logits (B, classes) for spectrograms (B, frames, bands)."""
        if not (self.mixed and self.training):
            return self._logits(spectrograms)
        with torch.autocast(spectrograms.device.type, torch.bfloat16):
            return self._logits(spectrograms).float()

    def _logits(self, spectrograms: Tensor) -> Tensor:
        x = spectrograms.unsqueeze(1).contiguous(memory_format=torch.channels_last)  # (B, 1, T, F)
        for block in self.blocks:
            x = block(x)
        x = x.permute(0, 2, 1, 3).flatten(2)  # (B, T', C * F')
        states, _ = self.gru(x)
        return self.head(self.dropout(states[:, -1]))  # (B, K)
