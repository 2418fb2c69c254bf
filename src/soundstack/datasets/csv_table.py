"""The user's own data: a table of clips, or a folder with one folder a class.

A table has the columns ``filename,label``, and optionally ``fold``, ``split``, ``group``; other clear names are taken
(:data:`soundstack.audio.tables.NAMES`). File names are relative to the table's folder, and each file stands there once,
however its name is spelt. ``fold`` is 1, 2, ... or ``test``; ``split`` is ``train``, ``val`` or ``test``
(:mod:`soundstack.datasets.splits`); ``group`` marks clips that belong together (one recording, one speaker) and must
never be torn apart by a split. With ``start`` and ``end`` in seconds, a clip is a stretch of its file: each stands
there once, and those of a file are a group unless the table says otherwise. Folders are in
:mod:`soundstack.datasets.own_rows`.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from soundstack.audio.find import located
from soundstack.audio.sound import Stretch
from soundstack.datasets import own_rows, splits
from soundstack.datasets.catalogue import data_set
from soundstack.datasets.clips import Clip, ClipTable, check_splits, ungrouped
from soundstack.datasets.label_tracks import check_overlaps, stretch_of
from soundstack.datasets.own_rows import Rows
from soundstack.utils.errors import DataError
from soundstack.utils.folds import TEST

if TYPE_CHECKING:
    from soundstack.config.steps import DataConfig


@data_set("csv")
def configured(config: DataConfig) -> ClipTable:
    """The user's data set as a run has it, under its own name."""
    return replace(load(config.data_path, seed=config.drawn_with), name=config.data_name)


def load(place: Path, *, seed: int) -> ClipTable:
    """Read a table of clips, or a folder, and complete its splits; ``understood`` says in one line what was read.

    Raises:
        DataError: a missing file, column, label or value, a duplicate, a class too small to split, or a group that
            crosses folds, each with its row (counted as a spreadsheet does, the header being row 1); or what may be
            read in several ways, with the choice to make.
    """
    read = own_rows.read(place)
    folds, said = splits.given(read.rows, read.where)
    clips, where = _listed(read, folds)
    written = [row["filename"] for row in read.rows]
    alone = [clip.id for clip, row in zip(clips, read.rows, strict=True) if not (row.get("group") or clip.stretch)]
    notes = list(read.notes)
    others = ((name, clip.file) for name, clip in zip(written, clips, strict=True) if name != clip.file)
    moved = [(name, file) for name, file in others if not os.path.exists(read.folder / name)]  # noqa: PTH110
    if moved:
        notes.append(
            f"{len(moved):,} file names are paths of another machine; taken are the files below the table's folder "
            f"(first: {moved[0][1]} for {moved[0][0]})."
        )
    # Labels that are spelt in two Unicode forms look alike and are one label to us.
    spellings = Counter(unicodedata.normalize("NFC", label) for label in {row["label"] for row in read.rows})
    if several := sorted(label for label, count in spellings.items() if count > 1):
        notes.append(
            f"{', '.join(map(repr, several))}: spelt in several Unicode forms (NFC, NFD), taken for one label."
        )
    drawn = len(notes)
    clips = splits.complete(clips, seed, notes, where)
    understood = _understood(read, clips, [*said, *notes[drawn:]])
    notes += ungrouped(alone, len(clips), "The group")
    known = {clip.label for clip in clips if clip.fold != TEST}
    for clip in clips:
        if clip.label not in known:
            raise DataError(
                f"{where[clip.id]}: label {clip.label!r} occurs in the test part only; "
                "a model cannot know it. Add development clips of it, or mend the spelling."
            )
    check_splits(clips, called=lambda clip: f"{clip.id!r} ({where[clip.id]})")
    # Length and rate are not known from the table; the scan of the files fills them in.
    return ClipTable("csv", tuple(clips), 0, 0, notes=tuple(notes), own=True, understood=understood)


def _understood(read: Rows, clips: Sequence[Clip], said: Sequence[str]) -> str:
    """What was read, in one line."""
    classes = len({clip.label for clip in clips})
    held_out = sum(clip.fold == TEST for clip in clips)
    if stretches := [clip for clip in clips if clip.stretch]:
        recordings = len({clip.path for clip in stretches})
        grouped = "" if any(row.get("group") for row in read.rows) else ", grouped by them"
        said = [f"{len(stretches):,} stretches of {recordings:,} recordings{grouped}", *said]
    # Of a note, what was done; why stands in the notes.
    parts = [*read.form, *(each.partition(". ")[0].rstrip(".") for each in said), f"{held_out:,} clips held out."]
    line = f"{read.name}: {len(clips):,} clips of {classes} classes; {'; '.join(parts)}"
    return " ".join(line.split())  # names may hold line ends


def _listed(read: Rows, folds: Sequence[str]) -> tuple[list[Clip], dict[str, str]]:
    """The clips of the rows, with the folds that are given, and the place where each stands by its name."""
    clips: list[Clip] = []
    place: dict[str, str] = {}
    same: dict[str, list[dict[Stretch | None, Clip]]] = defaultdict(list)
    for values, where, fold in zip(read.rows, read.where, folds, strict=True):
        written = values["filename"]
        if not written:
            raise DataError(f"{where}: the filename is empty.")
        if not values["label"]:
            raise DataError(f"{where}: {written!r} has no label.")
        try:
            name, path = located(read.folder, written)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        if not os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises for a name that no file can have)
            raise DataError(
                f"{where}: there is no file {name!r} in {read.folder}; file names are relative to the table's folder."
            )
        stretch = stretch_of(values.get("start", ""), values.get("end", ""), where)
        known = _same_file(path, same[_spelling(path)])
        if other := known.get(stretch):
            spelt = "" if other.file == written else f", as {other.file!r}"
            of_it = f", {stretch} s," if stretch else ""
            row = " ".join(place[other.id].split(" ")[-2:])
            raise DataError(f"{where}: {written!r}{of_it} stands in {row} already{spelt}.")
        first = next(iter(known.values()), None)  # its stretches are one recording, however it is spelt
        name, path = (first.file, first.path) if first else (name, path)
        name_of = f"{name}@{stretch}" if stretch else name
        clip = Clip(name_of, path, values["label"], fold, values.get("group") or name, stretch=stretch, listed=where)
        known[stretch] = clip
        place[clip.id] = where
        clips.append(clip)
    check_overlaps(clips)
    return clips, place


def _same_file(path: Path, alike: list[dict[Stretch | None, Clip]]) -> dict[Stretch | None, Clip]:
    """The clips so far of a file among those of files that are spelt alike; a new and empty one if there are none."""
    for clips in alike:
        known = next(iter(clips.values())).path
        if path == known or path.samefile(known):
            return clips
    alike.append({})
    return alike[-1]


def _spelling(path: Path) -> str:
    """What all spellings of one file's path have in common; some disks tell neither case nor Unicode forms apart."""
    place = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118  (much faster, a file a clip)
    return unicodedata.normalize("NFC", place).casefold()
