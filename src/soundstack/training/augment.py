"""Augmentation of what a network is trained on: within the rows of a batch, never of what is scored."""

from __future__ import annotations

import torch
import torchaudio.functional
from torch import Tensor

#: The usual parameter of mixup's beta distribution; the widest masks at strength 1, as shares of bands and frames.
MIXUP = 0.3
_BANDS, _FRAMES = 0.2, 0.2


def altered(spectrograms: Tensor, strength: float) -> Tensor:
    """Log-mel spectrograms (B, T, F), each shifted around in time, with a mask over frames and one over bands.

    What is masked becomes the spectrogram's mean (SpecAugment). Draws from torch's generator.
    """
    count, frames, bands = spectrograms.shape
    shifts = torch.randint(frames, (count, 1), device=spectrograms.device)
    rows = (torch.arange(frames, device=spectrograms.device) + shifts) % frames  # (B, T)
    mean = spectrograms.mean(dim=(1, 2), keepdim=True)
    x = (torch.take_along_dim(spectrograms, rows[:, :, None], dim=1) - mean)[:, None]  # (B, 1, T, F)
    for axis, widest in ((2, _FRAMES * frames), (3, _BANDS * bands)):
        x = torchaudio.functional.mask_along_axis_iid(x, max(1, round(strength * widest)), 0.0, axis)
    return x[:, 0] + mean


def mixed(inputs: Tensor, targets: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Rows (B, ...) of a batch and their targets (B, K), each with a share of another row (mixup).

    The share is drawn from a beta distribution of both parameters ``beta``; 0 mixes nothing. A row keeps at least half
    of itself. Draws from torch's generator.
    """
    if not beta:
        return inputs, targets
    kept = torch.distributions.Beta(beta, beta).sample((len(inputs),))
    kept = torch.maximum(kept, 1 - kept).to(inputs.device)
    other = torch.randperm(len(inputs), device=inputs.device)
    of_inputs, of_targets = kept.view(-1, *[1] * (inputs.ndim - 1)), kept[:, None]
    return torch.lerp(inputs[other], inputs, of_inputs), torch.lerp(targets[other], targets, of_targets)
