"""DCASE 2017 task 1: acoustic scenes in binaural recordings from Finland (TUT Acoustic Scenes 2017).

Layout: ``TUT-acoustic-scenes-2017-development/`` and ``-evaluation/``, each as :mod:`soundstack.datasets.dcase`
tells. 10 s clips of 44.1 kHz, 24 bit, stereo, named ``{recording}_{start}_{end}.wav``; clips cut from one recording
share a fold. The paper's measure (section 2.2) is accuracy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from soundstack.datasets import dcase
from soundstack.datasets.catalogue import Source, data_set, published_archives
from soundstack.datasets.clips import NO_TAGS, Clip, ClipTable, ungrouped
from soundstack.datasets.lists import AGAIN, labelled, optional_list, read_list, require_sounds, third_cells
from soundstack.utils.errors import DataError

if TYPE_CHECKING:
    from soundstack.config.steps import DataConfig

DEVELOPMENT = "TUT-acoustic-scenes-2017-development"
EVALUATION = "TUT-acoustic-scenes-2017-evaluation"
CLIPS = (4680, 1620)
EMPTY = ClipTable(
    "dcase2017",
    clips=(),
    seconds=10.0,
    sample_rate=44_100,
    licence="EULA of Tampere University of Technology: academic, non-commercial use (EULA.pdf in the doc archive)",
    citation="A. Mesaros, T. Heittola, T. Virtanen: TUT database for acoustic scene classification and sound "
    "event detection. 24th European Signal Processing Conference (EUSIPCO), 2016, pp. 1128-1132",
)
SOURCE = Source(
    "dcase2017",
    "DCASE 2017 task 1: TUT Acoustic Scenes 2017, development and evaluation",
    EMPTY.licence,
    EMPTY.citation,
    published_archives(
        "dcase2017",
        {
            "development": "https://zenodo.org/record/400515/files/{file}",
            "evaluation": "https://zenodo.org/record/1040168/files/{file}",
        },
    ),
    growth=1.2,  # 6300 clips of 2.65 MB
    typical_bytes=1_100_000_000,
)


@data_set("dcase2017", source=SOURCE)
def configured(config: DataConfig) -> ClipTable:
    """The data set as a run has it."""
    return load(config.data_path)


def load(folder: Path) -> ClipTable:
    """Load the development set with its official folds, and the evaluation set as the test set.

    Clips that ``error.txt`` names are kept, as in the official baseline, and carry the tag ``error`` with
    the events (``mobile_phone``, say).

    ``folder`` holds both data sets' folders; ids are such as ``development/b020_90_100.wav``, and notes tell of all
    that is not as it should be.
    A DataError tells of a folder, list or sound file that is missing, a malformed row, or folds that leak.
    """
    development, evaluation = dcase.parts_of(folder, "DCASE 2017 task 1", DEVELOPMENT, EVALUATION)
    devel, devel_notes = _devel_clips(development)
    test, test_notes = _test_clips(evaluation)
    notes = [*devel_notes, *test_notes]
    recordings, others = ({clip.group.split("/", 1)[1] for clip in clips} for clips in (devel, test))
    # No error: whether the two parts number their recordings together is not published.
    if shared := sorted(recordings & others):
        notes.append(
            f"{len(shared):,} names of recordings occur in both the development and the evaluation set (first: "
            f"{shared[0]}): either the sets count their recordings apart, or test recordings have leaked."
        )
    return dcase.joined(EMPTY, devel, test, notes, CLIPS)


def _devel_clips(root: Path) -> tuple[list[Clip], list[str]]:
    rows, fold_of, notes = dcase.development_rows(root)
    errors: dict[str, set[str]] = defaultdict(set)  # the events of (file, onset, offset, event), by file
    for row in optional_list(root / "error.txt"):
        errors[row.sound].add(row.cell(3) or "unnamed")
    in_meta = third_cells([root / "meta.txt"])
    in_folds = third_cells(sorted((root / "evaluation_setup").glob("fold*.txt")))

    def described(name: str) -> tuple[str, Mapping[str, str]]:
        recording = in_meta.get(name) or _recording(name) or in_folds.get(name, "")
        return recording, {"error": ",".join(sorted(errors[name]))} if name in errors else NO_TAGS

    clips, alone = dcase.clips_of(rows, root, "development", fold_of, described)
    if errors:
        strange = sorted(errors.keys() - rows.keys())
        notes.append(
            f"error.txt names recording errors in {len(errors) - len(strange):,} development clips, "
            "which are kept (tag 'error')"
            + (f", and {len(strange):,} files that are none (first: {strange[0]})." if strange else ".")
        )
    return clips, [*ungrouped(alone, len(clips), "The recording of development clips"), *notes]


def _test_clips(root: Path) -> tuple[list[Clip], list[str]]:
    setup = root / "evaluation_setup"
    meta = labelled(root / "meta.txt") if (root / "meta.txt").is_file() else {}
    notes = []
    if (setup / "evaluate.txt").is_file():
        rows = labelled(setup / "evaluate.txt")
    elif meta:
        rows = meta
        notes = ["The evaluation set has no evaluate.txt: its labels are those of meta.txt."]
    else:
        raise DataError(
            f"The evaluation set has no labels: neither {setup / 'evaluate.txt'} nor {root / 'meta.txt'} "
            f"exists. {AGAIN}"
        )
    require_sounds(root / "audio", ((name, row.where) for name, row in rows.items()))
    # The names that the clips had before they were made anonymous.
    pairs = read_list(setup / "map.txt", columns=2) if (setup / "map.txt").is_file() else []
    original = {row.sound: row.sound_in(1) for row in pairs}
    in_meta = third_cells([root / "meta.txt"])
    in_lists = third_cells([setup / "evaluate.txt", setup / "test.txt"])

    def described(name: str) -> tuple[str, Mapping[str, str]]:
        return in_meta.get(name) or _recording(original.get(name, name)) or in_lists.get(name, ""), NO_TAGS

    clips, alone = dcase.clips_of(rows, root, "evaluation", {}, described)
    return clips, [*ungrouped(alone, len(clips), "The recording of evaluation clips"), *notes]


def _recording(name: str) -> str:
    """The recording of ``{recording}_{start}_{end}.wav``; ``""`` for another name."""
    parts = Path(name).stem.rsplit("_", 2)
    return parts[0] if len(parts) == 3 and all(part.isdecimal() for part in parts[1:]) else ""
