"""From an encoded sound file to examples of equal length: the project's audio policy, in one place.

===================  ==================================================================================
what comes           what happens
===================  ==================================================================================
any format           whatever libsndfile reads (WAV, FLAC, OGG, MP3, AIFF ...), 8 to 32 bit and float,
                     decoded to float32 in -1..1
several channels     ``mean``: averaged; ``first``: the first; ``each``: one example a channel
another rate         resampled to the nominal rate (soxr, high quality)
shorter / longer     zero-padded at the end / cropped to the nominal length
silent               kept; counted and reported
empty                refused
truncated            refused where the header tells (WAV, FLAC); a shortened OGG or MP3 is a shorter clip
NaN or infinite      refused, and so are values beyond any integer's full scale (powers would overflow)
over the limits      refused by its header where the header tells, and never decoded beyond the limit
===================  ==================================================================================

Refused clips raise :class:`AudioError`; data-set steps name the file and, with ``on_error=skip``, go on without it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from soundstack.errors import AudioError
from soundstack.limits import Limits

Channels = Literal["mean", "first", "each"]
Samples = NDArray[np.float32]

#: Streaming writers put this or more in a WAV's size fields when the length is not known (sox; ffmpeg: 0xFFFFFFFF).
_UNKNOWN_SIZE = 0x7FFFF000
#: More than float files that hold unscaled 32-bit integers.
_LOUDEST = 1e10
#: libsndfile's count of frames of a stream whose header gives none.
_UNKNOWN_FRAMES = (1 << 63) - 1


@dataclass(frozen=True)
class AudioSpec:
    """What the networks of one data set are fed: rate in Hz, length in seconds, and how channels are treated."""

    sample_rate: int
    seconds: float
    channels: Channels = "mean"

    @property
    def samples(self) -> int:
        """Number of samples of an example."""
        return max(1, round(self.sample_rate * self.seconds))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self)


def decode(source: Path | bytes, *, limits: Limits | None = None) -> tuple[Samples, int]:
    """Decode a whole sound file.

    Args:
        source: A path, or the bytes of an encoded file.
        limits: For sound from strangers: what exceeds them is refused, by its header before anything is decoded; and
            as headers lie, no more is ever decoded than they allow. Without them, everything that fits into memory
            is taken.

    Returns:
        Samples of shape (frames, channels), float32 in -1..1 (float files may exceed that), and the rate in Hz.

    Raises:
        AudioError: The file is unreadable, empty, truncated, over the limits, or holds values that are not finite.
    """
    with _opened(source, limits) as file:
        declared, rate, most = file.frames, file.samplerate, file.frames
        if limits is not None:
            most = limits.max_frames(rate, file.channels)
        samples = file.read(min(declared, most + 1), dtype="float32", always_2d=True)
        guessed = _length_is_a_guess(file)
    if limits is not None:
        limits.check_length(len(samples), rate, samples.shape[1])
    if len(samples) == 0:
        raise AudioError("holds no samples")
    if len(samples) < declared and not guessed:
        raise AudioError(f"is truncated: {declared} samples declared, {len(samples)} found")
    if missing := _missing_wav_bytes(source):
        raise AudioError(f"is truncated: its header declares {missing} more bytes of sound than the file holds")
    check_values(samples)
    return samples, rate


def check_values(samples: Samples) -> None:
    """Refuse samples that no sound has.

    Raises:
        AudioError: A value is not finite, or so large that sums of squares overflow.
    """
    loudest = max(float(samples.max()), -float(samples.min()))
    if not np.isfinite(loudest):  # NaN passes through max
        raise AudioError("holds values that are not finite (NaN or infinity)")
    if loudest > _LOUDEST:
        raise AudioError(f"holds values up to {loudest:.0e}; scale it to -1..1")


def declared_size(source: Path | bytes, limits: Limits) -> tuple[float, int]:
    """Read a file's header: its seconds, and its samples over all channels. A damaged file may hold less of both.

    Raises:
        AudioError: The file is unreadable, or over the limits by what its header says.
    """
    with _opened(source, limits) as file:
        frames = min(file.frames, limits.max_frames(file.samplerate, file.channels))
        return frames / file.samplerate, frames * file.channels


@contextmanager
def _opened(source: Path | bytes, limits: Limits | None) -> Iterator[soundfile.SoundFile]:
    """Open a sound file, check its header, and turn the library's errors into ours while it is open."""
    if limits is not None and isinstance(source, bytes):
        limits.check_bytes(len(source))
        if not _is_of_a_common_format(source):
            raise AudioError("cannot be decoded (format not recognised); send WAV, FLAC, OGG or MP3")
    stream = _Memory(source) if isinstance(source, bytes) else source
    try:
        with soundfile.SoundFile(stream) as file:
            if limits is not None:
                limits.check_form(file.samplerate, file.channels)
                if not _length_is_a_guess(file):
                    if file.frames >= _UNKNOWN_FRAMES:
                        raise AudioError("does not say how long it is; store it as a file, not as a stream")
                    limits.check_length(file.frames, file.samplerate, file.channels)
            yield file
    except MemoryError:
        raise AudioError("is damaged: its header declares more sound than fits into memory") from None
    except (soundfile.LibsndfileError, soundfile.SoundFileRuntimeError, OSError, ValueError) as error:
        raise AudioError(f"cannot be decoded ({_reason(error)}); send or store WAV, FLAC, OGG or MP3") from None


