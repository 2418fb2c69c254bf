"""The log-mel spectrograms of a data set, by way of the cache (paper section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundstack.audio.decode import AudioSpec
from soundstack.config.steps import PRESETS, SpectrogramConfig
from soundstack.datasets.data_set import DataSet
from soundstack.features.extract import Extracted, Extraction
from soundstack.features.hosts import Hosts
from soundstack.features.make import Recipe, TwoStageTransform
from soundstack.features.store import FeatureStore
from soundstack.spectrograms.log_mel import LogMel, SpectrogramSpec
from soundstack.utils.code_versions import code_version

_PART = 4096


@dataclass(frozen=True)
class LogMelRecipe(Recipe):
    """How log-mel spectrograms are made."""

    spec: SpectrogramSpec

    def make_transform(self) -> TwoStageTransform:
        """See :class:`Recipe`."""
        return TwoStageTransform(clip=LogMel(self.spec), names=("mel", ""))


#: All examples' log-mel spectrograms (E, frames, bands).
Spectrograms = Extracted[LogMelRecipe]


def spectrogram_spec(config: SpectrogramConfig, audio: AudioSpec) -> SpectrogramSpec:
    """Resolve the configuration: rate from the data, threshold from the data set's preset."""
    clip_db = PRESETS[config.dataset].clip_db if config.clip_db == "auto" else config.clip_db
    return SpectrogramSpec(audio.sample_rate, clip_db, config.front_end)


def extraction(config: SpectrogramConfig) -> Extraction[LogMelRecipe]:
    """The extraction of a data set's log-mel spectrograms."""

    def plan(audio: AudioSpec) -> LogMelRecipe:
        spec = spectrogram_spec(config, audio)
        code = code_version(LogMel.__module__)
        description = {"spectrogram": spec.to_json(), "audio": audio.to_json(), "code": code}
        return LogMelRecipe(FeatureStore(config.cache_path, "logmel", description, config.cache_uri), audio, spec)

    return Extraction(plan, config.workers, Hosts.of(config))


def preview(data_set: DataSet, values: NDArray[np.float32], each: int = 4) -> dict[str, list[NDArray[np.float32]]]:
    """The first spectrograms of every class, (bands, frames), one a group where there are several."""
    chosen: dict[str, dict[str, NDArray[np.float32]]] = {label: {} for label in data_set.clip_table.labels}
    for row, example in enumerate(data_set.examples):
        clip = data_set.clips[example.clip]
        if len(chosen[clip.label]) < each:
            chosen[clip.label].setdefault(clip.group, values[row].T)
    return {label: list(of_group.values()) for label, of_group in chosen.items()}


def statistics(values: NDArray[np.float32]) -> dict[str, float]:
    """What the spectrograms hold: size, mean, deviation and the share of values at the floor."""
    # In parts: the spectrograms may be larger than the memory.
    parts = [np.asarray(values[start : start + _PART]) for start in range(0, len(values), _PART)]
    mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / values.size
    squares = sum(float(np.square(part, dtype=np.float64).sum()) for part in parts) / values.size
    floor = min(part.min() for part in parts)
    return {
        "frames": values.shape[1],
        "bands": values.shape[2],
        "mean": mean,
        "deviation": max(0.0, squares - mean**2) ** 0.5,
        "share_at_floor": sum(int((part == floor).sum()) for part in parts) / values.size,
    }
