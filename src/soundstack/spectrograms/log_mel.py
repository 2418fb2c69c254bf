"""Log-mel spectrograms for the CRNN (paper section 3.1).

Two front ends. ``paper``: centred frames with reflect padding, periodic Hann window of 0.32 s, hop 0.16 s, power,
128 mel bands (Slaney scale and area norm) from 0 Hz to half the rate, decibel with the clip's maximum at 0 dB,
floored at ``clip_db``. Every convention is set explicitly because the libraries' defaults differ by tens of dB.
``audeep``: the auDeep toolkit's form: no centring, each frame's mean removed, HTK mel triangles of unit peak on
floored FFT bins, power, dB, floored, and each spectrogram scaled to -1..1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.sparse import csr_array

from soundstack.audio.decode import Samples
from soundstack.audio.mel import mel_corners, mel_filters

BANDS = 128
WINDOW_SECONDS = 0.32
HOP_SECONDS = 0.16
_TINY = np.float32(1e-30)


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

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self)


class LogMel:
    """Waveforms (B, samples) to log-mel spectrograms (B, frames, bands), float32.

    Clip by clip in one thread: a clip's spectrum stays in the processor's cache, and callers have threads of their
    own. A triangle covers few bins, so the filters are sparse.
    """

    def __init__(self, spec: SpectrogramSpec) -> None:
        self.spec = spec
        filters = slaney_filters if spec.front_end == "paper" else audeep_filters
        self.bank = csr_array(filters(spec.sample_rate, spec.window, spec.bands).T)  # (bands, bins)
        turns = np.arange(spec.window) / spec.window
        self._hann = (0.5 - 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32)  # periodic

    def __call__(self, waves: Samples) -> NDArray[np.float32]:
        """Return dB (``paper``: clip_db..0) or scaled values (``audeep``: -1..1), (B, frames, bands)."""
        decibel = relative_decibel(np.stack([self._mel(wave) for wave in waves]), self.spec.clip_db)
        if self.spec.front_end == "paper":
            return decibel
        low = decibel.min(axis=(1, 2), keepdims=True)
        return np.where(low < 0, 1 - 2 * decibel / np.minimum(low, -_TINY), np.float32(-1))

    def _mel(self, wave: Samples) -> NDArray[np.float32]:
        """Mel power (frames, bands) of a waveform (samples,)."""
        spec = self.spec
        wave = np.asarray(wave, dtype=np.float32)
        if len(wave) < spec.window:  # reflect padding and framing both need a whole window
            wave = np.pad(wave, (0, spec.window - len(wave)))
        if spec.front_end == "paper":
            wave = np.pad(wave, spec.window // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(wave, spec.window)[:: spec.hop]
        if spec.front_end == "audeep":
            frames = frames - frames.mean(axis=1, keepdims=True)
        spectrum = scipy.fft.rfft(frames * self._hann)  # (T, bins)
        power = spectrum.real**2 + spectrum.imag**2
        return (self.bank @ power.T).T  # (T, F)


def relative_decibel(power: NDArray[np.float32], floor: float) -> NDArray[np.float32]:
    """Power (B, ...) to dB under each clip's own maximum, floored; a silent clip is all floor."""
    peak = power.max(axis=tuple(range(1, power.ndim)), keepdims=True)
    decibel = 10 * (np.log10(np.maximum(power, _TINY)) - np.log10(np.maximum(peak, _TINY)))
    return np.where(peak > 0, np.maximum(decibel, np.float32(floor)), np.float32(floor))


def slaney_filters(sample_rate: int, window: int, bands: int) -> NDArray[np.float32]:
    """Triangles of unit area on Slaney's mel scale, (bins, bands)."""
    return mel_filters(sample_rate, window, bands, "slaney").T.astype(np.float32)


def audeep_filters(sample_rate: int, window: int, bands: int) -> NDArray[np.float32]:
    """HTK-mel triangles of unit peak whose corners are floored to FFT bins, (bins, bands)."""
    corners = np.floor((window + 1) * mel_corners(sample_rate, bands, "htk") / sample_rate).astype(int)
    bank = np.zeros((window // 2 + 1, bands), dtype=np.float32)
    for band, (left, peak, right) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        bins = np.arange(left, min(right, window // 2) + 1)
        rising = (bins - left) / max(peak - left, 1)
        falling = (right - bins) / max(right - peak, 1)
        bank[bins, band] = np.clip(np.minimum(rising, falling), 0, 1)
        bank[min(peak, window // 2), band] = 1.0  # narrow low bands keep their one bin
    return bank
