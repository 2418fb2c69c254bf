"""Log-mel spectrograms against librosa (`paper`) and against a plain numpy rendering of auDeep's form (`audeep`)."""

import itertools

import librosa
import numpy as np
import pytest

from soundstack.audio import decode as audio
from soundstack.spectrograms.log_mel import LogMel, SpectrogramSpec, relative_decibel


def clip(rate, seconds=5.0, seed=0):
    """A sweep over noise, with a silent stretch: levels from 0 dB to far below any floor."""
    time = np.arange(round(seconds * rate)) / rate
    sweep = 0.3 * np.sin(2 * np.pi * (100 + rate / 25 * time) * time)
    wave = sweep + 0.01 * np.random.default_rng(seed).standard_normal(len(time))
    wave[rate : 2 * rate] = 0
    return wave.astype(np.float32)


def log_mel(waves, spec):
    return LogMel(spec)(np.atleast_2d(waves))


def of_librosa(wave, rate, floor):
    """Paper section 3.1 in librosa's words: (frames, bands) in dB under the clip's maximum."""
    window, hop = round(0.32 * rate), round(0.16 * rate)
    power = librosa.feature.melspectrogram(
        y=wave,
        sr=rate,
        n_fft=window,
        hop_length=hop,
        window="hann",
        center=True,
        pad_mode="reflect",
        power=2.0,
        n_mels=128,
        fmin=0.0,
        fmax=rate / 2,
        htk=False,
        norm="slaney",
    )
    return librosa.power_to_db(power, ref=np.max, top_db=-floor, amin=1e-30).T


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100])
@pytest.mark.parametrize("floor", [-30.0, -80.0])
def test_the_papers_front_end_is_librosas_within_a_hundredth_of_a_decibel(rate, floor):
    wave = clip(rate)
    ours = log_mel(wave, SpectrogramSpec(rate, floor))[0]
    np.testing.assert_allclose(ours, of_librosa(wave, rate, floor), atol=0.01)


def test_real_recordings_agree_with_librosa_too(esc10):
    for path in sorted((esc10 / "audio").iterdir())[::100]:
        wave = audio.prepare(*audio.decode(path), audio.AudioSpec(44100, 5.0))[0]
        ours = log_mel(wave, SpectrogramSpec(44100))[0]
        np.testing.assert_allclose(ours, of_librosa(wave, 44100, -80.0), atol=0.01)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize(("seconds", "centred", "plain"), [(5.0, 32, 30), (10.0, 63, 61)])
def test_the_number_of_frames_is_the_papers(rate, seconds, centred, plain):
    wave = clip(rate, seconds)
    for front_end, frames in (("paper", centred), ("audeep", plain)):
        spec = SpectrogramSpec(rate, front_end=front_end)
        assert log_mel(wave, spec).shape == (1, frames, 128)


def test_window_and_hop_are_the_papers_at_16_and_44_kilohertz():
    assert (SpectrogramSpec(16000).window, SpectrogramSpec(16000).hop) == (5120, 2560)
    assert (SpectrogramSpec(44100).window, SpectrogramSpec(44100).hop) == (14112, 7056)


@pytest.mark.parametrize(("front_end", "frames", "of_more"), [("paper", 3, 4), ("audeep", 1, 2)])
@pytest.mark.parametrize("samples", [1, 100, 2559, 2560, 2561, 3840])
def test_a_clip_has_the_frames_of_a_window_at_least(front_end, frames, of_more, samples):
    values = log_mel(clip(8000)[:samples], SpectrogramSpec(8000, front_end=front_end))
    assert values.shape == (1, of_more if samples == 3840 else frames, 128)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("floor", [-30.0, -45.0, -60.0, -80.0])
def test_the_maximum_is_at_0_db_and_what_is_below_the_floor_at_the_floor(floor):
    values = log_mel(clip(16000), SpectrogramSpec(16000, floor))
    assert values.max() == 0
    assert values.min() == floor
    # frames 8 to 11 lie wholly in the silent second
    assert (values[0, 8:12] == floor).all()


@pytest.mark.parametrize("gain", [4.0, 0.1, 1e-3, 1e-5])
def test_a_quieter_or_louder_copy_of_a_clip_has_the_same_spectrogram(gain):
    wave, spec = clip(16000), SpectrogramSpec(16000)
    np.testing.assert_allclose(log_mel(wave * np.float32(gain), spec), log_mel(wave, spec), atol=0.01)


