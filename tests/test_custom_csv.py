"""The user's own table: every mistake is told with its row, and splits that are drawn are stratified and grouped."""

import unicodedata
from collections import Counter, defaultdict

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from soundstack.datasets import csv_table as custom
from soundstack.datasets.clips import check_splits
from soundstack.utils.errors import DataError
from soundstack.utils.folds import TEST

NAMES = [f"{label}{number}.wav" for label in "ab" for number in range(10)]


@pytest.fixture
def folder(tmp_path):
    """A folder with the files that the tables name; nothing here decodes them."""
    for name in NAMES:
        (tmp_path / name).touch()
    return tmp_path


def table_of(folder, rows, header="filename,label", encoding="utf-8"):
    path = folder / "clips.csv"
    path.write_bytes("\n".join([header, *rows, ""]).encode(encoding))
    return path


def plain_rows(names=NAMES):
    return [f"{name},{name[0]}" for name in names]


def folded_rows(names=NAMES):
    return [f"{name},{name[0]},{'1234t'[int(name[1]) % 5].replace('t', 'test')}" for name in names]


def refusal(path, seed=0):
    """The one line that a table is refused with."""
    with pytest.raises(DataError) as caught:
        custom.load(path, seed=seed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# what is read ----------------------------------------------------------------------------------------------------


def test_given_folds_labels_and_groups_are_taken_as_they_are(folder):
    rows = [f"{row},g-{row.split(',')[0]}" for row in folded_rows()]
    dataset = custom.load(table_of(folder, rows, "filename,label,fold,group"), seed=0)
    assert [f"{clip.id},{clip.label},{clip.fold},{clip.group}" for clip in dataset.clips] == rows
    assert dataset.folds == ("1", "2", "3", "4")
    assert dataset.labels == ("a", "b")
    assert dataset.notes == ()
    assert all(clip.path == folder / clip.id for clip in dataset.clips)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_and_any_line_ends_are_read(folder, encoding, newline):
    text = newline.join(["filename,label,fold", *folded_rows()])
    (folder / "clips.csv").write_bytes(text.encode(encoding))
    assert len(custom.load(folder / "clips.csv", seed=0).clips) == len(NAMES)


def test_spaces_quotes_commas_and_case_of_the_header_do_not_matter(folder):
    rows = [f'"{name}", "Dog, {name[0]}" , {fold} ' for name, _, fold in (row.split(",") for row in folded_rows())]
    dataset = custom.load(table_of(folder, rows, ' FileName , "Label",FOLD '), seed=0)
    assert dataset.labels == ("Dog, a", "Dog, b")
    assert dataset.folds == ("1", "2", "3", "4")


def test_labels_that_look_like_numbers_or_nothing_stay_text(folder):
    rows = [row.replace(",a", ",007").replace(",b", ",NA") for row in plain_rows()]
    assert custom.load(table_of(folder, rows), seed=0).labels == ("007", "NA")


def test_names_may_be_in_folders_and_not_in_ascii(folder):
    (folder / "Küche").mkdir()
    rows = []
    for row in folded_rows():
        name, rest = row.split(",", 1)
        (folder / name).rename(folder / "Küche" / name)
        rows.append(f"Küche/{name},{rest}")
    assert custom.load(table_of(folder, rows, "filename,label,fold"), seed=0).clips[0].id == "Küche/a0.wav"


def test_more_columns_than_are_known_are_left_alone(folder):
    rows = [f"{row},42" for row in folded_rows()]
    assert len(custom.load(table_of(folder, rows, "filename,label,fold,seconds"), seed=0).clips) == len(NAMES)


def test_a_group_left_empty_is_the_clip_itself(folder):
    rows = [f"{row}," for row in folded_rows()]
    dataset = custom.load(table_of(folder, rows, "filename,label,fold,group"), seed=0)
    assert all(clip.group == clip.id for clip in dataset.clips)


def test_two_spellings_of_a_label_that_look_the_same_are_one_class_and_the_reader_is_told(folder):
    composed, apart = "caf\u00e9", "cafe\u0301"
    rows = [f"{name},{(composed, apart)[number % 2] if name[0] == 'a' else 'b'}" for number, name in enumerate(NAMES)]
    dataset = custom.load(table_of(folder, rows), seed=0)
    assert dataset.labels == ("b", composed)
    (note,) = [note for note in dataset.notes if "Unicode" in note]
    assert repr(composed) in note
    assert custom.load(table_of(folder, [f"{name},{apart if name[0] == 'a' else 'b'}" for name in NAMES]), seed=0)
    one_spelling = custom.load(
        table_of(folder, [f"{name},{composed[: 3 + (name[0] == 'a')]}" for name in NAMES]), seed=0
    )
    assert not [note for note in one_spelling.notes if "Unicode" in note]


def test_a_group_in_two_spellings_is_not_torn_apart(folder):
    groups = {"a0.wav": "caf\u00e9", "a1.wav": "cafe\u0301"}
    rows = [f"{row},{groups.get(row.split(',')[0], '')}" for row in folded_rows()]
    assert "crosses folds" in refusal(table_of(folder, rows, "filename,label,fold,group"))


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
def test_a_file_is_found_whatever_unicode_form_its_name_and_folder_have_on_the_disk(folder, on_disk, in_table):
    name = "Ger\u00e4usche/T\u00fcr.wav"
    place = folder / unicodedata.normalize(on_disk, name)
    place.parent.mkdir()
    place.touch()
    rows = [f"{unicodedata.normalize(in_table, name)},a", *plain_rows(NAMES[1:])]
    first = custom.load(table_of(folder, rows), seed=0).clips[0]
    assert first.path.samefile(place)
    assert first.id == unicodedata.normalize(in_table, name)


# mistakes, with their row ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "row", "tells"),
    [
        ("nowhere.wav,a,1", 5, "there is no file 'nowhere.wav'"),
        (",a,1", 5, "filename is empty"),
        ("a3.wav,,1", 5, "'a3.wav' has no label"),
        ("a3.wav", 5, "'a3.wav' has no label"),
        ("a0.wav,a,1", 5, "'a0.wav' stands in row 2 already"),
        ("a3.wav,a,00.5", 5, "fold '00.5' is not known"),
        ("a3.wav,a,fold", 5, "fold 'fold' is not known"),
        ("a3.wav,a,1.5", 5, "fold '1.5' is not known"),
        ("a3.wav,a,-1", 5, "fold '-1' is not known"),
        ("a3.wav,a,one", 5, "fold 'one' is not known"),
        ("a3.wav,c,test", 5, "label 'c' occurs in the test part only"),
        ("a3.wav,a,", 5, "has no fold"),
    ],
)
def test_a_mistake_is_told_with_its_row(folder, bad, row, tells):
    rows = folded_rows()
    rows[3] = bad
    message = refusal(table_of(folder, rows, "filename,label,fold"))
    assert tells in message
    assert f"row {row}" in message
    assert "clips.csv" in message


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("a0.wav", "./a0.wav"),
        ("a0.wav", "sub/../a0.wav"),
        ("a0.wav", "link/a0.wav"),
        ("sub/x.wav", "sub//x.wav"),
        ("sub/x.wav", "{folder}/sub/x.wav"),
        ("sub/T\u00fcr.wav", "sub/Tu\u0308r.wav"),
    ],
)
def test_two_ways_to_write_one_file_are_refused_with_both_rows(folder, file, again):
    (folder / "sub").mkdir()
    (folder / "link").symlink_to(folder)
    (folder / file).touch()
    again = again.format(folder=folder)
    rows = [f"{file},a", *plain_rows(NAMES[1:]), f"{again},a"]
    message = refusal(table_of(folder, rows))
    assert f"row {len(rows) + 1}: {again!r} stands in row 2 already, as {file!r}." in message


