"""The audio policy, row by row of the table in `soundstack.audio.decode`: what comes in, and what happens to it."""

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from soundstack.audio import decode as audio
from soundstack.audio.decode import AudioSpec
from soundstack.audio.decoder import SoundReader
from soundstack.audio.limits import UNLIMITED, RequestLimits
from soundstack.utils.errors import AudioError

RATE = 8000


def sine(hertz=440.0, seconds=1.0, rate=RATE):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noise(seconds=1.0, rate=RATE, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def encoded(samples, rate=RATE, file_format="WAV", subtype=None, **options):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=file_format, subtype=subtype, **options)
    return stream.getvalue()


def refusal(source, **options):
    """The one line that a clip is refused with."""
    with pytest.raises(AudioError) as caught:
        audio.decode(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_sizes(wav, riff, data):
    """The same WAV with other numbers in its two size fields."""
    at = wav.index(b"data") + 4
    return wav[:4] + struct.pack("<I", riff) + wav[8:at] + struct.pack("<I", data) + wav[at + 4 :]


def with_total(flac, samples):
    """The same FLAC with another number of samples in its header (36 bits; 0: not known)."""
    field = int.from_bytes(flac[18:26], "big") & ~((1 << 36) - 1) | samples
    return flac[:18] + field.to_bytes(8, "big") + flac[26:]


def without_length(mp3):
    """The same MP3 without its first frame, which holds the length header."""
    first = mp3.index(mp3[:2], 4)
    assert b"Info" in mp3[:first] or b"Xing" in mp3[:first]
    return mp3[first:]


# any format ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_format", "subtype", "step"),
    [
        ("WAV", "PCM_U8", 2**-7),
        ("WAV", "PCM_16", 2**-15),
        ("WAV", "PCM_24", 2**-23),
        ("WAV", "PCM_32", 2**-23),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("FLAC", "PCM_S8", 2**-7),
        ("FLAC", "PCM_16", 2**-15),
        ("FLAC", "PCM_24", 2**-23),
        ("AIFF", "PCM_16", 2**-15),
    ],
)
def test_a_lossless_encoding_decodes_to_the_sound_within_a_step_of_its_depth(file_format, subtype, step):
    wave = sine()
    samples, rate = audio.decode(encoded(wave, file_format=file_format, subtype=subtype))
    assert rate == RATE
    assert samples.shape == (len(wave), 1)
    assert samples.dtype == np.float32
    assert np.abs(samples[:, 0] - wave).max() <= step


@pytest.mark.parametrize(
    ("file_format", "subtype", "rate"),
    [("OGG", "VORBIS", RATE), ("OGG", "OPUS", 48_000), ("MP3", "MPEG_LAYER_III", RATE)],
)
def test_a_lossy_encoding_decodes_to_nearly_the_same_sound(file_format, subtype, rate):
    samples, found = audio.decode(encoded(sine(), file_format=file_format, subtype=subtype))
    assert (found, samples.shape) == (rate, (rate, 1))  # Opus knows no other rate
    assert np.corrcoef(samples[:, 0], sine(rate=rate))[0, 1] > 0.98


def test_a_path_and_its_bytes_decode_to_the_same_samples(tone):
    path = tone("a.flac", channels=2)
    from_path, from_bytes = audio.decode(path), audio.decode(path.read_bytes())
    np.testing.assert_array_equal(from_path[0], from_bytes[0])
    assert from_path[1] == from_bytes[1]


def test_a_float_file_may_exceed_full_scale():
    loud = 4 * sine()
    np.testing.assert_array_equal(audio.decode(encoded(loud, subtype="FLOAT"))[0][:, 0], loud)


def test_real_recordings_decode(esc10):
    for path in sorted((esc10 / "audio").iterdir())[:3]:
        samples, rate = audio.decode(path)
        assert rate == 44100
        assert samples.shape == (pytest.approx(5 * 44100, abs=1000), 1)
        assert 0 < np.abs(samples).max() <= 1.5


# several channels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_are_averaged_or_the_first_taken_or_each_made_an_example(tone, channels):
    samples, rate = audio.decode(tone(channels=channels))
    assert samples.shape == (RATE, channels)
    mean = audio.prepare(samples, rate, AudioSpec(RATE, 1.0, "mean"))
    first = audio.prepare(samples, rate, AudioSpec(RATE, 1.0, "first"))
    each = audio.prepare(samples, rate, AudioSpec(RATE, 1.0, "each"))
    np.testing.assert_allclose(mean, samples.mean(axis=1)[None], atol=1e-7)
    np.testing.assert_array_equal(first, samples[:, :1].T)
    np.testing.assert_array_equal(each, samples.T)


