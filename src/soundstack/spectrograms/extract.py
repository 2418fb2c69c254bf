"""The log-mel spectrograms of a corpus, by way of the cache (paper section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundstack.audio.decode import AudioSpec
from soundstack.config.presets import PRESETS
from soundstack.config.steps import SpectrogramConfig
from soundstack.datasets.corpus import Corpus
from soundstack.features.extract import Extraction, ExtractionReport, Recipe, Stages
from soundstack.features.store import FeatureStore
from soundstack.spectrograms.log_mel import LogMel, SpectrogramSpec
from soundstack.utils.code_versions import code_version

_PART = 4096


@dataclass(frozen=True)
class Spectrograms:
    """All examples' log-mel spectrograms (E, frames, bands), and how they were made."""

    values: NDArray[np.float32]
    spec: SpectrogramSpec
    report: ExtractionReport


def spectrogram_spec(config: SpectrogramConfig, audio: AudioSpec) -> SpectrogramSpec:
    """Resolve the configuration: rate from the data, threshold from the data set's preset."""
    clip_db = PRESETS[config.dataset].clip_db if config.clip_db == "auto" else config.clip_db
    return SpectrogramSpec(audio.sample_rate, clip_db, config.front_end)


@dataclass(frozen=True)
class LogMelRecipe(Recipe):
    """How log-mel spectrograms are made."""

    spec: SpectrogramSpec


def extraction(config: SpectrogramConfig) -> Extraction[LogMelRecipe]:
    """The extraction of log-mel spectrograms, to be begun with the scan."""

    def plan(audio: AudioSpec) -> LogMelRecipe:
        spec = spectrogram_spec(config, audio)
        description = {
            "spectrogram": spec.to_json(),
            "audio": audio.to_json(),
            "code": code_version("spectrograms.log_mel", "utils.slices"),
        }
        store = FeatureStore(config.cache_path, "logmel", description)
        return LogMelRecipe(
            store, lambda: Stages(LogMel(spec), lambda finished: finished, names=("mel", "")), audio, spec
        )

    return Extraction(plan, config.workers)


def log_mels_of(
    corpus: Corpus,
    config: SpectrogramConfig,
    progress: Callable[[int], object] = lambda count: None,
    begun: Extraction[LogMelRecipe] | None = None,
) -> Spectrograms:
    """Make what is missing in the cache and read the spectrograms of all examples; ``begun`` went with the scan."""
    begun = begun or extraction(config)
    report, recipe = begun.finish(corpus, progress), begun.recipe(corpus.audio)
    return Spectrograms(recipe.store.read([example.key for example in corpus.examples]), recipe.spec, report)


def preview(corpus: Corpus, values: NDArray[np.float32], each: int = 4) -> dict[str, list[NDArray[np.float32]]]:
    """The first spectrograms of every class, (bands, frames), one a group where there are several."""
    chosen: dict[str, dict[str, NDArray[np.float32]]] = {label: {} for label in corpus.dataset.labels}
    for row, example in enumerate(corpus.examples):
        clip = corpus.clips[example.clip]
        if len(chosen[clip.label]) < each:
            chosen[clip.label].setdefault(clip.group, values[row].T)
    return {label: list(of_group.values()) for label, of_group in chosen.items()}


def statistics(values: NDArray[np.float32]) -> dict[str, float]:
    """What the spectrograms hold: size, mean, deviation and the share of values at the floor."""
    total, squares, floor, at_floor = 0.0, 0.0, np.inf, 0
    for start in range(0, len(values), _PART):  # in parts: the spectrograms may be larger than the memory
        part = np.asarray(values[start : start + _PART])
        total += part.sum(dtype=np.float64)
        squares += np.square(part, dtype=np.float64).sum()
        low = part.min()
        at_floor = (at_floor if low >= floor else 0) + (int((part <= min(low, floor)).sum()) if low <= floor else 0)
        floor = min(floor, low)
    mean = total / values.size
    return {
        "frames": values.shape[1],
        "bands": values.shape[2],
        "mean": float(mean),
        "deviation": float(np.sqrt(max(0.0, squares / values.size - mean**2))),
        "share_at_floor": at_floor / values.size,
    }
