"""Everyday sounds as they are recorded: the sound itself, the place it is heard in, and the recorder.

The place (room, background noise, microphone) and the level are drawn before the kind of sound is looked at: nothing
but the sound itself tells the classes apart.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import fft

from soundstack.datasets.demo.blocks import (
    Wave,
    harmonic_tone,
    log_uniform,
    octaves_from_1_khz,
    rms,
    slope,
    smooth,
    swell,
    waveform,
    white_spectrum,
)
from soundstack.datasets.demo.sounds import SOUNDS

_LEAD_IN = 0.5  # seconds synthesised and thrown away: rooms, bells and gusts do not begin with the clip
_LEVEL = (-36.0, -16.0)  # clip RMS in dB full scale; with 12 dB of crest the peak stays below -3
_SNR = (-3.0, 10.0)  # dB, loudest quarter of the sound over the background
_CREST = (9.0, 12.0)  # dB from RMS to peak that the recorder's limiter leaves: a peak meter hears no knocks


def synthesise(
    kind: str, source_rng: Generator, take_rng: Generator, seconds: float, sample_rate: int
) -> NDArray[np.float32]:
    """One recorded clip of a sound: ``(round(seconds * sample_rate),)`` samples in -1..1, free of DC.

    ``kind`` is a key of `SOUNDS`; ``seconds`` is 0.1 or more, ``sample_rate`` 8000 Hz or more. For two takes
    of one source pass generators of one seed as ``source_rng`` and generators of different seeds as
    ``take_rng``. The result depends on these draws alone.

    Raises:
        KeyError: for an unknown ``kind``.
    """
    sound = SOUNDS[kind]
    samples = round(seconds * sample_rate)
    lead_in = round(_LEAD_IN * sample_rate)
    place = _Place(source_rng)
    snr, level = take_rng.uniform(*_SNR), take_rng.uniform(*_LEVEL)
    dry = sound(source_rng, take_rng, lead_in + samples, sample_rate)
    heard = place.hear(dry, sample_rate)[lead_in:]
    background = place.background(take_rng, samples, sample_rate)
    mixed = heard / _active_rms(heard, sample_rate) + background * 10 ** (-snr / 20) / rms(background)
    limited = _limited(mixed - mixed.mean(), 10 ** (place.crest / 20))
    limited -= limited.mean()
    return (limited * (10 ** (level / 20) / rms(limited))).astype(np.float32)


class _Place:
    """Where a source is recorded: room, background noise and microphone, none of which knows the sound.

    The room is the direct sound plus exponentially decaying noise whose treble dies first. The background is
    noise with a constant slope in dB per octave that swells a little, at times with mains hum. The microphone
    is a band-pass with a spectral tilt and two broad bumps.
    """

    def __init__(self, rng: Generator) -> None:
        self.decay = log_uniform(rng, 0.1, 0.6)  # seconds to -60 dB
        self.wetness = rng.uniform(0.1, 0.8)
        self.damping = log_uniform(rng, 1500, 6000)  # Hz above which the tail is damped
        self.reflections = int(rng.integers(2**32))  # the room is the same in every take
        self.noise_slope = rng.uniform(-2.5, -0.5)  # dB per octave
        self.hum = rng.uniform(0.1, 0.5) if rng.random() < 0.3 else 0.0
        self.low_cut = log_uniform(rng, 30, 150)
        self.high_cut = log_uniform(rng, 5000, 9000)
        self.tilt = rng.uniform(-1.0, 1.0)  # dB per octave
        self.bumps = [(log_uniform(rng, 150, 5000), rng.uniform(-3, 3)) for _ in range(2)]
        self.crest = rng.uniform(*_CREST)

    def hear(self, dry: Wave, rate: int) -> Wave:
        """The sound in the room, through the microphone; same length."""
        rng = np.random.default_rng(self.reflections)
        tail_length = int(self.decay * rate)
        time = np.arange(tail_length) / rate
        tail = rng.standard_normal(tail_length)
        dull = smooth(tail, 1 / (2 * np.pi * self.damping), rate)
        fading = np.exp(-time / (0.3 * self.decay))
        response = (dull + fading * (tail - dull)) * np.exp(-6.9 * time / self.decay)
        response *= self.wetness / np.sqrt(np.sum(response**2))
        response[0] += 1.0
        size = fft.next_fast_len(len(dry) + tail_length, real=True)
        spectrum = fft.rfft(dry.astype(np.float32), size) * fft.rfft(response.astype(np.float32), size)
        spectrum *= self._microphone(size, rate)
        return waveform(spectrum, size, len(dry))

    def background(self, rng: Generator, samples: int, rate: int) -> Wave:
        """New background noise of this place, through the microphone."""
        size = fft.next_fast_len(samples, real=True)
        gain = slope(self.noise_slope, size, rate) * self._microphone(size, rate)
        noise = waveform(white_spectrum(rng, size) * gain, size, samples)
        noise *= swell(rng, samples, rate, 1.0, 1.0)
        if self.hum:
            hum = harmonic_tone(np.full(samples, 100.0), np.array([1.0, 0.5, 0.3]), rate)
            noise += self.hum * rms(noise) * hum
        return noise

    def _microphone(self, size: int, rate: int) -> NDArray[np.float32]:
        """Gain per bin of a real FFT of this size."""
        # The curve is smooth: some 200 points joined by lines are as good as one power per bin, and faster.
        octave = np.linspace(-6.0, np.log2(rate / 2000), 200)
        frequency = 1000 * 2**octave
        gain = 10 ** (self.tilt * octave / 20)
        gain /= np.sqrt(1 + (self.low_cut / frequency) ** 4) * np.sqrt(1 + (frequency / self.high_cut) ** 8)
        for centre, decibels in self.bumps:
            gain *= 10 ** (decibels / 20 * np.exp(-0.5 * (np.log2(frequency / centre) / 0.4) ** 2))
        return np.interp(octaves_from_1_khz(size, rate), octave, gain).astype(np.float32)


def _active_rms(wave: Wave, rate: int) -> float:
    """RMS of the loudest quarter of 50 ms frames: as loud for a rare knock as for steady rain."""
    frame = rate // 20
    power = np.sort((wave[: len(wave) // frame * frame].reshape(-1, frame) ** 2).mean(axis=1))
    return float(np.sqrt(power[-max(1, len(power) // 4) :].mean())) + 1e-12


def _limited(wave: Wave, crest: float) -> Wave:
    """Rounded off by tanh until the peak is at most about ``crest`` times the RMS."""
    limit, limited = 3 * np.abs(wave).max(), wave
    while (excess := np.abs(limited).max() / rms(limited) / crest) > 1.03:
        limit /= excess
        limited = limit * np.tanh(wave / limit)
    return limited
