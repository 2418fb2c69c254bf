"""DCASE 2018 task 5: domestic activities heard by several microphone arrays (from the SINS database).

Layout: ``DCASE2018-task5-dev/`` and ``DCASE2018-task5-eval/``, each as :mod:`soundstack.datasets.dcase` tells. 10 s
clips of 16 kHz, four channels. Development clips are named ``DevNode{node}_ex{session}_{segment}.wav``: several nodes
heard one session, and its clips share a fold. Evaluation clips are numbered; ``map.txt`` tells which node heard them.
As in the paper (section 2.1), known and unknown nodes together are the test set; the measure is macro-averaged F1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from soundstack.datasets import dcase
from soundstack.datasets.catalogue import Source, data_set, published_archives
from soundstack.datasets.clips import NO_TAGS, Clip, ClipTable, ungrouped
from soundstack.datasets.lists import AGAIN, labelled, read_list, require_sounds, third_cells
from soundstack.utils.errors import DataError

if TYPE_CHECKING:
    from soundstack.config.steps import DataConfig

DEVELOPMENT = "DCASE2018-task5-dev"
EVALUATION = "DCASE2018-task5-eval"
CLIPS = (72_984, 72_972)
EMPTY = ClipTable(
    "dcase2018",
    clips=(),
    seconds=10.0,
    sample_rate=16_000,
    licence="EULA of KU Leuven: free for non-commercial use (EULA.pdf in the doc archive)",
    citation="G. Dekkers, S. Lauwereins, B. Thoen, M. W. Adhana, H. Brouckxon, T. van Waterschoot, B. Vanrumste, "
    "M. Verhelst, P. Karsmakers: The SINS database for detection of daily activities in a home "
    "environment using an acoustic sensor network. DCASE Workshop, 2017, pp. 32-36",
)
SOURCE = Source(
    "dcase2018",
    "DCASE 2018 task 5: domestic activities, development and evaluation",
    EMPTY.licence,
    EMPTY.citation,
    published_archives(
        "dcase2018",
        {
            "development": "https://zenodo.org/record/1247102/files/{file}",
            "evaluation": "https://zenodo.org/record/1964758/files/{file}",
        },
    ),
    growth=2.1,  # 145,956 clips of 1.28 MB
    typical_bytes=2_000_000_000,
)

_NODE = re.compile(r"Node(\d+)")
_SESSION = re.compile(r"_ex(\w+?)_")
_LABEL_LISTS = ("evaluation_setup/evaluation.txt", "evaluation_setup/evaluate.txt", "meta.txt")


@data_set("dcase2018", source=SOURCE)
def configured(config: DataConfig) -> ClipTable:
    """The data set as a run has it."""
    return load(config.data_path)


def load(folder: Path) -> ClipTable:
    """Load the development set with its official folds, and the evaluation set as the test set.

    ``folder`` holds both data sets' folders; ids are such as ``development/DevNode1_ex1_1.wav`` and
    ``evaluation/1.wav``, and notes tell of all that is not as it should be. Clips carry the tag ``node`` (``"1"``,
    ``"2"``, ...); test clips also ``known``: ``"yes"`` if the development set has that node, too, else ``"no"``.
    A DataError tells of a folder, list or sound file that is missing, a malformed row, or folds that leak.
    """
    development, evaluation = dcase.parts_of(folder, "DCASE 2018 task 5", DEVELOPMENT, EVALUATION)
    devel, devel_notes = _devel_clips(development)
    test, test_notes = _test_clips(evaluation, known_nodes={clip.tags["node"] for clip in devel})
    return dcase.joined(EMPTY, devel, test, (*devel_notes, *test_notes), CLIPS)


def _devel_clips(root: Path) -> tuple[list[Clip], list[str]]:
    rows, fold_of, notes = dcase.development_rows(root)

    def described(name: str) -> tuple[str, Mapping[str, str]]:
        node, session = _node_and_session(name)
        if not (node and session):
            raise DataError(
                f"{name!r} in {rows[name].where} is not named DevNode<node>_ex<session>_<segment>.wav: its node "
                f"and session are not known. {AGAIN}"
            )
        return session, {"node": node}

    clips, _ = dcase.clips_of(rows, root, "development", fold_of, described)
    return clips, notes


def _test_clips(root: Path, known_nodes: set[str]) -> tuple[list[Clip], list[str]]:
    labels = next((root / name for name in _LABEL_LISTS if (root / name).is_file()), None)
    if labels is None:
        raise DataError(
            f"The evaluation set in {root} has no labels: none of {', '.join(_LABEL_LISTS)} exists. Its "
            "first version had none; download version 2.0.0."
        )
    rows = labelled(labels)
    require_sounds(root / "audio", ((name, row.where) for name, row in rows.items()))
    heard_by = _heard_by(root / "evaluation_setup" / "map.txt")
    in_lists = third_cells(root / name for name in ("meta.txt", *_LABEL_LISTS, "evaluation_setup/test.txt"))

    def described(name: str) -> tuple[str, Mapping[str, str]]:
        node, session = heard_by.get(name) or _node_and_session(name)
        session = session or in_lists.get(name, "")
        if session.isdecimal():  # the number alone, where names have ex<number>
            session = f"ex{session}"
        return session, {"node": node, "known": "yes" if node in known_nodes else "no"} if node else NO_TAGS

    clips, alone = dcase.clips_of(rows, root, "evaluation", {}, described)
    notes = ungrouped(alone, len(clips), "The session of evaluation clips")
    if unmapped := [clip.path.name for clip in clips if not clip.tags]:
        notes.append(
            f"map.txt does not tell the node of {len(unmapped):,} evaluation clips (first: "
            f"{unmapped[0]}): scores on known and unknown nodes leave them out."
        )
    return clips, notes


def _heard_by(path: Path) -> dict[str, tuple[str, str]]:
    """The node and the session (``""`` if it is not told) of each numbered evaluation clip.

    The map's two columns, the number and the node-style name, come in an order that is not published.
    """
    heard = {}
    for row in read_list(path, columns=2) if path.is_file() else []:
        told = [_node_and_session(cell) for cell in row.cells[:2]]
        for numbered, named in ((0, 1), (1, 0)):
            if told[named][0] and not told[numbered][0]:
                heard[row.sound_in(numbered)] = told[named]
    return heard


def _node_and_session(name: str) -> tuple[str, str]:
    """What a node-style name tells, as in ``("1", "ex31")``; ``""`` for what it does not."""
    node, session = _NODE.search(name), _SESSION.search(name)
    return node[1] if node else "", f"ex{session[1]}" if session else ""
