"""Log-mel spectrograms for the CRNN (paper section 3.1).

Two front ends. ``paper``: centred frames with reflect padding, periodic Hann window of 0.32 s, hop 0.16 s, power,
128 mel bands (Slaney scale and area norm) from 0 Hz to half the rate, decibel with the clip's maximum at 0 dB,
floored at ``clip_db``. Every convention is set explicitly because the libraries' defaults differ by tens of dB.
``audeep``: the auDeep toolkit's form: no centring, each frame's mean removed, HTK mel triangles of unit peak on
floored FFT bins, power, dB, floored, and each spectrogram scaled to -1..1.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

BANDS = 128
WINDOW_SECONDS = 0.32
HOP_SECONDS = 0.16
_TINY = 1e-30


@dataclass(frozen=True)
class SpectrogramSpec:
    """What a log-mel spectrogram is made with; ``clip_db`` is the floor under the clip's maximum."""

    sample_rate: int
    clip_db: float = -80.0
    front_end: Literal["paper", "audeep"] = "paper"
    bands: int = BANDS

    @property
    def window(self) -> int:
        """Window length in samples (16 kHz: 5120)."""
        return round(self.sample_rate * WINDOW_SECONDS)

    @property
    def hop(self) -> int:
        """Hop in samples (16 kHz: 2560)."""
        return round(self.sample_rate * HOP_SECONDS)

    def frames(self, samples: int) -> int:
        """Number of frames of a clip of so many samples (5 s: 32 or 30; 10 s: 63 or 61)."""
        samples = max(samples, self.window)
        if self.front_end == "paper":
            return samples // self.hop + 1
        return (samples - self.window) // self.hop + 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self)


class LogMel(nn.Module):
    """Waveforms (B, samples) to log-mel spectrograms (B, frames, bands), float32."""

    bank: Tensor
    hann: Tensor

    def __init__(self, spec: SpectrogramSpec) -> None:
        super().__init__()
        self.spec = spec
        centred = spec.front_end == "paper"
        if centred:
            bank = torch.from_numpy(slaney_filters(spec.sample_rate, spec.window, spec.bands))
        else:
            bank = torch.from_numpy(audeep_filters(spec.sample_rate, spec.window, spec.bands))
        self.register_buffer("bank", bank, persistent=False)  # (bins, bands)
        self.register_buffer("hann", torch.hann_window(spec.window, periodic=True), persistent=False)

    def forward(self, waves: Tensor) -> Tensor:
        """Return dB (``paper``: clip_db..0) or scaled values (``audeep``: -1..1), (B, frames, bands)."""
        spec = self.spec
        if waves.shape[1] < spec.window:  # reflect padding and framing both need a whole window
            waves = nn.functional.pad(waves, (0, spec.window - waves.shape[1]))
        if spec.front_end == "paper":
            spectrum = torch.stft(
                waves,
                n_fft=spec.window,
                hop_length=spec.hop,
                window=self.hann,
                center=True,
                pad_mode="reflect",
                return_complex=True,
            )  # (B, bins, T)
            power = spectrum.real.square() + spectrum.imag.square()
        else:
            frames = waves.unfold(1, spec.window, spec.hop)  # (B, T, window)
            frames = (frames - frames.mean(dim=2, keepdim=True)) * self.hann
            power = torch.fft.rfft(frames).abs().square().transpose(1, 2)
        mel = torch.matmul(power.transpose(1, 2), self.bank)  # (B, T, F)
        decibel = relative_decibel(mel, spec.clip_db)
        if spec.front_end == "paper":
            return decibel
        low = decibel.amin(dim=(1, 2), keepdim=True)
        return torch.where(low < 0, 1 - 2 * decibel / low.clamp(max=-_TINY), torch.full_like(decibel, -1.0))


def relative_decibel(power: Tensor, floor: float) -> Tensor:
    """Power (B, ...) to dB under each clip's own maximum, floored; a silent clip is all floor."""
    peak = power.flatten(1).amax(dim=1).view(-1, *[1] * (power.ndim - 1))
    decibel = 10 * (power.clamp(min=_TINY).log10() - peak.clamp(min=_TINY).log10())
    return torch.where(peak > 0, decibel.clamp(min=floor), torch.full_like(decibel, floor))


def slaney_filters(sample_rate: int, window: int, bands: int) -> NDArray[np.float32]:
    """Triangles of unit area on Slaney's mel scale, (bins, bands); torchaudio's are off for odd rates (11025 Hz)."""
    linear, step = 1000 / (200 / 3), math.log(6.4) / 27  # linear up to 1 kHz, 27 steps an octave and a bit above
    top = sample_rate / 2
    highest = top / (200 / 3) if top < 1000 else linear + math.log(top / 1000) / step
    mels = np.linspace(0, highest, bands + 2)
    corners = np.where(mels < linear, mels * 200 / 3, 1000 * np.exp(step * (mels - linear)))
    hertz = np.arange(window // 2 + 1)[:, None] * (sample_rate / window)
    left, peak, right = corners[:-2], corners[1:-1], corners[2:]
    triangles = np.minimum((hertz - left) / (peak - left), (right - hertz) / (right - peak)).clip(min=0)
    return (triangles * 2 / (right - left)).astype(np.float32)


def audeep_filters(sample_rate: int, window: int, bands: int) -> NDArray[np.float32]:
    """HTK-mel triangles of unit peak whose corners are floored to FFT bins, (bins, bands)."""
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    corners = np.floor((window + 1) * hertz / sample_rate).astype(int)
    bank = np.zeros((window // 2 + 1, bands), dtype=np.float32)
    for band, (left, peak, right) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        bins = np.arange(left, min(right, window // 2) + 1)
        rising = (bins - left) / max(peak - left, 1)
        falling = (right - bins) / max(right - peak, 1)
        bank[bins, band] = np.clip(np.minimum(rising, falling), 0, 1)
        bank[min(peak, window // 2), band] = 1.0  # narrow low bands keep their one bin
    return bank
