"""Sound longer than a network was trained on is cut into overlapping windows of that length, as it comes from the file.

A clip of the training length is one window, a shorter one too (it is padded as in training). Of a longer one the
windows start every ``1 - OVERLAP`` of the length; what is left at the end gets a last window that ends with the sound,
unless it is shorter than ``TAIL`` of the length: encoders append that much silence, and training crops it as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from soundstack.audio.decoder import Samples

OVERLAP = 0.5
TAIL = 0.1


class Cut(NamedTuple):
    """A window of a clip: first and past-the-last frame, and its samples (stop - start, channels)."""

    start: int
    stop: int
    samples: Samples


def window_frames(rate: int, seconds: float) -> tuple[int, int]:
    """Length of a window and distance of two starts, in frames at ``rate`` Hz."""
    length = max(1, round(seconds * rate))
    return length, max(1, round(length * (1 - OVERLAP)))


def windows(blocks: Iterable[Samples], rate: int, seconds: float) -> Iterator[Cut]:
    """Cut sound into windows while it comes: a recording of hours is never whole in memory.

    Blocks are (frames, channels), the rate is in Hz, ``seconds`` the length of a window. Where the blocks end with an
    error, the windows before it are to be thrown away.
    """
    length, hop = window_frames(rate, seconds)
    kept: list[Samples] = []  # what windows to come may need, from frame `first` to frame `end`
    first = end = start = 0  # start: of the next window
    for block in blocks:
        kept.append(block)
        end += len(block)
        if end < start + length:
            continue
        sound = np.concatenate(kept)
        while start + length <= end:
            # Copied: a view would keep the whole stretch of sound alive while the window waits.
            yield Cut(start, start + length, sound[start - first : start - first + length].copy())
            start += hop
        # The last window of a clip ends with it, and may begin anywhere after the last whole one.
        kept, first = [sound[start - hop - first :].copy()], start - hop
    if not start:
        yield Cut(0, end, np.concatenate(kept))
    elif end - (start - hop + length) > TAIL * length:
        yield Cut(end - length, end, np.concatenate(kept)[-length:])
