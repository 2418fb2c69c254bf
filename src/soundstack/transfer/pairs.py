"""The pairs of domains of a run, one a seed: two data sets, two parts of one, or a data set and its re-recording."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from soundstack.config.transfer import TransferConfig
from soundstack.datasets.data_set import DataSet
from soundstack.datasets.open_data_set import open_data_set
from soundstack.transfer import rerecording
from soundstack.transfer.domains import Domain, Pair, common_audio, halved, load, pair_of, selected
from soundstack.transfer.rerecording import Place
from soundstack.utils.code_versions import code_version
from soundstack.utils.progress import bar
from soundstack.utils.project import fingerprint


@dataclass(frozen=True)
class Pairs:
    """The data set of the source, the fingerprint of the target's, and what gives the pair of each seed."""

    data_set: DataSet
    target: str
    of_seeds: Iterator[Pair]


def pairs(config: TransferConfig, device: torch.device) -> Pairs:
    """Open what a run is about.

    Raises:
        DataError: as :func:`~soundstack.transfer.domains.load` and :func:`~soundstack.transfer.domains.pair_of`.
    """
    seeds = range(config.seed, config.seed + config.seeds)
    if config.is_other_set:
        audio = common_audio(open_data_set(config.of_source), open_data_set(config.of_target))
        data_set, source = load(config.of_source, device, audio)
        other, target = load(config.of_target, device, audio)
        source = selected(source, config.source_where, "source_where", config.of_source)
        target = selected(target, config.target_where, "target_where", config.of_target)
        together = config.of_source.data_path == config.of_target.data_path
        pair = pair_of(source, target, config.drawn_with, shared_groups=together)
        return Pairs(data_set, other.fingerprint, iter([pair] * len(seeds)))
    data_set, whole = load(config.of_source, device)
    source = selected(whole, config.source_where, "source_where", config)
    if config.target == "same":
        target = selected(whole, config.target_where, "target_where", config)
        theirs = {clip.id for clip in target.clips}
        source = source.where(lambda clip: clip.id not in theirs)
        pair = pair_of(source, target, config.drawn_with, shared_groups=True)
        return Pairs(data_set, data_set.fingerprint, iter([pair] * len(seeds)))
    rerecorded = (_rerecorded(config, source, data_set, seed, device) for seed in seeds)
    return Pairs(data_set, fingerprint([data_set.fingerprint, config.strength]), rerecorded)


def _rerecorded(config: TransferConfig, whole: Domain, data_set: DataSet, seed: int, device: torch.device) -> Pair:
    """A part of the clips in another room, as files in the cache; the others as they are."""
    moved = halved(whole.clips, seed)
    there = whole.where(lambda clip: clip.group in moved)
    code, names = code_version(rerecording.__name__), [clip.id for clip in there.clips]
    what = [code, config.strength, seed, names, there.contents]
    folder = config.cache_path / f"rerecorded-{fingerprint(what)}"
    place = Place.drawn(config.strength, seed)
    with bar("re-record", len(there.clips), "clips") as advance:
        table = rerecording.write(there.clips, place, folder, config.workers, advance)
    _, target = load(config.of_rerecorded(table), device, data_set.audio)
    return pair_of(whole.where(lambda clip: clip.group not in moved), target, seed, shared_groups=True)
