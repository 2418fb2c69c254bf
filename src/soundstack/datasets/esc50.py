"""ESC-50 and its subset ESC-10: environmental sounds from Freesound (Piczak 2015).

Layout: ``meta/esc50.csv`` (``filename,fold,target,category,esc10,src_file,take``) and ``audio/{filename}``,
5 s mono clips of 44.1 kHz. Five published folds; clips cut from one Freesound recording (``src_file``)
share a fold. As in the paper (section 2.3), folds 1 to 4 are the development set and fold 5 is the test
set; the measure is accuracy.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

from soundstack.datasets.clips import TEST, Clip, DataSet, check_splits
from soundstack.datasets.lists import incomplete, read_text, require_folder, require_sounds
from soundstack.utils.errors import DataError

URL = "https://github.com/karolpiczak/ESC-50/archive/master.zip"
ROOT = "ESC-50-master"
LICENCES = {"esc50": "CC BY-NC 3.0", "esc10": "CC BY 3.0"}
CITATION = (
    "K. J. Piczak: ESC: Dataset for Environmental Sound Classification. "
    "23rd ACM International Conference on Multimedia, 2015, doi 10.1145/2733373.2806390"
)
SECONDS = 5.0
SAMPLE_RATE = 44_100
MEASURE = "accuracy"
CLIPS = {"esc50": 2000, "esc10": 400}

_COLUMNS = ("filename", "fold", "category", "esc10", "src_file")
_FOLDS = {"1": "1", "2": "2", "3": "3", "4": "4", "5": TEST}
_YES_NO = {"true": True, "false": False}

Subset = Literal["esc50", "esc10"]


def load(folder: Path, *, subset: Subset = "esc50") -> DataSet:
    """Load ESC-50, or the ten classes of it that are ESC-10.

    Args:
        folder: the folder that holds ``meta/`` and ``audio/``, or the one that holds ``ESC-50-master/``.
        subset: ``"esc50"`` or ``"esc10"``.

    Returns:
        The clips by file name; any format that ``meta/esc50.csv`` names will do.

    Raises:
        DataError: a folder, the list, a column, or a sound file is missing, a row is malformed, the list
            has no clips of the subset, or a recording crosses folds.
    """
    require_folder(folder, "ESC-50")
    root = next((place for place in (folder, folder / ROOT) if (place / "meta" / "esc50.csv").is_file()), None)
    if root is None:
        raise DataError(
            f"{folder} has no meta/esc50.csv, nor has {folder / ROOT}: it is not ESC-50. Run the "
            "download with dataset=esc50, or give the folder that holds meta/ and audio/ as data_dir."
        )
    clips = []
    places = []
    for line, values in _rows(root / "meta" / "esc50.csv"):
        clip, is_esc10 = _clip(values, root, line)
        if subset == "esc50" or is_esc10:
            clips.append(clip)
            places.append((clip.id, f"{root / 'meta' / 'esc50.csv'} row {line}"))
    if not clips:
        raise DataError(
            f"{root / 'meta' / 'esc50.csv'} has no clips of {subset}: column esc10 is True in no row. "
            "Use dataset=esc50, or download the data set again."
        )
    require_sounds(root / "audio", places)
    check_splits(clips)
    return DataSet(
        subset,
        tuple(clips),
        seconds=SECONDS,
        sample_rate=SAMPLE_RATE,
        measure=MEASURE,
        licence=LICENCES[subset],
        citation=CITATION,
        notes=tuple(incomplete(len(clips), CLIPS[subset], subset)),
    )


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of the list by column, each with its number; the header is row 1."""
    reader = csv.reader(read_text(path).splitlines())
    header = [name.strip() for name in next(reader, [])]
    if missing := [name for name in _COLUMNS if name not in header]:
        raise DataError(
            f"{path} lacks the column {', '.join(missing)}; it has {', '.join(header) or 'none'}. "
            "Download the data set again."
        )
    rows = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise _malformed(path, reader.line_num, f"it has {len(cells)} values for {len(header)} columns")
        rows.append((reader.line_num, dict(zip(header, map(str.strip, cells), strict=True))))
    return rows


def _clip(values: dict[str, str], root: Path, line: int) -> tuple[Clip, bool]:
    """The clip of one row, and whether it belongs to ESC-10."""
    path = root / "meta" / "esc50.csv"
    name = values["filename"]
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise _malformed(path, line, f"filename {name!r} is no file of the audio folder")
    if values["fold"] not in _FOLDS:
        raise _malformed(path, line, f"fold {values['fold']!r} is none of 1 to 5")
    if values["esc10"].lower() not in _YES_NO:
        raise _malformed(path, line, f"esc10 {values['esc10']!r} is neither True nor False")
    for column in ("category", "src_file"):
        if not values[column]:
            raise _malformed(path, line, f"{column} is empty")
    clip = Clip(
        id=name,
        path=root / "audio" / name,
        label=values["category"],
        fold=_FOLDS[values["fold"]],
        group=values["src_file"],
    )
    return clip, _YES_NO[values["esc10"].lower()]


def _malformed(path: Path, line: int, why: str) -> DataError:
    return DataError(f"{path} row {line} is malformed: {why}. Correct it, or download the data set again.")
