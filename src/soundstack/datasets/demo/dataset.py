"""The ``demo`` data set: ten everyday sounds, synthesised from formulas, so nothing is downloaded.

On disk it is what a user's own table is (:mod:`soundstack.datasets.csv_table`): 16-bit mono files
``{fold}-{source}-{take}-{label}.wav``, and beside them ``demo.csv``. Folds 1 to 4 are the development set, the fifth is
the test set. Every source (one instrument, bird, street, ...) is recorded in two takes, and both lie in one fold.

Every file is written whole or not at all, the table last, so a folder with a table is complete. A write that was
killed is continued by the next one, and of two processes that write the same folder the second waits for the first.
A clip depends on its fold, class, source and take alone, not on how many clips there are, nor on the order in which
they are made.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import soundfile

from soundstack.datasets import csv_table as custom
from soundstack.datasets.catalogue import data_set
from soundstack.datasets.clips import ClipTable
from soundstack.datasets.demo.synthesis import SOUNDS, synthesise
from soundstack.utils.code_versions import code_version
from soundstack.utils.errors import DataError
from soundstack.utils.files import remove_unfinished, write_atomically
from soundstack.utils.folds import TEST
from soundstack.utils.locks import exclusive
from soundstack.utils.progress import bar

if TYPE_CHECKING:
    from soundstack.config.steps import DataConfig

TABLE = "demo.csv"
SEED = 0
LABELS = tuple(sorted(SOUNDS))
SECONDS = 4.0
SAMPLE_RATE = 16_000
FOLDS = 5
TAKES = "AB"
CLIPS_PER_CLASS_AND_FOLD = 8


class _Recording(NamedTuple):
    """One line of the table."""

    filename: str
    label: str
    fold: str
    group: str
    take: str


@data_set("demo")
def configured(config: DataConfig) -> ClipTable:
    """The data set as a run has it: in the cache, by the code that makes it, written if need be."""
    folder = config.cache_path / f"demo-{code_version(__name__.partition('.')[2])}"
    with bar("demo", len(LABELS) * FOLDS * CLIPS_PER_CLASS_AND_FOLD, "clips") as advance:
        write(folder, jobs=config.workers, progress=advance)
    return load(folder)


def write(
    folder: Path,
    *,
    clips_per_class_and_fold: int = CLIPS_PER_CLASS_AND_FOLD,
    jobs: int | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> None:
    """Synthesise the data set into ``folder``, or finish what an interrupted call began.

    ``jobs`` threads work at once; the result does not depend on it. ``progress`` is called with the number of clips
    done since the last call, first with those found. A folder that is already complete is left alone, and one that
    cannot be written a StoreError.
    """
    recordings = list(_plan(clips_per_class_and_fold))
    if (folder / TABLE).exists() and not _missing(folder, recordings):
        progress(len(recordings))
        return
    with exclusive(folder / ".lock", "the demo data set"):
        remove_unfinished(folder)
        missing = _missing(folder, recordings)
        progress(len(recordings) - len(missing))
        with ThreadPoolExecutor(jobs) as pool:
            for _ in pool.map(partial(_write_clip, folder), missing):
                progress(1)
        lines = [_Recording._fields, *recordings]
        write_atomically(folder / TABLE, "".join(f"{','.join(line)}\n" for line in lines), instead="cache_dir")


def load(folder: Path) -> ClipTable:
    """The data set in ``folder``, as `write` left it; a DataError if it is incomplete. A clip's group is its source."""
    if not (folder / TABLE).exists():
        raise DataError(f"No complete demo data set in {folder}: {TABLE} is missing. Write it again.")
    read = custom.load(folder / TABLE, seed=SEED)
    licence = "CC0 1.0 (made by formulas)"
    table = replace(read, own=False, understood="")
    return replace(table, name="demo", seconds=SECONDS, sample_rate=SAMPLE_RATE, licence=licence)


def _plan(clips_per_class_and_fold: int) -> Iterator[_Recording]:
    for fold in range(1, FOLDS + 1):
        for number, label in enumerate(LABELS):
            for clip in range(clips_per_class_and_fold):
                source, take = f"{fold}{number:02d}{clip // len(TAKES):03d}", TAKES[clip % len(TAKES)]
                name = f"{fold}-{source}-{take}-{label}.wav"
                yield _Recording(name, label, str(fold) if fold < FOLDS else TEST, source, take)


def _missing(folder: Path, recordings: Sequence[_Recording]) -> list[_Recording]:
    """What is not there, or not whole, as a full disc or a power cut may leave it."""
    whole = 44 + 2 * round(SECONDS * SAMPLE_RATE)  # header and samples
    paths = [(recording, folder / recording.filename) for recording in recordings]
    return [recording for recording, path in paths if not path.is_file() or path.stat().st_size != whole]


def _write_clip(folder: Path, recording: _Recording) -> None:
    source_rng = np.random.default_rng([SEED, int(recording.group)])
    take_rng = np.random.default_rng([SEED, int(recording.group), 1 + TAKES.index(recording.take)])
    sound = synthesise(recording.label, source_rng, take_rng, SECONDS, SAMPLE_RATE)
    encoded = io.BytesIO()
    samples = np.round(sound * 32767).astype(np.int16)
    soundfile.write(encoded, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    write_atomically(folder / recording.filename, encoded.getbuffer(), instead="cache_dir")
