"""Tiny archives that are laid out exactly as the published ones: same names, roots, lists, and sound formats.

The builders return the archives' contents by file name. :func:`published` makes their checksums the
published ones, so that the real download code runs on them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from soundstack.datasets.catalogue import Archive, Entry, Source, data_sets

FOLDS = (1, 2, 3, 4)
ESC50_CLASSES = {"dog": (0, True), "rooster": (1, True), "chirping_birds": (14, False)}
SCENES = ("beach", "cafe/restaurant", "tram")
ACTIVITIES = ("absence", "cooking", "watching_tv", "working")


def sound(seed: int, *, seconds: float, sample_rate: int, channels: int, subtype: str) -> bytes:
    """A WAV file of noise."""
    frames = round(seconds * sample_rate)
    noise = 0.1 * np.random.default_rng(seed).standard_normal((frames, channels))
    stream = io.BytesIO()
    soundfile.write(stream, noise, sample_rate, format="WAV", subtype=subtype)
    return stream.getvalue()


def pack(root: str, members: Mapping[str, Any]) -> bytes:
    """A zip archive of members below one root folder, with entries for the folders, as published ones are."""
    stream = io.BytesIO()
    folders = {root + "/"}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            path = f"{root}/{name}"
            folder = path.rsplit("/", 1)[0] + "/"
            if folder not in folders:
                archive.writestr(folder, b"")
                folders.add(folder)
            archive.writestr(path, content)
    return stream.getvalue()


def tsv(rows: Iterable[Iterable[str]], end: str = "\n") -> str:
    """A tab-separated list without a header."""
    return "".join("\t".join(row) + end for row in rows)


def split_over(count: int, prefix: str, root: str, members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Archives ``{prefix}.1.zip`` to ``{prefix}.{count}.zip`` that share the members."""
    names = list(members)
    return {
        f"{prefix}.{n + 1}.zip": pack(root, {name: members[name] for name in names[n::count]}) for n in range(count)
    }


# --- ESC-50 ----------------------------------------------------------------------------------------


def esc50(*, seconds: float = 0.1) -> dict[str, bytes]:
    """Three classes, two of them ESC-10's, with one clip a class and fold: 15 mono 16-bit clips."""
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    members: dict[str, bytes | str] = {"README.md": "# ESC-50\n", "LICENSE": "CC BY-NC 3.0\n"}
    for fold in (1, 2, 3, 4, 5):
        for name, (target, esc10) in ESC50_CLASSES.items():
            source = 100_000 + 100 * fold + target
            file = f"{fold}-{source}-A-{target}.wav"
            rows.append(f"{file},{fold},{target},{name},{esc10},{source},A")
            members[f"audio/{file}"] = sound(source, seconds=seconds, sample_rate=44_100, channels=1, subtype="PCM_16")
    members["meta/esc50.csv"] = "\n".join(rows) + "\n"
    return {"ESC-50-master.zip": pack("ESC-50-master", members)}


# --- DCASE 2017 task 1 -----------------------------------------------------------------------------


def dcase2017(*, seconds: float = 0.05) -> dict[str, bytes]:
    """Three scenes; a recording of two clips a scene and fold, two test clips a scene: 24-bit stereo."""
    built: dict[str, bytes] = {}
    dev, evaluation = "TUT-acoustic-scenes-2017-development", "TUT-acoustic-scenes-2017-evaluation"
    clips = [  # file, scene, recording, fold
        (f"audio/b0{fold}{n}_{start}_{start + 10}.wav", scene, f"b0{fold}{n}", fold)
        for fold in FOLDS
        for n, scene in enumerate(SCENES)
        for start in (0, 90)
    ]
    setup: dict[str, str] = {}
    for fold in FOLDS:
        evaluated = [(file, scene) for file, scene, _, its_fold in clips if its_fold == fold]
        setup[f"fold{fold}_train.txt"] = tsv((file, scene) for file, scene, _, its_fold in clips if its_fold != fold)
        setup[f"fold{fold}_evaluate.txt"] = tsv(evaluated)
        setup[f"fold{fold}_test.txt"] = tsv((file, "") for file, _ in evaluated)  # ends in a tab
    built[f"{dev}.doc.zip"] = pack(dev, {"README.md": "TUT\n", "EULA.pdf": b"%PDF"})
    built[f"{dev}.meta.zip"] = pack(
        dev,
        {
            "meta.txt": tsv(clip[:3] for clip in clips),
            **{f"evaluation_setup/{name}": text for name, text in setup.items()},
        },
    )
    built[f"{dev}.error.zip"] = pack(
        dev,
        {"error.txt": tsv((clips[0][0], *row) for row in (("0.5", "1.2", "mobile_phone"), ("3", "4", "error")))},
    )
    audio = {file: _binaural(n, seconds) for n, (file, *_) in enumerate(clips)}
    built |= split_over(10, f"{dev}.audio", dev, audio)

    tests = [(f"audio/{n}.wav", scene, f"audio/e{n:03d}_0_10.wav") for n, scene in enumerate(SCENES * 2)]
    built[f"{evaluation}.doc.zip"] = pack(evaluation, {"README.md": "TUT\n"})
    built[f"{evaluation}.meta.zip"] = pack(
        evaluation,
        {
            "meta.txt": tsv((file, scene) for file, scene, _ in tests),
            "evaluation_setup/test.txt": tsv((file,) for file, *_ in tests),
            "evaluation_setup/evaluate.txt": tsv((file, scene) for file, scene, _ in tests),
            "evaluation_setup/map.txt": tsv((file, original) for file, _, original in tests),
        },
    )
    audio = {file: _binaural(1000 + n, seconds) for n, (file, *_) in enumerate(tests)}
    built |= split_over(4, f"{evaluation}.audio", evaluation, audio)
    return built