def test_a_file_and_a_link_to_it_are_two_clips_as_copies_are(folder):
    (folder / "a0-again.wav").symlink_to(folder / "a0.wav")
    assert len(custom.load(table_of(folder, [*plain_rows(), "a0-again.wav,a"]), seed=0).clips) == len(NAMES) + 1


def test_rows_are_counted_as_a_spreadsheet_counts_them_blank_lines_too(folder):
    rows = folded_rows()
    rows[3:3] = ["", "", "nowhere.wav,a,1"]
    assert "row 7" in refusal(table_of(folder, rows, "filename,label,fold"))


@pytest.mark.parametrize(("split", "fold"), [("devel", "test"), ("vlaid", "")])
def test_a_split_that_contradicts_the_fold_or_is_not_known_is_told_with_its_row(folder, split, fold):
    rows = [f"{row},devel" if not row.endswith("test") else f"{row},test" for row in folded_rows()]
    rows[3] = f"a3.wav,a,{fold},{split}"
    message = refusal(table_of(folder, rows, "filename,label,fold,split"))
    assert "row 5" in message
    assert split in message


def test_a_group_that_crosses_folds_is_told_with_both_rows(folder):
    rows = [f"{row},{'shared' if index in (1, 7) else index}" for index, row in enumerate(folded_rows())]
    message = refusal(table_of(folder, rows, "filename,label,fold,group"))
    assert "row 3" in message
    assert "row 9" in message
    assert "'shared'" in message


