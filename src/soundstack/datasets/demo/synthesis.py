"""Everyday sounds from formulas: the sound itself, the place it is heard in, and the recorder.

Every sound draws what belongs to its *source* (base pitch, timbre, tempo, material) from one random generator
and what differs from take to take (onsets, phases, noise) from another, so two takes of one source are as
alike as two recordings of one instrument. The place (room, background noise, microphone) and the level are
drawn before the kind of sound is looked at: nothing but the sound itself tells the classes apart. The models
are the usual ones of physical sound synthesis (P. Cook, Real Sound Synthesis for Interactive Applications,
2002; A. Farnell, Designing Sound, 2010): harmonic series, damped modes struck by pulses, and shaped noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import fft
from scipy.interpolate import CubicSpline
from scipy.signal import butter, lfilter, sosfilt

Wave = NDArray[np.float64]
Sound = Callable[[Generator, Generator, int, int], Wave]

FORMULA_VERSION = 3
"""Goes up with every change of a formula or of the order of random draws: a seed then sounds different."""

_LEAD_IN = 0.5  # seconds synthesised and thrown away: rooms, bells and gusts do not begin with the clip
_LEVEL = (-36.0, -16.0)  # clip RMS in dB full scale; with 12 dB of crest the peak stays below -3
_SNR = (-3.0, 10.0)  # dB, loudest quarter of the sound over the background
_CREST = (9.0, 12.0)  # dB from RMS to peak that the recorder's limiter leaves: a peak meter hears no knocks

_NO_DENORMALS = 1e-12  # keeps filter tails from decaying into denormal numbers, which are slow


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
    mixed = heard / _active_rms(heard, sample_rate) + background * 10 ** (-snr / 20) / _rms(background)
    limited = _limited(mixed - mixed.mean(), 10 ** (place.crest / 20))
    limited -= limited.mean()
    return (limited * (10 ** (level / 20) / _rms(limited))).astype(np.float32)


class _Place:
    """Where a source is recorded: room, background noise and microphone, none of which knows the sound.

    The room is the direct sound plus exponentially decaying noise whose treble dies first. The background is
    noise with a constant slope in dB per octave that swells a little, at times with mains hum. The microphone
    is a band-pass with a spectral tilt and two broad bumps.
    """

    def __init__(self, rng: Generator) -> None:
        self.decay = _log_uniform(rng, 0.1, 0.6)  # seconds to -60 dB
        self.wetness = rng.uniform(0.1, 0.8)
        self.damping = _log_uniform(rng, 1500, 6000)  # Hz above which the tail is damped
        self.reflections = int(rng.integers(2**32))  # the room is the same in every take
        self.noise_slope = rng.uniform(-2.5, -0.5)  # dB per octave
        self.hum = rng.uniform(0.1, 0.5) if rng.random() < 0.3 else 0.0
        self.low_cut = _log_uniform(rng, 30, 150)
        self.high_cut = _log_uniform(rng, 5000, 9000)
        self.tilt = rng.uniform(-1.0, 1.0)  # dB per octave
        self.bumps = [(_log_uniform(rng, 150, 5000), rng.uniform(-3, 3)) for _ in range(2)]
        self.crest = rng.uniform(*_CREST)

    def hear(self, dry: Wave, rate: int) -> Wave:
        """The sound in the room, through the microphone; same length."""
        rng = np.random.default_rng(self.reflections)
        tail_length = int(self.decay * rate)
        time = np.arange(tail_length) / rate
        tail = rng.standard_normal(tail_length)
        dull = _smooth(tail, 1 / (2 * np.pi * self.damping), rate)
        fading = np.exp(-time / (0.3 * self.decay))
        response = (dull + fading * (tail - dull)) * np.exp(-6.9 * time / self.decay)
        response *= self.wetness / np.sqrt(np.sum(response**2))
        response[0] += 1.0
        size = fft.next_fast_len(len(dry) + tail_length, real=True)
        spectrum = fft.rfft(dry.astype(np.float32), size) * fft.rfft(response.astype(np.float32), size)
        spectrum *= self._microphone(size, rate)
        return _waveform(spectrum, size, len(dry))

    def background(self, rng: Generator, samples: int, rate: int) -> Wave:
        """New background noise of this place, through the microphone."""
        size = fft.next_fast_len(samples, real=True)
        gain = _slope(self.noise_slope, size, rate) * self._microphone(size, rate)
        noise = _waveform(_white_spectrum(rng, size) * gain, size, samples)
        noise *= _swell(rng, samples, rate, 1.0, 1.0)
        if self.hum:
            hum = _harmonic_tone(np.full(samples, 100.0), np.array([1.0, 0.5, 0.3]), rate)
            noise += self.hum * _rms(noise) * hum
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
        return np.interp(_octaves_from_1_khz(size, rate), octave, gain).astype(np.float32)


# --- Tones --------------------------------------------------------------------------------------------------


def siren(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """An emergency siren: a harmonic tone of an electronic horn whose pitch is driven by a slow oscillator.

    The source decides between *wail* (one rise and fall in 2.5 to 6 s), *yelp* (two to five a second) and
    *hi-lo* (two alternating tones). The pitch moves between about 400 and 1600 Hz, on a log scale, by a
    rounded triangle or a smoothed square; the k-th harmonic has amplitude k^-p, even ones are weaker, and the
    horn is a broad resonance. A take starts anywhere in the cycle and drifts in pitch as the vehicle moves.
    """
    kind = source.choice(["wail", "yelp", "hi-lo"])
    low = _log_uniform(source, 380, 700)
    rise = source.uniform(0.35, 0.6)
    if kind == "hi-lo":
        ratio, period = source.uniform(1.2, 1.5), source.uniform(0.7, 1.4)
    else:
        ratio = source.uniform(1.7, 2.6)
        period = source.uniform(2.5, 6.0) if kind == "wail" else source.uniform(0.22, 0.5)
    rolloff, even, horn = source.uniform(0.7, 2.0), source.uniform(0.1, 1.0), _log_uniform(source, 700, 2500)

    cycle = (np.arange(samples) / (rate * period) + take.random()) % 1.0
    if kind == "hi-lo":
        position = _smooth((cycle < 0.5).astype(float), 0.015, rate)
    else:
        triangle = np.where(cycle < rise, cycle / rise, (1 - cycle) / (1 - rise))
        position = triangle - np.sin(2 * np.pi * triangle) / (4 * np.pi)
    drift = take.uniform(-0.04, 0.04) * np.linspace(-0.5, 0.5, samples)
    pitch = low * ratio**position * (1 + drift)
    harmonics = np.arange(1.0, int(0.45 * rate / pitch.max()) + 1)
    amplitudes = harmonics**-rolloff * np.where(harmonics % 2 == 0, even, 1.0)
    tone = _harmonic_tone(pitch, amplitudes, rate)
    return _bump(tone, horn, 0.7, rate) * _swell(take, samples, rate, 0.7, 2.0)


def bird_song(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """A songbird: nearly pure whistles of one syrinx, gliding and trilled, grouped into phrases.

    The source is a bird with a base pitch of 1.6 to 4.5 kHz and a repertoire of two to four syllables; each
    is a frequency glide with a bend and perhaps a trill (frequency modulation at 15 to 60 Hz) of 40 to 250
    ms. A phrase repeats syllables of the repertoire with short gaps; phrases are separated by pauses. The
    amplitude follows a rounded bell in every syllable and a faint second harmonic is added.
    """
    base = _log_uniform(source, 1600, 4500)
    repertoire = [_Syllable.drawn(source) for _ in range(source.integers(2, 5))]
    gap, pause, second = source.uniform(0.02, 0.16), source.uniform(0.25, 1.2), source.uniform(0.02, 0.2)

    pitch, loudness = np.full(samples, base), np.zeros(samples)
    now = take.uniform(0, 0.5)
    while now * rate < samples:
        for number in take.choice(len(repertoire), size=take.integers(2, 5)):
            syllable = repertoire[number]
            for _ in range(take.integers(1, 4)):
                length = syllable.seconds * take.uniform(0.9, 1.1)
                onset, end = round(now * rate), round((now + length) * rate)
                part = np.linspace(0, 1, end - onset)[: max(0, samples - onset)]
                pitch[onset:end] = base * syllable.glide(part)
                loudness[onset:end] = syllable.loudness * np.sin(np.pi * part) ** 1.5
                now += length + gap * take.uniform(0.8, 1.2)
        now += pause * take.uniform(0.6, 1.4)
    pitch = np.clip(pitch, 500, 0.45 * rate)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    overtone = np.where(2 * pitch < 0.5 * rate, second * np.sin(2 * phase), 0.0)
    return loudness * (np.sin(phase) + overtone)


class _Syllable(NamedTuple):
    """One element of a bird's repertoire; pitches are relative to the bird's base pitch."""

    seconds: float
    start: float
    end: float
    bend: float
    trill: float  # Hz
    depth: float
    loudness: float

    @classmethod
    def drawn(cls, rng: Generator) -> _Syllable:
        return cls(
            seconds=_log_uniform(rng, 0.04, 0.25),
            start=rng.uniform(0.75, 1.35),
            end=rng.uniform(0.75, 1.35),
            bend=rng.uniform(-0.2, 0.2),
            trill=rng.uniform(15, 60),
            depth=rng.uniform(0.03, 0.12) if rng.random() < 0.4 else 0.0,
            loudness=rng.uniform(0.4, 1.0),
        )

    def glide(self, part: Wave) -> Wave:
        """Pitch over the syllable, ``part`` running from 0 to 1."""
        straight = self.start + (self.end - self.start) * part
        trill = self.depth * np.sin(2 * np.pi * self.trill * self.seconds * part)
        return straight + self.bend * np.sin(np.pi * part) + trill


def bell(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """A bell, from church to hand bell: inharmonic damped modes struck by a clapper.

    The modes have the classic ratios to the strike note (hum 0.5, prime 1, tierce 1.2, quint 1.5, nominal 2,
    ...), each slightly off and split into a beating pair, as no bell is perfectly round. The higher a mode,
    the faster it decays: tau = tau_0 * ratio^-0.8. Strikes come at intervals of 0.15 s (a school bell) to 2 s
    (a tower), and a softer clapper excites the high modes less.
    """
    strike_note = _log_uniform(source, 220, 1600)
    ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.52, 2.66, 3.01, 4.1, 5.4, 6.8])
    ratios = ratios * (1 + 0.015 * source.standard_normal(len(ratios)))
    gains = source.uniform(0.2, 1.0, len(ratios)) * ratios ** -source.uniform(0.0, 1.0)
    decays = _log_uniform(source, 0.15, 1.8) * ratios**-0.8
    split = source.uniform(0.0005, 0.004, len(ratios))
    interval, unsteady = _log_uniform(source, 0.15, 2.0), source.uniform(0.005, 0.06)
    softness = _log_uniform(source, 0.0001, 0.0015)

    clapper = _strikes(_steady_onsets(take, samples, rate, interval, unsteady), take, 0.15, samples, rate)
    clapper = _smooth(clapper, softness, rate)
    frequencies = strike_note * np.concatenate([ratios, ratios * (1 + split)])
    return _modes(clapper, frequencies, np.tile(decays, 2), np.concatenate([gains, 0.6 * gains]), rate)


def engine(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """A piston engine: pulses at the firing rate, coloured by the exhaust, over machine noise.

    Each firing is a sharp rise with exponential decay in crank angle; the cylinders differ in strength, which
    puts lines between the firing-rate harmonics, and every single firing varies a little. The firing rate (50
    to 80 Hz) is governed: it trembles and, in a take, glides by a few per cent, so its harmonics are close,
    steady lines that only a long window resolves. Three exhaust resonances follow; intake
    and valve noise is modulated by the same pulses.
    """
    firing = _log_uniform(source, 50, 80)
    cylinders = 1 + 0.1 * source.standard_normal(source.choice([1, 2, 3, 4, 6]))
    sharpness = _log_uniform(source, 0.04, 0.2)
    formants = [_log_uniform(source, *band) for band in ((70, 250), (250, 900), (900, 3000))]
    widths = source.uniform(0.3, 1.2, 3)
    shares = np.array([1.0, *source.uniform(0.2, 0.9, 2)])
    noise_share, noise_slope = _log_uniform(source, 0.1, 0.8), source.uniform(-6, 0)

    throttle = take.uniform(-0.06, 0.06) * np.linspace(-0.5, 0.5, samples)
    throttle += 0.015 * _wander(take, samples, rate, 0.5) + 0.001 * _wander(take, samples, rate, 6.0)
    angle = take.random() + np.cumsum(firing * np.exp(throttle)) / rate
    count = angle.astype(int)
    strength = cylinders[count % len(cylinders)] * (1 + 0.1 * take.standard_normal(count[-1] + 1))[count]
    pulses = strength * np.exp(-(angle - count) / sharpness)
    turbulence = _coloured_noise(take, samples, rate, noise_slope)
    rough = pulses * (1 + 0.4 * turbulence)
    exhaust = sum(
        share * _normalised(_bump(rough, formant, width, rate))
        for share, formant, width in zip(shares, formants, widths, strict=True)
    )
    return exhaust + noise_share * turbulence * (0.5 + pulses / (1e-9 + pulses.max()))


# --- Noises -------------------------------------------------------------------------------------------------


def rain(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """Rain: a hiss of countless far drops and a Poisson stream of near ones that ring what they fall on.

    Near drops come at 60 to 1500 a second with log-normal strength. Each excites short damped modes: panels
    (roof, umbrella; 300 to 2500 Hz) and air bubbles in water, whose Minnaert resonance lies at 1.5 to 6 kHz.
    The hiss is noise that leans to the treble; the intensity of the shower varies slowly.
    """
    per_second = _log_uniform(source, 60, 1500)
    spread = source.uniform(0.6, 1.3)
    panels = _log_uniforms(source, 300, 2500, 3)
    bubbles = _log_uniforms(source, 1500, 6000, 4)
    panel_decays = _log_uniforms(source, 0.0005, 0.003, 3)
    bubble_decays = _log_uniforms(source, 0.0003, 0.001, 4)
    panel_share = source.uniform(0.0, 1.0)
    hiss_slope, hiss_share = source.uniform(-3, 2), _log_uniform(source, 0.3, 2.5)
    hiss_floor = _log_uniform(source, 300, 2000)

    drops = _grains(take, samples, rate, per_second, spread)
    elsewhere = _grains(take, samples, rate, per_second, spread)
    near = panel_share * _normalised(_modes(drops, panels, panel_decays, 1 / panels, rate))
    near += (1 - panel_share) * _normalised(_modes(elsewhere, bubbles, bubble_decays, 1 / bubbles, rate))
    far = _high_pass(_coloured_noise(take, samples, rate, hiss_slope), hiss_floor, rate)
    shower = _swell(take, samples, rate, 0.8, 1.5)
    return shower * (_normalised(near) + hiss_share * _normalised(far))


def wind(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """Wind: turbulence noise that grows and brightens with the speed of the gusts, and howls at edges.

    The speed v(t) is log-normal: slow gusts plus quicker turbulence. The rumble (falling spectrum) grows with
    v^2, the rustle of leaves and grass with v^3, so gusts are brighter. Edges and gaps whistle: narrow noise,
    shifted to the moving frequency f = f_0 * v^0.7.
    """
    gustiness, pace = source.uniform(0.2, 0.45), source.uniform(0.4, 1.2)
    slope, rustle_share = source.uniform(-9, -5), _log_uniform(source, 0.05, 0.6)
    rustle_from = _log_uniform(source, 800, 3000)
    howl_pitch, howl_width = _log_uniform(source, 250, 1200), _log_uniform(source, 25, 200)
    howl_share = source.uniform(0.0, 0.6)

    speed = np.exp(gustiness * _wander(take, samples, rate, pace) + 0.12 * _wander(take, samples, rate, 5.0))
    rumble = _high_pass(_coloured_noise(take, samples, rate, slope), 50, rate)
    rustle = _high_pass(_coloured_noise(take, samples, rate, -3.0), rustle_from, rate)
    carrier = np.exp(2j * np.pi * np.cumsum(howl_pitch * speed**0.7) / rate)
    envelope = _wander(take, samples, rate, howl_width) + 1j * _wander(take, samples, rate, howl_width)
    howl = (carrier * envelope).real
    gusts = speed**2 * _normalised(rumble) + rustle_share * speed**3 * _normalised(rustle)
    return gusts + howl_share * speed**2.5 * _normalised(howl)


def sea_waves(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """Surf: noise that swells, breaks and runs out up the beach, wave after wave.

    A wave grows and dies exponentially around its break. The roar (all of the spectrum, falling) follows it,
    the hiss of foam (treble) is sharper at the break and has a second, lingering part while the water runs
    out, so the spectrum brightens and then thins out. Waves of irregular size come every 2.5 to 6 s over the
    steady roar of the distant surf.
    """
    period, irregular = source.uniform(2.5, 6.0), source.uniform(0.1, 0.3)
    rise, fall = source.uniform(0.4, 1.2), source.uniform(0.5, 1.6)
    slopes = source.uniform(-5, -1), source.uniform(-3, 1)
    split = _log_uniform(source, 500, 2000)
    distant, foam = _log_uniform(source, 0.03, 0.15), _log_uniform(source, 0.3, 1.2)

    time = np.arange(samples) / rate
    crash, run_out = np.zeros(samples), np.zeros(samples)
    breaks = -take.uniform(0, period)
    while breaks < samples / rate + 2 * rise:
        size, after = take.uniform(0.5, 1.0), time - breaks
        crash += size * np.exp(np.where(after < 0, after / rise, -after / fall))
        late = np.maximum(after - 0.2 * fall, 0) / fall
        run_out += size * late * np.exp(1 - late)
        breaks += period * np.exp(irregular * take.standard_normal())
    roar = _high_pass(_coloured_noise(take, samples, rate, slopes[0]), 60, rate)
    hiss = _high_pass(_coloured_noise(take, samples, rate, slopes[1]), split, rate)
    churn = _swell(take, samples, rate, 8.0, 1.5)
    return (distant + crash) * churn * _normalised(roar) + foam * (crash**2 + run_out) * _normalised(hiss)


# --- Knocks -------------------------------------------------------------------------------------------------


def clock(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """A clock: an escapement that ticks with hardly any jitter, its clicks ringing a small case.

    The beat is 1 to 2.5 a second, as in quartz and pendulum clocks. Tick and tock weigh the
    modes of the movement (1.2 to 6.5 kHz, 1 to 12 ms) and of the case (500 to 1500 Hz) differently, and
    either is a double click: the lock follows the drop by a few milliseconds.
    """
    interval = 1 / source.choice([1.0, 1.5, 2.0, 2.5]) * source.uniform(0.98, 1.02)
    limp = source.uniform(-0.06, 0.06)  # tick to tock against tock to tick
    lock_delay, lock = source.uniform(0.003, 0.02), source.uniform(0.1, 0.8)
    frequencies = np.concatenate([_log_uniforms(source, 1200, 6500, 4), _log_uniforms(source, 500, 1500, 2)])
    decays = np.concatenate([source.uniform(0.001, 0.012, 4), source.uniform(0.005, 0.03, 2)])
    gains = np.concatenate([source.uniform(0.2, 1.0, 4), source.uniform(0.05, 0.4, 2)])
    contrast = source.uniform(0.4, 1.6, (2, 6))

    onsets = _steady_onsets(take, samples, rate, interval, 0.002)
    sound = np.zeros(samples)
    for foot, weights in enumerate(contrast):
        beats = onsets[foot::2] + foot * limp * interval
        clicks = _strikes(beats, take, 0.08, samples, rate)
        clicks += lock * _strikes(beats + lock_delay, take, 0.08, samples, rate)
        sound += _modes(clicks, frequencies, decays, gains * weights, rate)
    return sound


def knocking(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """Knuckles on a door, a window or a table: groups of two to six blows, then a pause.

    Within a group the blows come 3 to 8 a second, getting a little faster or slower and uneven in strength.
    The knuckle is a soft pulse of 0.2 to 2 ms; the panel answers with six damped modes between 120 and 2500
    Hz, and the hard joint adds a short click.
    """
    interval, pause = 1 / _log_uniform(source, 3.0, 8.0), source.uniform(0.35, 1.2)
    lowest = _log_uniform(source, 150, 800)
    frequencies = lowest * np.cumprod(np.concatenate([[1.0], source.uniform(1.15, 1.8, 5)]))
    decays = _log_uniform(source, 0.006, 0.05) * (frequencies / lowest) ** -0.5
    gains = source.uniform(0.2, 1.0, 6)
    softness, click = _log_uniform(source, 0.0001, 0.001), source.uniform(0.0, 0.4)
    knuckle_pitch = _log_uniforms(source, 1500, 5000, 2)
    hurry, most = source.uniform(-0.06, 0.06), source.integers(3, 7)

    onsets, now = [], take.uniform(0, interval)
    while now < samples / rate:
        for blow in range(take.integers(2, most + 1)):
            onsets.append(now)
            now += interval * (1 + hurry * blow) * (1 + 0.05 * take.standard_normal())
        now += pause * take.uniform(0.7, 1.3)
    blows = _strikes(np.array(onsets), take, 0.3, samples, rate)
    panel = _modes(_smooth(blows, softness, rate), frequencies, decays, gains, rate)
    knuckle = _modes(blows, knuckle_pitch, np.full(2, 0.002), np.ones(2), rate)
    return panel + click * knuckle


def footsteps(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """Someone walking: heel, then toe, left and right, on a floor between bare wood or stone and gravel.

    Steps come 1.5 to 2.8 a second with a few per cent of jitter; the two feet differ. The heel strikes the
    floor's modes (80 to 500 Hz) and those of the shoe (1 to 4 kHz); the toe follows 60 to 140 ms later,
    softer. Loose ground adds a burst of grains, a dense Poisson stream that fades as the foot rolls.
    """
    interval, unsteady = 1 / _log_uniform(source, 1.5, 2.8), source.uniform(0.015, 0.05)
    roll, toe = source.uniform(0.06, 0.14), source.uniform(0.1, 0.7)
    frequencies = np.concatenate([_log_uniforms(source, 80, 500, 3), _log_uniforms(source, 1000, 4000, 3)])
    decays = np.concatenate([source.uniform(0.006, 0.04, 3), source.uniform(0.001, 0.004, 3)])
    gains = np.concatenate([source.uniform(0.3, 1.0, 3), source.uniform(0.03, 0.4, 3)])
    feet = source.uniform(0.6, 1.4, (2, 6))
    gravel = source.uniform(0.3, 1.2) if source.random() < 0.7 else 0.0
    grain_pitch = _log_uniforms(source, 900, 4500, 3)
    softness = _log_uniform(source, 0.0001, 0.001)

    onsets = _steady_onsets(take, samples, rate, interval, unsteady)
    sound = np.zeros(samples)
    for foot, weights in enumerate(feet):
        steps = _strikes(onsets[foot::2], take, 0.15, samples, rate)
        steps += toe * _strikes(onsets[foot::2] + roll * take.uniform(0.9, 1.1), take, 0.2, samples, rate)
        sound += _modes(_smooth(steps, softness, rate), frequencies, decays, gains * weights, rate)
    if gravel:
        fading = _strikes(onsets, take, 0.15, samples, rate)
        pressure = lfilter([1.0], [1.0, -np.exp(-1 / (roll * rate))], fading)
        crunch = _grains(take, samples, rate, 900, 0.9) * _smooth(pressure, 0.01, rate)
        crunch = _modes(crunch, grain_pitch, np.full(3, 0.0006), np.ones(3), rate)
        sound = _normalised(sound) + gravel * _normalised(crunch)
    return sound


SOUNDS: Mapping[str, Sound] = MappingProxyType(
    {
        "bell": bell,
        "bird_song": bird_song,
        "clock": clock,
        "engine": engine,
        "footsteps": footsteps,
        "knocking": knocking,
        "rain": rain,
        "sea_waves": sea_waves,
        "siren": siren,
        "wind": wind,
    }
)
"""Every kind of sound by name: ``sound(source, take, samples, rate)`` gives it dry, at any level,
``(samples,)``."""


# --- Building blocks ----------------------------------------------------------------------------------------


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    """A draw that is as likely in every octave."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _log_uniforms(rng: Generator, low: float, high: float, count: int) -> Wave:
    return np.exp(rng.uniform(np.log(low), np.log(high), count))


