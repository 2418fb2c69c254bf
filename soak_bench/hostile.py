"""Requests that a scoring server must refuse, or answer, but never choke on: seeded, and as many as are wanted.

Every kind is a function of its turn and of a random generator; kinds take turns, so that a few hundred requests hold
all of them, and some thousands hold every truncation of a small WAV.
"""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import soundfile

JSON = "application/json"
FORMATS = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3"}
#: What the bytes of the header of a canonical WAV mean: name, offset, struct format.
_WAV_FIELDS = (
    ("RIFF size", 4, "<I"), ("fmt size", 16, "<I"), ("format", 20, "<H"), ("channels", 22, "<H"), ("rate", 24, "<I"),
    ("byte rate", 28, "<I"), ("block", 32, "<H"), ("bits", 34, "<H"), ("data size", 40, "<I"),
)  # fmt: skip
_EXTREMES = (0, 1, 2, 3, 7, 255, 256, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_ZEROS_SECONDS = 3 * 3600


class Hostile(NamedTuple):
    """A request: its kind, what is special about it, and what is sent."""

    kind: str
    detail: str
    body: bytes
    content_type: str | None = JSON


#: The number of the turn, from 0, and the generator of this request.
Turn = tuple[int, np.random.Generator]


@dataclass(frozen=True)
class Clips:
    """Small valid clips of every format, and some that are valid but must not be decoded."""

    small: dict[str, bytes]
    zeros: bytes

    @property
    def wav(self) -> bytes:
        """A WAV of a few hundred bytes: all its truncations are sent."""
        return self.small["wav"]


@cache
def clips() -> Clips:
    """Make the clips that are spoilt, once."""
    tone = (0.3 * np.sin(np.arange(1200) / 5)).astype(np.float32)
    small = {name: encoded(tone, 8000, kind) for name, kind in FORMATS.items()}
    small["wav"] = encoded(tone[:100], 8000, "WAV")
    return Clips(small, _zeros())


def encoded(samples: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    """Encode samples (frames,) or (frames, channels)."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, subtype=subtype)
    return stream.getvalue()


def _zeros() -> bytes:
    """A FLAC of silence, small to send and hours to decode."""
    stream = io.BytesIO()
    block = np.zeros(8000 * 600, dtype=np.int16)
    with soundfile.SoundFile(stream, "w", 8000, 1, format="FLAC") as file:
        for _ in range(_ZEROS_SECONDS // 600):
            file.write(block)
    return stream.getvalue()


def base64_of(clip: bytes) -> str:
    """A clip as it stands in JSON."""
    return base64.b64encode(clip).decode()


def records(*rows: Any, **more: Any) -> bytes:
    """A body with a value a row."""
    return json.dumps({"dataframe_records": [{"audio": row} for row in rows], **more}).encode()


def stream(seed: int) -> Iterator[Hostile]:
    """Yield hostile requests without end: one kind after the other, the same for the same seed.

    But for the serial numbers and times that encoders write into an OGG and a WAV of floats.
    """
    turn = 0
    while True:
        for number, (kind, make) in enumerate(KINDS.items()):
            detail, body, *content_type = make((turn, np.random.default_rng([seed, turn, number])))
            yield Hostile(kind, detail, body, *content_type)
        turn += 1


def truncations() -> int:
    """How many truncations of the small WAV there are."""
    return len(clips().wav)


Made = tuple[str, bytes] | tuple[str, bytes, str | None]


def _truncated_wav(turn: Turn) -> Made:
    length = turn[0] % truncations()
    return f"{length} bytes of a WAV", records(base64_of(clips().wav[:length]))


def _truncated(turn: Turn) -> Made:
    number, rng = turn
    name = ("flac", "ogg", "mp3")[number % 3]
    clip = clips().small[name]
    length = int(rng.integers(len(clip)))
    return f"{length} bytes of {name}", records(base64_of(clip[:length]))


def _flipped(turn: Turn) -> Made:
    number, rng = turn
    name = tuple(FORMATS)[number % len(FORMATS)]
    clip = bytearray(clips().small[name])
    # Half of them in the header, where it hurts.
    reach = min(len(clip), 64) if rng.integers(2) else len(clip)
    bits = sorted(int(bit) for bit in rng.integers(reach * 8, size=rng.integers(1, 9)))
    for bit in bits:
        clip[bit // 8] ^= 1 << bit % 8
    return f"{name} with bits {bits} flipped", records(base64_of(bytes(clip)))


def _header(turn: Turn) -> Made:
    number, rng = turn
    name, offset, layout = _WAV_FIELDS[number % len(_WAV_FIELDS)]
    value = int(rng.choice(_EXTREMES)) & (0xFFFF if layout == "<H" else 0xFFFFFFFF)
    clip = bytearray(clips().wav)
    struct.pack_into(layout, clip, offset, value)
    return f"WAV with {name} {value}", records(base64_of(bytes(clip)))


def _huge(turn: Turn) -> Made:
    number, rng = turn
    if number % 2:
        clip = bytearray(clips().small["flac"])
        clip[21:26] = bytes([clip[21] | 0x0F, 255, 255, 255, 255])  # 2**36 - 1 samples
        return "FLAC that declares 2**36-1 samples", records(base64_of(bytes(clip)))
    clip = bytearray(clips().wav)
    size = int(rng.choice([0x7FFFEFFF, 0x7FFFF000, 0x80000000, 0xFFFFFF00, 0xFFFFFFFF]))
    struct.pack_into("<I", clip, 40, size)
    struct.pack_into("<I", clip, 4, min(size + 36, 0xFFFFFFFF))
    return f"WAV that declares {size} bytes", records(base64_of(bytes(clip)))


def _base64(turn: Turn) -> Made:
    number, rng = turn
    text = base64_of(clips().wav)
    place = int(rng.integers(len(text)))
    wrong = (
        text[:-1], text[1:], text + "=", text[:place] + "!" + text[place:], text[:place] + "é" + text[place:], "=", "A",
        text[:place] + "\x00" + text[place:], "data:audio/wav;base64," + text, "/etc/passwd", "file:///etc/passwd",
        "http://127.0.0.1/clip.wav", "../../clip.wav", "\ud800", text[:place] + "\n" + text[place:], "=" * 1000,
    )  # fmt: skip
    value = wrong[number % len(wrong)]
    return f"base64 variant {number % len(wrong)}", records(value)


def _not_finite(turn: Turn) -> Made:
    number, rng = turn
    value = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45)[number % 6]
    samples = np.zeros(800, dtype=np.float32)
    samples[rng.integers(800, size=1 + number % 5)] = value
    return f"float WAV with {value}", records(base64_of(encoded(samples, 8000, "WAV", "FLOAT")))


def _no_samples(turn: Turn) -> Made:
    kind = ("WAV", "FLAC", "OGG", "AIFF", "AU")[turn[0] % 5]
    return f"{kind} without samples", records(base64_of(encoded(np.zeros((0, 1), np.float32), 8000, kind)))


def _rate(turn: Turn) -> Made:
    rate = (1, 2, 10, 999, 10_000_000, 655_350, 192_001, 2**31 - 1)[turn[0] % 8]
    samples = np.zeros((1, 200, 20_000)[turn[0] % 3], dtype=np.float32) + 0.1
    return f"{len(samples)} samples at {rate} Hz", records(base64_of(encoded(samples, rate, "WAV")))


def _channels(turn: Turn) -> Made:
    count = (64, 65, 255, 256, 1024)[turn[0] % 5]
    return f"{count} channels", records(base64_of(encoded(np.zeros((50, count), np.float32) + 0.1, 8000, "WAV")))


def _deep(turn: Turn) -> Made:
    depth = (20, 500, 900, 1100, 5000, 100_000)[turn[0] % 6]
    nested = "[" * depth + "]" * depth if turn[0] % 2 else '{"a":' * depth + "1" + "}" * depth
    where = turn[0] // 2 % 4
    text = (
        nested,
        '{"dataframe_records": [{"audio": ' + nested + "}]}",
        '{"dataframe_records": [{"audio": "AAAA"}], "params": {"top_k": ' + nested + "}}",
        '{"dataframe_records": ' + nested + "}",
    )[where]
    return f"{depth} levels in place {where}", text.encode()


def _content_type(turn: Turn) -> Made:
    kinds = (
        None, "", "text/plain", "text/csv", "application/xml", "multipart/form-data", "multipart/form-data; boundary=x",
        "application/octet-stream", "audio/wav", "application/json; charset=utf-16", "application/json; charset=no",
        "application/x-parquet", "application/vnd.apache.arrow.file", ";;;", "a" * 2000, "application/json;" * 50,
    )  # fmt: skip
    kind = kinds[turn[0] % len(kinds)]
    body = clips().wav if turn[0] // len(kinds) % 2 else records(base64_of(clips().wav))
    return f"content type {str(kind)[:40]!r}", body, kind


def _columns(turn: Turn) -> Made:
    text = base64_of(clips().wav)
    bodies: tuple[Any, ...] = (
        {"dataframe_records": [{"sound": text}]}, {"dataframe_records": [{"audio": text, "more": 1}]},
        {"dataframe_records": [{}]}, {"dataframe_records": []}, {"dataframe_records": text},
        {"dataframe_records": [text]}, {"dataframe_records": [[text]]}, {"dataframe_records": {"audio": text}},
        {"dataframe_split": {"columns": ["audio"], "data": [[text], [text, text]]}},
        {"dataframe_split": {"columns": ["audio", "audio"], "data": [[text, text]]}},
        {"dataframe_split": {"columns": [], "data": []}}, {"dataframe_split": {"data": [[text]]}},
        {"dataframe_split": {"index": [0, 0, 0], "columns": ["audio"], "data": [[text]]}}, {"dataframe_split": None},
        {"instances": [text]}, {"instances": [{"audio": {"b64": text}}]}, {"instances": {}}, {"inputs": text},
        {"inputs": {"audio": [text, None]}}, {"inputs": [[[[text]]]]}, {"audio": text}, {"columns": ["audio"]},
        {"dataframe_records": [{"audio": text}], "instances": [1]}, {"signature_name": "x"}, [{"audio": text}],
        {"dataframe_records": [{"audio": text}], "params": [1]}, {"dataframe_records": [{"AUDIO": text}, {"audio": 1}]},
    )  # fmt: skip
    number = turn[0] % len(bodies)
    return f"form {number}: {json.dumps(bodies[number])[:60]}", json.dumps(bodies[number]).encode()


def _params(turn: Turn) -> Made:
    wanted: tuple[dict[str, Any], ...] = (
        {"unknown": 1}, {"top_k": "many"}, {"top_k": -1}, {"top_k": 10**30}, {"top_k": 1.5}, {"top_k": None},
        {"top_k": [1]}, {"top_k": {}}, {"top_k": True}, {"raw_scores": "yes"}, {"raw_scores": 2}, {"": 0},
        {"top_k" * 1000: 0}, {"__class__": "x"}, {f"p{number}": number for number in range(500)}, {"top_k": 10**9},
        {"on_error": "explode"}, {"timeline": "true"}, {"max_bytes": -1}, {"max_seconds": 1e308}, {"max_clips": 0},
    )  # fmt: skip
    params = wanted[turn[0] % len(wanted)]
    return f"params {json.dumps(params)[:60]}", records(base64_of(clips().wav), params=params)


def _numbers(turn: Turn) -> Made:
    number = ("1e999", "-1e999", "NaN", "Infinity", "1" + "0" * 4000, "1" + "0" * 5000, "1" * 100_000, "1e-999", "-0")[
        turn[0] % 9
    ]
    text = base64_of(clips().wav)
    body = (
        f'{{"dataframe_records": [{{"audio": {number}}}]}}',
        f'{{"dataframe_records": [{{"audio": "{text}"}}], "params": {{"top_k": {number}}}}}',
        f'{{"dataframe_split": {{"index": [{number}], "columns": ["audio"], "data": [["{text}"]]}}}}',
    )[turn[0] // 9 % 3]
    return f"number {number[:20]} in form {turn[0] // 9 % 3}", body.encode()


def _bomb(turn: Turn) -> Made:
    rows = (1, 1, 3)[turn[0] % 3]
    return f"{rows} FLAC of {_ZEROS_SECONDS} s of zeros", records(*[base64_of(clips().zeros)] * rows)


def _empty(turn: Turn) -> Made:
    body = (b"", b" ", b"null", b"[]", b"{}", b"0", b'""', b"true", b"\n\n", b"{", b"[[", b'"', b"\xef\xbb\xbf{}")[
        turn[0] % 13
    ]
    return f"body {body!r}", body


def _utf8(turn: Turn) -> Made:
    number, rng = turn
    body = bytearray(records(base64_of(clips().wav)))
    places = [int(place) for place in rng.integers(len(body), size=1 + number % 3)]
    for place in places:
        body[place] = int(rng.choice([0x80, 0xC0, 0xF5, 0xFE, 0xFF]))
    return f"invalid UTF-8 at {places}", bytes(body)


def _twice(turn: Turn) -> Made:
    text = base64_of(clips().wav)
    body = (
        f'{{"dataframe_records": [{{"audio": "{text}", "audio": "x"}}]}}',
        f'{{"dataframe_records": [{{"audio": "x", "audio": "{text}"}}]}}',
        f'{{"dataframe_records": [], "dataframe_records": [{{"audio": "{text}"}}]}}',
        f'{{"dataframe_records": [{{"audio": "{text}"}}], "params": {{"top_k": 1, "top_k": "x"}}}}',
        f'{{"dataframe_records": [{{"audio": "{text}"}}], "params": {{}}, "params": {{"no": 1}}}}',
    )[turn[0] % 5]
    return f"duplicated keys {turn[0] % 5}", body.encode()


def _values(turn: Turn) -> Made:
    odd: tuple[Any, ...] = (None, 0, 1.5, True, [], {}, "", [1, 2], {"b64": "AAAA"}, -1, " ", [None], [[]])
    value = odd[turn[0] % len(odd)]
    rows = [value] if turn[0] // 13 % 2 else [base64_of(clips().wav), value]
    return f"row {value!r}", records(*rows)


def _rows(turn: Turn) -> Made:
    count = (257, 300, 1000, 5000)[turn[0] % 4]
    return f"{count} rows", records(*["AAAA"] * count)


def _noise(turn: Turn) -> Made:
    number, rng = turn
    noise = rng.bytes(int(rng.integers(1, 3000)))
    heads = (b"", b"RIFF", b"fLaC", b"OggS", b"ID3\x03", b"\xff\xfb", b"\x89PNG\r\n", b"PK\x03\x04", b"FORM", b".snd")
    head = heads[number % len(heads)]
    if number % 3 == 0:
        return f"body of {len(noise)} random bytes", head + noise
    return f"clip of {head!r} and {len(noise)} random bytes", records(base64_of(head + noise))


def _json_spoilt(turn: Turn) -> Made:
    number, rng = turn
    body = records(base64_of(clips().wav), params={"top_k": 1})
    place = int(rng.integers(1, len(body)))
    if number % 2:
        return f"JSON cut after {place} bytes", body[:place]
    return f"JSON with a byte too many at {place}", body[:place] + rng.bytes(1) + body[place:]


KINDS: dict[str, Callable[[Turn], Made]] = {
    "truncated WAV": _truncated_wav,
    "truncated FLAC, OGG, MP3": _truncated,
    "flipped bits": _flipped,
    "broken header": _header,
    "huge declared size": _huge,
    "wrong base64": _base64,
    "not finite": _not_finite,
    "no samples": _no_samples,
    "sampling rate": _rate,
    "channels": _channels,
    "deep JSON": _deep,
    "content type": _content_type,
    "columns": _columns,
    "parameters": _params,
    "huge numbers": _numbers,
    "decompression bomb": _bomb,
    "empty body": _empty,
    "invalid UTF-8": _utf8,
    "duplicated keys": _twice,
    "row values": _values,
    "too many rows": _rows,
    "random bytes": _noise,
    "spoilt JSON": _json_spoilt,
}
