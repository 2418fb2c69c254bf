"""An encoded sound file read block by block, to its end, by FFmpeg's libraries: the one way in which sound is decoded.

Whoever sent the file chose its content, so FFmpeg gets the bytes of one file and nothing else: which demuxer reads them
is told by :mod:`soundstack.audio.containers`, only the codecs named here decode them, and no protocol is there by which
what a file refers to could be opened. Of several sound tracks, the one that players choose is read; pictures and films
are passed over.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.codec.context import Flags2
from numpy.typing import NDArray

from soundstack.audio import containers
from soundstack.audio.limits import UNLIMITED, RequestLimits
from soundstack.utils.errors import AudioError

Samples = NDArray[np.float32]

#: Frames that are handed on at once: small beside a window, large beside the cost of a call.
BLOCK = 1 << 16
#: More than float files that hold unscaled 32-bit integers.
_LOUDEST = 1e10
_CODECS = (
    "aac adpcm_ima_qt adpcm_ima_wav adpcm_ms alac amrnb amrwb flac g726 g726le gsm gsm_ms mp1float mp2float mp2 mp3 "
    "mp3float opus pcm_alaw pcm_f32be pcm_f32le pcm_f64be pcm_f64le pcm_mulaw pcm_s16be pcm_s16be_planar pcm_s16le "
    "pcm_s16le_planar pcm_s24be pcm_s24le pcm_s24le_planar pcm_s32be pcm_s32le pcm_s32le_planar pcm_s64be pcm_s64le "
    "pcm_s8 pcm_u8 speex vorbis wavpack wmalossless wmapro wmav1 wmav2 wmavoice"
)
_OPTIONS = {
    "codec_whitelist": _CODECS.replace(" ", ","),
    "protocol_whitelist": "none",
    "max_probe_packets": "1",  # else megabytes of every WAV are searched for what might be hidden in it
}
#: FFmpeg's sample formats, as NumPy calls them; PyAV's own conversion lacks that of 64-bit integers.
_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
#: Of the packets of an MPEG stream, which finds its feet again after damage, so many may be bad.
_BAD_PACKETS = 0.01
#: What an MP3's length header counts and a decoder leaves out at the ends, at most.
_ENDS = 4 * 1152
#: FLAC's packets know their time; a gap of more seconds is lost sound.
_GAP_SECONDS = 0.001
#: Whose header tells how many samples there are, and whose packets are found by their own first bytes.
_EXACT, _MPEG = ("flac", "mp3", "nistsphere"), ("mp3", "aac")
#: Whose last packet may decode to more than the sound; FFmpeg leaves that in.
_PADDED = ("ogg", "mov")

#: In whose files FFmpeg finds a sample at once and exactly, by their headers: PCM in these, and FLAC's frames.
_SEEKABLE = ("wav", "aiff", "w64", "caf", "au", "nistsphere")

#: A frame is decoded in microseconds; threads that hand Python's lock to and fro for each take longer than one alone.
_DECODING = threading.Lock()

av.logging.set_level(None)  # its remarks would reach the terminal


class SoundReader:
    """An open sound file, for a ``with`` statement: its ``rate`` in Hz, its ``channels``, and ``frames`` read so far.

    ``expected`` frames should be there by the header or by an estimate; 0 where nothing is known.
    """

    def __init__(self, source: Path | bytes, limits: RequestLimits = UNLIMITED) -> None:
        """Open a file, given by its path or its bytes, and decode its beginning.

        What exceeds the limits is refused, by its header before anything is decoded; and as headers lie, no more is
        ever decoded than they allow.

        Raises:
            AudioError: The file cannot be read, is no sound file, empty, truncated or over the limits.
        """
        self._limits = limits
        self.frames = 0
        with ExitStack() as opening:
            if isinstance(source, bytes):
                self._limits.check_bytes(len(source))
            file = opening.enter_context(io.BytesIO(source) if isinstance(source, bytes) else opened(source))
            with _refusing():
                self._found = containers.look(file)
                file.seek(0)
                options = _OPTIONS | ({"ignore_length": "1"} if self._found.unbounded else {})
                form = self._found.demuxer
                container = av.open(file, "r", form, options, metadata_errors="replace", buffer_size=1 << 16)
                self._container = opening.enter_context(container)
                track = container.streams.best("audio")
            if not isinstance(track, av.AudioStream):
                raise AudioError("holds no sound track")
            self._track, self._context = track, self._codec(track)
            self.rate, self.channels = self._context.sample_rate, self._context.channels
            self._told = self._length(track.duration, track.time_base)
            self.expected = self._told or self._length(self._container.duration, Fraction(1, av.time_base))
            self._check_header()
            decoded = self._decode()
            first = next(decoded, None)
            if first is None:
                raise AudioError("holds no samples")
            self._frames = chain([first], decoded)
            if (self.rate, self.channels) != _form(first):  # a codec's extension may double both
                self.expected = self.expected * first.sample_rate // max(1, self.rate)
                self.rate, self.channels = _form(first)
                self._check_header()
            self._open = opening.pop_all()

    def __enter__(self) -> SoundReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _codec(self, track: av.AudioStream) -> av.AudioCodecContext:
        """What decodes a track: FFmpeg's choice, if it is one of ours, and its settings."""
        context = track.codec_context
        name = "unknown" if context is None else context.name  # FFmpeg has none for what it cannot decode at all
        if name not in _CODECS.split():
            raise AudioError(f"cannot be decoded (its sound is encoded as {name}); send or store {containers.SHOWN}")
        if self._found.big_endian and name.endswith("le"):
            swapped = av.CodecContext.create(f"{name[:-2]}be", "r")
            assert isinstance(swapped, av.AudioCodecContext)
            swapped.sample_rate, swapped.layout = context.sample_rate, context.layout
            context = swapped
        context.thread_count = 1
        if name in ("flac", "wavpack"):  # damage is else decoded to noise
            context.options = {"err_detect": "crccheck+explode"}
        if self._found.demuxer == "caf":  # FFmpeg takes padding off the end of ALAC that has none
            context.flags2 |= Flags2.skip_manual
        return context

    def _length(self, duration: int | None, unit: Fraction | None) -> int:
        return max(0, round(duration * unit * self.rate)) if duration and unit else 0

    def _check_header(self) -> None:
        self._limits.check_form(self.rate, self.channels)
        # Of these, FFmpeg guesses the length by the rate of bits at the beginning.
        guessed = self._found.demuxer in (*_MPEG, "amr")
        told = self._found.frames if guessed else self.expected
        slack = _ENDS if guessed else 0
        self._limits.check_length(max(0, told - slack), self.rate, self.channels)

    def blocks(self) -> Iterator[Samples]:
        """Yield the samples in order, each block (frames, channels), float32 in -1..1 (float files may exceed that).

        Raises:
            AudioError: The file is truncated, damaged, over the limits or holds values that are not finite; what has
                been yielded by then is to be thrown away.
        """
        block = self._block()
        while block is not None:
            following = self._block()
            padding = self.frames - self._told
            if following is None and self._found.demuxer in _PADDED and self._told and 0 < padding < self._newest:
                block = block[:-padding]
                self.frames -= padding
            _check_values(block)
            yield block
            block = following
        told, ends = (self._found.frames, _ENDS) if self._found.demuxer == "mp3" else (self._told, 0)
        if self._found.demuxer in _EXACT and self.frames < told - ends:
            raise AudioError(f"is truncated: {told:,} samples declared, {self.frames:,} found")

    def stretches(self, wanted: Iterable[tuple[float, float]]) -> Iterator[Samples | AudioError]:
        """Yield the samples of stretches, each (frames, channels), or what is wrong with the file there.

        A stretch is a start and an end in seconds; starts must not fall from one to the next, but stretches may
        overlap. The file is read once, up to the last end, and no more of it is held than the longest stretch and a few
        blocks. PCM and FLAC are not read between stretches; of what is encoded otherwise, what comes before counts.
        """
        blocks = self.blocks()
        kept: list[Samples] = []  # what stretches to come may need, from frame `first` to frame `end`
        first = end = 0
        problem: AudioError | None = None
        for seconds in wanted:
            start, stop = frames_of(*seconds, self.rate)
            try:
                if start - end > BLOCK and self._seek(start):
                    blocks, kept, first, end, problem = self.blocks(), [], self.frames, self.frames, None
            except AudioError as error:
                problem = error
            while end < stop and problem is None:
                try:
                    block = next(blocks, None)
                except AudioError as error:
                    problem = error
                    break
                if block is None:
                    problem = AudioError(f"ends at {end / self.rate:.2f} s")
                    break
                if end <= start:
                    kept, first = [], end
                kept.append(block)
                end += len(block)
            if stop > end:
                yield problem or AudioError("holds no samples")
            elif stop <= start:
                yield AudioError(f"holds no sample there at {self.rate:,} Hz")
            else:
                sound = np.concatenate(kept) if len(kept) > 1 else kept[0]
                yield sound[start - first : stop - first].copy()  # a view would keep all of it alive
                kept, first = [sound[start - first :]], start

    def _seek(self, frame: int) -> bool:
        """Go on at a frame or before it, as ``frames`` tells then; False where all up to it must be read.

        Raises:
            AudioError: It is damaged there.
        """
        found, codec = self._found.demuxer, self._track.codec_context
        if found in _SEEKABLE and codec.name.startswith("pcm_"):
            # A sample is found by the rate of bits in the header, which may be wrong.
            width = int("".join(filter(str.isdecimal, codec.name)) or 8)
            exact = codec.bit_rate == width * self.rate * self.channels
        else:
            exact = found == "flac"
        if not exact or self._track.time_base != Fraction(1, self.rate) or frame >= self._told:
            return False
        for target in (frame, 0):
            with _refusing():
                self._container.seek(target, stream=self._track)
            decoded = self._decode()
            reached = next(decoded, None)
            if reached is not None and reached.pts is not None and reached.pts <= target:
                self._frames, self.frames = chain([reached], decoded), reached.pts
                return True
        raise AudioError("is damaged: its beginning is not found again")

    def _block(self) -> Samples | None:
        """The next block, joined before it is looked at: frames are small and many. None at the end."""
        before, parts, fifo = self.frames, [], av.AudioFifo()
        with _DECODING:
            while self.frames - before < BLOCK and (frame := next(self._frames, None)) is not None:
                if _form(frame) != (self.rate, self.channels):
                    raise AudioError(
                        f"changes after {self.frames / self.rate:.2f} s from {self.channels} channels at {self.rate:,} "
                        f"Hz to {frame.layout.nb_channels} at {frame.sample_rate:,} Hz; store it in one form"
                    )
                self._newest = frame.samples
                self.frames += frame.samples
                self._limits.check_length(self.frames, self.rate, self.channels)
                frame.pts = None  # a gap in time is filled with nothing
                try:
                    fifo.write(frame)
                except ValueError:  # joined files may store their samples in different ways
                    parts.append(fifo.read())
                    fifo = av.AudioFifo()
                    fifo.write(frame)
            parts.append(fifo.read())
            found = [_values(part) for part in parts if part is not None]
        return np.concatenate(found) if found else None

    def _decode(self) -> Iterator[av.AudioFrame]:
        """Yield what FFmpeg makes of the packets, and refuse what loses sound on the way."""
        packets = bad = 0
        cut, resyncs, timed = False, self._found.demuxer in _MPEG, self._found.demuxer == "flac"
        next_pts: int | None = None
        with _refusing():
            for packet in self._container.demux(self._track):
                packets += 1
                try:
                    frames = self._frames_of(packet)
                except av.error.InvalidDataError:
                    bad, cut = bad + 1, True
                    continue
                cut = cut and not frames
                if bad and frames and not resyncs:
                    raise AudioError(f"is damaged: it cannot be decoded after {self.frames / self.rate:.2f} s")
                for frame in frames:
                    if timed and frame.pts is not None and frame.time_base:
                        if next_pts is not None and (frame.pts - next_pts) * frame.time_base > _GAP_SECONDS:
                            raise AudioError(f"is damaged: sound is missing after {self.frames / self.rate:.2f} s")
                        next_pts = frame.pts + round(frame.samples / frame.sample_rate / frame.time_base)
                    yield frame
        if bad and bad >= packets - 1:  # the last one is the end
            raise AudioError("is damaged: nothing of it can be decoded")
        if cut and self._found.demuxer != "mp3":
            raise AudioError("is truncated: its last part is not whole")
        if bad > max(1, _BAD_PACKETS * packets):
            raise AudioError(f"is damaged: {bad} of its {packets} parts cannot be decoded")

    def _frames_of(self, packet: av.Packet[av.AudioStream]) -> list[av.AudioFrame]:
        try:
            return self._context.decode(packet)
        except av.error.InvalidDataError:
            content = bytes(packet)
            behind = content[containers.tag_bytes(content) :]
            if len(behind) in (0, len(content)):
                raise
            return self._context.decode(av.Packet(behind))  # joined MP3s have a tag in the middle


