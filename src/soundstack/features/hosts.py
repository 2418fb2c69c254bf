"""Slices of files on the hosts of a cluster: what one of them does is a pure function from a job to scans and a shard.

A host reads a slice's files from where all hosts see them, looks at them as :mod:`soundstack.datasets.scan` does, makes
their features as the machine itself would, and writes, in this order, the shard and what it saw, the latter to
``<cache>/scans/``. A job that is done again (its host was lost, the driver was, or forgot) finds both and is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import astuple, dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from soundstack.audio.decode import Samples
from soundstack.audio.sound import Stretch
from soundstack.audio.stretches import takes
from soundstack.datasets.data_set import DataSet, example_keys
from soundstack.datasets.scan import TABLE, Scan, Unknown, scan_bytes, scan_stretch
from soundstack.features.make import ExtractionReport, Made, Maker, Recipe, TwoStageTransform
from soundstack.utils import object_store
from soundstack.utils.cluster import Cluster
from soundstack.utils.errors import DataError
from soundstack.utils.project import fingerprint, processor

if TYPE_CHECKING:
    from soundstack.config.base import DataConfig


class SliceJob(NamedTuple):
    """A slice of files, by the URIs of their places, with the stretch where that is all that is meant.

    ``seen`` is where what they hold is kept; ``scans``, where it is known, what they must hold. With a ``recipe``,
    features are made, except those that its store knows.
    """

    places: tuple[tuple[str, Stretch | None], ...]
    seen: str
    scans: tuple[Scan, ...] = ()
    recipe: Recipe | None = None
    threads: int = 1


class SliceDone(NamedTuple):
    """What a host found in the files of a slice and made of them, and on what processor."""

    scans: tuple[Scan, ...]
    made: int
    seconds: dict[str, float]
    processor: str


def do_slice(job: SliceJob) -> SliceDone:
    """Look at the files of a slice, and make their features.

    Raises:
        DataError: A file vanished or changed since it was listed or scanned.
        StoreError: The store does not answer.
    """
    report = ExtractionReport()
    scans = job.scans or _seen(job.seen)
    if not scans or (job.recipe and not _is_made(job.recipe, scans)):
        scans = _look(job, scans, report)
        if not job.scans:
            object_store.write(job.seen, json.dumps([astuple(scan) for scan in scans]).encode())
    return SliceDone(scans, report.made, report.seconds, processor())


def _look(job: SliceJob, known: Sequence[Scan], report: ExtractionReport) -> tuple[Scan, ...]:
    """Decode the files of a slice, and make their features."""
    recipe = job.recipe
    maker = Maker(recipe, report, lambda: _stages(recipe)) if recipe else None

    take = takes(job.places, _at_hand)

    def look(number: int, raw: bytes) -> tuple[Scan, Made | None]:
        kept: list[Made] = []
        started = time.perf_counter()

        def made(scan: Scan, samples: Samples, rate: int) -> None:
            if maker:
                kept.append(maker.clip(scan, samples, rate, 0.0))

        scan = scan_stretch(take[number], made) if number in take else scan_bytes(raw, made)
        spent = time.perf_counter() - started
        return scan, kept[0]._replace(decoding=spent - kept[0].preparing) if kept else None

    with ThreadPoolExecutor(object_store.READERS) as readers, ThreadPoolExecutor(job.threads) as pool:
        read = readers.map(lambda place, stretch: b"" if stretch else _read(place), *zip(*job.places, strict=True))
        looks = list(pool.map(look, count(), read))
    scans = tuple(scan for scan, _ in looks)
    for (place, _), scan, before in zip(job.places, scans, known or scans, strict=True):
        if scan != before:
            raise DataError(f"{place} has changed since it was scanned; run again.")
    if maker:
        maker.slice([made for _, made in looks if made])
    return scans


def _read(place: str) -> bytes:
    try:
        return object_store.read(place)
    except FileNotFoundError:
        raise DataError(f"{place} vanished after it was listed; run again.") from None


@contextmanager
def _at_hand(place: str) -> Iterator[Path]:
    """A file of which stretches are read: where all hosts have it, or a copy of it, as it may be large."""
    scheme, _, path = place.partition("://")
    with TemporaryDirectory() if scheme != "file" else nullcontext() as folder:
        copy = Path(folder, "recording") if folder else Path(path)
        try:
            if folder:
                object_store.download(place, copy)
            elif not copy.exists():
                raise FileNotFoundError
        except FileNotFoundError:
            raise DataError(f"{place} vanished after it was listed; run again.") from None
        yield copy


def _seen(place: str) -> tuple[Scan, ...]:
    try:
        return tuple(Scan(*values) for values in json.loads(object_store.read(place)))
    except FileNotFoundError:
        return ()


def _is_made(recipe: Recipe, scans: Sequence[Scan]) -> bool:
    usable = (scan for scan in scans if not scan.problem)
    keys = list(dict.fromkeys(key for scan in usable for key in example_keys(scan, recipe.audio)))
    return recipe.store.has_shard([keys[row] for row in recipe.store.missing(keys)])


#: The transform of the last recipe, by its store: a process gets many slices, and builds a network once.
_built: dict[str, TwoStageTransform] = {}


def _stages(recipe: Recipe) -> TwoStageTransform:
    name = recipe.store.folder.name
    if name not in _built:
        _built.clear()
        _built[name] = recipe.make_transform()
    return _built[name]


@dataclass(frozen=True)
class Hosts:
    """The hosts of a cluster, where they see the files that this machine knows by name, and where they note scans."""

    cluster: Cluster
    place: Callable[[Path], str]
    scans: str

    @classmethod
    def of(cls, config: DataConfig) -> Hosts | None:
        """The hosts that a configuration names; None for this machine alone."""
        if config.cluster == "none":
            return None
        cluster = Cluster(config.cluster, config.cluster_cpus, config.cluster_gpus)
        return cls(cluster, config.place_of, f"{config.cache_dir}/scans")

    def scan(self, parts: Sequence[Sequence[Unknown]], recipe: Recipe | None) -> Iterator[tuple[int, SliceDone]]:
        """Scan slices, and make their features where a recipe is given; yield their numbers and what was done."""
        sent = recipe and replace(recipe, store=recipe.store.knowing([]))
        return self.cluster.run(do_slice, (self._unseen(part, sent) for part in parts))

    def _unseen(self, part: Sequence[Unknown], recipe: Recipe | None) -> SliceJob:
        places = tuple((self.place(item.path), item.stretch) for item in part)
        files = [
            [place, item.size, item.modified, *(stretch or ())]
            for (place, stretch), item in zip(places, part, strict=True)
        ]
        seen = f"{self.scans}/{fingerprint([TABLE, files])}.json"
        return SliceJob(places, seen, recipe=recipe, threads=self.cluster.cpus)

    def make(self, recipe: Recipe, data_set: DataSet, progress: Callable[[int], object]) -> Iterator[SliceDone]:
        """Make what features a data set lacks; ``progress`` is called with numbers of clips."""
        jobs = list(self._missing(recipe, data_set))
        progress(len(data_set.clips) - sum(len(job.places) for job in jobs))
        for number, done in self.cluster.run(do_slice, jobs):
            progress(len(jobs[number].places))
            yield done

    def _missing(self, recipe: Recipe, data_set: DataSet) -> Iterator[SliceJob]:
        store = recipe.store
        earlier: set[str] = set()  # a sound that occurs twice is made once
        for part in data_set.slices():
            wanted = [each for each in part if store.missing([each.key]) and each.key not in earlier]
            clips = list(dict.fromkeys(each.clip for each in wanted))
            if clips:
                keys = {key for clip in clips for key in example_keys(data_set.scans[clip], recipe.audio)}
                known = sorted(keys - {each.key for each in wanted})
                sounds = (data_set.clips[clip].sound for clip in clips)
                places = tuple((self.place(path), stretch) for path, stretch in sounds)
                scans = tuple(data_set.scans[clip] for clip in clips)
                sent = replace(recipe, store=store.knowing(known))
                yield SliceJob(places, "", scans, sent, self.cluster.cpus)
                earlier |= {each.key for each in wanted}
