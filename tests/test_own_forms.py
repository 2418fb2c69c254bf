"""Own data as people have it: exports of spreadsheets, folders of classes, given splits; what is unclear is refused."""

import csv
import io
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundstack.audio.find import located, tails
from soundstack.audio.tables import NAMES, read_table
from soundstack.config.base import DataConfig
from soundstack.datasets import csv_table as custom
from soundstack.datasets.clips import check_splits
from soundstack.datasets.open_data_set import open_data_set
from soundstack.utils.errors import DataError
from soundstack.utils.folds import TEST

CLASSES = ("Türe", "Vögel")
NAMES_OF_FILES = [f"{label}/{number}.wav" for label in CLASSES for number in range(20)]


@pytest.fixture
def folder(tmp_path):
    """Two folders with twenty sound files each, whose names are beyond ASCII; nothing here decodes them."""
    place = tmp_path / "field"
    for name in NAMES_OF_FILES:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    return place


def fold_of(name):
    number = int(Path(name).stem) % 5
    return TEST if number == 4 else str(number + 1)


def rows_of(cells):
    return [[name, name.split("/")[0], *cells(name)] for name in NAMES_OF_FILES]


def write(folder, header, rows, separator=",", encoding="utf-8", *, first="", name="clips.csv", end="\r\n"):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=end)
    writer.writerows([header, *rows])
    (folder / name).write_bytes((first + text.getvalue()).encode(encoding))
    return folder / name


