"""Views of a clip: copies that are augmented ahead, so that what lies below the trained layers is computed once each.

A view depends on the clip's samples, its number and the seed alone: whatever fold a clip is in, its views are the same,
and they are used where the clip is. Noise is made, not taken from other clips.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
import torchaudio.functional
from numpy.typing import NDArray

from soundstack.audio.decode import Samples
from soundstack.deepspectrum.embedding import Embedder

#: At strength 1: share of the views with noise, widest mask as a share of bands and of frames, largest gain in dB.
_NOISY, _MASK, _GAIN = 0.5, 0.2, 6.0
_SNR = (5.0, 30.0)


class Views:
    """Waveforms of examples to what a network is fed of each view; view 0 is the clip as it is.

    Args:
        embedder: Its front end draws the pictures.
        count: Views of each clip.
        strength: Of the augmentation.
        seed: Of the augmentation.
    """

    def __init__(self, embedder: Embedder, count: int, strength: float, seed: int) -> None:
        self._embedder, self._count, self._strength, self._seed = embedder, count, strength, seed

    def __call__(self, wave: Samples) -> NDArray[Any]:
        """A waveform (samples,) -> its views (count, ...) as network inputs."""
        digest = np.frombuffer(hashlib.sha256(np.ascontiguousarray(wave).tobytes()).digest(), np.uint32).tolist()
        views = [self._embedder.inputs(wave[None])[0]]
        for number in range(1, self._count):
            random = np.random.default_rng([self._seed, number, *digest])
            views.append(self._view(self._heard(wave, random), random))
        return np.stack(views)

    def _heard(self, wave: Samples, random: np.random.Generator) -> Samples:
        """A waveform (samples,) begun elsewhere, at another level, and often in noise."""
        wave = np.roll(wave, random.integers(len(wave)))
        wave = wave * np.float32(10 ** (self._strength * random.uniform(-_GAIN, 0) / 20))
        if random.random() >= self._strength * _NOISY or not wave.any():
            return wave
        noise, snr = coloured_noise(len(wave), random.uniform(0, 2), random), random.uniform(*_SNR)
        noisy = torchaudio.functional.add_noise(*map(torch.from_numpy, (wave, noise)), snr=torch.tensor(snr))
        return np.asarray(noisy.numpy(), np.float32)

    def _view(self, wave: Samples, random: np.random.Generator) -> NDArray[Any]:
        """What the network is fed of a waveform (samples,); of a picture, stripes are masked (SpecAugment)."""
        if self._embedder.picture is None:
            return self._embedder.inputs(wave[None])[0]
        levels = self._embedder.picture.decibel(wave).copy()  # (bands, frames)
        mean = levels.mean()
        for rows in (levels, levels.T):
            width = random.integers(round(self._strength * _MASK * len(rows)) + 1)
            start = random.integers(len(rows) - width + 1)
            rows[start : start + width] = mean
        return self._embedder.picture.resized(levels)


def coloured_noise(samples: int, slope: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Noise (samples,) of deviation 1 whose power falls as 1 / f ** slope: 0 white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(random.standard_normal(samples))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-slope / 2)
    noise = np.fft.irfft(spectrum, samples)
    return np.asarray(noise / noise.std(), np.float32)