# another rate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_a_tone_keeps_its_pitch_and_loudness_at_another_rate(rate):
    target = 16000
    example = audio.prepare(sine(1000, 1.0, rate)[:, None], rate, AudioSpec(target, 1.0))
    assert example.shape == (1, target)
    assert example.dtype == np.float32
    middle = example[0, 1600:-1600]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * target / len(middle) == pytest.approx(1000, abs=2)
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.01)


def test_frequencies_above_the_new_half_rate_do_not_fold_back():
    example = audio.prepare(sine(15000, 1.0, 44100)[:, None], 44100, AudioSpec(16000, 1.0))
    assert np.abs(example[0, 1000:-1000]).max() < 1e-3


def test_channels_are_resampled_apart(tone):
    samples, rate = audio.decode(tone(channels=3))
    together = audio.prepare(samples, rate, AudioSpec(11025, 1.0, "each"))
    for channel in range(3):
        alone = audio.prepare(samples[:, channel : channel + 1], rate, AudioSpec(11025, 1.0))
        np.testing.assert_allclose(together[channel], alone[0], atol=1e-6)


# shorter and longer ----------------------------------------------------------------------------------------------


def test_a_short_clip_is_zero_padded_at_the_end_and_a_long_one_cropped():
    wave = noise(1.0)
    padded = audio.prepare(wave[:, None], RATE, AudioSpec(RATE, 1.5))
    np.testing.assert_array_equal(padded[0, :RATE], wave)
    assert padded.shape == (1, 12000)
    assert not padded[0, RATE:].any()
    cropped = audio.prepare(wave[:, None], RATE, AudioSpec(RATE, 0.25))
    np.testing.assert_array_equal(cropped, wave[None, :2000])


def test_cropping_before_resampling_changes_nothing_one_can_hear():
    wave = noise(8.0, 44100)
    early = audio.prepare(wave[:, None], 44100, AudioSpec(16000, 1.0))
    whole = audio.prepare(wave[:, None], 44100, AudioSpec(16000, 8.0))[:, :16000]
    assert np.abs(early - whole).max() < 1e-5


@settings(max_examples=60)
@given(
    frames=st.integers(1, 3000),
    channels=st.integers(1, 4),
    rate=st.integers(1000, 96_000),
    target=st.integers(1000, 48_000),
    seconds=st.floats(0.01, 0.5),
    how=st.sampled_from(["mean", "first", "each"]),
)
def test_examples_have_the_nominal_length_whatever_comes(frames, channels, rate, target, seconds, how):
    samples = np.random.default_rng(frames).standard_normal((frames, channels)).astype(np.float32)
    spec = AudioSpec(target, seconds, how)
    examples = audio.prepare(samples, rate, spec)
    assert examples.shape == (channels if how == "each" else 1, spec.samples)
    assert examples.dtype == np.float32
    assert np.isfinite(examples).all()


# silent, empty, not finite ---------------------------------------------------------------------------------------


def test_silence_is_kept(tone):
    samples, _ = audio.decode(tone(hertz=0))
    assert not samples.any()


def test_an_empty_file_and_one_without_samples_are_refused(tmp_path):
    (tmp_path / "empty.wav").touch()
    assert refusal(tmp_path / "empty.wav") == refusal(b"") == "is empty (0 bytes)"
    for file_format in ("WAV", "RF64", "W64", "AIFF", "AU", "CAF", "OGG"):
        assert refusal(encoded(sine()[:0], file_format=file_format)) == "holds no samples", file_format
    header = with_total(encoded(sine(), file_format="FLAC")[:42], 0)
    assert refusal(header[:4] + b"\x80" + header[5:]) == "holds no samples"


def test_a_missing_file_is_refused(tmp_path):
    assert refusal(tmp_path / "nowhere.wav") == "does not exist"


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(subtype, bad):
    wave = sine().astype(np.float64)
    wave[-1] = bad
    assert "not finite" in refusal(encoded(wave, subtype=subtype))


def test_a_double_beyond_single_precision_is_refused():
    assert "not finite" in refusal(encoded(np.full(100, 1e300), subtype="DOUBLE"))


