"""A re-recording by simulation: the same sounds, played in a room and picked up by another microphone.

What a sound gets is, in this order: the impulse response of a room (a direct path, then noise that decays
exponentially: Polack's model of the late field), noise of the room, and the colour of a microphone (smooth over the
logarithm of the frequency, with a low and a high end). Room and microphone are those of the seed; the place of a source
in the room is its group's, and the noise is its clip's. A geometric model of rooms (image sources) would need a further
library, for early reflections that do not survive a spectrogram of 40 ms frames. A clip depends on seed, strength and
names alone, not on how many clips there are nor on the order in which they are made.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy import fft
from scipy.signal import fftconvolve

from soundstack.audio.decode import decode
from soundstack.audio.decoder import Samples
from soundstack.audio.stretches import takes
from soundstack.datasets.clips import Clip
from soundstack.training.fold import derived_seed
from soundstack.utils.files import remove_unfinished, write_atomically
from soundstack.utils.locks import exclusive

TABLE = "rerecorded.csv"
OCTAVES, _LOWEST, _TINY = 10, 31.25, 1e-12


def write(
    clips: Sequence[Clip], place: Place, folder: Path, jobs: int, progress: Callable[[int], object] = lambda count: None
) -> Path:
    """Re-record clips into a folder, as a table of one's own with their labels, folds and groups; return the table.

    Every file is 16-bit mono FLAC, written whole or not at all, the table last: with it, the folder is complete.

    Raises:
        StoreError: The folder cannot be written.
    """
    table = folder / TABLE
    with exclusive(folder / ".lock", "the re-recording"):
        if table.exists():
            return table
        remove_unfinished(folder)
        found = takes((clip.sound for clip in clips), nullcontext)

        def one(number: int) -> list[str]:
            clip = clips[number]
            samples, rate = found[number]()[:2] if number in found else decode(clip.path)
            encoded = io.BytesIO()
            sound = place.record(samples, rate, clip.group, clip.id)
            soundfile.write(encoded, sound, rate, format="FLAC", subtype="PCM_16")
            write_atomically(folder / f"{clip.id}.flac", encoded.getbuffer(), instead="cache_dir")
            progress(1)
            return [f"{clip.id}.flac", clip.label, clip.fold, clip.group]

        text = io.StringIO()
        with ThreadPoolExecutor(jobs) as pool:
            csv.writer(text).writerows([["filename", "label", "fold", "group"], *pool.map(one, range(len(clips)))])
        write_atomically(table, text.getvalue(), instead="cache_dir")
    return table


@dataclass(frozen=True)
class Place:
    """A room with a microphone in it.

    Attributes:
        seed: Of the places of sources in the room, and of noise.
        decay: Reverberation time (60 dB) in seconds.
        direct: Level of the direct sound over the reverberant field in dB.
        snr: Level of a clip over the noise of the room in dB.
        colour: Gain of the microphone in dB at octaves from 31.25 Hz on.
    """

    seed: int
    decay: float
    direct: float
    snr: float
    colour: NDArray[np.float64]

    @classmethod
    def drawn(cls, strength: float, seed: int) -> Place:
        """Draw a place; it is the further from a dry recording the greater ``strength`` (0.5: mild, 1: strong)."""
        rng = np.random.default_rng(derived_seed("place", seed))
        decay, direct, snr = (rng.uniform(0.8, 1.2) * value for value in (0.9 * strength, 6.0, 20.0))
        ends = np.array([-24.0, -12, -4, 0, 0, 0, 0, -3, -12, -24])  # a small loudspeaker and a cheap capsule
        colour = strength * (ends + rng.normal(0, 4, OCTAVES))
        return cls(seed, decay, direct - 9 * strength, snr - 10 * strength, colour)

    def record(self, samples: Samples, rate: int, group: str, clip: str) -> Samples:
        """Re-record sound (frames, channels) of a group and a clip of these names as (frames, 1), of the same level."""
        of_group, of_clip = (np.random.default_rng(derived_seed(self.seed, name)) for name in (group, clip))
        dry = samples.mean(axis=1)
        wet = fftconvolve(dry, self._impulse_response(rate, of_group))[: len(dry)]
        wet += _rms(wet) * 10 ** (-self.snr / 20) * _pink(len(wet), of_clip)
        heard = self._through_microphone(wet, rate)
        gain = min(_rms(dry) / max(_rms(heard), _TINY), 0.99 / max(float(np.abs(heard).max()), _TINY))
        return (gain * heard)[:, None].astype(np.float32)

    def _impulse_response(self, rate: int, rng: np.random.Generator) -> Samples:
        time = np.arange(round(self.decay * rate), dtype=np.float32) / rate
        response = rng.standard_normal(len(time), np.float32) * 10 ** (-3 * time / np.float32(self.decay))
        response[: round(rng.uniform(0.002, 0.01) * rate)] = 0
        response *= 10 ** (-self.direct / 20) / np.linalg.norm(response)
        response[0] = 1.0  # the direct sound
        return np.asarray(response, np.float32)

    def _through_microphone(self, sound: Samples, rate: int) -> Samples:
        octaves = np.log2(np.maximum(fft.rfftfreq(len(sound), 1 / rate), 1.0) / _LOWEST)
        gains = 10 ** (np.interp(octaves, np.arange(OCTAVES), self.colour) / 20)
        return np.asarray(fft.irfft(fft.rfft(sound) * gains.astype(np.float32), len(sound)), np.float32)


def _pink(frames: int, rng: np.random.Generator) -> Samples:
    """Noise (frames,) with as much power in every octave, of RMS 1."""
    spectrum = fft.rfft(rng.standard_normal(frames, np.float32))
    noise = fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1, dtype=np.float32)), frames)
    return np.asarray(noise / _rms(noise), np.float32)


def _rms(sound: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))
