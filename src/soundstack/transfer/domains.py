"""Two domains with common classes, and what of them is for training and what for the test.

The development part of the source is learnt from, with its labels; that of the target without them; the test part of
the target is scored. Parts are the data sets' own, by group; where the chosen clips lie in one part alone, as those of
the unknown nodes of DCASE 2018 do, parts are drawn. The classes are those of both domains: that they are common is
taken as known, and clips of others are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from soundstack.audio.decode import AudioSpec
from soundstack.audio.tables import read_table
from soundstack.config.network import NetworkConfig
from soundstack.datasets import splits
from soundstack.datasets.clips import Clip
from soundstack.datasets.data_set import DataSet
from soundstack.datasets.open_data_set import open_data_set
from soundstack.deepspectrum.extract import extraction
from soundstack.transfer.dann import DannSpec
from soundstack.transfer.systems import Task
from soundstack.utils.errors import DataError
from soundstack.utils.folds import TEST
from soundstack.utils.progress import bar


@dataclass(frozen=True, eq=False)
class Domain:
    """Clips (N) with the contents of their sounds and their features x (N, D)."""

    clips: tuple[Clip, ...]
    contents: tuple[str, ...]
    x: NDArray[np.float32]

    def where(self, chosen: Callable[[Clip], bool]) -> Domain:
        """The clips that are chosen."""
        rows = [row for row, clip in enumerate(self.clips) if chosen(clip)]
        contents = tuple(self.contents[row] for row in rows)
        return Domain(tuple(self.clips[row] for row in rows), contents, self.x[rows])

    def truth(self, classes: Sequence[str]) -> NDArray[np.intp]:
        """Class indices (N,)."""
        return np.array([classes.index(clip.label) for clip in self.clips], dtype=np.intp)

    @property
    def labels(self) -> set[str]:
        """The labels that occur."""
        return {clip.label for clip in self.clips}

    @property
    def folds(self) -> NDArray[np.str_]:
        """The fold of each clip (N,)."""
        return np.array([clip.fold for clip in self.clips])


@dataclass(frozen=True, eq=False)
class Pair:
    """What is learnt from with labels, what without, and what is scored, all of the same classes."""

    classes: tuple[str, ...]
    source: Domain
    target: Domain
    test: Domain
    notes: tuple[str, ...]

    def task(self, spec: DannSpec, device: torch.device) -> Task:
        """What an adaptation may see of it: no label of the target."""
        source, target = self.source, self.target
        return Task(
            source.x, source.truth(self.classes), source.folds, target.x, target.folds, self.test.x, len(self.classes),
            device, spec,
        )  # fmt: skip


def load(config: NetworkConfig, device: torch.device, audio: AudioSpec | None = None) -> tuple[DataSet, Domain]:
    """Open a data set and make its features, or take them from the cache; of several channels of a clip the mean.

    ``audio`` fixes rate and length, so that domains do not differ by them.

    Raises:
        DataError, ConfigError, WeightsError: as :func:`~soundstack.datasets.open_data_set.open_data_set` and
            :func:`~soundstack.deepspectrum.extract.extraction`.
    """
    if audio:
        config = config.model_copy(update={"sample_rate": audio.sample_rate, "clip_seconds": audio.seconds})
    begun = extraction(config, device)
    data_set = open_data_set(config, begun)
    with bar(f"{config.network} {config.dataset}", len(data_set.clips), "clips") as advance:
        values = begun.finish(data_set, advance).values
    # Silence is no copy of silence.
    pairs = zip(data_set.clips, data_set.scans, strict=True)
    contents = tuple(f"silence of {clip.id}" if scan.silent else scan.content for clip, scan in pairs)
    return data_set, Domain(data_set.clips, contents, data_set.clip_means(values).astype(np.float32))


def common_audio(one: DataSet, other: DataSet) -> AudioSpec:
    """The lower rate and the shorter length: what both data sets have."""
    rate = min(one.audio.sample_rate, other.audio.sample_rate)
    return AudioSpec(rate, min(one.audio.seconds, other.audio.seconds), one.audio.channels)


def selected(domain: Domain, condition: str, parameter: str, config: NetworkConfig) -> Domain:
    """The clips of which a tag, or a column of the user's table, has a value (``node=1``); of ``all``, every one.

    Raises:
        DataError: Nothing has that name, or no clip that value; it names what there is.
    """
    if condition == "all":
        return domain
    name, _, wanted = (part.strip() for part in condition.partition("="))
    values = _values(domain, name, config)
    chosen = domain.where(lambda clip: values.get(clip.id) == wanted)
    if not chosen.clips:
        there = ", ".join(sorted(set(values.values()))[:8]) or f"no clip has a {name}"
        raise DataError(f"{parameter}: no clip has {name}={wanted}; found: {there}.")
    return chosen


def _values(domain: Domain, name: str, config: NetworkConfig) -> dict[str, str]:
    """What each clip, by its id, has under a name."""
    if config.dataset != "csv" or not config.data_path.is_file():
        return {clip.id: clip.tags[name] for clip in domain.clips if name in clip.tags}
    table = read_table(config.data_path)
    if name not in table.header:
        raise DataError(f"{table.name} has no column {name!r}; it has {', '.join(filter(None, table.header))}.")
    cells = table.cells[table.header.index(name)]
    listed = {f"{table.name} row {row}": str(value) for row, value in cells.items()}
    return {clip.id: listed[clip.listed] for clip in domain.clips if clip.listed in listed}


def halved(clips: Sequence[Clip], seed: int) -> set[str]:
    """Half of the development groups of every class, as even over the folds as can be, and all groups of the test."""
    rng = np.random.default_rng(seed)
    taken, left = {clip.group for clip in clips if clip.fold == TEST}, set[str]()
    for label in sorted({clip.label for clip in clips}):
        own = {clip.group: clip.fold for clip in clips if clip.label == label and clip.group not in taken | left}
        order = sorted(rng.permutation(sorted(own)).tolist(), key=own.__getitem__)
        first = int(rng.integers(2))
        taken |= set(order[first::2])
        left |= set(order[1 - first :: 2])
    return taken


def pair_of(source: Domain, target: Domain, seed: int, *, shared_groups: bool) -> Pair:
    """Divide two domains into parts, and leave out the classes that one of them lacks.

    ``shared_groups``: both name their groups alike, so that one of the same name in both is the same.

    Raises:
        DataError: A sound or a group is in both domains, fewer than two classes are common, or a class is too small.
    """
    notes: list[str] = []
    source = _with_parts(source, seed, notes, "source", needed={False})
    target = _with_parts(target, seed, notes, "target", needed={False, True})
    learnt = source.where(lambda clip: clip.fold != TEST)
    adapted, test = target.where(lambda clip: clip.fold != TEST), target.where(lambda clip: clip.fold == TEST)
    classes = tuple(sorted(learnt.labels & adapted.labels))
    if len(classes) < 2:
        raise DataError(
            f"The domains need two common classes at least: the source has {_few(learnt.labels)}; the target has "
            f"{_few(adapted.labels)}."
        )
    if others := (learnt.labels | adapted.labels | test.labels) - set(classes):
        notes.append(f"Classes of one domain alone are left out: {_few(others)}.")
    learnt, adapted, test = (each.where(lambda clip: clip.label in classes) for each in (learnt, adapted, test))
    _check_apart(learnt, (adapted, test), shared_groups)
    for what, part in (("source", learnt), ("target", adapted)):
        if len(set(part.folds)) < 2:
            raise DataError(f"The {what} needs development clips in two folds at least, to choose C by.")
    if not test.clips:
        raise DataError("The target has no test clips of the common classes.")
    return Pair(classes, learnt, adapted, test, tuple(notes))


def _with_parts(domain: Domain, seed: int, notes: list[str], name: str, *, needed: set[bool]) -> Domain:
    """The domain as it is, or, where it lacks a part (test or not) that is needed, with parts drawn by group."""
    if needed <= {clip.fold == TEST for clip in domain.clips}:
        return domain
    said: list[str] = []
    undecided = [replace(clip, fold="") for clip in domain.clips]
    drawn = splits.complete(undecided, seed, said, {clip.id: clip.id for clip in undecided})
    notes += [f"The {name}'s clips all lay in one part. {each}" for each in said]
    return replace(domain, clips=tuple(drawn))


def _check_apart(source: Domain, others: Sequence[Domain], shared_groups: bool) -> None:
    """Refuse a sound, or a group, on both sides."""
    sounds = dict(zip(source.contents, source.clips, strict=True))
    groups = {clip.group: clip for clip in source.clips} if shared_groups else {}
    for domain in others:
        for clip, content in zip(domain.clips, domain.contents, strict=True):
            if other := sounds.get(content):
                raise DataError(f"{clip.id!r} of the target and {other.id!r} of the source are the same sound.")
            if other := groups.get(clip.group):
                raise DataError(
                    f"Group {clip.group!r} is in both domains ({other.id!r}, {clip.id!r}); clips of a group belong to "
                    "one: choose domains that part no group."
                )


def _few(labels: set[str]) -> str:
    return ", ".join(sorted(labels)[:8]) + (", ..." if len(labels) > 8 else "")