class _Memory(io.BytesIO):
    """A file in memory. Damaged headers make libsndfile seek before its start: that stays at the start, as there
    is no way from the library's callbacks to the caller but a traceback on the terminal."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return super().seek(0)


def _length_is_a_guess(file: soundfile.SoundFile) -> bool:
    """Tell whether libsndfile only guesses the length, from the file's size: an MP3 whose header does not tell it."""
    return bool(file.format == "MP3")


def _is_of_a_common_format(content: bytes) -> bool:
    """Tell WAV, FLAC, OGG, MP3 and AIFF by their first bytes: strangers do not get to libsndfile's rarer decoders."""
    mpeg = len(content) > 1 and content[0] == 0xFF and content[1] & 0xE0 == 0xE0
    return mpeg or content.startswith((b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM"))


def prepare(samples: Samples, rate: int, spec: AudioSpec) -> Samples:
    """Bring decoded sound (frames, channels) into the examples of a data set.

    Returns:
        float32 of shape (examples, spec.samples): one example, or one a channel with ``channels="each"``.
    """
    if spec.channels == "mean":
        examples = samples.mean(axis=1, dtype=np.float32)[None] if samples.shape[1] > 1 else samples.T
    elif spec.channels == "first":
        examples = samples[:, :1].T
    else:
        examples = samples.T
    length = spec.samples
    # Resampling what will be cropped away is wasted: keep a margin for the filter's ends, crop again after.
    longest = int((spec.seconds + 0.5) * rate) + 1
    examples = np.ascontiguousarray(examples[:, :longest])
    if rate != spec.sample_rate:
        resampled = soxr.resample(examples.T, rate, spec.sample_rate, quality="HQ")
        examples = np.ascontiguousarray(np.asarray(resampled, dtype=np.float32).reshape(-1, len(examples)).T)
    return fit_length(examples, length)


def fit_length(examples: Samples, length: int) -> Samples:
    """Zero-pad at the end or crop examples (n, samples) to ``length`` samples."""
    have = examples.shape[1]
    if have < length:
        return np.pad(examples, ((0, 0), (0, length - have)))
    return examples[:, :length]


def load(source: Path | bytes, spec: AudioSpec) -> Samples:
    """Decode a file and bring it into examples of shape (examples, spec.samples)."""
    samples, rate = decode(source)
    return prepare(samples, rate, spec)


def is_silent(samples: Samples) -> bool:
    """Tell whether every sample is digital zero."""
    return not samples.any()


def _reason(error: Exception) -> str:
    text = str(error).split(": ")[-1].strip().rstrip(".")
    return text[:1].lower() + text[1:] if text else type(error).__name__


def _missing_wav_bytes(source: Path | bytes) -> int:
    """Return how many bytes of a RIFF/WAVE data chunk are missing; libsndfile shortens such files without a word."""
    if isinstance(source, bytes):
        head, size = source[: 1 << 16], len(source)
    else:
        with source.open("rb") as file:
            head = file.read(1 << 16)
            size = source.stat().st_size
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return 0
    position = 12
    while position + 8 <= len(head):
        name, length = head[position : position + 4], struct.unpack_from("<I", head, position + 4)[0]
        if name == b"data":
            return 0 if length >= _UNKNOWN_SIZE else max(0, position + 8 + length - size)
        position += 8 + length + (length & 1)
    return 0
