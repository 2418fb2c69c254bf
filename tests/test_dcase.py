"""The two DCASE data sets: downloaded from tiny archives, loaded, and refused where they leak or lack."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import soundfile

import archives_for_tests as tiny
from local_http import LocalServer, Served
from soundstack.datasets import dcase2017, dcase2018, esc50
from soundstack.datasets import download as sources
from soundstack.datasets.catalogue import Source, data_sets
from soundstack.datasets.clips import ClipTable
from soundstack.utils import download as remote
from soundstack.utils.errors import ConfigError, DataError, DownloadError
from soundstack.utils.progress import human

BOTH = pytest.mark.parametrize("year", ["2017", "2018"])
LOADERS: dict[str, ModuleType] = {"2017": dcase2017, "2018": dcase2018}
BUILT = {"2017": tiny.dcase2017(), "2018": tiny.dcase2018()}


@pytest.fixture
def folder2017(tmp_path: Path) -> Path:
    tiny.unpack_all(BUILT["2017"], tmp_path)
    return tmp_path


@pytest.fixture
def folder2018(tmp_path: Path) -> Path:
    tiny.unpack_all(BUILT["2018"], tmp_path)
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path, year: str) -> Path:
    """The unpacked data set of the year that the test is about."""
    tiny.unpack_all(BUILT[year], tmp_path)
    return tmp_path


def load(year: str, folder: Path) -> ClipTable:
    return LOADERS[year].load(folder)


def source_of(name: str) -> Source:
    source = data_sets()[name].source
    assert source is not None
    return source


def development(year: str, folder: Path) -> Path:
    return folder / LOADERS[year].DEVELOPMENT


def evaluation(year: str, folder: Path) -> Path:
    return folder / LOADERS[year].EVALUATION


def edit(path: Path, change: Callable[[list[str]], Any]) -> None:
    """Change the lines of a list."""
    lines = path.read_text(encoding="utf-8").splitlines()
    change(lines)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


# --- DCASE 2017 task 1 -----------------------------------------------------------------------------


def test_2017_has_the_official_folds_and_the_evaluation_set_as_test(folder2017: Path) -> None:
    data = dcase2017.load(folder2017)
    assert data.name == "dcase2017"
    assert data.labels == ("beach", "cafe/restaurant", "tram")
    assert Counter(clip.fold for clip in data.clips) == {"1": 6, "2": 6, "3": 6, "4": 6, "test": 6}
    assert (data.seconds, data.sample_rate) == (10.0, 44_100)
    assert "EULA" in data.licence
    assert "Mesaros" in data.citation


def test_2017_a_development_clip_is_grouped_by_its_recording(folder2017: Path) -> None:
    clip = next(clip for clip in dcase2017.load(folder2017).clips if clip.id == "development/b031_90_100.wav")
    assert (clip.label, clip.fold, clip.group) == ("cafe/restaurant", "3", "development/b031")
    info = soundfile.info(clip.path)
    assert (info.samplerate, info.channels, info.subtype) == (44_100, 2, "PCM_24")


def test_2017_a_test_clip_is_grouped_by_the_recording_that_the_map_tells(folder2017: Path) -> None:
    clip = next(clip for clip in dcase2017.load(folder2017).test if clip.id == "evaluation/4.wav")
    assert (clip.label, clip.group) == ("cafe/restaurant", "evaluation/e004")


def test_2017_the_group_comes_from_meta_the_map_or_the_name_whichever_is_there(folder2017: Path) -> None:
    (evaluation("2017", folder2017) / "evaluation_setup" / "map.txt").unlink()
    assert {clip.group for clip in dcase2017.load(folder2017).test} == {f"evaluation/{n}" for n in range(6)}
    edit(evaluation("2017", folder2017) / "meta.txt", lambda lines: lines.__setitem__(0, lines[0] + "\ta777"))
    assert {clip.id: clip.group for clip in dcase2017.load(folder2017).test}["evaluation/0.wav"] == "evaluation/a777"
    meta = development("2017", folder2017) / "meta.txt"
    edit(meta, lambda lines: lines.__setitem__(slice(None), [line.rsplit("\t", 1)[0] for line in lines]))
    groups = {clip.id: clip.group for clip in dcase2017.load(folder2017).devel}
    assert groups["development/b010_0_10.wav"] == groups["development/b010_90_100.wav"] == "development/b010"


def test_2017_recording_errors_are_told_and_tagged_and_the_clips_kept(folder2017: Path) -> None:
    data = dcase2017.load(folder2017)
    tagged = [clip for clip in data.clips if "error" in clip.tags]
    assert [(clip.id, clip.tags["error"]) for clip in tagged] == [("development/b010_0_10.wav", "error,mobile_phone")]
    assert "error.txt names recording errors in 1 development clips, which are kept (tag 'error')." in data.notes
    edit(
        development("2017", folder2017) / "error.txt",
        lambda lines: lines.append("audio/gone.wav\t1\t2\terror"),
    )
    assert any("and 1 files that are none (first: gone.wav)" in note for note in dcase2017.load(folder2017).notes)


@pytest.mark.parametrize("text", [None, ""])
def test_2017_without_recording_errors_nothing_is_told_of_them(folder2017: Path, text: str | None) -> None:
    path = development("2017", folder2017) / "error.txt"
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert not any("error" in note for note in dcase2017.load(folder2017).notes)


def test_2017_labels_of_the_test_come_from_meta_if_there_is_no_evaluate_list(folder2017: Path) -> None:
    before = dcase2017.load(folder2017)
    (evaluation("2017", folder2017) / "evaluation_setup" / "evaluate.txt").unlink()
    after = dcase2017.load(folder2017)
    assert after.clips == before.clips
    assert "The evaluation set has no evaluate.txt: its labels are those of meta.txt." in after.notes
    (evaluation("2017", folder2017) / "meta.txt").unlink()
    with pytest.raises(DataError, match=r"no labels: neither .*evaluate\.txt nor .*meta\.txt exists"):
        dcase2017.load(folder2017)


def test_2017_a_recording_named_alike_in_both_parts_is_told(folder2017: Path) -> None:
    edit(
        evaluation("2017", folder2017) / "evaluation_setup" / "map.txt",
        lambda lines: lines.__setitem__(0, "audio/0.wav\taudio/b010_0_10.wav"),
    )
    assert any(
        "1 names of recordings occur in both the development and the evaluation set (first: b010)" in note
        for note in dcase2017.load(folder2017).notes
    )


# --- DCASE 2018 task 5 -----------------------------------------------------------------------------


def test_2018_has_the_official_folds_and_the_evaluation_set_as_test(folder2018: Path) -> None:
    data = dcase2018.load(folder2018)
    assert data.name == "dcase2018"
    assert data.labels == ("absence", "cooking", "watching_tv", "working")
    assert Counter(clip.fold for clip in data.clips) == {"1": 8, "2": 8, "3": 8, "4": 8, "test": 28}
    assert (data.seconds, data.sample_rate) == (10.0, 16_000)
    assert "EULA" in data.licence
    assert "SINS" in data.citation


def test_2018_nodes_that_heard_one_session_are_one_group(folder2018: Path) -> None:
    session = [clip for clip in dcase2018.load(folder2018).clips if clip.group == "development/ex31"]
    assert [(clip.id, clip.label, clip.fold, clip.tags["node"]) for clip in session] == [
        ("development/DevNode1_ex31_1.wav", "cooking", "3", "1"),
        ("development/DevNode2_ex31_1.wav", "cooking", "3", "2"),
    ]
    info = soundfile.info(session[0].path)
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 4, "PCM_16")


@pytest.mark.parametrize("order", ["numbered first", "named first"])
def test_2018_the_map_tells_known_from_unknown_nodes_in_either_order(folder2018: Path, order: str) -> None:
    if order == "named first":
        edit(
            evaluation("2018", folder2018) / "evaluation_setup" / "map.txt",
            lambda lines: lines.__setitem__(slice(None), ["\t".join(line.split("\t")[::-1]) for line in lines]),
        )
    test = dcase2018.load(folder2018).test
    assert Counter((clip.tags["node"], clip.tags["known"]) for clip in test) == {
        (str(node), "yes" if node <= 4 else "no"): 4 for node in range(1, 8)
    }
    assert {clip.id: clip.group for clip in test}["evaluation/6.wav"] == "evaluation/ex91"


def test_2018_a_node_is_known_if_the_development_set_has_it_whatever_its_number(folder2018: Path) -> None:
    root = development("2018", folder2018)
    for path in [*root.rglob("*.txt")]:
        path.write_text(path.read_text().replace("DevNode4", "DevNode7"))
    for path in root.glob("audio/DevNode4*"):
        path.rename(path.with_name(path.name.replace("DevNode4", "DevNode7")))
    known = {clip.tags["node"]: clip.tags["known"] for clip in dcase2018.load(folder2018).test}
    assert (known["4"], known["7"]) == ("no", "yes")


def test_2018_clips_whose_node_is_not_told_are_kept_and_noted(folder2018: Path) -> None:
    path = evaluation("2018", folder2018) / "evaluation_setup" / "map.txt"
    edit(path, lambda lines: lines.__setitem__(0, "audio/1.wav\taudio/x.wav"))
    data = dcase2018.load(folder2018)
    assert {clip.id: clip.tags for clip in data.test}["evaluation/1.wav"] == {}
    assert any("does not tell the node of 1 evaluation clips (first: 1.wav)" in note for note in data.notes)
    path.unlink()
    data = dcase2018.load(folder2018)
    assert any("does not tell the node of 28 evaluation clips" in note for note in data.notes)
    assert {clip.group for clip in data.test} == {f"evaluation/ex{n}" for n in range(90, 94)}  # from the lists


def test_2018_the_labels_of_the_test_come_from_whichever_list_is_there(folder2018: Path) -> None:
    root = evaluation("2018", folder2018)
    before = dcase2018.load(folder2018).clips
    (root / "evaluation_setup" / "evaluation.txt").rename(root / "evaluation_setup" / "evaluate.txt")
    assert dcase2018.load(folder2018).clips == before
    (root / "evaluation_setup" / "evaluate.txt").unlink()
    assert dcase2018.load(folder2018).clips == before
    (root / "meta.txt").unlink()
    with pytest.raises(DataError, match=r"has no labels: none of evaluation_setup/evaluation\.txt, .*version 2\.0\.0"):
        dcase2018.load(folder2018)


def test_2018_a_development_clip_of_unknown_node_is_refused(folder2018: Path) -> None:
    root = development("2018", folder2018)
    for path in root.rglob("*.txt"):
        path.write_text(path.read_text().replace("DevNode1_ex10_1", "first"))
    (root / "audio" / "DevNode1_ex10_1.wav").rename(root / "audio" / "first.wav")
    with pytest.raises(DataError, match=r"'first\.wav' in .*fold1_evaluate\.txt row 1 is not named DevNode"):
        dcase2018.load(folder2018)


# --- both: groups ----------------------------------------------------------------------------------

#: How a list can be: with the third column, without it, or not there.
FORMS = ("three columns", "two columns", "absent")
#: Those of meta.txt and of the evaluate list, one of which must be there for the labels.
LISTS = pytest.mark.parametrize(("in_meta", "in_list"), [*product(FORMS, FORMS)][:-1])


def shape(path: Path, form: str, thirds: dict[str, str]) -> None:
    """Bring a list of files and labels into one of the forms, with these third cells."""
    lines = [line.split("\t")[:2] for line in path.read_text().splitlines()]
    path.unlink()
    if form != "absent":
        more = [[thirds[file]] if form == "three columns" else [] for file, _ in lines]
        path.write_text("".join("\t".join([*line, *third]) + "\n" for line, third in zip(lines, more, strict=True)))


@pytest.mark.parametrize("in_map", ["session", "node", "absent"])
@LISTS
@pytest.mark.parametrize("word", ["ex", ""])
def test_2018_the_session_of_a_test_clip_is_taken_from_wherever_it_stands(
    folder2018: Path, in_map: str, in_list: str, in_meta: str, word: str
) -> None:
    root = evaluation("2018", folder2018)
    files = [line.split("\t")[0] for line in (root / "evaluation_setup" / "test.txt").read_text().splitlines()]
    sessions = {file: f"{word}{90 + n % 4}" for n, file in enumerate(files)}
    shape(root / "evaluation_setup" / "evaluation.txt", in_list, sessions)
    shape(root / "meta.txt", in_meta, sessions)
    pairs = root / "evaluation_setup" / "map.txt"
    if in_map == "absent":
        pairs.unlink()
    elif in_map == "node":
        nodes = [f"{file}\taudio/EvalNode{n // 4 + 1}.wav\n" for n, file in enumerate(files)]
        pairs.write_text("".join(nodes))

    data = dcase2018.load(folder2018)

    told = in_map == "session" or "three columns" in (in_list, in_meta)
    expected = {f"ex{90 + n}" for n in range(4)} if told else {str(n + 1) for n in range(28)}
    assert {clip.group for clip in data.test} == {f"evaluation/{group}" for group in expected}
    notes = [note for note in data.notes if note.startswith("The session of evaluation clips is not known of 28 of 28")]
    assert len(notes) == (not told)


@pytest.mark.parametrize("in_map", ["recording", "other", "absent"])
@LISTS
@pytest.mark.parametrize("in_test_list", [True, False])
def test_2017_the_recording_of_a_test_clip_is_taken_from_wherever_it_stands(
    folder2017: Path, in_map: str, in_list: str, in_meta: str, in_test_list: bool
) -> None:
    root = evaluation("2017", folder2017)
    files = [line.split("\t")[0] for line in (root / "evaluation_setup" / "test.txt").read_text().splitlines()]
    recordings = {file: f"e00{n % 3}" for n, file in enumerate(files)}  # two clips each
    shape(root / "evaluation_setup" / "evaluate.txt", in_list, recordings)
    shape(root / "meta.txt", in_meta, recordings)
    names = {"recording": "audio/{}_{}_9{}.wav", "other": "audio/{}-{}-{}.wav"}
    pairs = root / "evaluation_setup" / "map.txt"
    pairs.unlink()
    if in_map in names:
        lines = [f"{file}\t{names[in_map].format(recordings[file], n, n)}\n" for n, file in enumerate(files)]
        pairs.write_text("".join(lines))
    if in_test_list:
        rows = [f"{file}\t\t{recordings[file]}\n" for file in files]
        (root / "evaluation_setup" / "test.txt").write_text("".join(rows))

    data = dcase2017.load(folder2017)

    told = in_map == "recording" or "three columns" in (in_list, in_meta) or in_test_list
    expected = set(recordings.values()) if told else {str(n) for n in range(6)}
    assert {clip.group for clip in data.test} == {f"evaluation/{group}" for group in expected}
    notes = [note for note in data.notes if note.startswith("The recording of evaluation clips is not known of 6 of 6")]
    assert len(notes) == (not told)


@pytest.mark.parametrize("told_in", ["meta", "a fold's list", "nothing"])
def test_2017_the_recording_of_a_renamed_development_clip_is_taken_from_a_list_or_noted(
    folder2017: Path, told_in: str
) -> None:
    root = development("2017", folder2017)
    renamed = {f"b010_{start}_{start + 10}": f"take-{start}" for start in (0, 90)}
    for old, new in renamed.items():
        (root / "audio" / f"{old}.wav").rename(root / "audio" / f"{new}.wav")
        for path in root.rglob("*.txt"):
            path.write_text(path.read_text().replace(old, new))
    if told_in != "meta":
        edit(root / "meta.txt", lambda lines: lines.__setitem__(slice(None), [x.rsplit("\t", 1)[0] for x in lines]))
    if told_in == "a fold's list":
        train = root / "evaluation_setup" / "fold2_train.txt"
        edit(train, lambda lines: lines.__setitem__(slice(None), [f"{x}\tb010" if "take" in x else x for x in lines]))

    data = dcase2017.load(folder2017)

    groups = {clip.group for clip in data.devel if "take" in clip.id}
    notes = [note for note in data.notes if "recording of development clips is not known of 2 of 24 clips" in note]
    if told_in == "nothing":
        assert groups == {"development/take-0", "development/take-90"}
        assert tuple(notes) == data.notes[:1]
    else:
        assert groups == {"development/b010"}
        assert not notes


# --- both: tolerated -------------------------------------------------------------------------------


@BOTH
def test_a_complete_tiny_set_has_no_notes_but_that_it_is_tiny(year: str, folder: Path) -> None:
    notes = [note for note in load(year, folder).notes if "error.txt" not in note]
    assert [note.split(" published ")[1] for note in notes] == ["development clips.", "evaluation clips."]


@BOTH
def test_ids_are_unique_and_every_file_is_there(year: str, folder: Path) -> None:
    clips = load(year, folder).clips
    assert len({clip.id for clip in clips}) == len(clips)
    assert all(clip.path.is_file() for clip in clips)
    assert all(clip.id.split("/")[0] in ("development", "evaluation") for clip in clips)


@BOTH
def test_trailing_tabs_third_columns_carriage_returns_and_missing_audio_folders_in_names_do_no_harm(
    year: str, folder: Path
) -> None:
    before = load(year, folder)
    for path in folder.rglob("fold*_*.txt"):
        lines = path.read_text().splitlines()
        dressed = [
            line + ("\t" if n % 2 else "\textra") if "evaluate" in path.name else line + "\t"
            for n, line in enumerate(lines)
        ]
        path.write_bytes("".join(f"{line.removeprefix('audio/')}\r\n\r\n" for line in dressed).encode())
    assert load(year, folder) == before


@BOTH
def test_a_train_list_that_is_not_the_complement_is_told_but_no_error(year: str, folder: Path) -> None:
    setup = development(year, folder) / "evaluation_setup"
    first = (setup / "fold1_train.txt").read_text().split("\t")[0].removeprefix("audio/")
    edit(setup / "fold1_train.txt", lambda lines: lines.__setitem__(0, "audio/unheard.wav\tbeach"))
    notes = load(year, folder).notes
    assert any(f"train list of fold 1 lacks 1 clips of the other folds (first: {first})" in note for note in notes)
    assert any(
        "train list of fold 1 names 1 clips that no fold evaluates (first: unheard.wav)" in note for note in notes
    )


@BOTH
def test_what_meta_has_otherwise_is_told_and_the_folds_lists_are_used(year: str, folder: Path) -> None:
    before = load(year, folder)
    meta = development(year, folder) / "meta.txt"
    edit(meta, lambda lines: lines.pop(1))
    first = meta.read_text().splitlines()[0].split("\t")
    edit(meta, lambda lines: lines.__setitem__(0, "\t".join([first[0], "silence", *first[2:]])))
    after = load(year, folder)
    assert [clip.label for clip in after.clips] == [clip.label for clip in before.clips]
    assert any("1 clips of the folds' lists are not in meta.txt" in note for note in after.notes)
    assert any("1 clips have another label in meta.txt" in note and "'silence'" in note for note in after.notes)


# --- both: refused ---------------------------------------------------------------------------------


@BOTH
def test_a_clip_evaluated_in_two_folds_is_a_leak(year: str, folder: Path) -> None:
    setup = development(year, folder) / "evaluation_setup"
    stolen = (setup / "fold1_evaluate.txt").read_text().splitlines()[0]
    edit(setup / "fold2_evaluate.txt", lambda lines: lines.append(stolen))
    with pytest.raises(
        DataError, match=r"leaks: .*fold2_evaluate\.txt row \d+ evaluates it.*fold1_evaluate\.txt row 1"
    ):
        load(year, folder)


@BOTH
def test_a_clip_trained_on_and_evaluated_in_one_fold_is_a_leak(year: str, folder: Path) -> None:
    setup = development(year, folder) / "evaluation_setup"
    stolen = (setup / "fold3_evaluate.txt").read_text().splitlines()[1]
    edit(setup / "fold3_train.txt", lambda lines: lines.append(stolen))
    with pytest.raises(DataError, match=r"leaks: .*fold3_train\.txt row \d+ trains on it.*fold3_evaluate\.txt row 2"):
        load(year, folder)


@BOTH
def test_a_recording_or_session_that_crosses_folds_is_a_leak(year: str, folder: Path) -> None:
    setup = development(year, folder) / "evaluation_setup"
    moved: list[str] = []
    edit(setup / "fold1_evaluate.txt", lambda lines: moved.append(lines.pop(0)))  # half of a group
    edit(setup / "fold2_evaluate.txt", lambda lines: lines.append(moved[0]))
    edit(
        setup / "fold2_train.txt",
        lambda lines: lines.remove(next(ln for ln in lines if ln.startswith(moved[0]))),
    )
    with pytest.raises(DataError, match=r"Group 'development/(b010|ex10)' crosses folds"):
        load(year, folder)


@BOTH
def test_a_development_clip_in_no_fold_is_refused(year: str, folder: Path) -> None:
    setup = development(year, folder) / "evaluation_setup"
    edit(setup / "fold4_evaluate.txt", lambda lines: lines.pop())
    with pytest.raises(
        DataError, match=r"1 development clips are in no fold's evaluate list; the first is .*meta\.txt row"
    ):
        load(year, folder)


@BOTH
def test_a_clip_with_two_labels_in_one_list_is_refused(year: str, folder: Path) -> None:
    setup = development(year, folder) / "evaluation_setup"
    name = (setup / "fold1_evaluate.txt").read_text().split("\t")[0]
    edit(setup / "fold1_evaluate.txt", lambda lines: lines.append(f"{name}\tsilence"))
    with pytest.raises(DataError, match=r"is '\w+' in .*fold1_evaluate\.txt row 1 and 'silence' in .*one label"):
        load(year, folder)


@BOTH
def test_a_test_class_that_is_not_in_the_development_set_is_refused(year: str, folder: Path) -> None:
    for path in (evaluation(year, folder) / "evaluation_setup").glob("evaluat*.txt"):
        edit(path, lambda lines: lines.__setitem__(0, f"{lines[0].split(chr(9))[0]}\tsilence"))
    with pytest.raises(DataError, match="'silence'"):
        load(year, folder)


@BOTH
@pytest.mark.parametrize("part", ["DEVELOPMENT", "EVALUATION"])
def test_a_missing_folder_is_named_with_what_to_do(year: str, folder: Path, part: str) -> None:
    name = getattr(LOADERS[year], part)
    (folder / name).rename(folder / "elsewhere")
    with pytest.raises(DataError, match=rf"There is no folder .*{name} \({part.lower()} set .*run the download"):
        load(year, folder)
    with pytest.raises(DataError, match="There is no folder"):
        load(year, folder / "nowhere")


@BOTH
@pytest.mark.parametrize(
    "name", ["meta.txt", "evaluation_setup/fold2_evaluate.txt", "evaluation_setup/fold2_train.txt"]
)
def test_a_missing_or_empty_list_is_named_with_what_to_do(year: str, folder: Path, name: str) -> None:
    path = development(year, folder) / name
    path.write_text("\n")
    with pytest.raises(DataError, match=rf"{path.name} is empty\. Run the download again"):
        load(year, folder)
    path.unlink()
    with pytest.raises(DataError, match=rf"There is no file .*{path.name}: it belongs to the data set's meta archive"):
        load(year, folder)


@BOTH
@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("audio/a.wav", r"row 3 has 1 of the 2 tab-separated values it needs: 'audio/a\.wav'"),
        ("audio/a.wav\t", "row 3 has 1 of the 2"),
        ("\tbeach", "row 3 has 1 of the 2"),
        ("audio/a.wav beach", "row 3 has 1 of the 2"),
        ("../../a.wav\tbeach", r"'\.\./\.\./a\.wav' in .*row 3 is no file of the audio folder"),
        ("/etc/passwd\tbeach", "is no file of the audio folder"),
        ("audio/..\tbeach", "is no file of the audio folder"),
        ("audio/deep/a.wav\tbeach", "is no file of the audio folder"),
    ],
)
def test_a_malformed_row_is_named_with_its_number(year: str, folder: Path, line: str, why: str) -> None:
    edit(
        development(year, folder) / "evaluation_setup" / "fold1_evaluate.txt",
        lambda lines: lines.__setitem__(2, line),
    )
    with pytest.raises(DataError, match=why):
        load(year, folder)


@BOTH
@pytest.mark.parametrize("part", [development, evaluation])
def test_missing_sound_files_are_counted_and_the_first_is_named(
    year: str, folder: Path, part: Callable[[str, Path], Path]
) -> None:
    audio = part(year, folder) / "audio"
    total = len(list(audio.iterdir()))
    for path in sorted(audio.iterdir())[:3]:
        path.unlink()
    with pytest.raises(
        DataError, match=rf"3 of {total} sound files are missing in .*audio; the first is '.*\.txt row \d+"
    ):
        load(year, folder)


# --- both: download --------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, year: str) -> dict[str, Served | bytes]:
    """The tiny archives of a year, which pass for the published ones."""
    name = f"dcase{year}"
    tiny.publish(monkeypatch, name, BUILT[year])
    monkeypatch.setattr(remote, "RETRY", remote.RETRY.new(backoff_factor=0, backoff_jitter=0))
    return {file: Served(content) for file, content in BUILT[year].items()}


def fetch(year: str, folder: Path, server: LocalServer, **how: Any) -> sources.Downloaded:
    return sources.download(f"dcase{year}", folder, base_url=server.url, **how)


@BOTH
def test_a_download_equals_unpacking_by_hand_and_a_second_one_fetches_nothing(
    year: str, folder: Path, served: dict[str, Served | bytes]
) -> None:
    target = folder / "downloaded"
    with LocalServer(served) as server:
        first = fetch(year, target, server)
        assert set(server.counts.values()) == {1}
        assert set(first.fetched) == set(BUILT[year])
        second = fetch(year, target, server)
        assert set(server.counts.values()) == {1}
    assert second.fetched == ()
    assert set(second.present) == set(BUILT[year])
    by_hand, downloaded = load(year, folder), load(year, target)
    assert [clip.id for clip in downloaded.clips] == [clip.id for clip in by_hand.clips]
    for one, other in zip(downloaded.clips, by_hand.clips, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
    assert not (target / "archives").exists()


@BOTH
def test_a_download_over_a_bad_line_equals_one_over_a_good_line(
    year: str, folder: Path, served: dict[str, Any]
) -> None:
    for n, file in enumerate(served.values()):
        file.cuts = [len(file.content) // 2, 10] if n % 2 else []
        file.statuses = [503] if n % 3 == 0 else []
        file.ranges = n % 4 != 1
    target = folder / "downloaded"
    with LocalServer(served) as server:
        fetch(year, target, server)
    assert [clip.path.read_bytes() for clip in load(year, target).clips] == [
        clip.path.read_bytes() for clip in load(year, folder).clips
    ]


@BOTH
def test_one_archive_that_is_not_the_published_one_is_named_and_the_others_are_kept(
    year: str, tmp_path: Path, served: dict[str, Any]
) -> None:
    name = next(file for file in served if file.endswith("audio.2.zip"))
    good = served[name].content
    served[name] = Served(good[:-1] + bytes([good[-1] ^ 1]))
    with LocalServer(served) as server:
        with pytest.raises(DownloadError, match=rf"{name} did not give the published file.*its md5 is"):
            fetch(year, tmp_path, server)
        with pytest.raises(DataError, match="sound files are missing"):
            load(year, tmp_path)
        server.add(name, good)
        result = fetch(year, tmp_path, server)
        assert result.fetched == (name,)
        counts = server.counts
        assert counts.pop(name) == 2
        assert set(counts.values()) == {1}
    assert load(year, tmp_path).clips


@BOTH
def test_what_was_deleted_is_fetched_again_and_nothing_else(
    year: str, tmp_path: Path, served: dict[str, Served | bytes]
) -> None:
    with LocalServer(served) as server:
        fetch(year, tmp_path, server)
        server.requests.clear()
        load(year, tmp_path).test[0].path.unlink()
        (development(year, tmp_path) / "meta.txt").write_text("spoilt")
        result = fetch(year, tmp_path, server)
        assert len(server.requests) == 2
    assert {name.rsplit(".", 2)[-2] for name in result.fetched} >= {"meta"}
    assert load(year, tmp_path).clips


@BOTH
def test_an_archive_that_was_published_anew_is_fetched_again(
    year: str, tmp_path: Path, served: dict[str, Served | bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalServer(served) as server:
        fetch(year, tmp_path, server)
        name = f"{LOADERS[year].DEVELOPMENT}.doc.zip"
        anew = tiny.pack(LOADERS[year].DEVELOPMENT, {"README.md": "second version\n"})
        server.add(name, anew)
        tiny.publish(monkeypatch, f"dcase{year}", {**BUILT[year], name: anew})
        assert fetch(year, tmp_path, server).fetched == (name,)
    assert (development(year, tmp_path) / "README.md").read_text() == "second version\n"


@BOTH
def test_archives_are_kept_on_demand_and_taken_from_where_they_are_kept(
    year: str, tmp_path: Path, served: dict[str, Served | bytes]
) -> None:
    with LocalServer(served) as server:
        fetch(year, tmp_path / "first", server, keep_archives=True)
        store = tmp_path / "first" / "archives"
        assert {path.name: path.read_bytes() for path in store.glob("*.zip")} == BUILT[year]
        (tmp_path / "second").mkdir()
        store.rename(tmp_path / "second" / "archives")
        server.requests.clear()
        fetch(year, tmp_path / "second", server)
        assert server.requests == []
    assert load(year, tmp_path / "second").clips
    assert not (tmp_path / "second" / "archives").exists()


@BOTH
def test_parts_can_be_fetched_by_themselves(year: str, tmp_path: Path, served: dict[str, Served | bytes]) -> None:
    with LocalServer(served) as server:
        result = fetch(year, tmp_path, server, parts=["development/meta", "evaluation"])
        assert server.counts.keys() == set(result.fetched)
        evaluation_files = {name for name in BUILT[year] if "-eval" in name}
        [meta] = server.counts.keys() - evaluation_files
        assert meta == f"{LOADERS[year].DEVELOPMENT}.meta.zip"
        assert evaluation_files < server.counts.keys()
        with pytest.raises(ConfigError, match=r"has no part 'audio': use development, development/audio"):
            fetch(year, tmp_path, server, parts=["audio"])


@BOTH
def test_a_disk_that_cannot_hold_all_is_told_before_anything_is_fetched(
    year: str, tmp_path: Path, served: dict[str, Served | bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    # Room for every archive, but not for what they unpack to.
    source = source_of(f"dcase{year}")
    free = sum(sources.packed(archive, source) for archive in source.archives)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=free))
    with LocalServer(served) as server:
        with pytest.raises(DownloadError, match=rf"has {human(free)} free and .* are needed"):
            fetch(year, tmp_path, server)
        assert server.requests == []


# --- what is published -----------------------------------------------------------------------------


def test_the_published_archives_are_complete_and_come_from_their_publishers() -> None:
    published = {name: entry.source for name, entry in data_sets().items() if entry.source}
    counts = {name: len(source.archives) for name, source in published.items()}
    assert counts == {"esc10": 1, "esc50": 1, "dcase2017": 13 + 6, "dcase2018": 25 + 25}
    for source in published.values():
        assert source.licence
        assert source.citation
        for archive in source.archives:
            assert archive.file.url.startswith(("https://zenodo.org/record/", "https://github.com/karolpiczak/"))
            assert archive.file.md5 is not None
    urls = {archive.file.name: archive.file.url for archive in dcase2018.SOURCE.archives}
    assert (
        urls["DCASE2018-task5-eval.audio.23.zip"]
        == "https://zenodo.org/record/1964758/files/DCASE2018-task5-eval.audio.23.zip"
    )
    assert esc50.SOURCE.archives[0].file.url == "https://github.com/karolpiczak/ESC-50/archive/master.zip"


def test_the_published_sizes_add_up() -> None:
    sizes = [archive.file.size or 0 for archive in dcase2017.SOURCE.archives]
    assert sum(sizes) == pytest.approx(14.3e9, rel=0.01)
    # Unpacked: 6300 clips of 10 s, 44.1 kHz, stereo, 24 bit.
    assert dcase2017.SOURCE.growth * sum(sizes) == pytest.approx(6300 * 10 * 44_100 * 2 * 3, rel=0.05)


def test_a_data_set_that_is_not_published_cannot_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="Nothing can be downloaded for dataset=demo: use one of dcase2017, dcase2018, esc10, esc50"
    ):
        sources.download("demo", tmp_path)
