"""DCASE 2017 task 1: acoustic scenes in binaural recordings from Finland (TUT Acoustic Scenes 2017).

Layout: ``TUT-acoustic-scenes-2017-development/`` and ``-evaluation/``, each with ``meta.txt``, ``audio/`` and
``evaluation_setup/``; all lists are tab separated without a header. 10 s clips of 44.1 kHz, 24 bit, stereo,
named ``{recording}_{start}_{end}.wav``; clips cut from one recording share a fold. As in the paper (section
2.2), the four official folds are the development set and the evaluation set is the test set; the measure is
accuracy.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from soundstack.datasets.clips import TEST, Clip, DataSet, check_splits, ungrouped
from soundstack.datasets.lists import (
    AGAIN,
    by_sound,
    check_against_meta,
    incomplete,
    read_folds,
    read_list,
    require_folder,
    require_sounds,
    third_cells,
)
from soundstack.utils.errors import DataError

URLS = {
    "development": "https://zenodo.org/record/400515/files/{file}",
    "evaluation": "https://zenodo.org/record/1040168/files/{file}",
}
DEVELOPMENT = "TUT-acoustic-scenes-2017-development"
EVALUATION = "TUT-acoustic-scenes-2017-evaluation"
LICENCE = "EULA of Tampere University of Technology: academic, non-commercial use (EULA.pdf in the doc archive)"
CITATION = (
    "A. Mesaros, T. Heittola, T. Virtanen: TUT database for acoustic scene classification and sound "
    "event detection. 24th European Signal Processing Conference (EUSIPCO), 2016, pp. 1128-1132"
)
SECONDS = 10.0
SAMPLE_RATE = 44_100
MEASURE = "accuracy"
CLIPS = {"development": 4680, "evaluation": 1620}


def load(folder: Path) -> DataSet:
    """Load the development set with its official folds, and the evaluation set as the test set.

    Clips that ``error.txt`` names are kept, as in the official baseline, and carry the tag ``error`` with
    the events (``mobile_phone``, say).

    Args:
        folder: the folder that holds both data sets' folders.

    Returns:
        Clips with ids such as ``development/b020_90_100.wav``, and notes on all that is not as it should be.

    Raises:
        DataError: a folder, list or sound file is missing, a row is malformed, or the folds leak.
    """
    require_folder(folder, "DCASE 2017 task 1")
    development, evaluation = folder / DEVELOPMENT, folder / EVALUATION
    require_folder(development, "development set of DCASE 2017 task 1")
    require_folder(evaluation, "evaluation set of DCASE 2017 task 1")
    devel, devel_notes = _devel_clips(development)
    test, test_notes = _test_clips(evaluation)
    clips = (*devel, *test)
    check_splits(clips)
    notes = [
        *devel_notes,
        *test_notes,
        *_shared_recordings(devel, test),
        *incomplete(len(devel), CLIPS["development"], "development"),
        *incomplete(len(test), CLIPS["evaluation"], "evaluation"),
    ]
    return DataSet(
        "dcase2017",
        clips,
        seconds=SECONDS,
        sample_rate=SAMPLE_RATE,
        measure=MEASURE,
        licence=LICENCE,
        citation=CITATION,
        notes=tuple(notes),
    )


def _devel_clips(root: Path) -> tuple[list[Clip], list[str]]:
    rows, fold_of, notes = read_folds(root / "evaluation_setup")
    meta = by_sound(read_list(root / "meta.txt", columns=2))
    notes += check_against_meta(rows, meta)
    audio = root / "audio"
    require_sounds(audio, ((name, row.where) for name, row in rows.items()))
    errors = _errors(root / "error.txt")
    in_meta = third_cells([root / "meta.txt"])
    in_folds = third_cells(sorted((root / "evaluation_setup").glob("fold*.txt")))
    clips = []
    unknown = []
    for name, row in rows.items():
        recording = in_meta.get(name) or _recording(name) or in_folds.get(name)
        if not recording:
            unknown.append(name)
        tags = {"error": ",".join(sorted(errors[name]))} if name in errors else {}
        clips.append(
            Clip(
                id=f"development/{name}",
                path=audio / name,
                label=row.cells[1],
                fold=fold_of[name],
                group=f"development/{recording or Path(name).stem}",
                tags=tags,
            )
        )
    if errors:
        strange = sorted(errors.keys() - rows.keys())
        notes.append(
            f"error.txt names recording errors in {len(errors) - len(strange):,} development clips, "
            "which are kept (tag "
            "'error')" + (f", and {len(strange):,} files that are none (first: {strange[0]})." if strange else ".")
        )
    return clips, [*ungrouped(unknown, len(clips), "The recording of development clips"), *notes]


def _test_clips(root: Path) -> tuple[list[Clip], list[str]]:
    setup = root / "evaluation_setup"
    meta = by_sound(read_list(root / "meta.txt", columns=2)) if (root / "meta.txt").is_file() else {}
    notes = []
    if (setup / "evaluate.txt").is_file():
        rows = by_sound(read_list(setup / "evaluate.txt", columns=2))
    elif meta:
        rows = meta
        notes = ["The evaluation set has no evaluate.txt: its labels are those of meta.txt."]
    else:
        raise DataError(
            f"The evaluation set has no labels: neither {setup / 'evaluate.txt'} nor {root / 'meta.txt'} "
            f"exists. {AGAIN}"
        )
    audio = root / "audio"
    require_sounds(audio, ((name, row.where) for name, row in rows.items()))
    original = _original_names(setup / "map.txt")
    in_meta = third_cells([root / "meta.txt"])
    in_lists = third_cells([setup / "evaluate.txt", setup / "test.txt"])
    clips = []
    unknown = []
    for name, row in rows.items():
        recording = in_meta.get(name) or _recording(original.get(name, name)) or in_lists.get(name)
        if not recording:
            unknown.append(name)
        clips.append(
            Clip(
                id=f"evaluation/{name}",
                path=audio / name,
                label=row.cells[1],
                fold=TEST,
                group=f"evaluation/{recording or Path(name).stem}",
            )
        )
    return clips, [*ungrouped(unknown, len(clips), "The recording of evaluation clips"), *notes]


def _recording(name: str) -> str:
    """The recording of ``{recording}_{start}_{end}.wav``; ``""`` for another name."""
    parts = Path(name).stem.rsplit("_", 2)
    return parts[0] if len(parts) == 3 and all(part.isdecimal() for part in parts[1:]) else ""


def _errors(path: Path) -> dict[str, set[str]]:
    """The events that ``error.txt`` (file, onset, offset, event) names, by file."""
    events: dict[str, set[str]] = defaultdict(set)
    if path.is_file() and path.stat().st_size:
        for row in read_list(path, columns=1):
            events[row.sound].add(row.cell(3) or "unnamed")
    return events


def _original_names(path: Path) -> dict[str, str]:
    """The names the evaluation clips had before they were made anonymous, where a map is there."""
    if not path.is_file():
        return {}
    rows = read_list(path, columns=2)
    return {row.sound: row.sound_in(1) for row in rows}


def _shared_recordings(devel: list[Clip], test: list[Clip]) -> list[str]:
    """A note if a recording's name occurs in both parts.

    No error: whether the two parts number their recordings together is not published.
    """
    names = [{clip.group.split("/", 1)[1] for clip in clips} for clips in (devel, test)]
    if not (shared := sorted(names[0] & names[1])):
        return []
    return [
        f"{len(shared):,} names of recordings occur in both the development and the evaluation set "
        f"(first: {shared[0]}): either the sets count their recordings apart, or test recordings have "
        "leaked."
    ]
