"""Recognise files of any length: decoded in parallel threads, scored in batches that mix them, memory flat.

A thread opens a file, reads it in blocks and hands its windows to a queue of bounded length; the caller's thread
takes them from there and scores them. In memory at any time are the windows in that queue and in a batch, a window or
so of every open file, and the probabilities of files that are not finished.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from soundstack.audio.decode import AudioSpec, prepare
from soundstack.audio.decoder import SoundReader
from soundstack.audio.find import SoundFile
from soundstack.audio.stream import windows
from soundstack.audio.windows import BATCH
from soundstack.fusion.recogniser import FusionRecogniser
from soundstack.prediction.parts import Floats, Parts, Scored, refused
from soundstack.recognisers.base import Decoded, Recogniser, SingleRecogniser
from soundstack.utils.errors import AudioError

_QUEUED = 2 * BATCH
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class _Window:
    file: int
    start: float
    end: float
    clip: Decoded
    share: float  # of the file, read so far


@dataclass(frozen=True)
class _End:
    file: int
    seconds: float
    problem: str = ""


@dataclass
class _Open:
    """A file of which windows have been scored."""

    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    probabilities: list[Floats] = field(default_factory=list)
    shown: float = 0.0


def predict(
    recogniser: Recogniser,
    files: Sequence[SoundFile],
    parts: Parts,
    *,
    jobs: int,
    advance: Callable[[int], object] = lambda count: None,
) -> None:
    """Score files and keep the results in ``parts``; a file that cannot be used is kept with its problem.

    What is finished is kept also when this is interrupted.

    Args:
        jobs: Decoding threads.
        advance: Called with bytes of sound files done since the last call.
    """
    opened: dict[int, _Open] = {}
    batch: list[_Window] = []
    ended: list[_End] = []  # files whose last windows are in the batch

    def score() -> None:
        if batch:
            scores = recogniser.probabilities(recogniser.scores([window.clip for window in batch]))
            for window, row in zip(batch, scores, strict=True):
                file = opened.setdefault(window.file, _Open())
                file.starts.append(window.start)
                file.ends.append(window.end)
                file.probabilities.append(row)
                report(window.file, window.share)
            batch.clear()
        for end in ended:
            finish(end)
        ended.clear()

    def report(number: int, share: float) -> None:
        file = opened.setdefault(number, _Open())
        size = files[number].size
        advance(int(share * size) - int(file.shown * size))
        file.shown = share

    def finish(end: _End) -> None:
        report(end.file, 1.0)
        file = opened.pop(end.file)
        if end.problem:
            parts.add(files[end.file], refused(end.problem))
            return
        shares = np.stack(file.probabilities)
        parts.add(files[end.file], Scored(end.seconds, np.array(file.starts), np.array(file.ends), shares))

    try:
        with closing(_decoded(recogniser, files, jobs)) as messages:
            for message in messages:
                if isinstance(message, _Window):
                    batch.append(message)
                    if len(batch) == BATCH:
                        score()
                elif any(window.file == message.file for window in batch):
                    ended.append(message)
                else:
                    finish(message)
        score()
    finally:
        parts.flush()


def _decoded(recogniser: Recogniser, files: Sequence[SoundFile], jobs: int) -> Generator[_Window | _End, None, None]:
    """Decode files in threads; a file's windows come in order and before its end, files come mixed."""
    messages: queue.Queue[_Window | _End | BaseException | None] = queue.Queue(_QUEUED)
    stop = threading.Event()
    numbers = iter(range(len(files)))
    taking = threading.Lock()
    audio = shared_audio(recogniser)

    def put(message: _Window | _End | BaseException | None) -> None:
        while not stop.is_set():
            try:
                messages.put(message, timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            while not stop.is_set():
                with taking:
                    number = next(numbers, None)
                if number is None:
                    break
                for message in _read(number, files[number], recogniser.seconds, audio):
                    put(message)
                    if stop.is_set():
                        return
            put(None)
        except BaseException as error:  # ours, not the file's: raised where the caller sees it
            put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(max(1, min(jobs, len(files))))]
    try:
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            message = messages.get()
            if message is None:
                running -= 1
            elif isinstance(message, BaseException):
                raise message
            else:
                yield message
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=5)  # one that waits for a dead disk ends with the process


def _read(number: int, file: SoundFile, seconds: float, audio: AudioSpec | None) -> Iterator[_Window | _End]:
    if file.problem:
        yield _End(number, 0.0, file.problem)
        return
    try:
        with SoundReader(file.path) as sound:
            for cut in windows(sound, seconds):
                clip = (cut.samples, sound.rate)
                if audio is not None:  # resampled here, in parallel, and small while it waits
                    clip = (prepare(*clip, audio).T, audio.sample_rate)
                share = min(1.0, cut.stop / max(sound.expected, cut.stop))
                yield _Window(number, cut.start / sound.rate, cut.stop / sound.rate, clip, share)
            yield _End(number, sound.frames / sound.rate)
    except AudioError as error:
        yield _End(number, 0.0, str(error))


def shared_audio(recogniser: Recogniser) -> AudioSpec | None:
    """What all members of a recogniser are fed, or None where they differ.

    A clip that :func:`soundstack.audio.decode.prepare` brought into this form is left as it is when it does so again.
    """
    if isinstance(recogniser, SingleRecogniser):
        return recogniser.audio
    if isinstance(recogniser, FusionRecogniser):
        specs = {shared_audio(member) for member in recogniser.members.values()}
        return specs.pop() if len(specs) == 1 else None
    return None
