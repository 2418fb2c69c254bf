"""What everyday sounds are made of: draws, noises, filters, damped modes and trains of pulses.

All waves are ``(samples,)`` float64; ``rate`` is in Hz.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import fft
from scipy.interpolate import CubicSpline
from scipy.signal import butter, lfilter, sosfilt

Wave = NDArray[np.float64]

_NO_DENORMALS = 1e-12  # keeps filter tails from decaying into denormal numbers, which are slow


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """A draw that is as likely in every octave."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def log_uniforms(rng: Generator, low: float, high: float, count: int) -> Wave:
    """Several such draws: (count,)."""
    return np.exp(rng.uniform(np.log(low), np.log(high), count))


def rms(wave: Wave) -> float:
    """Root of the mean square, never 0."""
    return float(np.sqrt(np.mean(wave**2))) + 1e-12


def normalised(wave: Wave) -> Wave:
    """The wave at an RMS of 1."""
    return wave / rms(wave)


@lru_cache(maxsize=64)
def octaves_from_1_khz(size: int, rate: int) -> NDArray[np.float32]:
    """Pitch of every bin of a real FFT; the lowest bins count as 20 Hz, so that slopes stay finite."""
    octaves = np.log2(np.maximum(fft.rfftfreq(size, 1 / rate), 20) / 1000).astype(np.float32)
    octaves.flags.writeable = False
    return octaves


def slope(decibels_per_octave: float, size: int, rate: int) -> NDArray[np.float32]:
    """Gain per bin of a real FFT."""
    return np.exp2(np.float32(decibels_per_octave / 6.02) * octaves_from_1_khz(size, rate))


def white_spectrum(rng: Generator, size: int) -> NDArray[np.complex64]:
    """The real FFT of white Gaussian noise of this size."""
    return rng.standard_normal(2 * (size // 2 + 1), dtype=np.float32).view(np.complex64)


def coloured_noise(rng: Generator, samples: int, rate: int, decibels_per_octave: float) -> Wave:
    """Gaussian noise of unit RMS with a constant spectral slope."""
    size = fft.next_fast_len(samples, real=True)
    spectrum = white_spectrum(rng, size) * slope(decibels_per_octave, size, rate)
    return normalised(waveform(spectrum, size, samples))


def waveform(spectrum: NDArray[np.complex64], size: int, samples: int) -> Wave:
    """The beginning of the inverse of a real FFT of this size."""
    return fft.irfft(spectrum, size)[:samples].astype(np.float64)


def wander(rng: Generator, samples: int, rate: int, per_second: float) -> Wave:
    """A smooth random curve of about unit deviation that changes direction ``per_second`` times or so."""
    return _drawn_out(_knots(rng, samples, rate, per_second), samples)


def swell(rng: Generator, samples: int, rate: int, per_second: float, decibels: float) -> Wave:
    """A gain that wanders by this many dB about 1."""
    return _drawn_out(10 ** (decibels / 20 * _knots(rng, samples, rate, per_second)), samples)


def _knots(rng: Generator, samples: int, rate: int, per_second: float) -> Wave:
    """Points of a wandering curve, close enough together to be joined by straight lines."""
    points = int(np.ceil(samples / rate * per_second)) + 4
    curve = CubicSpline(np.arange(points), rng.standard_normal(points))
    start = 1 + rng.random()
    return curve(np.linspace(start, start + samples / rate * per_second, 16 * points))


def _drawn_out(knots: Wave, samples: int) -> Wave:
    return np.interp(np.arange(samples), np.linspace(0, samples - 1, len(knots)), knots)


def smooth(wave: Wave, seconds: float, rate: int) -> Wave:
    """Two one-pole low-passes of this time constant: a pulse becomes t * exp(-t / seconds) of the same area."""
    pole = np.exp(-1 / (seconds * rate))
    return lfilter([(1 - pole) ** 2], [1.0, -2 * pole, pole**2], wave + _NO_DENORMALS)


def high_pass(wave: Wave, frequency: float, rate: int) -> Wave:
    """High-pass of second order."""
    return sosfilt(butter(2, frequency, "highpass", fs=rate, output="sos"), wave)


def bump(wave: Wave, centre: float, octaves: float, rate: int) -> Wave:
    """Band-pass of second order of this centre and width."""
    edges = centre * 2.0 ** np.array([-octaves, octaves])
    return sosfilt(butter(1, np.clip(edges, 20, 0.49 * rate), "bandpass", fs=rate, output="sos"), wave)


def harmonic_tone(pitch: Wave, amplitudes: Wave, rate: int) -> Wave:
    """Sum of a_k * sin(k * phase), by Horner's rule in exp(i * phase)."""
    turn = np.exp(2j * np.pi * np.cumsum(pitch) / rate)
    total = np.full(len(pitch), amplitudes[-1], dtype=complex)
    for amplitude in amplitudes[-2::-1]:
        total *= turn
        total += amplitude
    return (total * turn).imag


def modes(excitation: Wave, frequencies: Wave, decays: Wave, gains: Wave, rate: int) -> Wave:
    """Damped sinusoids g * exp(-t / tau) * sin(2 pi f t) set off by the excitation, one two-pole filter each."""
    driven = excitation + _NO_DENORMALS
    sound = np.zeros(len(excitation))
    for frequency, decay, gain in zip(frequencies, decays, gains, strict=True):
        if frequency < 0.47 * rate:
            radius, angle = np.exp(-1 / (decay * rate)), 2 * np.pi * frequency / rate
            zeros, poles = [0.0, gain * radius * np.sin(angle)], [1.0, -2 * radius * np.cos(angle), radius**2]
            sound += lfilter(zeros, poles, driven)
    return sound


def steady_onsets(rng: Generator, samples: int, rate: int, interval: float, jitter: float) -> Wave:
    """Onsets in seconds at about equal intervals, from a random start; every interval varies by ``jitter``."""
    count = int(samples / rate / interval * (1 + 3 * jitter)) + 3
    steps = interval * np.clip(1 + jitter * rng.standard_normal(count), 0.5, 1.5)
    return rng.uniform(0, interval) + np.cumsum(steps) - steps[0]


def strikes(onsets: Wave, rng: Generator, unevenness: float, samples: int, rate: int) -> Wave:
    """Unit pulses at the onsets (seconds), of uneven strength."""
    strengths = np.exp(unevenness * rng.standard_normal(len(onsets)))
    positions = np.round(onsets * rate).astype(int)
    inside = (positions >= 0) & (positions < samples)
    pulses = np.zeros(samples)
    np.add.at(pulses, positions[inside], strengths[inside])
    return pulses


def grains(rng: Generator, samples: int, rate: int, per_second: float, spread: float) -> Wave:
    """A Poisson stream of pulses with random sign and log-normal strength."""
    count = rng.poisson(per_second * samples / rate)
    pulses = np.zeros(samples)
    strengths = np.exp(spread * rng.standard_normal(count)) * rng.choice([-1.0, 1.0], count)
    np.add.at(pulses, rng.integers(0, samples, count), strengths)
    return pulses
