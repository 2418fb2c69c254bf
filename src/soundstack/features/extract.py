"""From the clips of a corpus to features in the cache: decode in parallel, transform in batches, store in shards.

Clips are taken in fixed slices of the corpus, one shard a slice. A killed run therefore continues with the next whole
slice, in the same batches as an uninterrupted one would have used, and its features are equal to the last bit.

Files that are scanned for the first time are decoded once: :class:`Extraction` takes them over from the scan. It needs
to know length and rate. Where neither the parameters nor the publishers of the data set give them, up to ``HELD_BYTES``
of decoded sound are held back, and what these clips suggest is taken for all. What has no features after the scan is
decoded a second time: all of it where the suggestion was wrong (a longer clip came, another rate is more common), the
clips that were under way when there was no more room, and those after a damaged file, which ends the run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from soundstack.audio import decode as audio
from soundstack.audio.decode import AudioSpec, Samples
from soundstack.datasets.corpus import Corpus, Example, example_keys
from soundstack.datasets.scan import Look, Scan
from soundstack.features.store import FeatureStore
from soundstack.utils import slices
from soundstack.utils.errors import AudioError, DataError

if TYPE_CHECKING:
    from soundstack.datasets.open_corpus import AudioSoFar

#: So much decoded sound is held back at most until length and rate of the clips are known.
HELD_BYTES = 1 << 27

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
        parts = list(_missing_clips(corpus, store))
        report.made = sum(len(examples) for part in parts for examples in part)
        report.reused = len(keys) - report.made
        progress(len(corpus.clips) - sum(map(len, parts)))
        if not parts:
            return report
        stages = _stages(make_transform)

        def decode(examples: list[Example]) -> _Made:
            return _decode(corpus, examples, spec, stages.clip)

        with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
            started = time.perf_counter()
            for part, clips in slices.in_slices(pool, parts, decode):
                report.waited += time.perf_counter() - started
                _finish(clips, stages, store, report)
                progress(len(part))
                started = time.perf_counter()
    return report


class _Made(NamedTuple):
    """The first stage of a clip's examples (E, ...), their keys, and the seconds of decoding and of the stage."""

    keys: list[str]
    values: NDArray[Any]
    decoding: float
    preparing: float


def _stages(make_transform: Callable[[], Transform | Stages]) -> Stages:
    made = make_transform()
    return made if isinstance(made, Stages) else Stages(lambda waves: waves, made)


def _missing_clips(corpus: Corpus, store: FeatureStore) -> Iterator[list[list[Example]]]:
    """Yield the missing examples of each fixed slice, clip by clip; a sound that occurs twice is made once."""
    queued: set[str] = set()
    for part in corpus.slices():
        wanted = []
        for index in store.missing([example.key for example in part]):
            if part[index].key not in queued:
                queued.add(part[index].key)
                wanted.append(part[index])
        if wanted:
            yield [list(examples) for _, examples in groupby(wanted, key=lambda example: example.clip)]


def _decode(
    corpus: Corpus, examples: list[Example], spec: AudioSpec, clip_stage: Callable[[Samples], NDArray[Any]]
) -> _Made:
    """Decode examples of one clip and take them through the first stage."""
    clip = corpus.clips[examples[0].clip]
    started = time.perf_counter()
    try:
        channels = audio.load(clip.path, spec)
    except AudioError as error:
        raise DataError(f"{clip.path}: {error} (it was sound when it was scanned; run again)") from None
    decoded = time.perf_counter()
    values = clip_stage(channels[[example.channel for example in examples]])
    keys = [example.key for example in examples]
    return _Made(keys, values, decoded - started, time.perf_counter() - decoded)


def _finish(clips: Sequence[_Made], stages: Stages, store: FeatureStore, report: ExtractionReport) -> None:
    """Take the clips of a slice through the second stage, and keep their features."""
    report.spent("decode", sum(clip.decoding for clip in clips))
    report.spent(stages.names[0], sum(clip.preparing for clip in clips))
    inputs = np.concatenate([clip.values for clip in clips])
    begun = time.perf_counter()
    features = stages.batch(inputs)
    transformed = time.perf_counter()
    store.add([key for clip in clips for key in clip.keys], features)
    report.spent(stages.names[1], transformed - begun)
    report.spent("store", time.perf_counter() - transformed)


@dataclass(frozen=True)
class Recipe:
    """How features are made, and where they are kept; ``audio`` is what the transform is fed."""

    store: FeatureStore
    make_transform: Callable[[], Transform | Stages]
    audio: AudioSpec


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


