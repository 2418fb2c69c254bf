"""Sound is read to its end or refused: every container, every length header, strangers' files, odd names."""

import contextlib
import csv
import io
import os
import socket
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from sound_making import KINDS, TOLD, UNTOLD, by_ffmpeg, by_sndfile, wave
from soundstack.audio import containers, decoder
from soundstack.audio import decode as audio
from soundstack.audio import find as sound_files
from soundstack.audio.decoder import SoundReader
from soundstack.audio.limits import RequestLimits
from soundstack.audio.sound import Sound
from soundstack.datasets import scan
from soundstack.utils.errors import AudioError, DataError

ODD = Path(__file__).parents[2] / "shared" / "data" / "odd_sounds"


@cache
def made(kind):
    return KINDS[kind]()


def refusal(source, **options):
    with pytest.raises(AudioError) as caught:
        audio.decode(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def odd_sounds():
    if not (ODD / "expected.csv").is_file():
        return [pytest.param({}, marks=pytest.mark.skip(reason="the odd sounds are not beside this checkout"))]
    with (ODD / "expected.csv").open(newline="") as table:
        return [pytest.param(row, id=row["file"]) for row in csv.DictReader(table)]


# whole, or refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", odd_sounds())
def test_an_odd_file_is_read_whole_or_refused_by_all_doors_alike(row):
    path = ODD / row["file"]
    try:
        samples, rate = audio.decode(path)
    except AudioError as error:
        assert row["expect"] in ("refused", "whole_or_refused")
        assert str(error) == refusal(path.read_bytes()) == scan.scan_file(path).problem
        assert "internal" not in str(error) and "does not exist" not in str(error)
        assert row["expect"] != "refused" or str(error).startswith("is truncated")
        return
    assert row["expect"] != "refused"
    assert len(samples) / rate == pytest.approx(float(row["seconds"]), rel=0.03)
    np.testing.assert_array_equal(samples, audio.decode(path.read_bytes(), limits=RequestLimits())[0])
    assert scan.scan_file(path).frames == len(samples)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_whole(kind):
    samples, rate = audio.decode(made(kind), limits=RequestLimits())
    assert len(samples) / rate == pytest.approx(2, rel=0.03)
    assert np.abs(samples).max() == pytest.approx(0.45, abs=0.12)


@pytest.mark.parametrize("kind", TOLD)
def test_half_a_file_is_refused_as_truncated_where_anything_tells(kind, tmp_path):
    half = made(kind)[: len(made(kind)) // 2]
    assert refusal(half).startswith("is truncated")
    (tmp_path / "half").write_bytes(half)
    assert refusal(tmp_path / "half") == refusal(half, limits=RequestLimits())


@pytest.mark.parametrize("kind", UNTOLD)
def test_half_a_file_that_tells_no_length_is_a_shorter_clip(kind):
    samples, rate = audio.decode(made(kind)[: len(made(kind)) // 2])
    assert len(samples) / rate == pytest.approx(1, rel=0.06)


@pytest.mark.parametrize("first", ["OGG", "MP3", "MP3 without a length", "AAC"])
def test_files_that_were_joined_are_read_to_the_end_of_the_last(first):
    one = len(audio.decode(made(first))[0])
    joined = len(audio.decode(made(first) * 3)[0])
    assert 0.97 * 3 * one <= joined <= 3 * (one + 4 * 1152)  # what encoders put at the ends stays in


def test_a_flac_is_read_whole_whatever_its_header_says_of_the_length():
    flac = by_sndfile("FLAC")
    expected = audio.decode(flac)[0]
    for total in (0, 1000):
        field = int.from_bytes(flac[18:26], "big") & ~((1 << 36) - 1) | total
        lying = flac[:18] + field.to_bytes(8, "big") + flac[26:]
        np.testing.assert_array_equal(audio.decode(lying)[0], expected)


def test_a_wav_that_goes_on_after_what_its_header_declares_is_read_whole():
    wav = by_sndfile("WAV")
    at = wav.index(b"data") + 4
    low = wav[:at] + struct.pack("<I", 8000) + wav[at + 4 :]
    np.testing.assert_array_equal(audio.decode(low)[0], audio.decode(wav)[0])


def test_a_file_that_changes_its_rate_is_refused_and_not_cut_there():
    joined = by_ffmpeg("mp3", "libmp3lame", 16_000, write_xing="0") + made("MP3 without a length")
    assert "to 1 at 44,100 Hz; store it in one form" in refusal(joined)


@pytest.mark.parametrize("kind", ["FLAC", "FLAC, piped", "Ogg, FLAC", "M4A, ALAC", "WavPack", "OGG", "Ogg, Opus"])
def test_damage_in_the_middle_is_not_passed_over_in_silence(kind):
    clip = bytearray(made(kind))
    middle = len(clip) // 2
    clip[middle : middle + 600] = bytes(600)
    assert refusal(bytes(clip)).startswith(("is damaged", "is truncated"))


def test_an_mp3_with_one_bad_part_in_hundreds_is_read_and_with_many_refused():
    mp3 = by_ffmpeg("mp3", "libmp3lame", 44_100, wave(10.0, 44_100), write_xing="0")
    once = mp3[:40_000] + bytes(700) + mp3[40_700:]
    assert len(audio.decode(once)[0]) == pytest.approx(441_000, rel=0.03)
    often = bytearray(mp3)
    for at in range(5_000, len(mp3) - 5_000, 2_000):
        often[at : at + 700] = bytes(700)
    assert "parts cannot be decoded" in refusal(bytes(often))


@settings(max_examples=80, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), block=st.integers(1, 50_000))
def test_blocks_joined_are_the_whole_whatever_their_size(kind, block):
    whole, rate = audio.decode(made(kind))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "BLOCK", block)
        with SoundReader(made(kind)) as sound:
            blocks = list(sound.blocks())
    assert (sound.rate, sound.frames) == (rate, len(whole))
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


# exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_format", "subtype"),
    [("WAV", each) for each in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")]
    + [("FLAC", each) for each in ("PCM_S8", "PCM_16", "PCM_24")]
    + [("AIFF", each) for each in ("PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT")]
    + [("CAF", "PCM_24"), ("AU", "PCM_32"), ("W64", "DOUBLE")],
)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_lossless_sound_is_libsndfiles_to_the_last_bit(file_format, subtype, channels):
    encoded = by_sndfile(file_format, subtype, wave(0.5, channels=channels))
    expected, rate = soundfile.read(io.BytesIO(encoded), dtype="float32", always_2d=True)
    samples, found = audio.decode(encoded)
    assert found == rate
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize("subtype", ["ALAC_16", "ALAC_24"])
def test_alac_in_a_caf_keeps_its_last_samples(subtype):
    encoded = by_sndfile("CAF", subtype, wave(0.5, channels=2))
    expected = soundfile.read(io.BytesIO(encoded), dtype="float32", always_2d=True)[0]
    np.testing.assert_array_equal(audio.decode(encoded)[0], expected)


@pytest.mark.parametrize(("file_format", "most"), [("OGG", 5e-7), ("MP3", 5e-6)])
@pytest.mark.parametrize("seconds", [0.5, 3.3])
def test_lossy_sound_is_as_long_as_libsndfiles_and_equal_but_for_rounding(file_format, most, seconds):
    encoded = by_sndfile(file_format, None, wave(seconds, channels=2))
    expected = soundfile.read(io.BytesIO(encoded), dtype="float32", always_2d=True)[0]
    samples = audio.decode(encoded)[0]
    assert samples.shape == expected.shape
    assert np.abs(samples - expected).max() <= most


def test_wide_integers_and_small_depths_keep_their_scale():
    for kind in ("WAV, 64 bit", "M4A, ALAC", "Matroska", "WavPack"):
        assert np.abs(audio.decode(made(kind))[0] - wave()).max() < 2**-7, kind


def test_many_threads_decode_what_one_does():
    clips = [made(kind) for kind in sorted(KINDS)] * 2
    with ThreadPoolExecutor(4) as pool:
        for clip, (samples, _) in zip(clips, pool.map(audio.decode, clips), strict=True):
            np.testing.assert_array_equal(samples, audio.decode(clip)[0])


def test_frames_that_hold_their_samples_in_different_ways_are_joined(monkeypatch):
    whole = audio.decode(made("WAV"))[0]
    halves = np.split(whole, 2)
    frames = [
        av.AudioFrame.from_ndarray((2**15 * halves[0].T).astype(np.int16), format="s16", layout="mono"),
        av.AudioFrame.from_ndarray(np.ascontiguousarray(halves[1].T), format="fltp", layout="mono"),
    ]
    for frame in frames:
        frame.sample_rate = 16_000
    monkeypatch.setattr(SoundReader, "_decode", lambda self: iter(frames))
    np.testing.assert_array_equal(audio.decode(made("WAV"))[0], whole)


# several tracks, pictures, tags ----------------------------------------------------------------------------------


def test_a_cover_picture_and_tags_that_are_no_text_are_passed_over():
    picture = b"\x00image/png\x00\x03\x00" + b"\x89PNG\r\n\x1a\n" + bytes(200)
    title = b"\x00\xff\xfe\xe9"
    frames = b"".join(
        name + struct.pack(">IH", len(content), 0) + content for name, content in ((b"APIC", picture), (b"TIT2", title))
    )
    size = len(frames)
    tag = b"ID3\x03\x00\x00" + bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127]) + frames
    np.testing.assert_array_equal(audio.decode(tag + made("MP3"))[0], audio.decode(made("MP3"))[0])
    np.testing.assert_array_equal(audio.decode(tag + made("FLAC"))[0], audio.decode(made("FLAC"))[0])