def test_bytes_that_are_no_sound_are_refused_with_the_formats_that_are_taken():
    message = refusal(bytes(range(256)) * 10)
    for name in ("WAV", "FLAC", "OGG", "MP3"):
        assert name in message


# truncated -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 2, 1000, 15900])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_truncated_wav_is_refused(cut, subtype):
    wav = encoded(sine(), subtype=subtype)
    message = refusal(wav[:-cut])
    assert message.startswith("is truncated") or message == "holds no samples"


def test_a_truncated_wav_file_is_refused_like_its_bytes(tone):
    path = tone()
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert refusal(path) == refusal(whole[:-10])
    assert "10 more bytes" in refusal(path)


def test_chunks_after_the_sound_do_not_make_a_wav_truncated():
    wav = encoded(sine())
    samples, _ = audio.decode(wav + b"LIST" + struct.pack("<I", 4) + b"INFO")
    assert len(samples) == RATE


@pytest.mark.parametrize("part", [0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_flac_is_refused(part):
    flac = encoded(noise(), file_format="FLAC")
    refusal(flac[: int(part * len(flac))])


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_an_mp3_whose_header_does_not_tell_its_length_is_read_whole(rate):
    mp3 = encoded(noise(3, rate), rate, "MP3", bitrate_mode="CONSTANT", compression_level=0.5)
    samples, _ = audio.decode(without_length(mp3))
    assert len(samples) == pytest.approx(3 * rate, abs=3000)


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        pytest.param(0xFFFFFFFF, 0xFFFFFFFF, id="ffmpeg"),
        pytest.param(0x7FFFFFFF, 0x7FFFFFFF, id="largest signed"),
        pytest.param(0x7FFFF024, 0x7FFFF000, id="sox"),
        pytest.param(0x80000024, 0x80000000, id="arecord"),
        pytest.param(8, 0, id="libsndfile, not closed"),
    ],
)
def test_a_wav_written_to_a_pipe_whose_size_is_not_known_is_read_whole(riff, data):
    wave = sine()
    samples, _ = audio.decode(with_sizes(encoded(wave, subtype="FLOAT"), riff, data))
    np.testing.assert_array_equal(samples[:, 0], wave)


@pytest.mark.parametrize("limits", [UNLIMITED, RequestLimits()])
@pytest.mark.parametrize("total", [RATE + 1000, 299 * RATE, 2**36 - 1])
def test_a_flac_that_lies_about_its_length_is_refused(total, limits):
    refusal(with_total(encoded(noise(), file_format="FLAC"), total), limits=limits)


# over the limits -------------------------------------------------------------------------------------------------


@pytest.fixture
def undecoded(monkeypatch):
    """Fail where anything is decoded."""
    monkeypatch.setattr(SoundReader, "_decode", lambda self: pytest.fail("decoded"))


def test_a_clip_within_the_limits_decodes_as_without(tone):
    path = tone(seconds=2.0, channels=2)
    limits = RequestLimits(max_seconds=2.0, max_channels=2, max_samples=4 * RATE, min_rate=RATE, max_rate=RATE)
    for source in (path, path.read_bytes()):
        np.testing.assert_array_equal(audio.decode(source, limits=limits)[0], audio.decode(path)[0])


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_seconds": 1.9}, "is 2.0 s long; at most 1.9 s"),
        ({"max_channels": 1}, "has 2 channels; at most 1"),
        ({"max_samples": 4 * RATE - 1}, "has 32,000 samples; at most 31,999"),
        ({"min_rate": RATE + 1}, "a rate of 8,000 Hz; 8,001 to"),
        ({"max_rate": RATE - 1}, "a rate of 8,000 Hz; 1,000 to 7,999 Hz"),
        ({"max_bytes": 1000}, "at most 1,000 are taken"),
    ],
)
def test_a_clip_over_a_limit_is_refused_before_it_is_decoded(undecoded, limits, reason):
    wav = encoded(np.stack([noise(2.0), noise(2.0)], axis=1))
    assert reason in refusal(wav, limits=RequestLimits(**limits))


@pytest.mark.parametrize("rate", [1, 999, 192_001, 10_000_000, 2**31 - 1])
def test_a_rate_that_no_microphone_has_is_refused_by_default(undecoded, rate):
    assert "a rate of" in refusal(encoded(sine()[:50], rate), limits=RequestLimits())


def test_a_small_flac_of_hours_of_zeros_is_refused_before_it_is_decoded(undecoded):
    flac = encoded(np.zeros(44100 * 900, dtype=np.int16), 44100, "FLAC")
    assert len(flac) < 200_000
    assert "900.0 s long" in refusal(flac, limits=RequestLimits())


