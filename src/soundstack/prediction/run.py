"""Recognise files of any length: decoded in parallel threads, scored in batches that mix them, memory flat.

A thread opens a file and hands its windows to a queue of bounded length; the caller's thread takes them from there and
scores them. In memory at any time are the windows in that queue and in a batch, a window or so of every open file, and
the scores of files that are not finished. Of files in an object store, each thread copies one at a time
to this machine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from soundstack.audio.find import SoundFile
from soundstack.prediction.store import PredictionStore
from soundstack.recognisers.base import Recogniser
from soundstack.recognisers.timelines import BATCH, End, Window, read, timelines
from soundstack.utils import object_store
from soundstack.utils.errors import AudioError

_QUEUED = 2 * BATCH


def predict(
    recogniser: Recogniser,
    files: Sequence[SoundFile],
    store: PredictionStore,
    *,
    jobs: int,
    advance: Callable[[int], object] = lambda count: None,
) -> None:
    """Score files and keep the results in ``store``; a file that cannot be used is kept with its problem.

    What is finished is kept also when this is interrupted. ``jobs`` threads decode; ``advance`` is called with the
    bytes of sound files done since the last call.
    """
    try:
        with closing(_decoded(recogniser, files, jobs)) as parts:
            for number, found in timelines(_watched(parts, files, advance), recogniser):
                store.add(files[number], found)
    finally:
        store.flush()


def _watched(
    parts: Iterable[Window | End], files: Sequence[SoundFile], advance: Callable[[int], object]
) -> Iterator[Window | End]:
    """Pass parts on and tell the progress."""
    shown: dict[int, int] = {}  # bytes of the open files
    for part in parts:
        done = int(part.share * files[part.clip].size)
        advance(done - shown.get(part.clip, 0))
        shown[part.clip] = done
        if isinstance(part, End):
            del shown[part.clip]
        yield part


@contextmanager
def _here(file: SoundFile) -> Iterator[Path | AudioError]:
    """A file on this machine, or what is wrong with it; one of an object store is copied, and removed afterwards."""
    if file.problem or not file.uri:
        yield AudioError(file.problem) if file.problem else file.path
        return
    with TemporaryDirectory(prefix="soundstack-") as folder:
        path = Path(folder, "sound")
        try:
            object_store.download(file.uri, path)
        except FileNotFoundError:
            yield AudioError("does not exist")
            return
        if path.stat().st_size != file.size:
            yield AudioError("has changed since it was listed; run again")
            return
        yield path


def _decoded(recogniser: Recogniser, files: Sequence[SoundFile], jobs: int) -> Generator[Window | End, None, None]:
    """Decode files in threads; a file's windows come in order and before its end, files come mixed."""
    todo = enumerate(files)  # the threads share it: a step of it is one of the interpreter's
    parts: SimpleQueue[Window | End | BaseException | None] = SimpleQueue()
    room, stop = threading.Semaphore(_QUEUED), threading.Event()

    def work() -> None:
        try:
            for number, file in todo:
                with _here(file) as source:
                    for part in read(number, source, recogniser):
                        room.acquire()
                        if stop.is_set():
                            return
                        parts.put(part)
            parts.put(None)
        except BaseException as error:  # ours, not the file's: raised where the caller sees it
            parts.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(max(1, min(jobs, len(files))))]
    try:
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            part = parts.get()
            if part is None:
                running -= 1
            elif isinstance(part, BaseException):
                raise part
            else:
                room.release()
                yield part
    finally:
        stop.set()
        room.release(len(threads))
        for thread in threads:
            thread.join(timeout=5)  # one that waits for a dead disk ends with the process