def test_of_several_tracks_one_is_read_and_a_film_without_sound_is_refused():
    np.testing.assert_array_equal(
        audio.decode(by_ffmpeg("matroska", "flac", tracks=2))[0], audio.decode(made("Matroska"))[0]
    )
    film = io.BytesIO()
    with av.open(film, "w", format="matroska") as output:
        track = output.add_stream("mpeg4", rate=5, width=16, height=16, pix_fmt="yuv420p")
        output.mux(track.encode(av.VideoFrame(16, 16, "yuv420p")))
        output.mux(track.encode(None))
    assert refusal(film.getvalue()) == "holds no sound track"


# strangers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """The address of a server, and the connections it has had."""
    listening, had = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        while True:
            try:
                connection = listening.accept()[0]
            except OSError:
                return
            had.append(connection)
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/clip.wav", had
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(timeout=5)


def playlists(target):
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{target}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
        f'mimeType="audio/mp4"><Representation id="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>",
        "ffmetadata": ";FFMETADATA1\ntitle=x\n",
        "lavfi": "sine=frequency=440:duration=1",
        "image2": "/tmp/%d.png",
    }


@pytest.mark.parametrize("kind", playlists(""))
def test_what_a_file_names_is_never_opened(kind, server, tmp_path):
    address, had = server
    secret = tmp_path / "secret.wav"
    secret.write_bytes(by_sndfile("WAV"))
    for target in (address, str(secret), f"file:{secret}"):
        text = playlists(target)[kind].encode()
        for content in (text, made("MP3")[:400] + text, b"RIFF\0\0\0\0WAVE" + text, b"ID3\x03\0\0\0\0\0\0" + text):
            assert refusal(content)
            (tmp_path / "list.wav").write_bytes(content)
            assert refusal(tmp_path / "list.wav")
    assert not had


