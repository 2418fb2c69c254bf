"""The kinds of sound files that are read: how their first bytes look, how they are named, and where they should end.

FFmpeg reads a cut file to where it ends without a word. What the file's own header declares is therefore compared with
its size here, and with what was decoded in :mod:`soundstack.audio.decoder`.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from typing import BinaryIO, NamedTuple

from soundstack.utils.errors import AudioError

#: Streaming writers put this or more in a WAV's size fields when the length is not known (sox; ffmpeg: 0xFFFFFFFF).
_UNKNOWN_SIZE = 0x7FFFF000
_PIPED = 0xFFFFFFFF
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
#: A hostile file may consist of empty chunks; real ones, of one a second or so.
_MOST_CHUNKS = 100_000
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")


class Chunks(NamedTuple):
    """How a container is laid out: chunks of a header (name and size, in the order of ``form``) and content.

    ``sound`` names the chunk after which nothing matters; without one, those of ``names`` must be there whole, wherever
    they are. ``counted`` is what of the header is counted in the size, ``align`` what the next chunk's start is a
    multiple of.
    """

    start: int
    form: str
    sound: bytes = b""
    names: tuple[bytes, ...] = ()
    counted: int = 0
    align: int = 1


class FileKind(NamedTuple):
    """A kind of files: FFmpeg's demuxer, a pattern of the first bytes, endings of names, and its chunks."""

    demuxer: str
    magic: bytes
    suffixes: str = ""
    chunks: Chunks | None = None


_MOV = Chunks(0, ">I4s", names=(b"mdat", b"moof", b"moov"), counted=8)
#: In this order they are tried.
KINDS = (
    FileKind("wav", rb"(RIFF|RF64|BW64)....WAVE", "wav wave rf64 bw64", Chunks(12, "<4sI", b"data", align=2)),
    FileKind("wav", rb"RIFX....WAVE", "", Chunks(12, ">4sI", b"data", align=2)),
    FileKind("aiff", rb"FORM....AIF[FC]", "aif aiff aifc", Chunks(12, ">4sI", b"SSND", align=2)),
    FileKind("w64", re.escape(_W64), "w64", Chunks(40, "<16sQ", b"data", counted=24, align=8)),
    FileKind("caf", rb"caff", "caf", Chunks(8, ">4sq", b"data")),
    FileKind("asf", re.escape(_ASF), "wma asf", Chunks(0, "<16sQ", names=(_ASF, _ASF_DATA), counted=24)),
    FileKind("wv", rb"wvpk", "wv", Chunks(0, "<4sI", names=(b"wvpk",))),
    FileKind("mov", rb"....(ftyp|moov|mdat|wide|free|skip)", "m4a m4b mp4 mov 3gp 3g2", _MOV),
    FileKind("aac", rb"\xff[\xf0\xf1\xf8\xf9]", "aac adts"),  # a layer that MPEG audio does not have
    FileKind("mp3", rb"\xff[\xe0-\xff]", "mp3 mp2 mpga"),
    FileKind("au", rb"\.snd", "au snd"),
    FileKind("flac", rb"fLaC", "flac"),
    FileKind("ogg", rb"OggS", "ogg oga opus spx"),
    FileKind("matroska", rb"\x1aE\xdf\xa3", "webm weba mka mkv"),
    FileKind("amr", rb"#!AM", "amr awb"),
    FileKind("nistsphere", rb"NIST_1A\n", "nist sph"),
)
#: Endings of the names of all files that may be decoded.
SUFFIXES = tuple(f".{suffix}" for kind in KINDS for suffix in kind.suffixes.split())
#: Their common names, for whoever sent something else.
SHOWN = "WAV, FLAC, OGG, MP3, M4A, WebM or WMA"


class Container(NamedTuple):
    """What the first bytes of a file tell: FFmpeg's demuxer, and what FFmpeg does not know of a WAV or an MP3.

    ``unbounded``: sound goes on after what a WAV's header declares. ``frames`` is what the length header of an MP3
    declares, 0 where there is none.
    """

    demuxer: str
    unbounded: bool = False
    big_endian: bool = False
    frames: int = 0


def look(file: BinaryIO) -> Container:
    """Tell the container of a file by its content.

    Raises:
        AudioError: It is none of those that are read, holds no sound, or less than its header declares.
        OSError: The file cannot be read.
    """
    size = file.seek(0, os.SEEK_END)
    if not size:
        raise AudioError("is empty (0 bytes)")
    start, head = _after_tags(file)
    kind = next((kind for kind in KINDS if re.match(kind.magic, head, re.DOTALL)), None)
    if kind is None:
        raise AudioError(f"cannot be decoded (format not recognised); send or store {SHOWN}")
    missing, unbounded, frames = 0, False, 0
    if kind.chunks is not None:
        missing, unbounded = _walk(file, start, size, kind.chunks)
    elif kind.demuxer == "au":
        offset, length = struct.unpack_from(">II", head.ljust(12, b"\0"), 4)
        missing = max(0, offset + length - size) if 0 < length < _UNKNOWN_SIZE else 0
        _require_sound(offset, size)
    elif kind.demuxer == "matroska":
        missing = _missing_of_ebml(head, start, size)
    elif kind.demuxer == "ogg":
        missing = _missing_of_ogg(file, size)
    elif kind.demuxer == "mp3":
        frames = _frames_of_mp3(head)
    if missing:
        raise AudioError(f"is truncated: its header declares {missing:,} more bytes of sound than the file holds")
    return Container(kind.demuxer, unbounded, head[:4] == b"RIFX", frames)