def _rms(wave: Wave) -> float:
    return float(np.sqrt(np.mean(wave**2))) + 1e-12


def _active_rms(wave: Wave, rate: int) -> float:
    """RMS of the loudest quarter of 50 ms frames: as loud for a rare knock as for steady rain."""
    frame = rate // 20
    power = np.sort((wave[: len(wave) // frame * frame].reshape(-1, frame) ** 2).mean(axis=1))
    return float(np.sqrt(power[-max(1, len(power) // 4) :].mean())) + 1e-12


def _limited(wave: Wave, crest: float) -> Wave:
    """Rounded off by tanh until the peak is at most about ``crest`` times the RMS."""
    limit, limited = 3 * np.abs(wave).max(), wave
    while (excess := np.abs(limited).max() / _rms(limited) / crest) > 1.03:
        limit /= excess
        limited = limit * np.tanh(wave / limit)
    return limited


def _normalised(wave: Wave) -> Wave:
    return wave / _rms(wave)


@lru_cache(maxsize=64)
def _octaves_from_1_khz(size: int, rate: int) -> NDArray[np.float32]:
    """Pitch of every bin of a real FFT; the lowest bins count as 20 Hz, so that slopes stay finite."""
    octaves = np.log2(np.maximum(fft.rfftfreq(size, 1 / rate), 20) / 1000).astype(np.float32)
    octaves.flags.writeable = False
    return octaves


def _slope(decibels_per_octave: float, size: int, rate: int) -> NDArray[np.float32]:
    """Gain per bin of a real FFT."""
    return np.exp2(np.float32(decibels_per_octave / 6.02) * _octaves_from_1_khz(size, rate))


def _white_spectrum(rng: Generator, size: int) -> NDArray[np.complex64]:
    return rng.standard_normal(2 * (size // 2 + 1), dtype=np.float32).view(np.complex64)


def _coloured_noise(rng: Generator, samples: int, rate: int, decibels_per_octave: float) -> Wave:
    """Gaussian noise of unit RMS with a constant spectral slope."""
    size = fft.next_fast_len(samples, real=True)
    spectrum = _white_spectrum(rng, size) * _slope(decibels_per_octave, size, rate)
    return _normalised(_waveform(spectrum, size, samples))


def _waveform(spectrum: NDArray[np.complex64], size: int, samples: int) -> Wave:
    return fft.irfft(spectrum, size)[:samples].astype(np.float64)


def _wander(rng: Generator, samples: int, rate: int, per_second: float) -> Wave:
    """A smooth random curve of about unit deviation that changes direction ``per_second`` times or so."""
    return _drawn_out(_knots(rng, samples, rate, per_second), samples)


def _swell(rng: Generator, samples: int, rate: int, per_second: float, decibels: float) -> Wave:
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


def _smooth(wave: Wave, seconds: float, rate: int) -> Wave:
    """Two one-pole low-passes of this time constant: a pulse becomes t * exp(-t / seconds) of the same
    area."""
    pole = np.exp(-1 / (seconds * rate))
    return lfilter([(1 - pole) ** 2], [1.0, -2 * pole, pole**2], wave + _NO_DENORMALS)


def _high_pass(wave: Wave, frequency: float, rate: int) -> Wave:
    return sosfilt(butter(2, frequency, "highpass", fs=rate, output="sos"), wave)


def _bump(wave: Wave, centre: float, octaves: float, rate: int) -> Wave:
    """Band-pass of second order of this centre and width."""
    edges = centre * 2.0 ** np.array([-octaves, octaves])
    return sosfilt(butter(1, np.clip(edges, 20, 0.49 * rate), "bandpass", fs=rate, output="sos"), wave)


def _harmonic_tone(pitch: Wave, amplitudes: Wave, rate: int) -> Wave:
    """Sum of a_k * sin(k * phase), by Horner's rule in exp(i * phase)."""
    turn = np.exp(2j * np.pi * np.cumsum(pitch) / rate)
    total = np.full(len(pitch), amplitudes[-1], dtype=complex)
    for amplitude in amplitudes[-2::-1]:
        total *= turn
        total += amplitude
    return (total * turn).imag


def _modes(excitation: Wave, frequencies: Wave, decays: Wave, gains: Wave, rate: int) -> Wave:
    """Damped sinusoids g * exp(-t / tau) * sin(2 pi f t) set off by the excitation, one two-pole filter
    each."""
    driven = excitation + _NO_DENORMALS
    sound = np.zeros(len(excitation))
    for frequency, decay, gain in zip(frequencies, decays, gains, strict=True):
        if frequency < 0.47 * rate:
            radius, angle = np.exp(-1 / (decay * rate)), 2 * np.pi * frequency / rate
            zeros, poles = [0.0, gain * radius * np.sin(angle)], [1.0, -2 * radius * np.cos(angle), radius**2]
            sound += lfilter(zeros, poles, driven)
    return sound


def _steady_onsets(rng: Generator, samples: int, rate: int, interval: float, jitter: float) -> Wave:
    """Onsets in seconds at about equal intervals, from a random start; every interval varies by
    ``jitter``."""
    count = int(samples / rate / interval * (1 + 3 * jitter)) + 3
    steps = interval * np.clip(1 + jitter * rng.standard_normal(count), 0.5, 1.5)
    return rng.uniform(0, interval) + np.cumsum(steps) - steps[0]


def _strikes(onsets: Wave, rng: Generator, unevenness: float, samples: int, rate: int) -> Wave:
    """Unit pulses at the onsets (seconds), of uneven strength."""
    strengths = np.exp(unevenness * rng.standard_normal(len(onsets)))
    positions = np.round(onsets * rate).astype(int)
    inside = (positions >= 0) & (positions < samples)
    pulses = np.zeros(samples)
    np.add.at(pulses, positions[inside], strengths[inside])
    return pulses


def _grains(rng: Generator, samples: int, rate: int, per_second: float, spread: float) -> Wave:
    """A Poisson stream of pulses with random sign and log-normal strength."""
    count = rng.poisson(per_second * samples / rate)
    pulses = np.zeros(samples)
    strengths = np.exp(spread * rng.standard_normal(count)) * rng.choice([-1.0, 1.0], count)
    np.add.at(pulses, rng.integers(0, samples, count), strengths)
    return pulses
