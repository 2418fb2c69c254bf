"""A data set made ready: what its fingerprint covers, what its scan remembers, and which leaks are refused."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from soundstack.audio.sound import Sound
from soundstack.config.base import DataConfig
from soundstack.datasets import scan
from soundstack.datasets.clips import Clip, check_splits
from soundstack.datasets.open_data_set import open_data_set
from soundstack.datasets.scan import scan_files
from soundstack.utils import slices
from soundstack.utils.errors import DataError, StoreError
from soundstack.utils.folds import TEST


def open_csv(table, cache=None, **options):
    return open_data_set(
        DataConfig(
            dataset="csv",
            data_dir=str(table),
            cache_dir=str(cache or table.parent.parent / "cache"),
            jobs=2,
            **options,
        )
    )


@pytest.fixture
def table(tmp_path, tiny_csv):
    return tiny_csv(tmp_path / "data")  # 15 clips: pitch0..2 in folds 1..4 and test


def rewrite(table, change):
    """Write the table anew with its rows, as lists, changed."""
    with table.open(newline="") as file:
        header, *rows = csv.reader(file)
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(change(header, rows))


# the fingerprint -------------------------------------------------------------------------------------------------


def test_the_fingerprint_does_not_depend_on_the_path(table, tmp_path):
    first = open_csv(table).fingerprint
    shutil.copytree(table.parent, tmp_path / "far" / "away")
    (tmp_path / "far" / "away" / "clips.csv").rename(tmp_path / "far" / "away" / "renamed.csv")
    assert open_csv(tmp_path / "far" / "away" / "renamed.csv").fingerprint == first


def test_the_fingerprint_does_not_depend_on_the_order_of_the_rows(table):
    first = open_csv(table)
    rewrite(table, lambda header, rows: [header, *rows[::-1]])
    again = open_csv(table)
    assert again.fingerprint == first.fingerprint
    assert [clip.id for clip in again.clips] == [clip.id for clip in first.clips]


def test_a_table_is_known_by_its_sounds_and_labels_whatever_its_files_and_folds_are_called(table):
    first = open_csv(table)
    assert first.tags["table"] == first.table
    (table.parent / "other.wav").write_bytes((table.parent / "pitch0-1-0.wav").read_bytes())
    rewrite(table, lambda header, rows: [header, ["other.wav", "pitch0", "2"], *rows[1:]])
    moved = open_csv(table)
    assert moved.table == first.table
    assert moved.fingerprint != first.fingerprint
    rewrite(table, lambda header, rows: [header, ["other.wav", "pitch1", "2"], *rows[1:]])
    assert open_csv(table).table != first.table
    rewrite(table, lambda header, rows: [header, *rows[1:]])
    assert open_csv(table).table != first.table


def test_the_fingerprint_does_not_depend_on_how_the_sound_is_used(table):
    first = open_csv(table).fingerprint
    assert open_csv(table, channels="first", sample_rate=4000, clip_seconds=2, seed=5).fingerprint == first


@pytest.mark.parametrize("column", [1, 2, 3], ids=["label", "fold", "group"])
def test_the_fingerprint_changes_with_a_label_a_fold_or_a_group(table, column):
    rewrite(table, lambda header, rows: [[*header, "group"], *([*row, row[0]] for row in rows)])
    first = open_csv(table).fingerprint

    def change(header, rows):
        # Two clips change places, so that the table stays sound.
        one, other = (next(row for row in rows if row[0] == name) for name in ("pitch0-1-0.wav", "pitch1-2-0.wav"))
        one[column], other[column] = other[column], one[column]
        return [header, *rows]

    rewrite(table, change)
    assert open_csv(table).fingerprint != first


def test_the_fingerprint_changes_with_the_content_of_a_clip_and_with_its_absence(table):
    first = open_csv(table).fingerprint
    soundfile.write(table.parent / "pitch0-1-0.wav", np.linspace(-0.5, 0.5, 4000), 8000)
    edited = open_csv(table).fingerprint
    (table.parent / "pitch0-1-0.wav").write_bytes(b"damaged")
    skipped = open_csv(table, on_error="skip").fingerprint
    assert len({first, edited, skipped}) == 3


# what a data set holds ---------------------------------------------------------------------------------------------


def test_development_clips_come_first_and_labels_are_in_alphabetical_order(table):
    data_set = open_csv(table)
    assert [clip.fold == TEST for clip in data_set.clips] == [False] * 12 + [True] * 3
    assert data_set.clip_table.labels == ("pitch0", "pitch1", "pitch2")
    assert data_set.counts()["pitch1"] == {"1": 1, "2": 1, "3": 1, "4": 1, "test": 1}


def test_length_and_rate_are_the_longest_clips_and_the_most_common(table):
    soundfile.write(table.parent / "pitch0-1-0.wav", np.linspace(-0.5, 0.5, 22050), 22050)
    data_set = open_csv(table)
    assert (data_set.audio.seconds, data_set.audio.sample_rate) == (1.0, 8000)
    assert (data_set.clip_table.seconds, data_set.clip_table.sample_rate) == (1.0, 8000)
    given = open_csv(table, clip_seconds=0.25, sample_rate=16000).audio
    assert (given.seconds, given.sample_rate, given.samples) == (0.25, 16000, 4000)


def test_a_longest_clip_over_ten_seconds_is_cropped(table):
    soundfile.write(table.parent / "pitch0-1-0.wav", np.linspace(-0.5, 0.5, 12 * 8000), 8000)
    assert open_csv(table).audio.seconds == 10


def test_silent_clips_are_counted_not_refused_though_they_are_equal(table):
    for name in ("pitch0-1-0.wav", "pitch1-2-0.wav"):
        soundfile.write(table.parent / name, np.zeros(4000), 8000)
    assert open_csv(table).silent == ("pitch0-1-0.wav", "pitch1-2-0.wav")


def test_the_manifest_is_a_table_that_gives_the_same_data_set(table):
    data_set = open_csv(table)
    (table.parent / "manifest.csv").write_text(data_set.manifest())
    assert open_csv(table.parent / "manifest.csv").fingerprint == data_set.fingerprint


def test_the_manifest_gives_drawn_folds_again_whatever_the_seed(tmp_path, tiny_csv):
    table = tiny_csv(tmp_path / "data", each=2, with_folds=False)
    data_set = open_csv(table, seed=3)
    (table.parent / "manifest.csv").write_text(data_set.manifest())
    assert open_csv(table.parent / "manifest.csv", seed=4).fingerprint == data_set.fingerprint
    assert any("seed 3" in note for note in data_set.clip_table.notes)


def test_the_recordings_of_esc10_make_a_data_set(esc10, tmp_path):
    data_set = open_data_set(DataConfig(dataset="esc10", data_dir=str(esc10), cache_dir=str(tmp_path)))
    assert len(data_set.clip_table.labels) == 10
    assert data_set.clip_table.folds == ("1", "2", "3", "4")
    assert (data_set.audio.sample_rate, data_set.audio.seconds) == (44100, 5)
    assert len(data_set.clips) == len(list((esc10 / "audio").iterdir()))
    assert data_set.skipped == ()


# damaged clips ---------------------------------------------------------------------------------------------------


def test_a_damaged_clip_stops_the_run_and_is_named(table):
    (table.parent / "pitch0-1-0.wav").write_bytes(b"damaged")
    (table.parent / "pitch2-3-0.wav").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        open_csv(table)
    message = str(caught.value)
    assert "pitch0-1-0.wav" in message
    assert "1 more" in message
    assert "on_error=skip" in message
    assert "\n" not in message


def test_a_damaged_clip_is_skipped_and_reported_when_asked(table):
    (table.parent / "pitch0-1-0.wav").write_bytes(b"damaged")
    data_set = open_csv(table, on_error="skip")
    assert len(data_set.clips) == 14
    assert "pitch0-1-0.wav" not in [clip.id for clip in data_set.clips]
    assert len(data_set.skipped) == 1
    assert data_set.skipped[0].startswith("pitch0-1-0.wav: cannot be decoded")


def test_what_is_left_after_skipping_must_still_be_sound_splits(table):
    for path in table.parent.glob("*-test-0.wav"):
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="no test clips"):
        open_csv(table, on_error="skip")
    for path in table.parent.glob("*.wav"):
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="None of the 15 clips"):
        open_csv(table, on_error="skip")


# leaks -----------------------------------------------------------------------------------------------------------


def test_the_same_sound_in_two_folds_is_refused(table):
    shutil.copy(table.parent / "pitch0-1-0.wav", table.parent / "pitch0-test-0.wav")
    with pytest.raises(DataError, match="same sound file") as caught:
        open_csv(table)
    assert "pitch0-1-0.wav" in str(caught.value)
    assert "pitch0-test-0.wav" in str(caught.value)


def test_the_same_sound_twice_in_one_fold_is_taken(table):
    shutil.copy(table.parent / "pitch0-1-0.wav", table.parent / "copy.wav")
    rewrite(table, lambda header, rows: [header, *rows, ["copy.wav", "pitch0", "1"]])
    assert len(open_csv(table).clips) == 16


def clips_of(folds=("1", "2", "3", "4", TEST), labels=("a", "b")):
    return [
        Clip(f"{label}-{fold}", Path(f"{label}-{fold}.wav"), label, fold, f"group-{label}-{fold}")
        for label in labels
        for fold in folds
    ]


def refusal_of(clips):
    with pytest.raises(DataError) as caught:
        check_splits(clips)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sound_splits_pass():
    check_splits(clips_of())
    check_splits(iter(clips_of(folds=("1", "2", TEST))))


def test_a_clip_in_two_folds_is_caught():
    clips = clips_of()
    assert "'a-1' is listed twice" in refusal_of([*clips, replace(clips[0], fold="2", group="another")])


@pytest.mark.parametrize("fold", ["2", TEST])
def test_a_group_in_two_folds_is_caught(fold):
    clips = clips_of()
    message = refusal_of([*clips, Clip("leak", Path("leak.wav"), "a", fold, clips[0].group)])
    assert clips[0].group in message
    assert "'leak'" in message


@pytest.mark.parametrize(
    ("clips", "tells"),
    [
        ([], "no clips"),
        (clips_of(folds=("1", TEST)), "two development folds"),
        (clips_of(folds=("1", "2")), "no test clips"),
        (clips_of(labels=("a",)), "two classes"),
        ([*clips_of(), *clips_of(labels=("rare",))[:1]], "'rare' is too small"),
        ([*clips_of(), *clips_of(labels=("unknown",))[-1:]], "'unknown' is too small"),
    ],
)
def test_splits_that_cannot_be_learnt_from_are_refused(clips, tells):
    assert tells in refusal_of(clips)


# the scan --------------------------------------------------------------------------------------------------------


def test_a_second_scan_decodes_nothing(table, monkeypatch):
    first = open_csv(table)
    monkeypatch.setattr(scan, "scan_file", lambda path: pytest.fail(f"{path} was decoded again"))
    assert open_csv(table).scans == first.scans


def test_a_changed_file_is_scanned_again_and_only_it(table, monkeypatch):
    open_csv(table)
    changed = table.parent / "pitch0-1-0.wav"
    soundfile.write(changed, np.linspace(-0.5, 0.5, 6000), 8000)
    seen = []
    whole = scan.scan_file
    monkeypatch.setattr(scan, "scan_file", lambda path: (seen.append(path), whole(path))[1])
    data_set = open_csv(table)
    assert seen == [changed]
    assert data_set.scans[[clip.path for clip in data_set.clips].index(changed)].frames == 6000


def test_a_killed_scan_continues(table, tmp_path, monkeypatch):
    paths = sorted(table.parent.glob("*.wav"))
    whole, seen = scan.scan_file, []

    def counted(path):
        seen.append(path)
        return whole(path)

    def killed(path):
        if path == paths[9]:
            raise KeyboardInterrupt
        return whole(path)

    monkeypatch.setattr(slices, "SLICE", 4)
    monkeypatch.setattr(scan, "scan_file", killed)
    with pytest.raises(KeyboardInterrupt):
        scan_files([Sound(path) for path in paths], tmp_path / "cache", jobs=2)
    monkeypatch.setattr(scan, "scan_file", counted)
    scans = scan_files([Sound(path) for path in paths], tmp_path / "cache", jobs=2)
    assert sorted(seen) == paths[8:]
    assert scans == [whole(path) for path in paths]


def test_a_scan_tells_length_rate_channels_and_silence(tone):
    stereo = scan.scan_file(tone("a.flac", seconds=0.5, channels=2))
    assert (stereo.sample_rate, stereo.frames, stereo.channels, stereo.silent) == (8000, 4000, 2, False)
    assert stereo.seconds == 0.5
    assert stereo.problem == ""
    assert scan.scan_file(tone("b.wav", hertz=0)).silent
    assert scan.scan_file(Path("nowhere.wav")).problem == "does not exist"


def test_the_content_of_a_scan_is_that_of_the_file_not_its_name(tone):
    first, same, other = tone("a.wav"), tone("b.wav"), tone("c.wav", hertz=441)
    contents = [scan.scan_file(path).content for path in (first, same, other)]
    assert contents[0] == contents[1] != contents[2]


def test_a_file_where_the_cache_should_be_is_refused_in_one_line(table, tmp_path):
    (tmp_path / "in the way").touch()
    with pytest.raises(StoreError, match="cache_dir") as caught:
        open_csv(table, tmp_path / "in the way")
    assert "\n" not in str(caught.value)


def test_a_damaged_memory_of_scans_is_forgotten(table, tmp_path):
    whole = open_csv(table).scans
    memory = tmp_path / "cache" / "scan.sqlite"
    memory.write_bytes(b"not a database, but long enough to be taken for one" * 50)
    assert open_csv(table).scans == whole
    assert memory.read_bytes().startswith(b"SQLite format 3")
