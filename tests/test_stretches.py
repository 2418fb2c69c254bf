"""Stretches of recordings: cut as if each were a file of its own, read in one go, and grouped by the recording."""

from contextlib import nullcontext

import numpy as np
import pytest
import soundfile

from soundstack.audio import decode as audio
from soundstack.audio import decoder
from soundstack.audio.decoder import SoundReader
from soundstack.audio.sound import Stretch
from soundstack.audio.stretches import takes
from soundstack.utils.errors import AudioError

RATE = 8000
LOSSLESS = [
    ("WAV", "PCM_16"), ("WAV", "PCM_U8"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("WAV", "ULAW"),
    ("WAV", "ALAW"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_24"), ("AU", "PCM_32"),
    ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("NIST", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"),
]  # fmt: skip
LOSSY = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "IMA_ADPCM"), ("WAV", "GSM610")]
#: Seconds of 40: next to each other, overlapping, one inside another, far apart, at both ends.
WANTED = [(0, 1), (1, 1.5), (1.25, 2), (1.3, 1.4), (3, 3.0001250), (13.7, 25.1), (14, 14.123456), (39.5, 40)]


@pytest.fixture
def recording(tmp_path):
    """Write 40 s of noise: ``recording("WAV", "PCM_16")`` gives its path."""

    def write(form, subtype, channels=2):
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, (40 * RATE, 1 if subtype == "GSM610" else channels))
        path = tmp_path / f"{form}-{subtype}.sound"
        soundfile.write(path, noise, RATE, format=form, subtype=subtype)
        return path

    return write


def cut(path, wanted=WANTED):
    with SoundReader(path) as sound:
        return list(sound.stretches(wanted))


@pytest.mark.parametrize(("form", "subtype"), [*LOSSLESS, *LOSSY])
def test_a_stretch_is_the_same_samples_as_in_the_whole_file(recording, form, subtype):
    path = recording(form, subtype)
    whole, rate = audio.decode(path)
    for (start, end), samples in zip(WANTED, cut(path), strict=True):
        if end * rate > len(whole):  # encoders of frames may leave a part of the last one out
            assert "ends at" in str(samples)
            continue
        np.testing.assert_array_equal(samples, whole[round(start * rate) : round(end * rate)])
        assert samples.base is None, "a view would keep the blocks alive"


@pytest.mark.parametrize(("form", "subtype"), LOSSLESS)
def test_a_stretch_is_decoded_as_it_would_be_from_a_file_of_its_own(recording, form, subtype, tmp_path):
    path = recording(form, subtype)
    kind = {"ULAW": "int16", "ALAW": "int16", "PCM_16": "int16", "PCM_U8": "int16", "ALAC_16": "int16"}.get(subtype)
    values, _ = soundfile.read(path, dtype=kind or ("float64" if subtype in ("FLOAT", "DOUBLE") else "int32"))
    for (start, end), samples in zip(WANTED, cut(path), strict=True):
        part = values[round(start * RATE) : round(end * RATE)]
        soundfile.write(tmp_path / "part", part, RATE, format="CAF" if "ALAC" in subtype else form, subtype=subtype)
        alone, _ = audio.decode(tmp_path / "part")
        assert samples.tobytes() == alone.tobytes()


def test_of_pcm_and_flac_only_the_stretches_are_decoded(recording, monkeypatch):
    decoded = []
    real = decoder._values
    monkeypatch.setattr(decoder, "_values", lambda frame: (decoded.append(frame.samples), real(frame))[1])
    monkeypatch.setattr(decoder, "BLOCK", 1 << 10)
    wanted = [(30, 30.5), (38, 39)]
    for form, least in (("WAV", 1.5), ("FLAC", 1.5), ("OGG", 39)):
        decoded.clear()
        path = recording(form, "VORBIS" if form == "OGG" else "PCM_16")
        assert [len(samples) for samples in cut(path, wanted)] == [4000, 8000]
        assert least * RATE <= sum(decoded) < least * RATE + 60_000, form
    assert sum(decoded) >= 39 * RATE


def test_a_wav_whose_header_tells_a_wrong_rate_of_bytes_is_read_from_its_beginning(recording):
    path = recording("WAV", "PCM_16")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"fmt ") + 16
    assert int.from_bytes(raw[at : at + 4], "little") == 4 * RATE
    raw[at : at + 4] = RATE.to_bytes(4, "little")
    path.write_bytes(raw)
    whole, _ = audio.decode(path)
    (samples,) = cut(path, [(30, 31)])
    np.testing.assert_array_equal(samples, whole[30 * RATE : 31 * RATE])


def test_what_lies_beyond_the_end_or_before_the_first_sample_is_no_stretch(recording):
    path = recording("FLAC", "PCM_16")
    beyond, over, inside, none, after = cut(path, [(38, 41), (39, 40.001), (39, 40), (39.5, 39.50001), (50, 51)])
    assert str(beyond) == str(over) == "ends at 40.00 s"
    assert len(inside) == RATE
    assert "holds no sample there" in str(none)
    assert "ends at 40.00 s" in str(after)


def test_damage_costs_the_stretches_it_lies_in(recording):
    path = recording("FLAC", "PCM_16")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 400] = bytes(400)
    path.write_bytes(raw)
    before, at, after = cut(path, [(1, 2), (19.5, 20.5), (35, 36)])
    assert len(before) == len(after) == RATE
    assert "damaged" in str(at)


# several threads -------------------------------------------------------------------------------------------------


def test_a_file_is_opened_once_and_closed_with_its_last_stretch(recording):
    path = recording("WAV", "PCM_16")
    whole, _ = audio.decode(path)
    opened = []

    class File(nullcontext):
        def __enter__(self):
            opened.append("open")
            return super().__enter__()

        def __exit__(self, *_):
            opened.append("closed")

    wanted = [Stretch(start, start + 1) for start in range(10)]
    take = takes([(path, None), *((path, stretch) for stretch in wanted)], File)
    assert sorted(take) == list(range(1, 11))
    assert opened == []
    for number in (3, 1, 2, *range(4, 11)):  # a later one may come first
        piece = take[number]()
        np.testing.assert_array_equal(piece.samples, whole[(number - 1) * RATE : number * RATE])
        assert opened == ["open", "closed"][: 2 if number == 10 else 1]


def test_stretches_against_the_order_of_the_file_are_read_too(recording):
    path = recording("OGG", "VORBIS")
    whole, _ = audio.decode(path)
    take = takes(((path, Stretch(start, start + 1)) for start in (5, 6, 2, 3, 30, 1)), nullcontext)
    for number, start in enumerate((5, 6, 2, 3, 30, 1)):
        np.testing.assert_array_equal(take[number]().samples, whole[start * RATE : (start + 1) * RATE])


def test_a_file_that_cannot_be_opened_is_refused_for_each_of_its_stretches(tmp_path):
    take = takes(((tmp_path / "none.wav", Stretch(start, start + 1)) for start in range(3)), nullcontext)
    for one in take.values():
        with pytest.raises(AudioError, match="does not exist"):
            one()
