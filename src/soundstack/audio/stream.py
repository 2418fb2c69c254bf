"""A sound file read in blocks and cut into windows as it comes: a recording of hours is never whole in memory.

The windows are those of :func:`soundstack.audio.windows.spans`, their samples those of
:func:`soundstack.audio.decode.decode`, which joins the same blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from soundstack.audio.decoder import Samples, SoundReader
from soundstack.audio.windows import TAIL, window_frames


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


def windows(sound: SoundReader, seconds: float) -> Iterator[Cut]:
    """Yield the windows of ``seconds`` of an open file, in order.

    Raises:
        AudioError: The file is truncated, damaged, or holds values that are not finite; windows before the damage have
            been yielded by then and are to be thrown away.
    """
    cutter = Cutter(sound.rate, seconds)
    for block in sound.blocks():
        yield from cutter.feed(block)
    yield from cutter.end()
