"""DCASE 2018 task 5: domestic activities heard by several microphone arrays (from the SINS database).

Layout: ``DCASE2018-task5-dev/`` and ``DCASE2018-task5-eval/``, each with ``meta.txt``, ``audio/`` and
``evaluation_setup/``; all lists are tab separated without a header. 10 s clips of 16 kHz, four channels.
Development clips are named ``DevNode{node}_ex{session}_{segment}.wav``: several nodes heard one session,
and its clips share a fold. Evaluation clips are numbered; ``map.txt`` tells which node heard them. As in
the paper (section 2.1), the four official folds are the development set and the evaluation set, known and
unknown nodes together, is the test set; the measure is macro-averaged F1.
"""

from __future__ import annotations

import re
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
    "development": "https://zenodo.org/record/1247102/files/{file}",
    "evaluation": "https://zenodo.org/record/1964758/files/{file}",
}
DEVELOPMENT = "DCASE2018-task5-dev"
EVALUATION = "DCASE2018-task5-eval"
LICENCE = "EULA of KU Leuven: free for non-commercial use (EULA.pdf in the doc archive)"
CITATION = (
    "G. Dekkers, S. Lauwereins, B. Thoen, M. W. Adhana, H. Brouckxon, T. van Waterschoot, B. Vanrumste, "
    "M. Verhelst, P. Karsmakers: The SINS database for detection of daily activities in a home "
    "environment using an acoustic sensor network. DCASE Workshop, 2017, pp. 32-36"
)
SECONDS = 10.0
SAMPLE_RATE = 16_000
MEASURE = "macro_f1"
CLIPS = {"development": 72_984, "evaluation": 72_972}

_NODE = re.compile(r"Node(\d+)")
_SESSION = re.compile(r"_ex(\w+?)_")
_LABEL_LISTS = ("evaluation_setup/evaluation.txt", "evaluation_setup/evaluate.txt", "meta.txt")


def load(folder: Path) -> DataSet:
    """Load the development set with its official folds, and the evaluation set as the test set.

    Clips carry the tag ``node`` (``"1"``, ``"2"``, ...); test clips also ``known``: ``"yes"`` if that node
    is heard in the development set, too, and ``"no"`` if not.

    Args:
        folder: the folder that holds both data sets' folders.

    Returns:
        Clips with ids such as ``development/DevNode1_ex1_1.wav`` and ``evaluation/1.wav``, and notes on all
        that is not as it should be.

    Raises:
        DataError: a folder, list or sound file is missing, a row is malformed, or the folds leak.
    """
    require_folder(folder, "DCASE 2018 task 5")
    development, evaluation = folder / DEVELOPMENT, folder / EVALUATION
    require_folder(development, "development set of DCASE 2018 task 5")
    require_folder(evaluation, "evaluation set of DCASE 2018 task 5")
    devel, devel_notes = _devel_clips(development)
    known_nodes = {clip.tags["node"] for clip in devel}
    test, test_notes = _test_clips(evaluation, known_nodes)
    clips = (*devel, *test)
    check_splits(clips)
    notes = [
        *devel_notes,
        *test_notes,
        *incomplete(len(devel), CLIPS["development"], "development"),
        *incomplete(len(test), CLIPS["evaluation"], "evaluation"),
    ]
    return DataSet(
        "dcase2018",
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
    clips = []
    for name, row in rows.items():
        node, session = _node_and_session(name)
        if not (node and session):
            raise DataError(
                f"{name!r} in {row.where} is not named DevNode<node>_ex<session>_<segment>.wav: its node "
                f"and session are not known. {AGAIN}"
            )
        clips.append(
            Clip(
                id=f"development/{name}",
                path=audio / name,
                label=row.cells[1],
                fold=fold_of[name],
                group=f"development/{session}",
                tags={"node": node},
            )
        )
    return clips, notes


def _test_clips(root: Path, known_nodes: set[str]) -> tuple[list[Clip], list[str]]:
    labels = next((root / name for name in _LABEL_LISTS if (root / name).is_file()), None)
    if labels is None:
        raise DataError(
            f"The evaluation set in {root} has no labels: none of {', '.join(_LABEL_LISTS)} exists. Its "
            "first version had none; download version 2.0.0."
        )
    rows = by_sound(read_list(labels, columns=2))
    audio = root / "audio"
    require_sounds(audio, ((name, row.where) for name, row in rows.items()))
    heard_by = _heard_by(root / "evaluation_setup" / "map.txt")
    in_lists = third_cells(root / name for name in ("meta.txt", *_LABEL_LISTS, "evaluation_setup/test.txt"))
    clips = []
    unmapped = []
    unknown = []
    for name, row in rows.items():
        node, session = heard_by.get(name) or _node_and_session(name)
        session = session or in_lists.get(name, "")
        if session.isdecimal():  # the number alone, where names have ex<number>
            session = f"ex{session}"
        if not session:
            unknown.append(name)
        if not node:
            unmapped.append(name)
        clips.append(
            Clip(
                id=f"evaluation/{name}",
                path=audio / name,
                label=row.cells[1],
                fold=TEST,
                group=f"evaluation/{session or Path(name).stem}",
                tags={"node": node, "known": "yes" if node in known_nodes else "no"} if node else {},
            )
        )
    notes = ungrouped(unknown, len(clips), "The session of evaluation clips")
    if unmapped:
        notes.append(
            f"map.txt does not tell the node of {len(unmapped):,} evaluation clips (first: "
            f"{unmapped[0]}): scores on known and unknown nodes leave them out."
        )
    return clips, notes


def _heard_by(path: Path) -> dict[str, tuple[str, str]]:
    """The node and the session (``""`` if it is not told) of each numbered evaluation clip.

    The map's two columns, the number and the node-style name, come in an order that is not published.
    """
    if not path.is_file():
        return {}
    heard = {}
    for row in read_list(path, columns=2):
        told = [_node_and_session(cell) for cell in row.cells[:2]]
        for numbered, named in ((0, 1), (1, 0)):
            if told[named][0] and not told[numbered][0]:
                heard[row.sound_in(numbered)] = told[named]
    return heard


def _node_and_session(name: str) -> tuple[str, str]:
    """What a node-style name tells, as in ``("1", "ex31")``; ``""`` for what it does not."""
    node, session = _NODE.search(name), _SESSION.search(name)
    return node[1] if node else "", f"ex{session[1]}" if session else ""
