"""DEEP SPECTRUM's pictures: log-mel spectrograms as the toolkit plots them, unplotted (paper section 3.3).

The toolkit (0.6.9) lets matplotlib draw each clip on a borderless figure of 227 x 227 pixels and resizes that
to the 224 x 224 that image networks take. A figure costs tens of milliseconds. Here its pixels are computed:

- decibels are scaled to 0..1 by the clip's own minimum and maximum and looked up in the map's 256 colours;
- low frequencies are at the bottom. The frequency axis is linear up to 1 kHz and logarithmic above; a mel
  band reaches half-way to its neighbours' centres; a pixel row shows the band that lies under its middle;
- a pixel column shows the frame under its middle;
- the resize is Pillow's bicubic one, a weighted sum of columns and then of rows. Rows that show
  the same band need no drawing: the weights lead straight from the bands to the 224 pixels.

At least 99.5 % of the pixels are exactly those of the figure drawn by librosa 0.11 and matplotlib, usually
all. The exception are even numbers of frames, where the middle of pixel column 113 is also the border of two
frames: the figure takes either, by a rounding error (in an even multiple of 227 frames this is so for every
column). The resize equals Pillow's in 99.99 % of the pixels.

A clip without contrast (silence: all bands at the same level) becomes a uniform picture in the map's lowest
colour, as in matplotlib.
"""

from __future__ import annotations

import math
from functools import lru_cache

import matplotlib
import numpy as np
import scipy.fft
import torchaudio.functional
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_array

from soundstack.audio.mel import mel_corners

BANDS = 128
#: Width and height in pixels of the toolkit's figure: 1 inch at 227 dots an inch.
FIGURE_SIZE = 227
#: The toolkit's shortest window in seconds; the FFT length is the next power of two.
WINDOW = 0.025
_BLOCK = 1 << 16  # samples transformed at once: larger blocks leave the processor's cache and take longer


