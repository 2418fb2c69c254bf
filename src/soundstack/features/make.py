"""How the features of a slice of clips are made, on this machine or on another one: the recipe, and who follows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from soundstack.audio import decode as audio
from soundstack.audio.decode import AudioSpec, Samples
from soundstack.datasets.data_set import example_keys
from soundstack.datasets.scan import Scan
from soundstack.features.store import FeatureStore


@dataclass(frozen=True)
class TwoStageTransform:
    """A transform in two parts.

    Attributes:
        clip: Waveforms of one clip (E, samples) to what the second part takes (E, ...); runs in the decoding threads.
        batch: The clips of a slice (B, ...) to features (B, ...); runs in the calling thread.
        names: What the two parts are called in the time budget; one that does nothing has none.
    """

    clip: Callable[[Samples], NDArray[Any]] = lambda waves: waves
    batch: Callable[[NDArray[Any]], NDArray[np.float32]] = lambda values: values
    names: tuple[str, str] = ("prepare", "transform")


@dataclass(frozen=True)
class Recipe:
    """How features are made, and where they are kept; it can be sent to another host.

    Attributes:
        audio: The rate and length the transform wants (networks may ask for another rate than the data set's).
    """

    store: FeatureStore
    audio: AudioSpec

    def make_transform(self) -> TwoStageTransform:
        """Build the transform; called only if something is missing, so that a cached run builds no network."""
        raise NotImplementedError


@dataclass
class ExtractionReport:
    """What an extraction did: examples made, and reused from the cache.

    ``seconds`` are by part, of all threads together: decoding, the two parts of the transform, the store.
    ``processors`` are those of the hosts of a cluster that worked on it.
    """

    made: int = 0
    reused: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    processors: set[str] = field(default_factory=set)

    def add(self, made: int, seconds: Mapping[str, float]) -> None:
        """Count what was made of a slice."""
        self.made += made
        for part, spent in seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + spent


class Made(NamedTuple):
    """The first stage of a clip's missing examples (E, ...), their keys, and the seconds of decoding and of it."""

    keys: list[str]
    values: NDArray[Any]
    decoding: float
    preparing: float = 0.0


class Maker:
    """Makes what a store lacks, and counts it in a report."""

    def __init__(
        self, recipe: Recipe, report: ExtractionReport, build: Callable[[], TwoStageTransform] | None = None
    ) -> None:
        """Take a recipe, and what gives its transform, if not the recipe is to make it."""
        self._recipe, self._report, self._build = recipe, report, build or recipe.make_transform
        self._building = threading.Lock()
        self._built: TwoStageTransform | None = None

    def _stages(self) -> TwoStageTransform:
        with self._building:
            self._built = self._built or self._build()
            return self._built

    def clip(self, scan: Scan, samples: Samples, rate: int, decoding: float) -> Made:
        """Take a decoded clip (frames, channels) through the first stage, in any thread."""
        keys = example_keys(scan, self._recipe.audio)
        missing = self._recipe.store.missing(keys)
        if not missing:
            return Made([], np.empty(0), decoding)
        stages, started = self._stages(), time.perf_counter()
        waves = audio.prepare(samples, rate, self._recipe.audio)[missing]
        prepared = time.perf_counter()
        values, keys = stages.clip(waves), [keys[row] for row in missing]
        return Made(keys, values, decoding + prepared - started, time.perf_counter() - prepared)

    def slice(self, clips: Sequence[Made]) -> None:
        """Take the clips of a slice through the second stage, and keep their features."""
        store, report = self._recipe.store, self._report
        # A sound that occurs twice is made once; it may have been stored since its first stage.
        wanted = {made.keys[row]: made.values[row] for made in clips for row in store.missing(made.keys)}
        if not wanted:
            return
        stages, inputs = self._stages(), np.stack(list(wanted.values()))
        begun = time.perf_counter()
        features = stages.batch(inputs)
        transformed = time.perf_counter()
        store.add(list(wanted), features)
        stored = time.perf_counter()
        decoding, preparing = (sum(getattr(made, part) for made in clips) for part in ("decoding", "preparing"))
        spent = (decoding, preparing, transformed - begun, stored - transformed)
        parts = zip(("decode", *stages.names, "store"), spent, strict=True)
        report.add(len(wanted), {part: seconds for part, seconds in parts if part})
