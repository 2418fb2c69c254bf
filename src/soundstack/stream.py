"""A sound file read in blocks and cut into windows as it comes: a recording of hours is never whole in memory.

The windows are those of :func:`soundstack.windows.spans`, their samples those of :func:`soundstack.audio.decode`, and
what that refuses is refused here, for the same reasons.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from soundstack.audio import Samples, _missing_wav_bytes, _reason, check_values
from soundstack.errors import AudioError
from soundstack.windows import TAIL, window_frames

#: Frames that are decoded at once: small beside a window, large beside the cost of a call.
BLOCK = 1 << 16


@dataclass(frozen=True)
class Cut:
    """A window of a file: first and past-the-last frame, and its samples (stop - start, channels)."""

    start: int
    stop: int
    samples: Samples


class Cutter:
    """Cuts sound that arrives in blocks into the windows that ``spans`` names for the whole."""

    def __init__(self, rate: int, seconds: float) -> None:
        self._length, self._hop = window_frames(rate, seconds)
        self._kept: list[Samples] = []
        self._first = 0  # the frame at which what is kept begins
        self._last: int | None = None  # start of the last whole window
        self.frames = 0

    def feed(self, block: Samples) -> Iterator[Cut]:
        """Take the next samples (frames, channels) and yield the windows they complete."""
        self._kept.append(block)
        self.frames += len(block)
        last = self._last
        start = 0 if last is None else last + self._hop
        if self.frames < start + self._length:
            return
        sound = self._joined()
        while self.frames >= start + self._length:
            last = start
            yield self._cut(sound, start, start + self._length)
            start += self._hop
        # The last window of a file ends with it, and may begin anywhere after the last whole one.
        assert last is not None
        self._kept = [sound[last - self._first :].copy()]
        self._first = self._last = last

    def end(self) -> Iterator[Cut]:
        """Yield the window that ends with the sound, where there is one."""
        if self._last is None:
            yield self._cut(self._joined(), 0, self.frames)
        elif self.frames - (self._last + self._length) > TAIL * self._length:
            yield self._cut(self._joined(), self.frames - self._length, self.frames)

    def _joined(self) -> Samples:
        return np.concatenate(self._kept)

    def _cut(self, sound: Samples, start: int, stop: int) -> Cut:
        # Copied: a view would keep the whole stretch of sound alive while the window waits.
        return Cut(start, stop, sound[start - self._first : stop - self._first].copy())


class _Forward(soundfile.SoundFile):
    """A file that is only read onwards: soundfile else seeks after every read, which spoils the next frame of MP3."""

    def seekable(self) -> bool:
        """Say no, whatever the file could do."""
        return False


class SoundStream:
    """An open sound file; use it in a ``with`` statement.

    ``rate`` is in Hz, ``declared`` the number of frames its header tells (a guess for MP3), ``frames`` what
    has been read so far.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            AudioError: It cannot be read or is no sound file.
        """
        self._path = path
        with _refusing():
            self._file = _Forward(path)
        self.rate: int = self._file.samplerate
        self.declared: int = self._file.frames
        self.frames = 0

    def __enter__(self) -> SoundStream:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(soundfile.SoundFileError):
            self._file.close()

    def windows(self, seconds: float) -> Iterator[Cut]:
        """Yield the windows of ``seconds`` in order.

        Raises:
            AudioError: The file is empty, truncated, damaged, or holds values that are not finite; windows before
                the damage have been yielded by then and are to be thrown away.
        """
        cutter = Cutter(self.rate, seconds)
        while len(block := self._read()):
            if not self.frames and (missing := _missing_wav_bytes(self._path)):
                raise AudioError(f"is truncated: its header declares {missing} more bytes of sound than the file holds")
            check_values(block)
            self.frames += len(block)
            yield from cutter.feed(block)
        if self.frames == 0:
            raise AudioError("holds no samples")
        # libsndfile only guesses the length of an MP3 whose header does not tell it.
        if self.frames < self.declared and self._file.format != "MP3":
            raise AudioError(f"is truncated: {self.declared} samples declared, {self.frames} found")
        yield from cutter.end()

    def _read(self) -> Samples:
        with _refusing():  # not past the length that the header tells: decoding the whole stops there, too
            block: Samples = self._file.read(min(BLOCK, self.declared - self.frames), dtype="float32", always_2d=True)
        return block


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what a damaged or unreadable file raises into an AudioError."""
    try:
        yield
    # TypeError: a name that ends in .raw asks for a rate and a format.
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise AudioError(f"cannot be decoded ({_reason(error)}); send or store WAV, FLAC, OGG or MP3") from None