@pytest.mark.parametrize("header", ["filename", "sound,label", "filename,kind"])
def test_a_missing_column_is_told_with_what_is_there_and_needed(folder, header):
    message = refusal(table_of(folder, ["a0.wav,a"] if "," in header else ["a0.wav"], header))
    assert "is missing" in message
    assert header.split(",")[0] in message
    assert "filename, label" in message


def test_a_row_with_more_values_than_columns_is_told(folder):
    rows = plain_rows()
    rows[3] += ",more"
    assert "clips.csv row 5: 3 values for 2 columns" in refusal(table_of(folder, rows))
    assert "clips.csv row 7: 3 values" in refusal(table_of(folder, rows, "\n\nfilename,label"))


def test_a_comma_at_the_end_of_every_row_does_not_shift_the_columns(folder):
    message = refusal(table_of(folder, [f"{row}," for row in plain_rows()]))
    assert "column" in message


@pytest.mark.parametrize("content", [b"", b"\n\n", b"filename,label\n", "filename,label\né.wav,a".encode("latin-1")])
def test_an_empty_or_wrongly_encoded_table_is_refused(folder, content):
    path = folder / "clips.csv"
    path.write_bytes(content)
    refusal(path)


def test_an_open_quote_is_refused(folder):
    refusal(table_of(folder, ['"a0.wav,a', *plain_rows()[1:]]))


def test_a_file_name_too_long_for_the_system_is_told_with_its_row(folder):
    assert "row 2" in refusal(table_of(folder, ["a" * 300 + ".wav,a"]))


def test_a_folder_without_classes_or_a_missing_file_instead_of_the_table_is_refused(folder):
    assert "neither one folder a class" in refusal(folder)
    refusal(folder / "nowhere.csv")


def test_a_class_too_small_to_split_is_named(folder):
    message = refusal(table_of(folder, plain_rows(NAMES[:10] + NAMES[10:14])))
    assert "'b'" in message
    assert "4 clips" in message
    rows = [
        row.replace(",4", ",1").replace(",3", ",1").replace(",2", ",1") if "b" in row else row for row in folded_rows()
    ]
    assert "Class 'b'" in refusal(table_of(folder, rows, "filename,label,fold"))


# splits that are drawn ---------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path):
    """Three classes of 30, 20 and 15 clips in groups of one to three."""
    rows = []
    for label, count in (("a", 30), ("b", 20), ("c", 15)):
        for number in range(count):
            name = f"{label}{number}.wav"
            (tmp_path / name).touch()
            rows.append(f"{name},{label},{label}-group{number * 2 // 3}")
    return tmp_path, rows


def splits(dataset):
    return {clip.id: clip.fold for clip in dataset.clips}


def test_drawn_folds_are_stratified_and_tear_no_group_apart(large):
    folder, rows = large
    dataset = custom.load(table_of(folder, rows, "filename,label,group"), seed=3)
    assert dataset.folds == ("1", "2", "3", "4")
    folds_of_group = defaultdict(set)
    for clip in dataset.clips:
        folds_of_group[clip.group].add(clip.fold)
    assert all(len(folds) == 1 for folds in folds_of_group.values())
    count = Counter((clip.label, clip.fold) for clip in dataset.clips)
    for label, total in (("a", 30), ("b", 20), ("c", 15)):
        for fold in ("1", "2", "3", "4", TEST):
            assert abs(count[label, fold] - total / 5) <= 2
    assert len(dataset.notes) == 1
    assert "seed 3" in dataset.notes[0]


def test_the_same_seed_draws_the_same_folds_and_another_others(large):
    folder, rows = large
    table = table_of(folder, rows, "filename,label,group")
    assert splits(custom.load(table, seed=1)) == splits(custom.load(table, seed=1))
    assert splits(custom.load(table, seed=1)) != splits(custom.load(table, seed=2))


def test_drawn_folds_do_not_depend_on_the_order_of_the_rows(large):
    folder, rows = large
    first = splits(custom.load(table_of(folder, rows, "filename,label,group"), seed=1))
    assert splits(custom.load(table_of(folder, rows[::-1], "filename,label,group"), seed=1)) == first


