"""From encoded clips to what a recogniser says of them, window by window: the one way of predictions and of requests.

A clip is read in blocks and cut into windows while it comes, and the windows of several clips are scored together: in
memory are a batch of windows and the scores, however long the clips are. Who reads decides what differs: how many
clips at a time, and within which limits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from soundstack.audio.decode import prepare
from soundstack.audio.decoder import SoundReader
from soundstack.audio.limits import UNLIMITED, RequestLimits
from soundstack.audio.windows import windows
from soundstack.recognisers.base import Decoded, Recogniser
from soundstack.utils.errors import AudioError

Floats = NDArray[np.float64]

#: Windows that are scored together.
BATCH = 32
#: Seconds of sound that are scored together, for long windows: bounds the time between two looks at a clock.
SECONDS = 160.0
#: Samples that are held to be scored together: bounds the memory, whatever rates and channels strangers send.
SAMPLES = 1 << 25


class Window(NamedTuple):
    """A window of a clip: which clip, start and end in seconds, and its sound."""

    clip: int
    start: float
    end: float
    sound: Decoded
    share: float  # of the clip, read so far


class End(NamedTuple):
    """The end of a clip, after its windows: which clip, and its length in seconds, or why it cannot be used."""

    clip: int
    seconds: float = 0.0
    problem: AudioError | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Timeline:
    """What a recogniser says of a clip, window by window.

    ``seconds`` is the clip's length, ``starts`` and ``ends`` are in seconds (W,); ``scores`` and calibrated
    ``probabilities`` are (W, K), and ``none`` the none scores (W,), where the recogniser has a rule for them.
    """

    seconds: float
    starts: Floats
    ends: Floats
    scores: Floats
    probabilities: Floats
    none: Floats | None = None

    @property
    def mean_scores(self) -> Floats:
        """Scores (K,) of the whole clip."""
        return np.asarray(self.scores.mean(axis=0))

    @property
    def mean_probabilities(self) -> Floats:
        """Probabilities (K,) of the whole clip; they sum to one."""
        return np.asarray(self.probabilities.mean(axis=0))

    @property
    def mean_none(self) -> Floats | None:
        """None score of the whole clip, as (1,)."""
        return None if self.none is None else np.asarray(self.none.mean(keepdims=True))


def read(
    clip: int, source: Path | bytes | AudioError, recogniser: Recogniser, limits: RequestLimits = UNLIMITED
) -> Iterator[Window | End]:
    """Read a clip as a recogniser takes it: its windows in order, and its end.

    Args:
        clip: The number that says which clip it is.
        source: A path, the bytes of an encoded file, or what is known to be wrong with it.
        limits: For sound from strangers; see :class:`soundstack.audio.decoder.SoundReader`.
    """
    if isinstance(source, AudioError):
        yield End(clip, problem=source)
        return
    audio = recogniser.shared_audio
    try:
        with SoundReader(source, limits) as sound:
            for start, stop, samples in windows(sound.blocks(), sound.rate, recogniser.seconds):
                decoded = (samples, sound.rate)
                if audio is not None:  # resampled here, where it may be in parallel, and small while it waits
                    decoded = (prepare(*decoded, audio).T, audio.sample_rate)
                share = min(1.0, stop / max(sound.expected, stop))
                yield Window(clip, start / sound.rate, stop / sound.rate, decoded, share)
            yield End(clip, sound.frames / sound.rate)
    except AudioError as error:
        yield End(clip, problem=error)


def timelines(
    parts: Iterable[Window | End],
    recogniser: Recogniser,
    judge: Callable[[Sequence[Decoded]], tuple[Floats, Floats | None]] | None = None,
) -> Iterator[tuple[int, Timeline | AudioError]]:
    """Score clips as they are read.

    Args:
        parts: Windows and ends from :func:`read`; those of several clips may be mixed.
        judge: Called instead of ``recogniser.judge`` with each batch of windows, by who must come in between.

    Yields:
        Every clip's number, and what was found or is wrong with it, once its last window has been scored.
    """
    judge = judge or recogniser.judge
    opened: dict[int, list[tuple[float, float, Floats, Floats, float]]] = defaultdict(list)
    for batch in _batches(parts, max(1, min(BATCH, int(SECONDS / recogniser.seconds)))):
        if found := [part for part in batch if isinstance(part, Window)]:
            scores, none = judge([window.sound for window in found])
            probabilities = recogniser.probabilities(scores)
            none = np.full(len(found), np.nan) if none is None else none
            for window, *rows in zip(found, scores, probabilities, none, strict=True):
                opened[window.clip].append((window.start, window.end, *rows))
        for part in batch:
            if isinstance(part, End):
                rows = opened.pop(part.clip, [])
                yield part.clip, part.problem or _joined(part.seconds, rows)


def _batches(parts: Iterable[Window | End], at_once: int) -> Iterator[list[Window | End]]:
    """Gather so many windows, and the ends that come between and after them; ends alone wait for nothing."""
    batch: list[Window | End] = []
    count = held = 0  # windows, and their samples
    for part in parts:
        if isinstance(part, Window):
            size = part.sound[0].size
            if count == at_once or (count and held + size > SAMPLES):
                yield batch
                batch, count, held = [], 0, 0
            count, held = count + 1, held + size
        batch.append(part)
        if not count:
            yield batch
            batch = []
    if batch:
        yield batch


def _joined(seconds: float, rows: Sequence[tuple[float, float, Floats, Floats, float]]) -> Timeline | AudioError:
    starts, ends, scores, probabilities, none = (np.array(column) for column in zip(*rows, strict=True))
    if not np.isfinite(scores).all():
        return AudioError("is too loud for its scores to be numbers; scale it to -1..1")
    return Timeline(seconds, starts, ends, scores, probabilities, None if np.isnan(none).any() else none)