def test_a_silent_clip_is_all_floor():
    silence = np.zeros(80000, dtype=np.float32)
    assert (log_mel(silence, SpectrogramSpec(16000, -60.0)) == -60).all()
    assert (log_mel(silence, SpectrogramSpec(16000, front_end="audeep")) == -1).all()


@pytest.mark.parametrize("front_end", ["paper", "audeep"])
def test_a_silent_or_loud_neighbour_in_the_batch_changes_nothing(front_end):
    rate = 16000
    spec = SpectrogramSpec(rate, front_end=front_end)
    waves = np.stack([clip(rate), np.zeros(5 * rate, dtype=np.float32), 0.01 * clip(rate, seed=1), 3 * clip(rate)])
    alone = np.concatenate([log_mel(wave, spec) for wave in waves])
    np.testing.assert_allclose(log_mel(waves, spec), alone, atol=1e-3)


def of_audeep(wave, rate, floor):
    """The toolkit's spectrogram, written with loops: (frames, bands) in -1..1."""
    window, hop, bands = round(0.32 * rate), round(0.16 * rate), 128
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    starts = range(0, len(wave) - window + 1, hop)
    frames = np.stack([wave[start : start + window].astype(np.float64) for start in starts])
    power = np.abs(np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * hann)) ** 2
    top = 2595 * np.log10(1 + (rate / 2) / 700)
    corners = [
        int(np.floor((window + 1) * 700 * (10 ** (top * k / (bands + 1) / 2595) - 1) / rate)) for k in range(bands + 2)
    ]
    bank = np.zeros((window // 2 + 1, bands))
    for band, (left, peak, right) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        for point in range(left, peak):
            bank[point, band] = (point - left) / (peak - left)
        for point in range(peak, min(right, window // 2 + 1)):
            bank[point, band] = (right - point) / (right - peak)
    mel = power @ bank
    decibel = np.maximum(10 * np.log10(np.maximum(mel, 1e-30) / mel.max()), floor)
    return 2 * (decibel - decibel.min()) / (decibel.max() - decibel.min()) - 1


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("floor", [-45.0, -80.0])
def test_the_audeep_front_end_is_the_toolkits_spectrogram_between_minus_one_and_one(rate, floor):
    wave = clip(rate)
    values = log_mel(wave, SpectrogramSpec(rate, floor, "audeep"))[0]
    assert values.min() == -1
    assert values.max() == 1
    np.testing.assert_allclose(values, of_audeep(wave, rate, floor), atol=1e-3)


def test_a_steady_offset_is_no_sound_to_the_audeep_front_end():
    wave, spec = clip(16000), SpectrogramSpec(16000, front_end="audeep")
    wave[16000:32000] += 0.01 * np.random.default_rng(2).standard_normal(16000).astype(np.float32)
    np.testing.assert_allclose(log_mel(wave + np.float32(0.25), spec), log_mel(wave, spec), atol=0.02)


def test_the_two_front_ends_differ():
    wave = clip(16000)
    paper, audeep = (log_mel(wave, SpectrogramSpec(16000, front_end=name)) for name in ("paper", "audeep"))
    assert not np.allclose(1 + paper[:, 1:31] / 40, audeep, atol=0.1)


def test_decibels_are_relative_to_each_clips_own_maximum():
    power = np.array([[[1.0, 0.1]], [[100.0, 1.0]], [[0.0, 0.0]]], dtype=np.float32)
    np.testing.assert_allclose(relative_decibel(power, -30.0), [[[0, -10]], [[0, -20]], [[-30, -30]]], atol=1e-5)


def test_every_mel_band_hears_something():
    for rate, front_end in itertools.product((8000, 16000, 44100), ("paper", "audeep")):
        bank = LogMel(SpectrogramSpec(rate, front_end=front_end)).bank
        assert bank.shape[0] == 128
        assert (bank.sum(axis=1) > 0).all()


def test_a_spec_as_json_makes_the_same_spec():
    spec = SpectrogramSpec(44100, -45.0, "audeep")
    assert SpectrogramSpec(**spec.to_json()) == spec
