"""DEEP SPECTRUM's pictures against librosa, matplotlib and Pillow."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from soundstack.spectrograms.picture import DeepSpectrumPicture
from toolkit_figure import draw_figure

RATE = 16_000

COLOUR_MAPS = ("cividis", "gray", "hot", "magma", "viridis")


def noise(samples: int, seed: int = 0) -> NDArray[np.float32]:
    """White noise that swells, so that a picture has contrast in time and in frequency."""
    swell = np.linspace(0.05, 1, samples)
    return (np.random.default_rng(seed).standard_normal(samples) * swell * 0.2).astype(np.float32)


def tone(hertz: float, seconds: float = 1.0) -> NDArray[np.float32]:
    """A sine."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(RATE * seconds)) / RATE)).astype(np.float32)


def share_of_equal_pixels(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float((one == other).all(axis=-1).mean())


@pytest.mark.parametrize("colour_map", COLOUR_MAPS)
def test_the_picture_has_the_colours_of_the_toolkits_figure(colour_map: str) -> None:
    picture = DeepSpectrumPicture(RATE, colour_map)
    db = picture.decibel(noise(5 * RATE))  # 311 frames: an odd number, no border falls on a pixel's middle

    figure = draw_figure(db, sample_rate=RATE, hop=picture.hop, colour_map=colour_map)

    np.testing.assert_array_equal(picture.db_to_picture(db), figure)


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [(16_000, 10.0), (44_100, 5.0), (44_100, 1.0), (48_000, 2.0), (22_050, 0.3), (8_000, 4.0)],
)
def test_the_picture_is_the_toolkits_figure_at_every_rate_and_length(rate: int, seconds: float) -> None:
    picture = DeepSpectrumPicture(rate)
    db = picture.decibel(noise(round(rate * seconds)))

    figure = draw_figure(db, sample_rate=rate, hop=picture.hop)

    assert share_of_equal_pixels(picture.db_to_picture(db), figure) >= 0.995


@pytest.mark.parametrize("seconds", [0.2, 5.0, 10.0])
def test_the_resized_picture_is_pillows_bicubic_one(seconds: float) -> None:
    picture = DeepSpectrumPicture(RATE)
    wave = noise(round(RATE * seconds))
    figure = picture.db_to_picture(picture.decibel(wave))

    by_pillow = np.asarray(Image.fromarray(figure).resize((224, 224), Image.Resampling.BICUBIC))

    ours = picture(wave)
    assert share_of_equal_pixels(ours, by_pillow) >= 0.999
    assert np.abs(ours.astype(int) - by_pillow).max() <= 1


def test_decibels_are_those_of_librosa() -> None:
    for rate, fft in ((16_000, 512), (44_100, 2048)):
        wave = noise(2 * rate)
        power = librosa.feature.melspectrogram(
            y=wave, sr=rate, n_fft=fft, hop_length=fft // 2, center=False, n_mels=128, power=2.0
        )
        expected = librosa.power_to_db(power, ref=np.max, amin=1e-10, top_db=None)

        np.testing.assert_allclose(DeepSpectrumPicture(rate).decibel(wave), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("rate", "window", "fft"),
    [
        (8_000, None, 256),
        (16_000, None, 512),
        (20_480, None, 512),  # 25 ms are 512 samples exactly
        (22_050, None, 1024),
        (44_100, None, 2048),
        (16_000, 0.32, 8192),
    ],
)
def test_the_window_is_the_next_power_of_two_and_the_hop_half_of_it(rate: int, window: float | None, fft: int) -> None:
    picture = DeepSpectrumPicture(rate, window=window)

    assert (picture.fft, picture.hop) == (fft, fft // 2)
    frames = 1 + (rate - fft) // (fft // 2)
    assert picture.decibel(noise(rate)).shape == (128, frames)


def test_low_frequencies_are_at_the_bottom_and_time_runs_to_the_right() -> None:
    picture = DeepSpectrumPicture(RATE, "gray")
    low_then_high = np.concatenate([tone(300), tone(5000)])

    brightness = picture(low_then_high)[..., 0].astype(float)

    left, right = brightness[:, 20:90].mean(axis=1), brightness[:, 134:204].mean(axis=1)
    assert 190 < np.argmax(left) < 224
    assert 0 < np.argmax(right) < 40


def test_the_frequency_axis_is_linear_to_1_khz_and_logarithmic_above() -> None:
    picture = DeepSpectrumPicture(RATE, "gray")

    rows = [int(np.argmax(picture(tone(hertz))[:, 112, 0])) for hertz in (500, 1000, 2000, 4000)]

    # 0..8 kHz are 5000 steps: 500 Hz, an octave above 1 kHz, and each further octave take 1000 of them.
    assert np.diff(rows) == pytest.approx([-224 / 5] * 3, abs=4)


def test_a_silent_clip_is_a_uniform_picture_in_the_lowest_colour() -> None:
    for colour_map in COLOUR_MAPS:
        picture = DeepSpectrumPicture(RATE, colour_map)
        db = picture.decibel(np.zeros(RATE, dtype=np.float32))
        figure = draw_figure(db, sample_rate=RATE, hop=picture.hop, colour_map=colour_map)

        assert np.isfinite(db).all()
        np.testing.assert_array_equal(picture.db_to_picture(db), figure)
        silent = picture(np.zeros(RATE, dtype=np.float32))
        assert (silent == figure[0, 0]).all()


def test_a_clip_shorter_than_a_window_is_padded_to_it() -> None:
    picture = DeepSpectrumPicture(RATE)
    short = noise(300)

    padded = np.concatenate([short, np.zeros(picture.fft - 300, dtype=np.float32)])

    assert picture.decibel(short).shape == (128, 1)
    np.testing.assert_array_equal(picture(short), picture(padded))


def test_a_batch_of_pictures_equals_single_ones() -> None:
    picture = DeepSpectrumPicture(RATE)
    waves = np.stack([noise(RATE, seed) for seed in range(3)])

    pictures = picture.batch(waves)

    assert pictures.shape == (3, 3, 224, 224)
    assert pictures.dtype == np.uint8
    for wave, one in zip(waves, pictures, strict=True):
        single = picture(wave)
        assert (single.shape, single.dtype) == ((224, 224, 3), np.uint8)
        np.testing.assert_array_equal(single.transpose(2, 0, 1), one)


def test_the_level_of_a_clip_does_not_matter() -> None:
    picture = DeepSpectrumPicture(RATE)
    wave = noise(RATE)

    difference = picture(wave).astype(int) - picture(wave / np.float32(8)).astype(int)  # an exact division

    assert np.abs(difference).max() <= 2


def test_another_size_can_be_asked_for() -> None:
    wave = noise(RATE)
    for size in (96, 227, 299):
        picture = DeepSpectrumPicture(RATE, size=size)
        figure = Image.fromarray(picture.db_to_picture(picture.decibel(wave)))
        expected = np.asarray(figure.resize((size, size), Image.Resampling.BICUBIC))

        assert share_of_equal_pixels(picture(wave), expected) >= 0.999