@pytest.mark.parametrize("kind", ["FLAC of unknown length", "FLAC that declares too little", "MP3 without a length"])
def test_no_more_than_the_limit_is_decoded_of_a_clip_whose_header_tells_no_length(monkeypatch, kind):
    if kind.startswith("FLAC"):
        clip = with_total(encoded(np.zeros(60 * RATE), file_format="FLAC"), 0 if "unknown" in kind else RATE)
    else:
        clip = without_length(encoded(np.zeros(60 * RATE), file_format="MP3"))
    decoded = []
    decode = SoundReader._decode

    def counting(self):
        for frame in decode(self):
            decoded.append(frame.samples)
            yield frame

    monkeypatch.setattr(SoundReader, "_decode", counting)
    assert "at most 2 s" in refusal(clip, limits=RequestLimits(max_seconds=2.0))
    assert sum(decoded) <= 2 * RATE + decoded[-1]


@pytest.mark.filterwarnings("error")
def test_a_header_that_points_before_the_file_is_refused_quietly():
    for position in range(160):
        for value in (0x7F, 0xFF):
            raw = bytearray(_VALID["AIFF"])
            raw[position] = value
            sound_or_refusal(bytes(raw))


def test_the_header_tells_how_long_a_clip_should_be(tone):
    with SoundReader(tone(seconds=1.5, channels=2)) as sound:
        assert sound.expected == 1.5 * RATE
    mp3 = without_length(encoded(np.zeros(60 * RATE), file_format="MP3"))
    with SoundReader(mp3, RequestLimits(max_seconds=2.0)) as sound:
        assert sound.expected > 2 * RATE  # an estimate, for which nothing is refused
    with SoundReader(with_total(encoded(sine(), file_format="FLAC"), 0)) as sound:
        assert sound.expected == 0


def test_values_whose_powers_would_overflow_are_refused():
    assert "scale it to -1..1" in refusal(encoded(1e30 * sine(), subtype="FLOAT"))
    unscaled = 2.0**31 * sine()
    np.testing.assert_array_equal(audio.decode(encoded(unscaled, subtype="FLOAT"))[0][:, 0], unscaled)


@pytest.mark.parametrize("rate", [1, 7, 100, 999, 10_000_000, 2**31 - 1])
def test_without_limits_any_rate_is_resampled_to_the_nominal_length(rate):
    samples, found = audio.decode(encoded(noise(1.0), rate))
    assert found == rate
    example = audio.prepare(samples, rate, AudioSpec(16000, 1.0))
    assert example.shape == (1, 16000)
    assert np.isfinite(example).all()


# whatever comes --------------------------------------------------------------------------------------------------

_SHORT = noise(0.2)
_FORMATS = ("WAV", "FLAC", "OGG", "MP3", "AIFF")
_VALID = {name: encoded(_SHORT, file_format=name) for name in _FORMATS} | {
    "WAV float": encoded(_SHORT, subtype="FLOAT")
}


def sound_or_refusal(source, limits=UNLIMITED):
    try:
        samples, rate = audio.decode(source, limits=limits)
    except AudioError as error:
        assert str(error)
        assert "\n" not in str(error)
        return
    assert samples.dtype == np.float32
    assert samples.ndim == 2
    assert len(samples) > 0
    assert rate > 0
    assert np.isfinite(samples).all()
    assert len(samples) <= limits.max_frames(rate, samples.shape[1])
    assert samples.shape[1] <= limits.max_channels


@given(st.binary(max_size=300), st.sampled_from([b"", b"RIFF", b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"FORM"]))
def test_any_bytes_are_sound_or_refused(content, magic):
    sound_or_refusal(magic + content)
    sound_or_refusal(magic + content, RequestLimits())


@settings(max_examples=300)
@given(
    name=st.sampled_from(sorted(_VALID)),
    changes=st.lists(st.tuples(st.integers(0, 160), st.integers(0, 255)), max_size=4),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_a_damaged_file_of_any_format_is_sound_or_refused(name, changes, keep):
    raw = bytearray(_VALID[name])
    for position, value in changes:
        raw[position] = value
    sound_or_refusal(bytes(raw[: int(keep * len(raw))]))
    sound_or_refusal(bytes(raw[: int(keep * len(raw))]), RequestLimits(max_seconds=0.15))