def test_even_a_playlist_that_reached_ffmpeg_could_open_nothing(server):
    address, had = server
    playlist = playlists(address)["hls"].encode()
    with pytest.raises(av.error.FFmpegError):
        av.open(io.BytesIO(playlist), format="hls")
    assert had  # so it would
    had.clear()
    with pytest.raises(av.error.FFmpegError):
        av.open(io.BytesIO(playlist), format="hls", options=dict(decoder._OPTIONS))
    assert not had


def test_an_mp4_that_keeps_its_sound_elsewhere_does_not_get_it(server):
    address, had = server
    mov = made("MOV")
    entry = mov.index(b"dref") + 12  # after version, flags and count
    there = b"url \0\0\0\0" + address.encode() + b"\0"
    grown = 4 + len(there) - struct.unpack_from(">I", mov, entry)[0]
    elsewhere = bytearray(mov[:entry] + struct.pack(">I", 4 + len(there)) + there + mov[entry + 12 :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = mov.index(name) - 4
        struct.pack_into(">I", elsewhere, at, struct.unpack_from(">I", mov, at)[0] + grown)
    with contextlib.suppress(AudioError):
        np.testing.assert_array_equal(audio.decode(bytes(elsewhere))[0], audio.decode(mov)[0])
    assert not had


def test_only_the_named_codecs_decode():
    assert "encoded as tta" in refusal(by_ffmpeg("matroska", "tta"))
    assert "encoded as ac3" in refusal(by_ffmpeg("matroska", "ac3", 44_100))


@pytest.mark.parametrize("kind", ["FLAC, piped", "WebM, live", "MP3 without a length", "OGG", "AAC"])
def test_a_joined_or_endless_clip_is_read_up_to_the_limit(kind, monkeypatch):
    decoded = []
    decode = SoundReader._decode
    monkeypatch.setattr(SoundReader, "_decode", lambda self: (decoded.append(f.samples) or f for f in decode(self)))
    _, rate = audio.decode(made(kind))
    decoded.clear()
    clip = made(kind) * (30 if kind in ("MP3 without a length", "OGG", "AAC") else 1)
    assert "at most 1.5 s are taken" in refusal(clip, limits=RequestLimits(max_seconds=1.5))
    assert sum(decoded) <= 1.5 * rate + max(decoded, default=0)


def test_a_header_that_asks_for_much_is_refused_before_anything_is_made_of_it():
    wav = bytearray(by_sndfile("WAV"))
    for offset, form, value in ((22, "<H", 65_535), (24, "<I", 2**31 - 1)):
        lying = bytearray(wav)
        struct.pack_into(form, lying, offset, value)
        refusal(bytes(lying), limits=RequestLimits())


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_quiet_whatever_the_decoder_thinks_of_it(kind, capfd):
    clip, rng = made(kind), np.random.default_rng(0)
    for _ in range(15):
        damaged = bytearray(clip)
        for at in rng.integers(len(clip), size=8):
            damaged[at] = rng.integers(256)
        try:
            samples, _ = audio.decode(bytes(damaged), limits=RequestLimits())
        except AudioError as error:
            assert "\n" not in str(error)
        else:
            assert np.isfinite(samples).all()
    assert capfd.readouterr() == ("", "")


# names and places ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [b"http:x.wav", b"a%d?*.wav", b"concat:a|b.wav", b"\xff\xe9.wav", b"x" * 250 + b".wav"]
)
def test_a_file_is_read_whatever_its_name(name, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.write_bytes(made("WAV"))
    np.testing.assert_array_equal(audio.decode(path)[0], audio.decode(made("WAV"))[0])
    assert [file.path for file in sound_files.find(str(tmp_path))] == [path]
    assert not scan.scan_files([Sound(path)], tmp_path / "cache", jobs=1)[0].problem


def test_what_is_no_regular_file_is_said_to_be_none_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    assert refusal(tmp_path / "pipe.wav") == "is not a regular file"
    assert refusal(tmp_path / "folder.wav") == "is a folder"
    assert scan.scan_file(tmp_path / "pipe.wav").problem == "is not a regular file"
    with pytest.raises(DataError, match="is not a regular file"):
        sound_files.find(str(tmp_path / "pipe.wav"))
    with pytest.raises(DataError, match="cannot be read"):
        sound_files.find(str(tmp_path / ("x" * 300)))
    assert refusal(Path("/dev/null")) == "is not a regular file"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="whoever is root may read everything")
def test_a_file_that_may_not_be_read_is_said_to_be_that(tmp_path):
    (tmp_path / "a.wav").write_bytes(made("WAV"))
    (tmp_path / "a.wav").chmod(0)
    assert refusal(tmp_path / "a.wav") == "cannot be read (Permission denied)"


def test_linked_folders_are_walked_once_and_in_no_circle(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.wav").write_bytes(made("WAV"))
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    (tmp_path / "out" / "back").symlink_to(tmp_path / "in")
    assert [file.name for file in sound_files.find(str(tmp_path / "in"))] == ["link/a.wav"]


def test_every_ending_of_a_decodable_file_is_taken(tmp_path):
    assert {".m4a", ".webm", ".wma", ".mp4", ".3gp", ".amr", ".wv", ".spx", ".oga"} <= set(containers.SUFFIXES)
    for suffix in containers.SUFFIXES:
        (tmp_path / f"a{suffix.upper()}").write_bytes(b"x")
    assert len(sound_files.find(str(tmp_path))) == len(containers.SUFFIXES)


def test_every_container_is_one_of_ffmpegs():
    demuxers = {each for name in av.formats_available for each in name.split(",")}
    assert {kind.demuxer for kind in containers.KINDS} <= demuxers
    assert set(decoder._CODECS.split()) <= set(av.codecs_available) | {"opus"}


def test_decoding_loads_neither_libsndfile_nor_torch():
    script = "import sys; import soundstack.audio.decode; sys.exit(bool({'soundfile', 'torch'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == 0
