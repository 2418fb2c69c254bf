"""From the clips of a corpus to features in the cache: decode in parallel, transform in batches, store in shards.

Clips are taken in fixed slices of the corpus, one shard a slice. A killed run therefore continues with the next whole
slice, in the same batches as an uninterrupted one would have used, and its features are equal to the last bit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstack import audio
from soundstack.audio import AudioSpec, Samples
from soundstack.cache import FeatureStore
from soundstack.datasets.corpus import Corpus, Example
from soundstack.errors import AudioError, DataError

SLICE = 32

#: Waveforms (B, samples) to features (B, ...).
Transform = Callable[[Samples], NDArray[np.float32]]


@dataclass(frozen=True)
class Stages:
    """A transform in two parts.

    Attributes:
        clip: Waveforms of one clip (E, samples) to what the second part takes (E, ...); runs in the decoding threads.
        batch: The clips of a slice (B, ...) to features (B, ...); runs in the calling thread.
        names: What the two parts are called in the time budget; one that does nothing has none.
    """

    clip: Callable[[Samples], NDArray[Any]]
    batch: Callable[[NDArray[Any]], NDArray[np.float32]]
    names: tuple[str, str] = ("prepare", "transform")


@dataclass
class ExtractionReport:
    """What an extraction did.

    Attributes:
        made: Examples made.
        reused: Examples taken over from the cache.
        seconds: By part, of all threads together: decoding, the two parts of the transform, the store.
        waited: Seconds in which the calling thread had nothing to do but wait for clips.
    """

    made: int = 0
    reused: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    waited: float = 0.0

    def spent(self, part: str, seconds: float) -> None:
        """Count time for a part; for none, if that has no name."""
        if part:
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds


def extract(
    corpus: Corpus,
    store: FeatureStore,
    make_transform: Callable[[], Transform | Stages],
    spec: AudioSpec,
    *,
    jobs: int,
    progress: Callable[[int], object] = lambda count: None,
) -> ExtractionReport:
    """Bring the features of every example of a corpus into the store.

    Args:
        corpus: The data set.
        store: Where features of this configuration live.
        make_transform: Builds the transform; called only if something is missing, so that a cached run
            builds no network.
        spec: The rate and length the transform wants (networks may ask for another rate than the data set's).
        jobs: Decoding threads.
        progress: Called with the number of clips done since the last call.

    Raises:
        DataError: A file changed or vanished since it was scanned.
        StoreError: The cache cannot be written.
    """
    report = ExtractionReport()
    keys = [example.key for example in corpus.examples]
    if not store.missing(keys):  # no lock, no network: the usual second run
        report.reused = len(keys)
        progress(len(corpus.clips))
        return report
    with store.lock():
        slices = list(_slices(corpus, store))
        report.made = sum(len(part) for part in slices)
        report.reused = len(keys) - report.made
        progress(len(corpus.clips) - len({example.clip for part in slices for example in part}))
        if not slices:
            return report
        made = make_transform()
        stages = made if isinstance(made, Stages) else Stages(lambda waves: waves, made)
        with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:

            def submit(part: list[Example]) -> list[Future[tuple[NDArray[Any], float, float]]]:
                by_clip = groupby(part, key=lambda example: example.clip)
                return [pool.submit(_decode, corpus, list(examples), spec, stages.clip) for _, examples in by_clip]

            # One slice more than is being worked on: memory stays flat however long the corpus is.
            ahead = deque(submit(part) for part in slices[:2])
            for position, part in enumerate(slices):
                started = time.perf_counter()
                clips = [clip.result() for clip in ahead.popleft()]
                report.waited += time.perf_counter() - started
                report.spent("decode", sum(seconds for _, seconds, _ in clips))
                report.spent(stages.names[0], sum(seconds for _, _, seconds in clips))
                inputs = np.concatenate([values for values, _, _ in clips])
                if position + 2 < len(slices):
                    ahead.append(submit(slices[position + 2]))
                begun = time.perf_counter()
                features = stages.batch(inputs)
                transformed = time.perf_counter()
                store.add([example.key for example in part], features)
                report.spent(stages.names[1], transformed - begun)
                report.spent("store", time.perf_counter() - transformed)
                progress(len({example.clip for example in part}))
    return report


def _slices(corpus: Corpus, store: FeatureStore) -> Iterator[list[Example]]:
    """Yield the missing examples of each fixed slice of clips; a sound that occurs twice is made once."""
    queued: set[str] = set()
    by_slice: dict[int, list[Example]] = {}
    for example in corpus.examples:
        by_slice.setdefault(example.clip // SLICE, []).append(example)
    for part in by_slice.values():
        missing = {part[index].key for index in store.missing([example.key for example in part])} - queued
        wanted = []
        for example in part:
            if example.key in missing and example.key not in queued:
                queued.add(example.key)
                wanted.append(example)
        if wanted:
            yield wanted


def _decode(
    corpus: Corpus, examples: list[Example], spec: AudioSpec, clip_stage: Callable[[Samples], NDArray[Any]]
) -> tuple[NDArray[Any], float, float]:
    """Decode examples of one clip and take them through the first stage, (examples, ...); and the seconds of both."""
    clip = corpus.clips[examples[0].clip]
    started = time.perf_counter()
    try:
        channels = audio.load(clip.path, spec)
    except AudioError as error:
        raise DataError(f"{clip.path}: {error} (it was sound when it was scanned; run again)") from None
    decoded = time.perf_counter()
    values = clip_stage(channels[[example.channel for example in examples]])
    return values, decoded - started, time.perf_counter() - decoded


def clip_means(corpus: Corpus, scores: NDArray[Any]) -> NDArray[Any]:
    """Average the scores of a clip's examples: (examples, K) -> (clips, K)."""
    owner = np.array([example.clip for example in corpus.examples])
    if len(owner) == len(corpus.clips):
        return scores
    sums = np.zeros((len(corpus.clips), scores.shape[1]), dtype=np.float64)
    np.add.at(sums, owner, scores)
    return sums / np.bincount(owner, minlength=len(corpus.clips))[:, None]