@pytest.mark.parametrize(("column", "word"), [("split", "test"), ("split", "eval"), ("fold", "test")])
def test_a_given_test_part_is_kept_and_only_the_folds_are_drawn(folder, column, word):
    rows = [f"{row},{word if '9' in row else ''}" for row in plain_rows()]
    dataset = custom.load(table_of(folder, rows, f"filename,label,{column}"), seed=0)
    assert {clip.id for clip in dataset.test} == {"a9.wav", "b9.wav"}
    assert dataset.folds == ("1", "2", "3", "4")


def test_with_folds_and_no_test_part_the_last_fold_is_held_out(folder):
    rows = [row.replace("test", "10") for row in folded_rows()]
    dataset = custom.load(table_of(folder, rows, "filename,label,fold"), seed=0)
    assert dataset.folds == ("1", "2", "3", "4")
    assert {clip.id for clip in dataset.test} == {name for name in NAMES if name[1] in "49"}
    assert "fold 10" in dataset.notes[0]


# whatever comes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    for number in range(60):
        (folder / f"{number}.wav").touch()
    return folder


@st.composite
def tables(draw):
    """Tables from sound to hopeless: each column is there or not, consistent or random, whole or holed."""
    count = draw(st.one_of(st.integers(0, 24), st.integers(40, 60)))
    classes = draw(st.sampled_from([2, 3, 1, 4]))
    size = draw(st.integers(1, 3))
    header, columns = ["filename", "label"], []
    columns.append([f"{number}.wav" for number in range(count)])
    columns.append([f"class{number % classes}" for number in range(count)])
    if draw(st.booleans()):
        header.append("group")
        columns.append([f"group{number // (size * classes)}" for number in range(count)])
    if draw(st.booleans()):
        header.append("fold")
        folds = draw(st.sampled_from([4, 3, 6, 2, 1]))
        columns.append([str(number // (size * classes) % folds + 1) for number in range(count)])
    if draw(st.booleans()):
        header.append("split")
        held_out = draw(st.sampled_from([1, 0, 2, 5]))
        columns.append(["test" if number // (size * classes) % 5 < held_out else "devel" for number in range(count)])
    cells = st.sampled_from(["", " ", "1", "2", "test", "dev", "class0", "group1", "3.wav", "none.wav", '"', "-1", "é"])
    if count:
        for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
            column = draw(st.integers(0, len(columns) - 1))
            columns[column][draw(st.integers(0, count - 1))] = draw(cells)
    order = draw(st.permutations(range(len(header))))
    rows = [",".join(columns[place][number] for place in order) for number in range(count)]
    return "\n".join([",".join(header[place] for place in order), *rows])


@settings(max_examples=250)
@given(text=tables(), seed=st.integers(0, 5))
def test_a_random_table_is_refused_in_one_line_or_has_sound_splits(files, text, seed):
    path = files / "clips.csv"
    path.write_text(text, encoding="utf-8")
    try:
        dataset = custom.load(path, seed=seed)
    except DataError as error:
        assert "\n" not in str(error)
        event("refused")
        return
    event("taken")
    check_splits(dataset.clips)
    assert len(dataset.clips) == len(text.splitlines()) - 1
    assert {clip.fold for clip in dataset.clips} == {*dataset.folds, TEST}
    assert {clip.label for clip in dataset.test} <= {clip.label for clip in dataset.devel}


@given(st.binary(max_size=200))
def test_any_bytes_as_a_table_are_refused_in_one_line(files, content):
    path = files / "clips.csv"
    path.write_bytes(b"filename,label\n" + content)
    assert refusal(path)


@pytest.mark.parametrize(("column", "alone"), [("", 20), (",group", 3), (",group", 0)])
def test_clips_without_a_group_are_their_own_and_the_reader_is_told(folder, column, alone):
    rows = plain_rows()
    if column:
        rows = [f"{row},{'' if number < alone else f'day {number}'}" for number, row in enumerate(rows)]
    dataset = custom.load(table_of(folder, rows, f"filename,label{column}"), seed=0)
    assert sum(clip.group == clip.id for clip in dataset.clips) == alone
    notes = [note for note in dataset.notes if note.startswith(f"The group is not known of {alone} of 20 clips")]
    assert len(notes) == len(dataset.notes) - 1 == (alone > 0)  # and that the folds are drawn