class DeepSpectrumPicture:
    """From waveforms to the pictures that image networks are fed.

    Args:
        colour_map: one of matplotlib's.
        window: shortest length of the analysis window in seconds, by default the toolkit's 25 ms; the FFT
            length is the next power of two in samples (16 kHz: 512, 44.1 kHz: 2048), the hop half of it.
        size: width and height of the pictures in pixels; by default what ImageNet's networks take.
        interpolation: Pillow's filter that resizes the toolkit's figure to that, by default the toolkit's.
    """

    def __init__(
        self,
        sample_rate: int,
        colour_map: str = "magma",
        window: float | None = None,
        size: int = 224,
        interpolation: str = "bicubic",
    ) -> None:
        self.sample_rate = sample_rate
        self.size = size
        self.fft = _next_power_of_two(sample_rate * (WINDOW if window is None else window))
        self.hop = self.fft // 2
        turns = np.arange(self.fft) / self.fft
        self._hann = (0.5 - 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32)  # periodic
        filters = torchaudio.functional.melscale_fbanks(
            self.fft // 2 + 1, 0.0, sample_rate / 2, BANDS, sample_rate, norm="slaney", mel_scale="slaney"
        )
        self._filters = csr_array(filters.T.numpy())  # (128, bins): a triangle covers few bins
        self._bands = _band_of_each_row(sample_rate)  # (227,)
        colours = np.rint(255 * matplotlib.colormaps[colour_map](np.arange(256))[:, :3])
        self._shades = np.ascontiguousarray(colours.T, dtype=np.float32)  # (3, 256)
        weights = _resize_weights(size, interpolation)  # (size, 227)
        self._across = csr_array(weights)
        self._upwards = csr_array(weights @ np.eye(BANDS, dtype=np.float32)[self._bands])  # (size, 128)

    def __call__(self, waveform: NDArray[np.float32]) -> NDArray[np.uint8]:
        """One waveform (samples,), mono, -1..1 -> its picture uint8 (size, size, 3), RGB."""
        return np.ascontiguousarray(self.resized(self.decibel(waveform)).transpose(1, 2, 0))

    def batch(self, waveforms: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Waveforms (N, samples), mono, -1..1 -> their pictures uint8 (N, 3, size, size), RGB."""
        pictures = np.empty((len(waveforms), 3, self.size, self.size), dtype=np.uint8)
        for picture, waveform in zip(pictures, waveforms, strict=True):  # a clip fits the processor's cache
            picture[:] = self.resized(self.decibel(waveform))
        return pictures

    def decibel(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """A waveform (samples,) -> its log-mel spectrogram float32 (128, frames), in dB under the maximum.

        Frames are not centred; the last samples that fill no frame are left out. A clip shorter than one
        window is padded to it with zeros. Power below 1e-10 counts as 1e-10; there is no other floor.
        """
        waveform = np.asarray(waveform, dtype=np.float32)
        if len(waveform) < self.fft:
            waveform = np.pad(waveform, (0, self.fft - len(waveform)))
        frames = np.lib.stride_tricks.sliding_window_view(waveform, self.fft)[:: self.hop]
        mel = np.empty((BANDS, len(frames)), dtype=np.float32)
        step = max(1, _BLOCK // self.fft)
        for start in range(0, len(frames), step):
            spectrum = scipy.fft.rfft(frames[start : start + step] * self._hann)  # (step, bins)
            power = spectrum.real**2 + spectrum.imag**2
            mel[:, start : start + step] = self._filters @ power.T
        level = 10 * np.log10(np.maximum(mel, np.float32(1e-10)))
        return level - level.max()

    def db_to_picture(self, db: NDArray[np.float32]) -> NDArray[np.uint8]:
        """A spectrogram (128, frames) in dB -> the figure before the resize, uint8 (227, 227, 3), RGB."""
        return self._shades.T.astype(np.uint8)[_levels(db).T[self._bands]]

    def resized(self, db: NDArray[np.float32]) -> NDArray[np.uint8]:
        """A spectrogram (128, frames) in dB -> the resized picture uint8 (3, size, size), RGB."""
        levels = _levels(db)  # (227, 128)
        picture = np.empty((3, self.size, self.size), dtype=np.uint8)
        for channel, shades in zip(picture, self._shades, strict=True):
            narrowed = _to_bytes(self._across @ shades.take(levels))  # (size, 128), rounded as Pillow does
            channel[:] = _to_bytes(self._upwards @ narrowed.T)  # (size, size)
        return picture


def _levels(db: NDArray[np.float32]) -> NDArray[np.intp]:
    """Colour numbers 0..255 of a spectrogram (128, frames) at each of the figure's columns, (227, 128)."""
    low, high = db.min(), db.max()
    shown = db.T[_frame_of_each_column(db.shape[1])]  # (227, 128)
    if high == low:
        return np.zeros(shown.shape, dtype=np.intp)
    # In this order and in the spectrogram's own precision, as matplotlib: else a few colours are one off.
    return np.minimum((shown - low) / (high - low) * 256, 255).astype(np.intp)


def _to_bytes(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to whole grey levels 0..255, in place."""
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values)


def _next_power_of_two(samples: float) -> int:
    # Rounded first: 0.025 s and the like are not exact in binary, and 512.0000001 must not become 1024.
    return 1 << (math.ceil(round(samples, 6)) - 1).bit_length()


def _band_of_each_row(sample_rate: int) -> NDArray[np.intp]:
    """The mel band under the middle of each pixel row, from the top, (227,).

    As in the toolkit's figure, the bands' centres are spread from 0 Hz to half the rate, ends included.
    """
    centres = mel_corners(sample_rate, BANDS - 2, "slaney")  # (128,)
    steps = np.diff(centres)
    edges = np.concatenate([[centres[0] - steps[0] / 2], centres[:-1] + steps / 2, [centres[-1] + steps[-1] / 2]])
    heights = _height(edges)
    middles = heights[0] + (np.arange(FIGURE_SIZE) + 0.5) / FIGURE_SIZE * (heights[-1] - heights[0])
    bands = np.searchsorted(heights, middles, side="right") - 1
    return bands[::-1].copy()


@lru_cache(maxsize=64)
def _frame_of_each_column(frames: int) -> NDArray[np.intp]:
    """The frame under the middle of each pixel column, from the left, (227,)."""
    return ((np.arange(FIGURE_SIZE) + 0.5) * frames / FIGURE_SIZE).astype(np.intp)


def _resize_weights(size: int, interpolation: str) -> NDArray[np.float32]:
    """A filter of Pillow's from 227 to ``size`` pixels as a matrix (size, 227), got from Pillow itself."""
    identity = Image.fromarray(np.eye(FIGURE_SIZE, dtype=np.float32))
    weights = np.asarray(identity.resize((size, FIGURE_SIZE), Image.Resampling[interpolation.upper()])).T
    # For pictures of bytes, Pillow holds the weights as whole multiples of 2^-22.
    return (np.round(weights * 2.0**22) / 2.0**22).astype(np.float32)


def _height(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Height on the figure's frequency axis: linear to 1 kHz; an octave above is as high as 500 Hz below."""
    size = np.abs(hertz)
    high = 1000 * (2 + np.log2(np.maximum(size, 1000) / 1000))
    return np.sign(hertz) * np.where(size < 1000, 2 * size, high)