class Extraction(Generic[AnyRecipe]):
    """An extraction that begins with the scan: ``open_corpus(config, extraction)``, then :meth:`finish`.

    Attributes:
        report: What was made of clips as the scan decoded them.
    """

    def __init__(self, plan: Callable[[AudioSpec], AnyRecipe], jobs: int) -> None:
        """Prepare.

        Args:
            plan: Gives the recipe for the audio spec of a corpus.
            jobs: Decoding threads.
        """
        self.report = ExtractionReport()
        self._plan, self._jobs = plan, max(1, jobs)
        self._planned: tuple[AudioSpec, AnyRecipe] | None = None
        self._begun: AudioSpec | None = None
        self._over = True

    def recipe(self, spec: AudioSpec) -> AnyRecipe:
        """The recipe for the audio spec of a corpus; asked again, the same one."""
        if self._planned is None or self._planned[0] != spec:
            self._planned = spec, self._plan(spec)
        return self._planned[1]

    def finish(self, corpus: Corpus, progress: Callable[[int], object] = lambda count: None) -> ExtractionReport:
        """Make what is still missing, as :func:`extract` does; what was made with the scan counts as made."""
        recipe = self.recipe(corpus.audio)
        report = extract(corpus, recipe.store, recipe.make_transform, recipe.audio, jobs=self._jobs, progress=progress)
        if self._begun == corpus.audio:
            report.made += self.report.made
            report.reused -= self.report.made
        return report

    # What follows is called by the scan: `clip` in its threads, the rest in the caller's.

    def start(self, so_far: AudioSoFar, *, strict: bool) -> None:
        self._so_far, self._strict, self._over = so_far, strict, False
        self._held: list[Sequence[Look]] = []
        self._room = HELD_BYTES
        self._stages: Stages | None = None
        self._counting, self._building = threading.Lock(), threading.Lock()

    def __enter__(self) -> Extraction[AnyRecipe]:
        self._open = ExitStack()
        self._pool = self._open.enter_context(ThreadPoolExecutor(self._jobs))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._open:
            if kind is None and not self._over and self._held:
                self._begin()
            self._stop()

    def remembered(self, scan: Scan) -> None:
        if not scan.problem:
            self._so_far.add(scan)

    def clip(self, scan: Scan, samples: Samples, rate: int) -> Any:
        with self._counting:
            self._so_far.add(scan)
            if self._over:
                return None
            if self._begun is None:
                self._room -= samples.nbytes
                return (samples, rate) if self._room >= 0 else None
        return self._first_stage(self._begun, scan, samples, rate)

    def slice(self, looks: Sequence[Look]) -> None:
        if self._over:
            return
        if self._strict and any(look.scan.problem for look in looks):
            self._stop()
        elif self._begun is None:
            self._held.append(looks)
            if self._so_far.settled or self._room < 0:
                self._begin()
        elif self._spec() != self._begun:
            self._stop()
        else:
            self._make(self._begun, looks)

    def _spec(self) -> AudioSpec | None:
        with self._counting:
            return self._so_far.spec()

    def _begin(self) -> None:
        """Make features of what was held back; from now on nothing is."""
        spec = self._spec()
        if spec is None:
            return
        self._open.enter_context(self.recipe(spec).store.lock())
        self._begun = spec
        for looks in self._held:
            self._make(spec, looks)
        self._held.clear()

    def _stop(self) -> None:
        self._over = True
        self._held.clear()

    def _first_stage(self, spec: AudioSpec, scan: Scan, samples: Samples, rate: int) -> _Made:
        recipe, keys = self.recipe(spec), example_keys(scan, spec)
        missing = recipe.store.missing(keys)
        if not missing:
            return _Made([], np.empty(0), 0.0, 0.0)
        with self._building:  # only if something is missing
            stages = self._stages = self._stages or _stages(recipe.make_transform)
        started = time.perf_counter()
        waves = audio.prepare(samples, rate, recipe.audio)[missing]
        prepared = time.perf_counter()
        values = stages.clip(waves)
        return _Made([keys[row] for row in missing], values, prepared - started, time.perf_counter() - prepared)

    def _make(self, spec: AudioSpec, looks: Sequence[Look]) -> None:
        """Make the features of a slice; left to :meth:`finish` where there was no room to hold all of it."""
        usable = [look for look in looks if not look.scan.problem]
        if any(look.kept is None for look in usable):
            return

        def first_stage(look: Look) -> _Made:
            if isinstance(look.kept, _Made):
                return look.kept._replace(decoding=look.seconds - look.kept.preparing)
            made = self._first_stage(spec, look.scan, *look.kept)
            return made._replace(decoding=look.seconds + made.decoding)

        store, wanted, queued = self.recipe(spec).store, [], set[str]()
        for made in self._pool.map(first_stage, usable):
            # A sound that occurs twice is made once; it may have been stored since its first stage.
            rows = [row for row in store.missing(made.keys) if made.keys[row] not in queued]
            if rows:
                wanted.append(made._replace(keys=[made.keys[row] for row in rows], values=made.values[rows]))
                queued.update(wanted[-1].keys)
        if wanted:
            assert self._stages is not None
            _finish(wanted, self._stages, store, self.report)
            self.report.made += len(queued)


def clip_means(corpus: Corpus, scores: NDArray[Any]) -> NDArray[Any]:
    """Average the scores of a clip's examples: (examples, K) -> (clips, K)."""
    owner = np.array([example.clip for example in corpus.examples])
    if len(owner) == len(corpus.clips):
        return scores
    sums = np.zeros((len(corpus.clips), scores.shape[1]), dtype=np.float64)
    np.add.at(sums, owner, scores)
    return sums / np.bincount(owner, minlength=len(corpus.clips))[:, None]
