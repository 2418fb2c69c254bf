"""Augmentation of what a network is trained on: never across the rows of a training set, never of what is scored.

``strength`` scales all of it; at 0 nothing changes.
"""

from __future__ import annotations

import torch
import torchaudio.functional
from torch import Tensor

#: At strength 1: the widest mask, as a share of the bands and of the frames, and the parameter of mixup's beta.
_BANDS, _FRAMES, _MIXED = 0.2, 0.2, 0.3


def altered(spectrograms: Tensor, strength: float) -> Tensor:
    """Log-mel spectrograms (B, T, F), each shifted around in time, with a mask over frames and one over bands.

    What is masked becomes the spectrogram's mean (SpecAugment). Draws from torch's generator.
    """
    if not strength:
        return spectrograms
    count, frames, bands = spectrograms.shape
    shifts = torch.randint(frames, (count, 1), device=spectrograms.device)
    rows = (torch.arange(frames, device=spectrograms.device) + shifts) % frames  # (B, T)
    mean = spectrograms.mean(dim=(1, 2), keepdim=True)
    x = (torch.take_along_dim(spectrograms, rows[:, :, None], dim=1) - mean)[:, None]  # (B, 1, T, F)
    for axis, widest in ((2, _FRAMES * frames), (3, _BANDS * bands)):
        x = torchaudio.functional.mask_along_axis_iid(x, max(1, round(strength * widest)), 0.0, axis)
    return x[:, 0] + mean


def mixed(inputs: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Rows (B, ...) of a batch and their targets (B, K), each with a share of another row (mixup).

    A row keeps at least half of itself. Draws from torch's generator.
    """
    if not strength:
        return inputs, targets
    share = torch.distributions.Beta(strength * _MIXED, strength * _MIXED).sample((len(inputs),))
    share = torch.maximum(share, 1 - share).to(inputs.device)
    other = torch.randperm(len(inputs), device=inputs.device)
    of_inputs = share.view(-1, *[1] * (inputs.ndim - 1)).to(inputs.dtype)
    share = share[:, None].to(targets.dtype)
    return of_inputs * inputs + (1 - of_inputs) * inputs[other], share * targets + (1 - share) * targets[other]
