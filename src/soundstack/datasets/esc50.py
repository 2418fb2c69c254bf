"""ESC-50 and its subset ESC-10: environmental sounds from Freesound (Piczak 2015).

Layout: ``meta/esc50.csv`` (``filename,fold,target,category,esc10,src_file,take``) and ``audio/{filename}``,
5 s mono clips of 44.1 kHz. Five published folds; clips cut from one Freesound recording (``src_file``) share a fold. As
in the paper (section 2.3), folds 1 to 4 are the development set and fold 5 is the test set; the measure is accuracy.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from soundstack.datasets.catalogue import Source, data_set, published_archives
from soundstack.datasets.clips import Clip, ClipTable, check_splits
from soundstack.datasets.lists import incomplete, is_file_name, read_text, require_folder, require_sounds
from soundstack.utils.errors import DataError
from soundstack.utils.folds import TEST

if TYPE_CHECKING:
    from soundstack.config.steps import DataConfig

ROOT = "ESC-50-master"
LICENCES = {"esc50": "CC BY-NC 3.0", "esc10": "CC BY 3.0"}
CITATION = (
    "K. J. Piczak: ESC: Dataset for Environmental Sound Classification. "
    "23rd ACM International Conference on Multimedia, 2015, doi 10.1145/2733373.2806390"
)
CLIPS = {"esc50": 2000, "esc10": 400}
SOURCE = Source(
    "esc50",
    "ESC-50, with ESC-10 as a part of it",
    f"{LICENCES['esc50']}; the ESC-10 subset {LICENCES['esc10']}",
    CITATION,
    published_archives("esc50", {"clips": "https://github.com/karolpiczak/ESC-50/archive/master.zip"}),
    growth=1.5,  # 2000 clips of 441,044 bytes
    typical_bytes=600_000_000,
    moving=True,
)

_COLUMNS = ("filename", "fold", "category", "esc10", "src_file")
_FOLDS = {"1": "1", "2": "2", "3": "3", "4": "4", "5": TEST}


@data_set("esc10", "esc50", source=SOURCE)
def configured(config: DataConfig) -> ClipTable:
    """The data set as a run has it."""
    return load(config.data_path, subset=config.dataset)


def load(folder: Path, *, subset: str = "esc50") -> ClipTable:
    """Load ESC-50, or the ten classes of it that are ``esc10``; any format that ``meta/esc50.csv`` names will do.

    ``folder`` holds ``meta/`` and ``audio/``, or ``ESC-50-master/``.

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
    table = root / "meta" / "esc50.csv"
    chosen = [(row, where) for row, where in _rows(table) if subset == "esc50" or row["esc10"].lower() == "true"]
    if not chosen:
        raise DataError(
            f"{table} has no clips of {subset}: column esc10 is True in no row. "
            "Use dataset=esc50, or download the data set again."
        )
    require_sounds(root / "audio", ((row["filename"], where) for row, where in chosen))
    clips = tuple(
        Clip(
            id=row["filename"],
            path=root / "audio" / row["filename"],
            label=row["category"],
            fold=_FOLDS[row["fold"]],
            group=row["src_file"],
        )
        for row, _ in chosen
    )
    check_splits(clips)
    notes = tuple(incomplete(len(clips), CLIPS[subset], subset))
    return ClipTable(subset, clips, 5.0, 44_100, licence=LICENCES[subset], citation=CITATION, notes=notes)


def _rows(path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """The rows of the list by column, checked, each with the place where it stands; the header is row 1."""
    reader = csv.reader(read_text(path).splitlines())
    header = [name.strip() for name in next(reader, [])]
    if missing := [name for name in _COLUMNS if name not in header]:
        raise DataError(
            f"{path} lacks the column {', '.join(missing)}; it has {', '.join(header) or 'none'}. "
            "Download the data set again."
        )
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path} row {reader.line_num}"
        row = dict(zip(header, map(str.strip, cells), strict=False))
        is_whole = len(cells) == len(header)
        if fault := _fault(row) if is_whole else f"it has {len(cells)} values for {len(header)} columns":
            raise DataError(f"{where} is malformed: {fault}. Correct it, or download the data set again.")
        yield row, where


def _fault(row: dict[str, str]) -> str:
    """What is wrong with a row; ``""`` if nothing is."""
    if not is_file_name(row["filename"]):
        return f"filename {row['filename']!r} is no file of the audio folder"
    if row["fold"] not in _FOLDS:
        return f"fold {row['fold']!r} is none of 1 to 5"
    if row["esc10"].lower() not in ("true", "false"):
        return f"esc10 {row['esc10']!r} is neither True nor False"
    return next((f"{column} is empty" for column in ("category", "src_file") if not row[column]), "")