def refusal(place):
    with pytest.raises(DataError) as caught:
        custom.load(place, seed=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def splits(table):
    return {clip.id: (clip.label, clip.fold) for clip in table.clips}


# tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["", "sep={}\r\n"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"])
def test_every_separator_and_encoding_gives_the_same_clips(folder, separator, encoding, first):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    rows = rows_of(lambda name: [fold_of(name)])
    path = write(folder, ["filename", "label", "fold"], rows, separator, encoding, first=mark + first.format(separator))
    table = custom.load(path, seed=0)
    assert splits(table) == {name: (label, fold) for name, label, fold in rows}
    assert table.notes[1:] == () and "group" in table.notes[0]
    named = {",": "", ";": "separated by ';'", "\t": "separated by tabs"}[separator]
    assert named in table.understood
    assert ("UTF-16" in table.understood) == encoding.startswith("utf-16")
    assert ("Windows-1252" in table.understood) == (encoding == "cp1252")
    assert "\n" not in table.understood


def test_what_was_understood_is_one_exact_line(folder):
    rows = rows_of(lambda name: [fold_of(name)])
    path = write(folder, ["Path", " Class ", "FOLD"], rows, ";", "utf-16", name="Unicode text.txt")
    assert custom.load(path, seed=0).understood == (
        "Unicode text.txt: 40 clips of 2 classes; separated by ';', UTF-16; columns filename = 'Path', "
        "label = 'Class', fold; folds 1, 2, 3, 4 as given; 8 clips held out."
    )


@pytest.mark.parametrize("name", sorted({*NAMES["filename"], *NAMES["label"], "File Name", "AUDIO-FILE", "Class Name"}))
def test_every_clear_name_of_a_column_is_taken(folder, name):
    is_file = re.sub(r"[\s-]", "_", name.lower()) in NAMES["filename"]
    header = [name, "label"] if is_file else ["filename", name]
    assert len(custom.load(write(folder, header, rows_of(lambda name: [])), seed=0).clips) == 40


def test_two_columns_of_one_meaning_are_refused_unless_one_has_our_own_name(folder):
    rows = rows_of(lambda name: ["7"])
    said = refusal(write(folder, ["file", "class", "Category"], rows))
    assert "which column is the label, 'class' or 'Category'? Call that one label" in said
    assert "which column is the label, 'label' or 'Label'" in refusal(write(folder, ["file", "label", "Label"], rows))
    table = custom.load(write(folder, ["file", "label", "Category"], rows), seed=0)
    assert table.labels == tuple(sorted(CLASSES))
    assert "which column is the group" in refusal(
        write(folder, ["file", "label", "speaker", "recording"], rows_of(lambda name: ["1", "2"]))
    )


def test_line_ends_in_the_header_do_not_break_the_line(folder, tmp_path):
    rows = rows_of(lambda name: [])
    assert "found file, what is it" in refusal(write(folder, ["file", "what\nis it"], rows))
    assert "label = 'class name'" in custom.load(write(folder, ["file", "class\nname"], rows), seed=0).understood
    for name in ("train", "test", "two\nlines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").touch()
    assert "classes as field, two lines" in refusal(tmp_path)


def test_a_separator_within_quotes_or_another_cell_is_none(folder):
    rows = [[name, f"{label}, old; worn", "a;b,c"] for name, label in rows_of(lambda name: [])]
    table = custom.load(write(folder, ["filename", "label", "a note; or, more"], rows, ";"), seed=0)
    assert set(table.labels) == {f"{label}, old; worn" for label in CLASSES}


def test_empty_columns_and_rows_of_a_spreadsheet_are_left_out(folder):
    rows = [[*row, "", ""] for row in rows_of(lambda name: [fold_of(name)])]
    rows[3:3] = [[""] * 5]
    table = custom.load(write(folder, ["filename", "label", "fold", "", ""], rows, ";"), seed=0)
    assert len(table.clips) == 40
    rows[0][4] = "stray"
    assert "column without a name" in refusal(write(folder, ["filename", "label", "fold", "", ""], rows))


@pytest.mark.parametrize(
    ("spelt", "said"),
    [
        ("{}", "folds 1, 2, 3, 4 as given"),
        ("{}.0", "folds 1, 2, 3, 4 as given"),
        ("{},0", "folds 1, 2, 3, 4 as given"),
        ("fold{}", "folds 1, 2, 3, 4 as given"),
        ("Fold {}", "folds 1, 2, 3, 4 as given"),
        ("fold_0{}", "folds 1, 2, 3, 4 as given"),
        ("0", "folds 0 to 3 as given, called 1 to 4 here"),
    ],
)
def test_folds_may_be_written_as_people_write_them(folder, spelt, said):
    def cell(name):
        fold = fold_of(name)
        return [fold if fold == TEST else str(int(fold) - 1) if spelt == "0" else spelt.format(fold)]

    table = custom.load(write(folder, ["filename", "label", "fold"], rows_of(cell)), seed=0)
    assert {clip.id: clip.fold for clip in table.clips} == {name: fold_of(name) for name in NAMES_OF_FILES}
    assert said in table.understood


def test_folds_from_0_with_a_gap_are_refused_with_the_row(folder):
    rows = rows_of(lambda name: [{"1": "0", "2": "5"}.get(fold_of(name), fold_of(name))])
    assert "row 2: fold '0' is not known" in refusal(write(folder, ["filename", "label", "fold"], rows))


@pytest.mark.parametrize("place", ["C:\\Users\\Jörg\\field\\", "\\\\server\\share\\", "", "D:/x/", "/home/jörg/field/"])
def test_paths_of_another_machine_are_found_below_the_table(folder, place):
    rows = [
        [place + name.replace("/", "\\" if "/" not in place else "/"), label] for name, label in rows_of(lambda n: [])
    ]
    table = custom.load(write(folder, ["filename", "label"], rows, ";", "cp1252"), seed=0)
    assert [clip.id for clip in table.clips] == NAMES_OF_FILES
    assert "40 file names are paths of another machine" in " ".join(table.notes)


def test_a_path_of_another_machine_that_fits_two_files_or_none_is_refused(folder):
    (folder / "0.wav").touch()
    rows = [["C:\\x\\Türe\\0.wav", "Türe"], *rows_of(lambda name: [])[1:]]
    said = refusal(write(folder, ["filename", "label"], rows))
    assert "row 2: which file is 'C:\\\\x\\\\Türe\\\\0.wav', 'Türe/0.wav' or '0.wav'?" in said
    rows[0][0] = "C:\\x\\Türe\\none.wav"
    assert "row 2: there is no file" in refusal(write(folder, ["filename", "label"], rows))
    rows[0][0] = "Türe\\0.wav"  # as it stands
    assert custom.load(write(folder, ["filename", "label"], rows), seed=0).clips[0].id == "Türe/0.wav"


def test_a_file_whose_name_holds_a_backslash_is_itself(tmp_path):
    (tmp_path / "a\\b.wav").touch()
    (tmp_path / "b.wav").touch()
    assert located(tmp_path, "a\\b.wav") == ("a\\b.wav", tmp_path / "a\\b.wav")


@given(
    st.lists(st.sampled_from(["a", "b c", "é", "..", "."]), min_size=1, max_size=5), st.sampled_from(["", "C:\\", "/"])
)
def test_no_tail_of_a_path_leads_out_of_the_folder_unless_the_table_says_so_itself(parts, root):
    separator = "/" if root == "/" else "\\"
    found = tails(root + separator.join(parts))
    for tail in found if root else found[1:]:
        inside = Path(os.path.normpath(Path("/top/folder", tail)))
        assert inside.is_relative_to("/top/folder")


@pytest.mark.parametrize("content", [b"PK\x03\x04...", b"\xd0\xcf\x11\xe0..."])
def test_a_workbook_is_refused_with_what_to_do(folder, content):
    (folder / "clips.xlsx").write_bytes(content)
    assert "is a workbook; save its sheet as CSV" in refusal(folder / "clips.xlsx")
    table = custom.load(folder, seed=0)  # beside folders of classes, it is told of
    assert [note for note in table.notes if "clips.xlsx is no table of clips" in note]


@pytest.mark.parametrize("content", ["filename,label\na,b\n".encode("utf-16-le"), b"filename,label\n\x81,a\n"])
def test_text_of_no_known_encoding_is_refused(folder, content):
    (folder / "clips.csv").write_bytes(content)
    assert "save it as CSV UTF-8" in refusal(folder / "clips.csv")


CELLS = st.text(st.sampled_from("aéß ,;\t'\"=-\n"), max_size=6)


@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), max_size=6),
    separator=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_a_spreadsheet_writes_is_read_cell_by_cell(tmp_path_factory, rows, separator, encoding, end):
    path = write(tmp_path_factory.mktemp("cells"), ["filename", "label"], rows, separator, encoding, end=end)
    read = read_table(path)
    wanted = [tuple(cell.strip() for cell in row) for row in rows]
    assert list(read.cells.itertuples(index=False, name=None)) == [row for row in wanted if any(row)]
    assert list(read.cells.index) == [place for place, row in enumerate(wanted, start=2) if any(row)]


# splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [("train", "val", "test"), ("train", "dev", "test"), ("Training", "Validation", "Test"),
              ("train", "valid", "eval"), ("devel", "val", "test"), ("train", "devel", "test")]
)  # fmt: skip
def test_given_splits_are_kept_and_validation_is_a_fold_of_its_own(folder, words):
    part = {"1": words[0], "2": words[0], "3": words[0], "4": words[1], TEST: words[2]}
    rows = rows_of(lambda name: [part[fold_of(name)]])
    table = custom.load(write(folder, ["filename", "label", "subset"], rows), seed=1)
    check_splits(table.clips)
    for clip in table.clips:
        kept = {"4": "4", TEST: TEST}.get(fold_of(clip.id))
        assert clip.fold == kept if kept else clip.fold in {"1", "2", "3"}
    assert table.folds == ("1", "2", "3", "4")
    assert f"{', '.join(words).lower()} as given" in table.understood
    assert "The validation part is fold 4; the training part was cut into 3" in table.understood


def test_train_and_validation_alone_hold_the_validation_out(folder):
    rows = rows_of(lambda name: ["val" if fold_of(name) == TEST else "train"])
    table = custom.load(write(folder, ["filename", "label", "split"], rows), seed=0)
    assert {clip.id for clip in table.test} == {name for name in NAMES_OF_FILES if fold_of(name) == TEST}
    assert table.folds == ("1", "2", "3", "4")
    assert "the validation part is held out as the test part" in table.understood


