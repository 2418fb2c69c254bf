"""Sound longer than a network was trained on: overlapping windows of that length, and the mean of what they say.

A clip of the training length is one window, a shorter one too (it is padded as in training). Of a longer one the
windows start every ``1 - OVERLAP`` of the length; what is left at the end gets a last window that ends with the sound,
unless it is shorter than ``TAIL`` of the length: encoders append that much silence, and training crops it as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundstack.recognisers.base import Decoded, Recogniser

Floats = NDArray[np.float64]

OVERLAP = 0.5
TAIL = 0.1
#: Windows that are scored together: bounds the memory of a request or a file, whatever its length.
BATCH = 32
#: Seconds of sound that a request has scored together, for long windows: bounds the time between two looks at a clock.
SECONDS = 160.0


@dataclass(frozen=True)
class Timeline:
    """What a recogniser says of a clip, window by window.

    ``starts`` and ``ends`` are in seconds (W,); ``scores`` and calibrated ``probabilities`` are (W, K).
    """

    starts: Floats
    ends: Floats
    scores: Floats
    probabilities: Floats

    @property
    def mean_scores(self) -> Floats:
        """Scores (K,) of the whole clip."""
        return np.asarray(self.scores.mean(axis=0))

    @property
    def mean_probabilities(self) -> Floats:
        """Probabilities (K,) of the whole clip; they sum to one."""
        return np.asarray(self.probabilities.mean(axis=0))


def spans(frames: int, rate: int, seconds: float) -> list[tuple[int, int]]:
    """First and past-the-last frame of every window of a clip.

    Args:
        frames: Length of the clip in frames, at least 1.
        rate: Its rate in Hz.
        seconds: Length of a window.
    """
    length, hop = window_frames(rate, seconds)
    if frames <= length:
        return [(0, frames)]
    whole = [(start, start + length) for start in range(0, frames - length + 1, hop)]
    if frames - whole[-1][1] > TAIL * length:
        whole.append((frames - length, frames))
    return whole


def window_frames(rate: int, seconds: float) -> tuple[int, int]:
    """Length of a window and distance of two starts, in frames at ``rate`` Hz."""
    length = max(1, round(seconds * rate))
    return length, max(1, round(length * (1 - OVERLAP)))


def timelines(
    recogniser: Recogniser, clips: Sequence[Decoded], score: Callable[[Sequence[Decoded]], Floats] | None = None
) -> list[Timeline]:
    """Score decoded clips of any length, window by window.

    Args:
        recogniser: What scores them.
        clips: The clips.
        score: Called instead of ``recogniser.scores`` with each batch of windows, by who must come in between.
    """
    score = score or recogniser.scores
    cut = [spans(len(samples), rate, recogniser.seconds) for samples, rate in clips]
    windows = [
        (samples[start:stop], rate) for (samples, rate), parts in zip(clips, cut, strict=True) for start, stop in parts
    ]
    at_once = max(1, min(BATCH, int(SECONDS / recogniser.seconds)))
    scores = np.concatenate([score(windows[at : at + at_once]) for at in range(0, len(windows), at_once)])
    probabilities = recogniser.probabilities(scores)
    ends = np.cumsum([len(parts) for parts in cut])
    found = []
    for (_, rate), parts, end in zip(clips, cut, ends, strict=True):
        rows = slice(end - len(parts), end)
        times = np.array(parts, dtype=np.float64) / rate
        found.append(Timeline(times[:, 0], times[:, 1], scores[rows], probabilities[rows]))
    return found