def frames_of(start: float, end: float, rate: int) -> tuple[int, int]:
    """The first frame of a stretch in seconds, and the one after its last."""
    return round(start * rate), round(end * rate)


def _form(frame: av.AudioFrame) -> tuple[int, int]:
    return frame.sample_rate, frame.layout.nb_channels


def _values(frame: av.AudioFrame) -> Samples:
    """The samples of a frame, (samples, channels), scaled to -1..1."""
    channels, planes = frame.layout.nb_channels, frame.planes
    kind = _TYPES[frame.format.name.removesuffix("p")]  # planar: a plane a channel
    found = [np.frombuffer(memoryview(plane), kind, frame.samples * channels // len(planes)) for plane in planes]
    values: NDArray[Any] = np.array(found).T if len(found) > 1 else found[0].reshape(-1, channels)
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            return values.astype(np.float32, copy=False)
    size = values.dtype.itemsize
    numbers: NDArray[Any] = values.astype(np.float64 if size == 8 else np.float32)
    silence = 128 if values.dtype.kind == "u" else 0
    return ((numbers - silence) / 2.0 ** (8 * size - 1)).astype(np.float32, copy=False)


def _check_values(samples: Samples) -> None:
    """Refuse values that are not finite, or so large that sums of squares overflow."""
    loudest = max(float(samples.max()), -float(samples.min()))
    if not np.isfinite(loudest):  # NaN passes through max
        raise AudioError("holds values that are not finite (NaN or infinity)")
    if loudest > _LOUDEST:
        raise AudioError(f"holds values up to {loudest:.0e}; scale it to -1..1")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; an AudioError for all else, and a pipe is not waited for.

    The name is nowhere passed on: FFmpeg would take a colon in it for a protocol.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise AudioError(f"is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}")
        with open(descriptor, "rb") as file:  # noqa: PTH123
            yield file
    except FileNotFoundError:
        raise AudioError("does not exist") from None
    except (OSError, ValueError) as error:
        raise AudioError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what a damaged or unreadable file raises into an AudioError."""
    try:
        yield
    except av.error.EOFError:
        raise AudioError("holds no samples") from None
    except av.error.InvalidDataError:
        raise AudioError(f"cannot be decoded (it is damaged); send or store {containers.SHOWN}") from None
    except MemoryError:
        raise AudioError("is damaged: its header asks for more memory than there is") from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error)
        raise AudioError(f"cannot be decoded ({reason[:1].lower()}{reason[1:]})") from None