def test_dev_without_train_is_the_development_part(folder):
    rows = rows_of(lambda name: ["test" if fold_of(name) == TEST else "dev"])
    table = custom.load(write(folder, ["filename", "label", "split"], rows), seed=0)
    assert "4 stratified group folds were drawn" in table.understood


def test_a_group_in_train_and_validation_is_refused(folder):
    rows = rows_of(
        lambda name: [{TEST: "test", "4": "val"}.get(fold_of(name), "train"), "g" if "/3." in name else name]
    )
    rows[0][3] = "g"
    assert "'g' crosses folds" in refusal(write(folder, ["filename", "label", "split", "group"], rows))


@pytest.mark.parametrize(
    ("header", "cells", "tells"),
    [
        (["split"], lambda fold: [{"4": "val", TEST: "test", "1": "dev"}.get(fold, "train")], "one too many"),
        (["split"], lambda fold: [{"4": "val", TEST: "test", "1": ""}.get(fold, "train")], "row 2: the split is empty"),
        (["split", "fold"], lambda fold: [{"4": "val", TEST: "test"}.get(fold, "train"), fold], "a fold of its own"),
        (["split"], lambda fold: [{TEST: "holdout"}.get(fold, "train")], "split 'holdout' is not known"),
    ],
)
def test_splits_that_are_not_clear_are_refused(folder, header, cells, tells):
    rows = rows_of(lambda name: cells(fold_of(name)))
    assert tells in refusal(write(folder, ["filename", "label", *header], rows))


def test_validation_beside_given_folds_is_the_fold_after_them(folder):
    rows = rows_of(lambda name: [{"4": "val", TEST: "test"}.get(fold_of(name), "train"), fold_of(name).strip("4")])
    table = custom.load(write(folder, ["filename", "label", "split", "fold"], rows), seed=0)
    assert {clip.id: clip.fold for clip in table.clips} == {name: fold_of(name) for name in NAMES_OF_FILES}


# folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_a_class_however_deep_the_sounds_lie(folder):
    (folder / "Türe/deep/er").mkdir(parents=True)
    (folder / "Türe/0.wav").rename(folder / "Türe/deep/er/x.FLAC")
    for name in (".hidden/a.wav", "Türe/.trash.wav", "Türe/notes.txt", "README.txt", "loose.wav", "empty/a.pdf"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    table = custom.load(folder, seed=0)
    assert {clip.id for clip in table.clips} == {*NAMES_OF_FILES[1:], "Türe/deep/er/x.FLAC"}
    assert all(clip.label == clip.id.split("/")[0] and clip.group == clip.id for clip in table.clips)
    assert table.understood.startswith("field: 40 clips of 2 classes; each folder is a class; 4 stratified group folds")
    notes = " ".join(table.notes)
    assert "1 sound files lie in no folder of a class and are left out (first: loose.wav)" in notes
    assert "are left out: empty." in notes


@pytest.mark.parametrize("words", [("train", "val", "test"), ("Train", "dev", "Test"), ("train", "test"), ("train",)])
def test_folders_of_splits_are_kept(folder, words):
    part = {TEST: words[2] if len(words) == 3 else words[-1], "4": words[1] if len(words) == 3 else words[0]}
    for name in NAMES_OF_FILES:
        target = folder / part.get(fold_of(name), words[0]) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(target)
    for label in CLASSES:
        (folder / label).rmdir()
    table = custom.load(folder, seed=0)
    assert table.labels == tuple(sorted(CLASSES))
    if len(words) > 1:
        assert {clip.id.split("/")[0].lower() for clip in table.test} == {"test"}
        assert all(clip.fold == TEST for clip in table.clips if clip.id.lower().startswith("test"))
    if len(words) == 3:
        assert {clip.fold for clip in table.clips if clip.id.startswith(words[1])} == {"4"}


def test_a_class_that_is_called_as_a_split_is_a_class(folder):
    (folder / "Türe").rename(folder / "train")
    assert custom.load(folder, seed=0).labels == ("Vögel", "train")


@pytest.mark.parametrize("name", ["clips.csv", "metadata.tsv", "list.TXT"])
def test_the_only_table_in_a_folder_is_taken(folder, name):
    for each in CLASSES:
        (folder / "audio").mkdir(exist_ok=True)
        (folder / each).rename(folder / "audio" / each)
    (folder / "README.txt").write_text("Recorded in May, with a phone.")
    (folder / "classes.csv").write_text("id,class\n1,door\n")
    write(folder, ["file", "class"], [[f"audio/{row[0]}", row[1]] for row in rows_of(lambda n: [])], "\t", name=name)
    assert custom.load(folder, seed=0).understood.startswith(f"{name}: 40 clips of 2 classes; separated by tabs")


def test_a_folder_that_can_be_read_in_two_ways_is_refused_with_both(folder, tmp_path):
    table = write(folder, ["file", "class"], rows_of(lambda name: []))
    assert f"for the table, give data_dir={table}; to take each folder for a class, move" in refusal(folder)
    write(folder, ["file", "class"], rows_of(lambda name: []), name="again.csv")
    assert "several tables of clips: again.csv, clips.csv" in refusal(folder)
    for each in folder.glob("*.csv"):
        each.unlink()
    for name in ("train/a.wav", "test/a.wav"):
        (folder / name).parent.mkdir()
        (folder / name).touch()
    assert "are the folders test, train splits, or classes as Türe, Vögel" in refusal(folder)
    assert f"give data_dir={folder}." in refusal(tmp_path)


def test_splits_without_folders_of_classes_are_refused(tmp_path):
    for name in ("train/a.wav", "test/b.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert "train/CLASS/file.wav" in refusal(tmp_path)


def test_the_only_table_in_a_folder_tells_itself_what_is_wrong(tmp_path):
    (tmp_path / "clips.csv").write_text("file,kind\na.wav,b\n")
    assert "clips.csv: column label is missing; found file, kind" in refusal(tmp_path)


# in a run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def classes(tmp_path, tiny_csv):
    """Sound files that can be decoded, three folders of five."""
    table = tiny_csv(tmp_path / "flat")
    for path in table.parent.glob("*.wav"):
        target = tmp_path / "birds.v2" / path.name.split("-")[0] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return tmp_path / "birds.v2"


def test_a_run_says_what_was_understood_in_one_line_and_notes_it(classes, tmp_path, capsys):
    config = DataConfig(dataset="csv", data_dir=str(classes), cache_dir=str(tmp_path / "cache"))
    assert config.data_name == "birds.v2"
    data_set = open_data_set(config)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("birds.v2: 15 clips")]
    assert data_set.clip_table.notes[0] == line


@pytest.mark.parametrize("is_table", [False, True])
def test_a_folder_and_its_table_in_a_store_are_those_of_a_disk(classes, tmp_path, is_table):
    if is_table:
        rows = [[str(p.relative_to(classes)), p.parent.name] for p in sorted(classes.rglob("*.wav"))]
        write(classes, ["file", "class"], rows, ";", "utf-16", name="clips.txt")
    place = f"{classes}/clips.txt" if is_table else str(classes)
    here = open_data_set(DataConfig(dataset="csv", data_dir=place, cache_dir=str(tmp_path / "here")))
    there = open_data_set(DataConfig(dataset="csv", data_dir=f"file://{place}", cache_dir=str(tmp_path / "there")))
    assert there.fingerprint == here.fingerprint
    assert there.clip_table.name == here.clip_table.name == "birds.v2"