def _require_sound(start: int, size: int) -> None:
    if start >= size:
        raise AudioError("holds no samples")


def tag_bytes(head: bytes) -> int:
    """Length of the ID3v2 tag that bytes begin with, or 0."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _after_tags(file: BinaryIO) -> tuple[int, bytes]:
    """Where a file begins behind ID3v2 tags and the zeros that pad them, and its first bytes from there."""
    start = 0
    while True:
        file.seek(start)
        head = file.read(4096)
        if length := tag_bytes(head):
            start += length
        elif start and head and not head[0]:
            start += len(head) - len(head.lstrip(b"\0"))
        else:
            return start, head


def _walk(file: BinaryIO, start: int, size: int, layout: Chunks) -> tuple[int, bool]:
    """Bytes beyond the file's end that a chunk up to that of the sound declares, and whether sound follows that."""
    is_wav, is_mov = layout.sound == b"data" and layout.align == 2, layout.form == ">I4s"
    header = struct.calcsize(layout.form)
    position, long_size = start + layout.start, 0
    seen = set()
    for _ in range(_MOST_CHUNKS):
        file.seek(position)
        raw = file.read(header + 16)
        if len(raw) < header:
            break
        fields = struct.unpack_from(layout.form, raw)
        name, length = fields if isinstance(fields[0], bytes) else fields[::-1]
        seen.add(name)
        if name == b"ds64" and len(raw) >= 24:
            (long_size,) = struct.unpack_from("<Q", raw, 16)
        if is_mov and length == 1 and len(raw) >= 16:
            (length,) = struct.unpack_from(">Q", raw, 8)
        of_sound = bool(layout.sound) and name[:4] == layout.sound
        if of_sound and length in (0, layout.counted, _PIPED):
            _require_sound(position + header, size)
        if of_sound and is_wav:
            length = long_size if length == _PIPED and long_size else length
            if length == 0 or (length >= _UNKNOWN_SIZE and length != long_size):
                return 0, False
        if length < layout.counted:  # to the end of the file, or nonsense
            break
        end = position + header - layout.counted + length
        if end > size:
            # What is no chunk of theirs, at the end of a file, is somebody's tag.
            return end - size if name in layout.names or layout.sound else 0, False
        position = end + -end % layout.align
        if of_sound:
            file.seek(position)
            return 0, is_wav and _is_no_chunk(file.read(8))
    if is_mov and b"moov" not in seen:
        raise AudioError("is truncated: the index of its sound (moov) is missing")
    return 0, False


def _is_no_chunk(head: bytes) -> bool:
    """Tell sound from what may follow it in a WAV: another chunk, a tag, zeros that pad."""
    return len(head) == 8 and any(head) and not all(32 <= byte < 127 for byte in head[:3])


def _missing_of_ebml(head: bytes, start: int, size: int) -> int:
    """A Matroska file is a header and one segment; a live recording does not tell that one's size."""
    position = 0
    for length_of_id in (4, 4):
        position += length_of_id
        if position >= len(head) or not head[position]:
            return 0
        width = 9 - head[position].bit_length()
        value = int.from_bytes(head[position : position + width], "big") & (1 << 7 * width) - 1
        unknown = value == (1 << 7 * width) - 1
        position += width + (0 if unknown else value)
    return 0 if unknown else max(0, start + position - size)


def _missing_of_ogg(file: BinaryIO, size: int) -> int:
    """Bytes missing of the last page, not whole pages; an AudioError for a damaged one: FFmpeg would leave it out."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(27 + 255)
        if head[:4] != b"OggS":
            file.seek(position)
            if b"OggS" in file.read(2 * 65_307):  # no page is longer
                raise AudioError("is damaged: a part of it is no Ogg page")
            break  # somebody's tag
        length = 27 + head[26] + sum(head[27 : 27 + head[26]]) if len(head) > 27 else 28
        if position + length > size:
            return position + length - size
        file.seek(position)
        page = file.read(length)
        # Ogg's checksum is zlib's with the bits of every byte, and of the result, in the other order.
        plain = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
        checksum = (zlib.crc32(plain, 0xFFFFFFFF) ^ 0xFFFFFFFF).to_bytes(4, "big").translate(_REVERSED)
        if checksum != page[22:26]:
            raise AudioError(f"is damaged: the checksum of its page at byte {position:,} is wrong")
        position += length
    return 0


def _frames_of_mp3(head: bytes) -> int:
    """Samples by the length header that most encoders put into a silent first frame."""
    for name in (b"Xing", b"Info"):
        at = head.find(name, 0, 200)
        if at >= 0 and head[at + 7 : at + 8] and head[at + 7] & 1:
            per_frame = 1152 if head[1] & 0x08 else 576
            return int.from_bytes(head[at + 8 : at + 12], "big") * per_frame
    return 0
