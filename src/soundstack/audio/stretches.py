"""Stretches of recordings: sounds that are a part of a file, which may be hours long and have hundreds of them.

A recording is read once for all of its stretches, from front to back, by whichever of the threads that take them comes
first; a stretch's samples are those that the same part would have, saved as a lossless file of its own.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from soundstack.audio.decoder import Samples, SoundReader, frames_of, opened
from soundstack.audio.sound import Stretch
from soundstack.utils.errors import AudioError


class Piece(NamedTuple):
    """The samples of a stretch (frames, channels), their rate in Hz, and what says which sound it is.

    That is the beginning of the file's SHA-256 as of a whole file, and the first frame and the one after the last.
    """

    samples: Samples
    rate: int
    content: str


#: What gives the piece of a stretch, once, in any thread; an AudioError where it cannot be had.
Take = Callable[[], Piece]
if TYPE_CHECKING:
    from io import BufferedReader

Place = TypeVar("Place", bound=Hashable)


def takes(
    sounds: Iterable[tuple[Place, Stretch | None]], at_hand: Callable[[Place], AbstractContextManager[Path]]
) -> dict[int, Take]:
    """What takes each of the stretches among sounds, by their numbers in order; ``at_hand`` gives a place's file.

    Stretches of a file are read in one go as long as their starts do not fall. They are to be taken about in their
    order: what is passed by waits in memory. A file is open from the first that is taken to the last.
    """
    runs: list[tuple[Place, list[int], list[Stretch]]] = []
    newest: dict[Place, tuple[list[int], list[Stretch]]] = {}
    for number, (place, stretch) in enumerate(sounds):
        if stretch is None:
            continue
        if place not in newest or stretch.start < newest[place][1][-1].start:
            newest[place] = ([], [])
            runs.append((place, *newest[place]))
        newest[place][0].append(number)
        newest[place][1].append(stretch)
    found: dict[int, Take] = {}
    for place, numbers, stretches in runs:
        recording = _Recording(at_hand(place), stretches)
        found |= {number: partial(recording.take, which) for which, number in enumerate(numbers)}
    return found


class _Recording:
    """A file of which stretches are taken, by several threads."""

    def __init__(self, file: AbstractContextManager[Path], stretches: Sequence[Stretch]) -> None:
        self._lock, self._next, self._last = threading.Lock(), 0, len(stretches) - 1
        self._reading = _read(file, stretches)
        self._passed: dict[int, Piece | Exception] = {}

    def take(self, which: int) -> Piece:
        with self._lock:
            while which not in self._passed:
                self._passed[self._next] = next(self._reading)
                if self._next == self._last:
                    self._reading.close()
                self._next += 1
            piece = self._passed.pop(which)
        if isinstance(piece, Exception):
            raise piece
        return piece


def _read(file: AbstractContextManager[Path], stretches: Sequence[Stretch]) -> Generator[Piece | Exception, None, None]:
    try:
        with file as path:
            with opened(path) as raw:
                digest = hashlib.file_digest(cast("BufferedReader", raw), "sha256").hexdigest()[:32]
            with SoundReader(path) as sound:
                for stretch, samples in zip(stretches, sound.stretches(stretches), strict=True):
                    if isinstance(samples, AudioError):
                        yield samples
                    else:
                        first, stop = frames_of(*stretch, sound.rate)
                        yield Piece(samples, sound.rate, f"{digest}@{first}-{stop}")
    except Exception as error:  # every stretch of the file has it
        while True:
            yield error
