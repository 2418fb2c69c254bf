"""From the clips of a data set to features in the cache: decode in parallel, transform in batches, store in shards.

Clips are taken in fixed slices of the data set, one shard a slice. A killed run therefore continues with the next whole
slice, in the same batches as an uninterrupted one would have used, and its features are equal to the last bit.

Slices may be spread over the hosts of a cluster (:mod:`soundstack.features.hosts`); what is said below is of this
machine alone.

Files that are scanned for the first time are decoded once: :class:`Extraction` takes them over from the scan. It needs
to know length and rate. Where neither the parameters nor the publishers of the data set give them, up to ``HELD_BYTES``
of decoded sound are held back, and what these clips suggest is taken for all. What has no features after the scan is
decoded a second time: all of it where the suggestion was wrong (a longer clip came, another rate is more common), the
clips that were under way when there was no more room, and those after a damaged file, which ends the run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from soundstack.audio import decode as audio
from soundstack.audio.decode import AudioSpec, Samples
from soundstack.audio.stretches import takes
from soundstack.datasets.data_set import DataSet
from soundstack.datasets.scan import Look, Scan, Scanned, Spread, Unknown
from soundstack.features.hosts import Hosts
from soundstack.features.make import ExtractionReport, Made, Maker, Recipe
from soundstack.utils import slices
from soundstack.utils.errors import AudioError, DataError

if TYPE_CHECKING:
    from soundstack.datasets.open_data_set import AudioSoFar

#: So much decoded sound is held back at most until length and rate of the clips are known.
HELD_BYTES = 1 << 27


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


@dataclass(frozen=True)
class Extracted(Generic[AnyRecipe]):
    """The features of all examples of a data set (E, ...), how they are made, and what was done for it."""

    values: NDArray[np.float32]
    recipe: AnyRecipe
    report: ExtractionReport


class Extraction(Generic[AnyRecipe]):
    """An extraction that may begin with the scan: ``open_data_set(config, extraction)``, then :meth:`finish`.

    Attributes:
        report: What was made of clips as the scan decoded them.
        recipe: Gives the recipe for the audio spec of a data set; asked again, the same one.
    """

    def __init__(self, plan: Callable[[AudioSpec], AnyRecipe], jobs: int, hosts: Hosts | None = None) -> None:
        """Take what gives the recipe for the audio spec of a data set, the number of decoding threads, and other hosts.

        Where there are hosts, they work, and this machine collects what they made.
        """
        self.report = ExtractionReport()
        self.recipe = cache(plan)
        self._jobs = max(1, jobs)
        self._hosts = hosts
        self._begun: AudioSpec | None = None
        self._over = True

    def finish(self, data_set: DataSet, progress: Callable[[int], object] = lambda count: None) -> Extracted[AnyRecipe]:
        """Make what is still missing, and read all; what was made with the scan counts as made.

        ``progress`` is called with the number of clips done since the last call.

        Raises:
            DataError: A file changed or vanished since it was scanned.
            StoreError: The cache cannot be written.
        """
        recipe, report = self.recipe(data_set.audio), ExtractionReport()
        store, keys = recipe.store, [example.key for example in data_set.examples]
        if store.missing(keys):  # else no lock, no network: the usual second run
            with store.lock():
                if self._hosts:
                    for done in self._hosts.make(recipe, data_set, progress):
                        report.add(done.made, done.seconds)
                        report.processors.add(done.processor)
                else:
                    self._make_here(recipe, data_set, report, progress)
        else:
            progress(len(data_set.clips))
        if self._begun == data_set.audio:
            report.made += self.report.made
            report.processors |= self.report.processors
        report.reused = len(keys) - report.made
        return Extracted(store.read(keys), recipe, report)

    def _make_here(
        self, recipe: Recipe, data_set: DataSet, report: ExtractionReport, progress: Callable[[int], object]
    ) -> None:
        store, maker = recipe.store, Maker(recipe, report)
        missing = ([e.clip for e in part if store.missing([e.key])] for part in data_set.slices())
        parts = [list(dict.fromkeys(clips)) for clips in missing if clips]
        numbers = [number for part in parts for number in part]
        found = takes((data_set.clips[number].sound for number in numbers), nullcontext)
        take = {number: found[place] for place, number in enumerate(numbers) if place in found}

        def decode(number: int) -> Made:
            path, started = data_set.clips[number].path, time.perf_counter()
            try:
                samples, rate = take[number]()[:2] if number in take else audio.decode(path)
            except AudioError as error:
                raise DataError(f"{path}: {error} (it was sound when it was scanned; run again)") from None
            return maker.clip(data_set.scans[number], samples, rate, time.perf_counter() - started)

        progress(len(data_set.clips) - sum(map(len, parts)))
        with ThreadPoolExecutor(self._jobs) as pool:
            for part, clips in slices.in_slices(pool, parts, decode):
                maker.slice(clips)
                progress(len(part))

    @property
    def spread(self) -> Spread | None:
        """What scans on the hosts, where there are any, in the place of :meth:`clip` and :meth:`slice`."""
        return self._scan_on_hosts if self._hosts else None

    def _scan_on_hosts(self, parts: Sequence[Sequence[Unknown]]) -> Scanned:
        """Scan slices, and make their features as soon as length and rate are settled."""
        assert self._hosts
        start = 0 if self._spec() else 1
        for first, some in ((0, parts[:start]), (start, parts[start:])):
            spec = self._spec() if some and self._so_far.settled else None
            if spec and self._begun is None:
                self._begun = spec
                self._open.enter_context(self.recipe(spec).store.lock())
            for number, done in self._hosts.scan(some, self.recipe(spec) if spec else None):
                for scan in done.scans:
                    self.remembered(scan)
                self.report.add(done.made, done.seconds)
                self.report.processors.add(done.processor)
                yield first + number, done.scans

    # What follows is called by the scan: `clip` in its threads, the rest in the caller's.

    def start(self, so_far: AudioSoFar, *, strict: bool) -> None:
        self._so_far, self._strict, self._over = so_far, strict, False
        self._held: list[Sequence[Look]] = []
        self._room = HELD_BYTES
        self._maker: Maker | None = None
        self._counting = threading.Lock()

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
            if self._maker is None:
                self._room -= samples.nbytes
                return (samples, rate) if self._room >= 0 else None
        return self._maker.clip(scan, samples, rate, 0.0)

    def slice(self, looks: Sequence[Look]) -> None:
        if self._over:
            return
        if self._strict and any(look.scan.problem for look in looks):
            self._stop()
        elif self._maker is None:
            self._held.append(looks)
            if self._so_far.settled or self._room < 0:
                self._begin()
        elif self._spec() != self._begun:
            self._stop()
        else:
            self._make(self._maker, looks)

    def _spec(self) -> AudioSpec | None:
        with self._counting:
            return self._so_far.spec()

    def _begin(self) -> None:
        """Make features of what was held back; from now on nothing is."""
        self._begun = self._spec()
        if self._begun is None:
            return
        recipe = self.recipe(self._begun)
        self._open.enter_context(recipe.store.lock())
        self._maker = Maker(recipe, self.report)
        for looks in self._held:
            self._make(self._maker, looks)
        self._held.clear()

    def _stop(self) -> None:
        self._over = True
        self._held.clear()

    def _make(self, maker: Maker, looks: Sequence[Look]) -> None:
        """Make the features of a slice; left to :meth:`finish` where there was no room to hold all of it."""

        def first_stage(look: Look) -> Made:
            if isinstance(look.kept, Made):
                return look.kept._replace(decoding=look.seconds - look.kept.preparing)
            samples, rate = look.kept
            return maker.clip(look.scan, samples, rate, look.seconds)

        usable = [look for look in looks if not look.scan.problem]
        if all(look.kept is not None for look in usable):
            maker.slice(list(self._pool.map(first_stage, usable)))
