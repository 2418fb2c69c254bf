"""Ten everyday sounds from formulas.

Every sound draws what belongs to its *source* (base pitch, timbre, tempo, material) from one random generator and what
differs from take to take (onsets, phases, noise) from another, so two takes of one source are as alike as two
recordings of one instrument. A sound is ``sound(source, take, samples, rate)``, dry, at any level, ``(samples,)``. The
models are the usual ones of physical sound synthesis (P. Cook, Real Sound Synthesis for Interactive Applications, 2002;
A. Farnell, Designing Sound, 2010): harmonic series, damped modes struck by pulses, and shaped noise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from scipy.signal import lfilter

from soundstack.datasets.demo.blocks import (
    Wave,
    bump,
    coloured_noise,
    grains,
    harmonic_tone,
    high_pass,
    log_uniform,
    log_uniforms,
    modes,
    normalised,
    smooth,
    steady_onsets,
    strikes,
    swell,
    wander,
)

# --- Tones --------------------------------------------------------------------------------------------------


def siren(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """An emergency siren: a harmonic tone of an electronic horn whose pitch is driven by a slow oscillator.

    The source decides between *wail* (slow), *yelp* (quick) and *hi-lo* (two alternating tones). The pitch moves on a
    log scale, by a rounded triangle or a smoothed square; even harmonics are weaker, and the horn is a broad resonance.
    A take starts anywhere in the cycle and drifts in pitch as the vehicle moves.
    """
    kind = source.choice(["wail", "yelp", "hi-lo"])
    low = log_uniform(source, 380, 700)
    rise = source.uniform(0.35, 0.6)
    if kind == "hi-lo":
        ratio, period = source.uniform(1.2, 1.5), source.uniform(0.7, 1.4)
    else:
        ratio = source.uniform(1.7, 2.6)
        period = source.uniform(2.5, 6.0) if kind == "wail" else source.uniform(0.22, 0.5)
    rolloff, even, horn = source.uniform(0.7, 2.0), source.uniform(0.1, 1.0), log_uniform(source, 700, 2500)

    cycle = (np.arange(samples) / (rate * period) + take.random()) % 1.0
    if kind == "hi-lo":
        position = smooth((cycle < 0.5).astype(float), 0.015, rate)
    else:
        triangle = np.where(cycle < rise, cycle / rise, (1 - cycle) / (1 - rise))
        position = triangle - np.sin(2 * np.pi * triangle) / (4 * np.pi)
    drift = take.uniform(-0.04, 0.04) * np.linspace(-0.5, 0.5, samples)
    pitch = low * ratio**position * (1 + drift)
    harmonics = np.arange(1.0, int(0.45 * rate / pitch.max()) + 1)
    amplitudes = harmonics**-rolloff * np.where(harmonics % 2 == 0, even, 1.0)
    tone = harmonic_tone(pitch, amplitudes, rate)
    return bump(tone, horn, 0.7, rate) * swell(take, samples, rate, 0.7, 2.0)


def bird_song(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """A songbird: nearly pure whistles of one syrinx, gliding and trilled, grouped into phrases.

    The source is a bird with a base pitch and a repertoire of syllables; each is a frequency glide with a bend and
    perhaps a trill. A phrase repeats syllables of the repertoire with short gaps; phrases are separated by pauses. The
    amplitude follows a rounded bell in every syllable and a faint second harmonic is added.
    """
    base = log_uniform(source, 1600, 4500)
    repertoire = [_syllable(source) for _ in range(source.integers(2, 5))]
    gap, pause, second = source.uniform(0.02, 0.16), source.uniform(0.25, 1.2), source.uniform(0.02, 0.2)

    pitch, loudness = np.full(samples, base), np.zeros(samples)
    now = take.uniform(0, 0.5)
    while now * rate < samples:
        for number in take.choice(len(repertoire), size=take.integers(2, 5)):
            seconds, strength, glide = repertoire[number]
            for _ in range(take.integers(1, 4)):
                length = seconds * take.uniform(0.9, 1.1)
                onset, end = round(now * rate), round((now + length) * rate)
                part = np.linspace(0, 1, end - onset)[: max(0, samples - onset)]
                pitch[onset:end] = base * glide(part)
                loudness[onset:end] = strength * np.sin(np.pi * part) ** 1.5
                now += length + gap * take.uniform(0.8, 1.2)
        now += pause * take.uniform(0.6, 1.4)
    pitch = np.clip(pitch, 500, 0.45 * rate)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    overtone = np.where(2 * pitch < 0.5 * rate, second * np.sin(2 * phase), 0.0)
    return loudness * (np.sin(phase) + overtone)


def _syllable(rng: Generator) -> tuple[float, float, Callable[[Wave], Wave]]:
    """A bird's syllable: its seconds, its loudness, and its pitch, relative to the bird's, over it from 0 to 1."""
    seconds = log_uniform(rng, 0.04, 0.25)
    start, end = rng.uniform(0.75, 1.35), rng.uniform(0.75, 1.35)
    bend, trill = rng.uniform(-0.2, 0.2), rng.uniform(15, 60)
    depth = rng.uniform(0.03, 0.12) if rng.random() < 0.4 else 0.0

    def glide(part: Wave) -> Wave:
        straight = start + (end - start) * part
        return straight + bend * np.sin(np.pi * part) + depth * np.sin(2 * np.pi * trill * seconds * part)

    return seconds, rng.uniform(0.4, 1.0), glide


def bell(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """A bell, from church to hand bell: inharmonic damped modes struck by a clapper.

    The modes have the classic ratios to the strike note (hum 0.5, prime 1, tierce 1.2, quint 1.5, nominal 2, ...), each
    slightly off and split into a beating pair, as no bell is perfectly round. The higher a mode, the faster it decays.
    Strikes come as from a school bell or a tower, and a softer clapper excites the high modes less.
    """
    strike_note = log_uniform(source, 220, 1600)
    ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.52, 2.66, 3.01, 4.1, 5.4, 6.8])
    ratios = ratios * (1 + 0.015 * source.standard_normal(len(ratios)))
    gains = source.uniform(0.2, 1.0, len(ratios)) * ratios ** -source.uniform(0.0, 1.0)
    decays = log_uniform(source, 0.15, 1.8) * ratios**-0.8
    split = source.uniform(0.0005, 0.004, len(ratios))
    interval, unsteady = log_uniform(source, 0.15, 2.0), source.uniform(0.005, 0.06)
    softness = log_uniform(source, 0.0001, 0.0015)

    clapper = strikes(steady_onsets(take, samples, rate, interval, unsteady), take, 0.15, samples, rate)
    clapper = smooth(clapper, softness, rate)
    frequencies = strike_note * np.concatenate([ratios, ratios * (1 + split)])
    return modes(clapper, frequencies, np.tile(decays, 2), np.concatenate([gains, 0.6 * gains]), rate)


def engine(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """A piston engine: pulses at the firing rate, coloured by the exhaust, over machine noise.

    Each firing is a sharp rise with exponential decay in crank angle; the cylinders differ in strength, which puts
    lines between the firing-rate harmonics. The firing rate is governed: it trembles and glides by a few per cent, so
    its harmonics are close, steady lines that only a long window resolves. Exhaust resonances follow; intake and valve
    noise is modulated by the same pulses.
    """
    firing = log_uniform(source, 50, 80)
    cylinders = 1 + 0.1 * source.standard_normal(source.choice([1, 2, 3, 4, 6]))
    sharpness = log_uniform(source, 0.04, 0.2)
    formants = [log_uniform(source, *band) for band in ((70, 250), (250, 900), (900, 3000))]
    widths = source.uniform(0.3, 1.2, 3)
    shares = np.array([1.0, *source.uniform(0.2, 0.9, 2)])
    noise_share, noise_slope = log_uniform(source, 0.1, 0.8), source.uniform(-6, 0)

    throttle = take.uniform(-0.06, 0.06) * np.linspace(-0.5, 0.5, samples)
    throttle += 0.015 * wander(take, samples, rate, 0.5) + 0.001 * wander(take, samples, rate, 6.0)
    angle = take.random() + np.cumsum(firing * np.exp(throttle)) / rate
    count = angle.astype(int)
    strength = cylinders[count % len(cylinders)] * (1 + 0.1 * take.standard_normal(count[-1] + 1))[count]
    pulses = strength * np.exp(-(angle - count) / sharpness)
    turbulence = coloured_noise(take, samples, rate, noise_slope)
    rough = pulses * (1 + 0.4 * turbulence)
    exhaust = sum(
        share * normalised(bump(rough, formant, width, rate))
        for share, formant, width in zip(shares, formants, widths, strict=True)
    )
    return exhaust + noise_share * turbulence * (0.5 + pulses / (1e-9 + pulses.max()))


# --- Noises -------------------------------------------------------------------------------------------------


def rain(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """Rain: a hiss of countless far drops and a Poisson stream of near ones that ring what they fall on.

    Each near drop excites short damped modes: panels (roof, umbrella) and air bubbles in water, by their Minnaert
    resonance. The hiss is noise that leans to the treble; the intensity of the shower varies slowly.
    """
    per_second = log_uniform(source, 60, 1500)
    spread = source.uniform(0.6, 1.3)
    panels = log_uniforms(source, 300, 2500, 3)
    bubbles = log_uniforms(source, 1500, 6000, 4)
    panel_decays = log_uniforms(source, 0.0005, 0.003, 3)
    bubble_decays = log_uniforms(source, 0.0003, 0.001, 4)
    panel_share = source.uniform(0.0, 1.0)
    hiss_slope, hiss_share = source.uniform(-3, 2), log_uniform(source, 0.3, 2.5)
    hiss_floor = log_uniform(source, 300, 2000)

    drops = grains(take, samples, rate, per_second, spread)
    elsewhere = grains(take, samples, rate, per_second, spread)
    near = panel_share * normalised(modes(drops, panels, panel_decays, 1 / panels, rate))
    near += (1 - panel_share) * normalised(modes(elsewhere, bubbles, bubble_decays, 1 / bubbles, rate))
    far = high_pass(coloured_noise(take, samples, rate, hiss_slope), hiss_floor, rate)
    shower = swell(take, samples, rate, 0.8, 1.5)
    return shower * (normalised(near) + hiss_share * normalised(far))


def wind(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """Wind: turbulence noise that grows and brightens with the speed of the gusts, and howls at edges.

    The speed v(t) is log-normal: slow gusts plus quicker turbulence. The rumble (falling spectrum) grows with v^2, the
    rustle of leaves and grass with v^3, so gusts are brighter. Edges and gaps whistle: narrow noise that moves with v.
    """
    gustiness, pace = source.uniform(0.2, 0.45), source.uniform(0.4, 1.2)
    slope, rustle_share = source.uniform(-9, -5), log_uniform(source, 0.05, 0.6)
    rustle_from = log_uniform(source, 800, 3000)
    howl_pitch, howl_width = log_uniform(source, 250, 1200), log_uniform(source, 25, 200)
    howl_share = source.uniform(0.0, 0.6)

    speed = np.exp(gustiness * wander(take, samples, rate, pace) + 0.12 * wander(take, samples, rate, 5.0))
    rumble = high_pass(coloured_noise(take, samples, rate, slope), 50, rate)
    rustle = high_pass(coloured_noise(take, samples, rate, -3.0), rustle_from, rate)
    carrier = np.exp(2j * np.pi * np.cumsum(howl_pitch * speed**0.7) / rate)
    envelope = wander(take, samples, rate, howl_width) + 1j * wander(take, samples, rate, howl_width)
    howl = (carrier * envelope).real
    gusts = speed**2 * normalised(rumble) + rustle_share * speed**3 * normalised(rustle)
    return gusts + howl_share * speed**2.5 * normalised(howl)


def sea_waves(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """Surf: noise that swells, breaks and runs out up the beach, wave after wave.

    A wave grows and dies exponentially around its break. The roar (all of the spectrum, falling) follows it, the hiss
    of foam (treble) is sharper at the break and lingers while the water runs out, so the spectrum brightens and then
    thins out. Waves of irregular size come over the steady roar of the distant surf.
    """
    period, irregular = source.uniform(2.5, 6.0), source.uniform(0.1, 0.3)
    rise, fall = source.uniform(0.4, 1.2), source.uniform(0.5, 1.6)
    slopes = source.uniform(-5, -1), source.uniform(-3, 1)
    split = log_uniform(source, 500, 2000)
    distant, foam = log_uniform(source, 0.03, 0.15), log_uniform(source, 0.3, 1.2)

    time = np.arange(samples) / rate
    crash, run_out = np.zeros(samples), np.zeros(samples)
    breaks = -take.uniform(0, period)
    while breaks < samples / rate + 2 * rise:
        size, after = take.uniform(0.5, 1.0), time - breaks
        crash += size * np.exp(np.where(after < 0, after / rise, -after / fall))
        late = np.maximum(after - 0.2 * fall, 0) / fall
        run_out += size * late * np.exp(1 - late)
        breaks += period * np.exp(irregular * take.standard_normal())
    roar = high_pass(coloured_noise(take, samples, rate, slopes[0]), 60, rate)
    hiss = high_pass(coloured_noise(take, samples, rate, slopes[1]), split, rate)
    churn = swell(take, samples, rate, 8.0, 1.5)
    return (distant + crash) * churn * normalised(roar) + foam * (crash**2 + run_out) * normalised(hiss)


# --- Knocks -------------------------------------------------------------------------------------------------


def clock(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """A clock: an escapement that ticks with hardly any jitter, its clicks ringing a small case.

    The beat is that of quartz and pendulum clocks. Tick and tock weigh the modes of the movement and of the case
    differently, and either is a double click: the lock follows the drop by a few milliseconds.
    """
    interval = 1 / source.choice([1.0, 1.5, 2.0, 2.5]) * source.uniform(0.98, 1.02)
    limp = source.uniform(-0.06, 0.06)  # tick to tock against tock to tick
    lock_delay, lock = source.uniform(0.003, 0.02), source.uniform(0.1, 0.8)
    frequencies = np.concatenate([log_uniforms(source, 1200, 6500, 4), log_uniforms(source, 500, 1500, 2)])
    decays = np.concatenate([source.uniform(0.001, 0.012, 4), source.uniform(0.005, 0.03, 2)])
    gains = np.concatenate([source.uniform(0.2, 1.0, 4), source.uniform(0.05, 0.4, 2)])
    contrast = source.uniform(0.4, 1.6, (2, 6))

    onsets = steady_onsets(take, samples, rate, interval, 0.002)
    sound = np.zeros(samples)
    for foot, weights in enumerate(contrast):
        beats = onsets[foot::2] + foot * limp * interval
        clicks = strikes(beats, take, 0.08, samples, rate)
        clicks += lock * strikes(beats + lock_delay, take, 0.08, samples, rate)
        sound += modes(clicks, frequencies, decays, gains * weights, rate)
    return sound


def knocking(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """Knuckles on a door, a window or a table: groups of two to six blows, then a pause.

    Within a group the blows get a little faster or slower and are uneven in strength. The knuckle is a soft pulse; the
    panel answers with damped modes, and the hard joint adds a short click.
    """
    interval, pause = 1 / log_uniform(source, 3.0, 8.0), source.uniform(0.35, 1.2)
    lowest = log_uniform(source, 150, 800)
    frequencies = lowest * np.cumprod(np.concatenate([[1.0], source.uniform(1.15, 1.8, 5)]))
    decays = log_uniform(source, 0.006, 0.05) * (frequencies / lowest) ** -0.5
    gains = source.uniform(0.2, 1.0, 6)
    softness, click = log_uniform(source, 0.0001, 0.001), source.uniform(0.0, 0.4)
    knuckle_pitch = log_uniforms(source, 1500, 5000, 2)
    hurry, most = source.uniform(-0.06, 0.06), source.integers(3, 7)

    onsets, now = [], take.uniform(0, interval)
    while now < samples / rate:
        for blow in range(take.integers(2, most + 1)):
            onsets.append(now)
            now += interval * (1 + hurry * blow) * (1 + 0.05 * take.standard_normal())
        now += pause * take.uniform(0.7, 1.3)
    blows = strikes(np.array(onsets), take, 0.3, samples, rate)
    panel = modes(smooth(blows, softness, rate), frequencies, decays, gains, rate)
    knuckle = modes(blows, knuckle_pitch, np.full(2, 0.002), np.ones(2), rate)
    return panel + click * knuckle


def footsteps(source: Generator, take: Generator, samples: int, rate: int) -> Wave:
    """Someone walking: heel, then toe, left and right, on a floor between bare wood or stone and gravel.

    The two feet differ. The heel strikes the floor's modes and, higher, those of the shoe; the toe follows, softer.
    Loose ground adds a burst of grains, a dense Poisson stream that fades as the foot rolls.
    """
    interval, unsteady = 1 / log_uniform(source, 1.5, 2.8), source.uniform(0.015, 0.05)
    roll, toe = source.uniform(0.06, 0.14), source.uniform(0.1, 0.7)
    frequencies = np.concatenate([log_uniforms(source, 80, 500, 3), log_uniforms(source, 1000, 4000, 3)])
    decays = np.concatenate([source.uniform(0.006, 0.04, 3), source.uniform(0.001, 0.004, 3)])
    gains = np.concatenate([source.uniform(0.3, 1.0, 3), source.uniform(0.03, 0.4, 3)])
    feet = source.uniform(0.6, 1.4, (2, 6))
    gravel = source.uniform(0.3, 1.2) if source.random() < 0.7 else 0.0
    grain_pitch = log_uniforms(source, 900, 4500, 3)
    softness = log_uniform(source, 0.0001, 0.001)

    onsets = steady_onsets(take, samples, rate, interval, unsteady)
    sound = np.zeros(samples)
    for foot, weights in enumerate(feet):
        steps = strikes(onsets[foot::2], take, 0.15, samples, rate)
        steps += toe * strikes(onsets[foot::2] + roll * take.uniform(0.9, 1.1), take, 0.2, samples, rate)
        sound += modes(smooth(steps, softness, rate), frequencies, decays, gains * weights, rate)
    if gravel:
        fading = strikes(onsets, take, 0.15, samples, rate)
        pressure = lfilter([1.0], [1.0, -np.exp(-1 / (roll * rate))], fading)
        crunch = grains(take, samples, rate, 900, 0.9) * smooth(pressure, 0.01, rate)
        crunch = modes(crunch, grain_pitch, np.full(3, 0.0006), np.ones(3), rate)
        sound = normalised(sound) + gravel * normalised(crunch)
    return sound


SOUNDS: dict[str, Callable[[Generator, Generator, int, int], Wave]] = {
    sound.__name__: sound
    for sound in (bell, bird_song, clock, engine, footsteps, knocking, rain, sea_waves, siren, wind)
}
"""Every kind of sound by name."""
