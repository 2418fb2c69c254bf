"""Files scored by the hosts of a cluster: a slice of them is a pure function from a job to a part in the store.

A part is a store of finished files as :mod:`soundstack.prediction.store` has it on this machine, written whole to
``<output>/parts/<model>/`` and named by the files that it holds; who finds it there has nothing to do. The model lies
in ``<output>/models/<model>/``, from where each process restores it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from soundstack.audio.find import SoundFile
from soundstack.prediction.run import predict
from soundstack.prediction.store import PredictionStore
from soundstack.recognisers.base import Recogniser, load
from soundstack.utils import devices, object_store
from soundstack.utils.cluster import Cluster
from soundstack.utils.errors import StoreError
from soundstack.utils.project import fingerprint, processor

#: Files of a slice, and bytes of them unless a single one has more.
SLICE = 128
BYTES = 1 << 28


class ScoreJob(NamedTuple):
    """A slice of files, the URIs of its part and of the model, and what scores them with how many decoding threads."""

    files: tuple[SoundFile, ...]
    part: str
    model: str
    device: str
    threads: int


def score_slice(job: ScoreJob) -> str:
    """Score the files of a slice, write their part, and return the name of the processor.

    Raises:
        StoreError: The store does not answer.
    """
    if not object_store.exists(job.part):
        recogniser = _restored(job.model, job.device)
        with TemporaryDirectory(prefix="soundstack-") as folder:
            path = Path(folder, "part.sqlite")
            with closing(PredictionStore(path)) as store:
                predict(recogniser, job.files, store, jobs=job.threads)
            object_store.write(job.part, path.read_bytes())
    return processor()


#: The last model, by its place and device: a process gets many slices, and restores a model once.
_models: dict[tuple[str, str], Recogniser] = {}


def _restored(model: str, device: str) -> Recogniser:
    if (model, device) not in _models:
        _models.clear()
        with TemporaryDirectory(prefix="soundstack-") as folder:
            object_store.fetch(model, object_store.listed(model), Path(folder))
            _models[model, device] = load(Path(folder), devices.choose(device))
    return _models[model, device]


def score(
    cluster: Cluster,
    model: Path,
    files: Sequence[SoundFile],
    store: PredictionStore,
    uri: str,
    *,
    advance: Callable[[int], object] = lambda count: None,
) -> set[str]:
    """Let hosts score what a store lacks of files, and take it over; return the names of their processors.

    Args:
        cluster: whose hosts work; with GPUs of theirs if a job is given any.
        model: The folder of the recogniser.
        files: All of them: how they are cut into slices must not depend on what is finished.
        store: Takes the results; its key is that of the model.
        uri: Where hosts see the output folder.
        advance: Called with the bytes of sound files done since the last call.

    Raises:
        ConfigError: The cluster cannot be reached.
        StoreError: The store does not answer, or holds a damaged part.
        WorkerError: A host has other code, or dies again and again.
    """
    parts, sent = f"{uri}/parts/{store.key}", f"{uri}/models/{store.key}"
    device = "cuda" if cluster.gpus else "cpu"
    missing = ([file for file in part if file not in store] for part in _slices(files))
    jobs = [ScoreJob(tuple(part), f"{parts}/{_name(part)}", sent, device, cluster.cpus) for part in missing if part]
    done = {f"{parts}/{name}" for name in object_store.listed(parts)}
    for job in [job for job in jobs if job.part in done]:
        _take(job, store, advance)
    processors = set()
    if left := [job for job in jobs if job.part not in done]:
        object_store.send([path for path in model.rglob("*") if path.is_file()], model, sent)
        for number, name in cluster.run(score_slice, left):
            _take(left[number], store, advance)
            processors.add(name)
    return processors


def _slices(files: Sequence[SoundFile]) -> Iterator[list[SoundFile]]:
    part: list[SoundFile] = []
    size = 0
    for file in files:
        if part and (len(part) == SLICE or size + file.size > BYTES):
            yield part
            part, size = [], 0
        part.append(file)
        size += file.size
    if part:
        yield part


def _name(part: Sequence[SoundFile]) -> str:
    return f"{fingerprint([[str(file.path), file.size, file.modified, file.problem] for file in part])}.sqlite"


def _take(job: ScoreJob, store: PredictionStore, advance: Callable[[int], object]) -> None:
    with TemporaryDirectory(prefix="soundstack-") as folder:
        path = Path(folder, "part.sqlite")
        try:
            object_store.download(job.part, path)
        except FileNotFoundError:
            raise StoreError(f"{job.part} was removed while it was in use; run again.") from None
        if not store.take(path):
            raise StoreError(f"{job.part} is damaged; remove it, and run again.")
    advance(sum(file.size for file in job.files))
