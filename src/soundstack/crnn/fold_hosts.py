"""Folds on the hosts of a cluster: a task trains one, from the spectrograms in the store, and answers with its model.

A host takes the spectrograms over into a mirror of its own, keeps what it has learnt where all hosts see it
(:mod:`soundstack.training.checkpoints`), and goes on from what is there: what a host that dies had in hand, another
continues. A task trains with as many threads as it has cores, since on a processor their number changes last bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from soundstack.features.store import FeatureStore
from soundstack.training.fold import FoldJob, FoldModel, Progress, inputs_of, train_fold
from soundstack.utils import devices
from soundstack.utils.cluster import Cluster
from soundstack.utils.errors import StoreError
from soundstack.utils.locks import exclusive
from soundstack.utils.project import fingerprint


class SentFold(NamedTuple):
    """A fold to train, without its inputs: these are the features of the keys, in their order."""

    job: FoldJob
    store: FeatureStore
    keys: tuple[str, ...]
    threads: int


def train_sent(sent: SentFold) -> FoldModel:
    """Train a fold on this host, or answer with what its checkpoint has.

    Raises:
        ConfigError: A GPU is asked for, and not usable here.
        StoreError: The store does not answer, or this host's mirror cannot be written.
    """
    done = sent.job.finished()
    if done is not None:
        return done
    device = devices.choose(sent.job.device.type)
    if device.type == "cpu":
        torch.set_num_threads(sent.threads)
    inputs = _inputs(sent.store.mirrored(mirrors()), sent.keys)
    return train_fold(replace(sent.job, inputs=inputs, device=device))


def mirrors() -> Path:
    """The user's folder on a host for copies of what lies in a store; safe to delete."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "soundstack" / "stores"


@dataclass(frozen=True)
class FoldHosts:
    """The hosts of a cluster, the store of the spectrograms that they learn from, and the keys of its rows."""

    cluster: Cluster
    store: FeatureStore
    keys: tuple[str, ...]

    def train(
        self,
        jobs: Sequence[FoldJob],
        progress: Progress = lambda count: None,
        on_fold: Callable[[str, FoldModel], object] = lambda fold, model: None,
    ) -> list[FoldModel]:
        """Train every fold that its checkpoint does not have, all at a time, and return the models in order.

        ``progress`` is called when a fold ends, with its epochs. ``on_fold`` is called fold by fold, in the order of
        the jobs, whichever ends first; it may raise to stop the rest.

        Raises:
            SoundstackError: See :meth:`Cluster.run`.
        """
        trained = {number: model for number, job in enumerate(jobs) if (model := job.finished())}
        missing = [number for number in range(len(jobs)) if number not in trained]
        progress(sum(jobs[number].spec.epochs for number in trained))
        with closing(self._ended([jobs[number] for number in missing])) as ended:
            for number, job in enumerate(jobs):
                while number not in trained:
                    sent, model = next(ended)
                    trained[missing[sent]] = model
                    progress(jobs[missing[sent]].spec.epochs)
                on_fold(job.fold, trained[number])
        return [trained[number] for number in range(len(jobs))]

    def _ended(self, jobs: Sequence[FoldJob]) -> Generator[tuple[int, FoldModel], None, None]:
        if jobs:  # else no cluster is needed
            yield from self.cluster.run(train_sent, map(self._sent, jobs))

    def _sent(self, job: FoldJob) -> SentFold:
        return SentFold(job, self.store.knowing([]), self.keys, self.cluster.cpus)


#: The spectrograms that were read last, by what they are: a process trains many folds on them.
_read: dict[str, Tensor | Path] = {}


def _inputs(store: FeatureStore, keys: tuple[str, ...]) -> Tensor | Path:
    """The features of the keys (len(keys), T, F), or the file that holds them, where they are too many."""
    name = fingerprint([str(store.folder), keys])
    if name not in _read:
        _read.clear()
        with exclusive(store.folder / ".mirror.lock", f"copy of {store.folder.name}"):  # a host fetches them once
            try:
                values = store.read(keys)
            except KeyError:
                raise StoreError(f"Spectrograms are missing in {store.folder.name} of the cache; run again.") from None
        _read[name] = inputs_of(values)
    return _read[name]