def _binaural(seed: int, seconds: float) -> bytes:
    return sound(seed, seconds=seconds, sample_rate=44_100, channels=2, subtype="PCM_24")


# --- DCASE 2018 task 5 -----------------------------------------------------------------------------


def dcase2018(*, seconds: float = 0.1) -> dict[str, bytes]:
    """Four activities; a session of two nodes an activity and fold, seven test nodes: 16 kHz, 4 channels."""
    built: dict[str, bytes] = {}
    dev, evaluation = "DCASE2018-task5-dev", "DCASE2018-task5-eval"
    clips = []  # file, label, session, fold
    for fold in FOLDS:
        for n, label in enumerate(ACTIVITIES):
            session = 10 * fold + n
            nodes = (1, 2) if fold % 2 else (3, 4)
            clips += [(f"audio/DevNode{node}_ex{session}_1.wav", label, f"ex{session}", fold) for node in nodes]
    setup: dict[str, str] = {}
    for fold in FOLDS:
        evaluated = [(file, label) for file, label, _, its_fold in clips if its_fold == fold]
        setup[f"fold{fold}_train.txt"] = tsv(clip[:3] for clip in clips if clip[3] != fold)
        setup[f"fold{fold}_evaluate.txt"] = tsv(evaluated)
        setup[f"fold{fold}_test.txt"] = tsv((file, "") for file, _ in evaluated)
    built[f"{dev}.doc.zip"] = pack(dev, {"readme.md": "SINS\n", "EULA.pdf": b"%PDF"})
    built[f"{dev}.meta.zip"] = pack(
        dev,
        {
            "meta.txt": tsv(clip[:3] for clip in clips),
            **{f"evaluation_setup/{name}": text for name, text in setup.items()},
        },
    )
    audio = {file: _four_channels(n, seconds) for n, (file, *_) in enumerate(clips)}
    built |= split_over(23, f"{dev}.audio", dev, audio)

    tests: list[tuple[str, str, str, str]] = []  # file, label, session, original file
    for node in range(1, 8):
        for n, label in enumerate(ACTIVITIES):
            file = f"audio/{len(tests) + 1}.wav"
            tests.append((file, label, f"ex{90 + n}", f"audio/EvalNode{node}_ex{90 + n}_1.wav"))
    built[f"{evaluation}.doc.zip"] = pack(evaluation, {"readme.md": "SINS\n"})
    built[f"{evaluation}.meta.zip"] = pack(
        evaluation,
        {
            "meta.txt": tsv(test[:3] for test in tests),
            "evaluation_setup/test.txt": tsv((test[0],) for test in tests),
            "evaluation_setup/evaluation.txt": tsv(test[:3] for test in tests),
            "evaluation_setup/map.txt": tsv((file, original) for file, _, _, original in tests),
        },
    )
    audio = {file: _four_channels(1000 + n, seconds) for n, (file, *_) in enumerate(tests)}
    built |= split_over(23, f"{evaluation}.audio", evaluation, audio)
    return built


def _four_channels(seed: int, seconds: float) -> bytes:
    return sound(seed, seconds=seconds, sample_rate=16_000, channels=4, subtype="PCM_16")


BUILDERS = {"esc50": esc50, "dcase2017": dcase2017, "dcase2018": dcase2018}


def published(source: Source, built: Mapping[str, bytes]) -> Source:
    """The data set as if these were its archives: the same names and parts, other sizes and MD5s."""
    assert {archive.file.name for archive in source.archives} == built.keys()
    archives = []
    for archive in source.archives:
        content = built[archive.file.name]
        file = dataclasses.replace(
            archive.file,
            size=None if archive.file.size is None else len(content),
            md5=hashlib.md5(content).hexdigest(),
        )
        archives.append(Archive(archive.part, file))
    return dataclasses.replace(source, archives=tuple(archives), typical_bytes=1_000_000)


def publish(patch: pytest.MonkeyPatch, name: str, built: Mapping[str, bytes]) -> None:
    """Let these archives pass for the published ones of a data set."""
    entry = data_sets()[name]
    assert entry.source is not None
    patch.setitem(data_sets(), name, Entry(entry.load, published(entry.source, built)))


def unpack_all(built: Mapping[str, bytes], folder: Path) -> None:
    """Put a data set into a folder without the download, for the tests of its loader."""
    for content in built.values():
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(folder)
