"""Mel filters: triangles over the bins of an FFT, equally spaced on a mel scale from 0 Hz to half the rate.

In float64, and with the rate as it is: torchaudio's float32 filters are off by 1.5e-3 dB in bands narrower than a bin,
and its Slaney filters for odd rates (11025 Hz). librosa's are the same, and take more than a second to import.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scale = Literal["slaney", "htk"]


def mel_filters(sample_rate: int, fft: int, bands: int, scale: Scale) -> NDArray[np.float64]:
    """Triangles of equal area, (bands, bins)."""
    corners = mel_corners(sample_rate, bands, scale)[:, None]
    left, peak, right = corners[:-2], corners[1:-1], corners[2:]
    hertz = np.arange(fft // 2 + 1) * (sample_rate / fft)
    triangles: NDArray[np.float64] = np.minimum((hertz - left) / (peak - left), (right - hertz) / (right - peak))
    return triangles.clip(min=0) * 2 / (right - left)


def mel_corners(sample_rate: int, bands: int, scale: Scale) -> NDArray[np.float64]:
    """Frequencies in Hz, (bands + 2,), of which the i-th triangle begins at i, peaks at i + 1 and ends at i + 2."""
    top = sample_rate / 2
    if scale == "htk":
        highest = 2595 * math.log10(1 + top / 700)
        return 700 * (10 ** (np.linspace(0, highest, bands + 2) / 2595) - 1)
    linear, step = 1000 / (200 / 3), math.log(6.4) / 27  # linear up to 1 kHz, 27 steps an octave and a bit above
    highest = top / (200 / 3) if top < 1000 else linear + math.log(top / 1000) / step
    mels = np.linspace(0, highest, bands + 2)
    return np.where(mels < linear, mels * 200 / 3, 1000 * np.exp(step * (mels - linear)))
