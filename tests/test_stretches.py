"""Stretches of recordings: cut as if each were a file of its own, read in one go, and grouped by the recording."""

import csv
import io
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from soundstack.audio import decode as audio
from soundstack.audio import decoder, stretches
from soundstack.audio.decoder import SoundReader
from soundstack.audio.sound import Stretch
from soundstack.audio.stretches import takes
from soundstack.config.steps import ExtractConfig
from soundstack.datasets import csv_table, scan
from soundstack.datasets.clips import listed_id
from soundstack.datasets.open_data_set import open_data_set
from soundstack.features import hosts
from soundstack.report.collect import clip_table
from soundstack.spectrograms.extract import extraction
from soundstack.utils import object_store, slices
from soundstack.utils.errors import AudioError, DataError

RATE = 8000
LOSSLESS = [
    ("WAV", "PCM_16"), ("WAV", "PCM_U8"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("WAV", "ULAW"),
    ("WAV", "ALAW"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_24"), ("AU", "PCM_32"),
    ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("NIST", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"),
]  # fmt: skip
LOSSY = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "IMA_ADPCM"), ("WAV", "GSM610")]
#: Seconds of 40: next to each other, overlapping, one inside another, far apart, at both ends.
WANTED = [(0, 1), (1, 1.5), (1.25, 2), (1.3, 1.4), (3, 3.0001250), (13.7, 25.1), (14, 14.123456), (39.5, 40)]


@pytest.fixture
def recording(tmp_path):
    """Write 40 s of noise: ``recording("WAV", "PCM_16")`` gives its path."""

    def write(form, subtype, channels=2):
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, (40 * RATE, 1 if subtype == "GSM610" else channels))
        path = tmp_path / f"{form}-{subtype}.sound"
        soundfile.write(path, noise, RATE, format=form, subtype=subtype)
        return path

    return write


def cut(path, wanted=WANTED):
    with SoundReader(path) as sound:
        return list(sound.stretches(wanted))


@pytest.mark.parametrize(("form", "subtype"), [*LOSSLESS, *LOSSY])
def test_a_stretch_is_the_same_samples_as_in_the_whole_file(recording, form, subtype):
    path = recording(form, subtype)
    whole, rate = audio.decode(path)
    for (start, end), samples in zip(WANTED, cut(path), strict=True):
        if end * rate > len(whole):  # encoders of frames may leave a part of the last one out
            assert "ends at" in str(samples)
            continue
        np.testing.assert_array_equal(samples, whole[round(start * rate) : round(end * rate)])
        assert samples.base is None, "a view would keep the blocks alive"


@pytest.mark.parametrize(("form", "subtype"), LOSSLESS)
def test_a_stretch_is_decoded_as_it_would_be_from_a_file_of_its_own(recording, form, subtype, tmp_path):
    path = recording(form, subtype)
    kind = {"ULAW": "int16", "ALAW": "int16", "PCM_16": "int16", "PCM_U8": "int16", "ALAC_16": "int16"}.get(subtype)
    values, _ = soundfile.read(path, dtype=kind or ("float64" if subtype in ("FLOAT", "DOUBLE") else "int32"))
    for (start, end), samples in zip(WANTED, cut(path), strict=True):
        part = values[round(start * RATE) : round(end * RATE)]
        soundfile.write(tmp_path / "part", part, RATE, format="CAF" if "ALAC" in subtype else form, subtype=subtype)
        alone, _ = audio.decode(tmp_path / "part")
        assert samples.tobytes() == alone.tobytes()


def test_of_pcm_and_flac_only_the_stretches_are_decoded(recording, monkeypatch):
    decoded = []
    real = decoder._values
    monkeypatch.setattr(decoder, "_values", lambda frame: (decoded.append(frame.samples), real(frame))[1])
    monkeypatch.setattr(decoder, "BLOCK", 1 << 10)
    wanted = [(30, 30.5), (38, 39)]
    for form, least in (("WAV", 1.5), ("FLAC", 1.5), ("OGG", 39)):
        decoded.clear()
        path = recording(form, "VORBIS" if form == "OGG" else "PCM_16")
        assert [len(samples) for samples in cut(path, wanted)] == [4000, 8000]
        assert least * RATE <= sum(decoded) < least * RATE + 60_000, form
    assert sum(decoded) >= 39 * RATE


def test_a_wav_whose_header_tells_a_wrong_rate_of_bytes_is_read_from_its_beginning(recording):
    path = recording("WAV", "PCM_16")
    raw = bytearray(path.read_bytes())
    at = raw.index(b"fmt ") + 16
    assert int.from_bytes(raw[at : at + 4], "little") == 4 * RATE
    raw[at : at + 4] = RATE.to_bytes(4, "little")
    path.write_bytes(raw)
    whole, _ = audio.decode(path)
    (samples,) = cut(path, [(30, 31)])
    np.testing.assert_array_equal(samples, whole[30 * RATE : 31 * RATE])


def test_what_lies_beyond_the_end_or_before_the_first_sample_is_no_stretch(recording):
    path = recording("FLAC", "PCM_16")
    beyond, over, inside, none, after = cut(path, [(38, 41), (39, 40.001), (39, 40), (39.5, 39.50001), (50, 51)])
    assert str(beyond) == str(over) == "ends at 40.00 s"
    assert len(inside) == RATE
    assert "holds no sample there" in str(none)
    assert "ends at 40.00 s" in str(after)


def test_damage_costs_the_stretches_it_lies_in(recording):
    path = recording("FLAC", "PCM_16")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 400] = bytes(400)
    path.write_bytes(raw)
    before, at, after = cut(path, [(1, 2), (19.5, 20.5), (35, 36)])
    assert len(before) == len(after) == RATE
    assert "damaged" in str(at)


# several threads -------------------------------------------------------------------------------------------------


def test_a_file_is_opened_once_and_closed_with_its_last_stretch(recording):
    path = recording("WAV", "PCM_16")
    whole, _ = audio.decode(path)
    opened = []

    class File(nullcontext):
        def __enter__(self):
            opened.append("open")
            return super().__enter__()

        def __exit__(self, *_):
            opened.append("closed")

    wanted = [Stretch(start, start + 1) for start in range(10)]
    take = takes([(path, None), *((path, stretch) for stretch in wanted)], File)
    assert sorted(take) == list(range(1, 11))
    assert opened == []
    for number in (3, 1, 2, *range(4, 11)):  # a later one may come first
        piece = take[number]()
        np.testing.assert_array_equal(piece.samples, whole[(number - 1) * RATE : number * RATE])
        assert opened == ["open", "closed"][: 2 if number == 10 else 1]


def test_stretches_against_the_order_of_the_file_are_read_too(recording):
    path = recording("OGG", "VORBIS")
    whole, _ = audio.decode(path)
    take = takes(((path, Stretch(start, start + 1)) for start in (5, 6, 2, 3, 30, 1)), nullcontext)
    for number, start in enumerate((5, 6, 2, 3, 30, 1)):
        np.testing.assert_array_equal(take[number]().samples, whole[start * RATE : (start + 1) * RATE])


def test_a_file_that_cannot_be_opened_is_refused_for_each_of_its_stretches(tmp_path):
    take = takes(((tmp_path / "none.wav", Stretch(start, start + 1)) for start in range(3)), nullcontext)
    for one in take.values():
        with pytest.raises(AudioError, match="does not exist"):
            one()


# data sets -------------------------------------------------------------------------------------------------------

CLIPS, CLIP = 6, 4000  # a recording's, of this many frames


class Takes:
    """Eight recordings of two classes, in turns, and the same clips as single files, which sort the same way."""

    def __init__(self, folder):
        self.singles, self.joined = folder / "singles", folder / "joined"
        self.singles.mkdir(parents=True)
        self.joined.mkdir()
        random = np.random.default_rng(0)
        self.rows = []
        for take in range(8):
            clips = []
            for number in range(CLIPS):
                label = ("low", "high")[(take + number) % 2]
                tone = np.sin(np.arange(CLIP) * (0.1 if label == "low" else 0.7))
                clips.append(np.int16(10_000 * tone + random.normal(0, 1600, CLIP)))
                soundfile.write(self.singles / f"take{take}-{number}.wav", clips[-1], RATE)
                fold = ("1", "2", "3", "test")[take % 4]
                self.rows.append((f"take{take}", number, label, fold))
            soundfile.write(self.joined / f"take{take}.flac", np.concatenate(clips), RATE)

    def single_table(self):
        rows = [f"{take}-{number}.wav,{label},{fold},{take}.flac" for take, number, label, fold in self.rows]
        return self.table(self.singles, "filename,label,fold,group", rows)

    def joined_rows(self):
        return [f"{take}.flac,{n / 2},{n / 2 + 0.5},{label},{fold}" for take, n, label, fold in self.rows]

    def joined_table(self, header="filename,start,end,label,fold", change=lambda rows: rows):
        return self.table(self.joined, header, change(self.joined_rows()))

    def label_tracks(self):
        for take in {take for take, *_ in self.rows}:
            mine = [(number, label) for name, number, label, _ in self.rows if name == take]
            lines = [f"{n / 2:.6f}\t{n / 2 + 0.5:.6f}\t{label}\n\\\t100.0\t900.0\n" for n, label in mine]
            (self.joined / f"{take}.txt").write_text("".join(lines))
        return self.joined

    @staticmethod
    def table(folder, header, rows):
        (folder / "clips.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return folder / "clips.csv"


@pytest.fixture
def takes_of(tmp_path):
    return Takes(tmp_path / "data")


def config(place, cache, **more):
    return ExtractConfig(dataset="csv", data_dir=str(place), cache_dir=str(cache), jobs=2, **more)


def extract(*given, **more):
    settings = config(*given, **more)
    begun = extraction(settings)
    data_set = open_data_set(settings, begun)
    return data_set, begun.finish(data_set)


def refusal(place):
    with pytest.raises(DataError) as caught:
        csv_table.load(place, seed=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("given", [{}, {"clip_seconds": 0.4, "sample_rate": 4000}], ids=["auto", "given"])
@pytest.mark.parametrize("with_scan", [True, False])
def test_features_of_stretches_are_those_of_single_files_to_the_last_bit(takes_of, tmp_path, given, with_scan):
    whole, single = extract(takes_of.single_table(), tmp_path / "a", **given)
    if with_scan:
        data_set, joined = extract(takes_of.joined_table(), tmp_path / "b", **given)
    else:
        settings = config(takes_of.joined_table(), tmp_path / "b", **given)
        data_set = open_data_set(settings)
        joined = extraction(settings).finish(data_set)
    assert joined.values.tobytes() == single.values.tobytes()
    assert (joined.report.made, joined.report.reused) == (48, 0)
    same = ("label", "fold", "group")
    assert [[getattr(clip, name) for name in same] for clip in data_set.clips] == [
        [getattr(clip, name) for name in same] for clip in whole.clips
    ]
    assert [scan.frames for scan in data_set.scans] == [CLIP] * 48
    assert data_set.clips[1].id == "take0.flac@0.5-1"
    assert extract(takes_of.joined_table(), tmp_path / "b", **given)[1].report.reused == 48


def test_a_recording_is_opened_once_for_all_slices_and_only_for_what_is_not_remembered(takes_of, tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "SLICE", 4)
    opened, real = [], decoder.opened

    def counted(path):
        opened.append(path.name)
        return real(path)

    monkeypatch.setattr(decoder, "opened", counted)
    monkeypatch.setattr(stretches, "opened", lambda path: real(path))  # for its digest
    open_data_set(config(takes_of.joined_table(), tmp_path / "cache"))
    assert sorted(opened) == [f"take{take}.flac" for take in range(8)]
    opened.clear()
    table = takes_of.joined_table(change=lambda rows: [*rows, "take3.flac,0.25,0.75,low,test"])
    open_data_set(config(table, tmp_path / "cache"))
    assert opened == ["take3.flac"]


def test_a_killed_scan_of_stretches_continues(takes_of, tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "SLICE", 4)
    settings = config(takes_of.joined_table(), tmp_path / "cache")
    whole = open_data_set(config(takes_of.joined_table(), tmp_path / "other")).scans
    real, seen = scan.scan_stretch, []

    def killed(take, *hears):
        if len(seen) == 18:
            raise KeyboardInterrupt
        seen.append(take)
        return real(take, *hears)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scan, "scan_stretch", killed)
        open_data_set(settings)
    monkeypatch.setattr(scan, "scan_stretch", lambda *given: (seen.append(given), real(*given))[1])
    seen.clear()
    assert open_data_set(settings).scans == whole
    assert 0 < len(seen) < 48


def test_the_manifest_has_start_and_end_and_is_a_table_that_gives_the_same_data_set(takes_of, tmp_path):
    data_set = open_data_set(config(takes_of.joined_table(), tmp_path / "cache"))
    rows = list(csv.DictReader(io.StringIO(data_set.manifest())))
    assert list(rows[0]) == ["filename", "start", "end", "label", "fold", "group", "seconds", "content"]
    assert [listed_id(row) for row in rows] == [clip.id for clip in data_set.clips]
    (takes_of.joined / "manifest.csv").write_text(data_set.manifest())
    again = open_data_set(config(takes_of.joined / "manifest.csv", tmp_path / "cache"))
    assert again.fingerprint == data_set.fingerprint
    whole = open_data_set(config(takes_of.single_table(), tmp_path / "cache"))
    assert whole.manifest().startswith("filename,label,fold,group,seconds,content\n")


def test_who_reads_the_manifest_of_a_run_finds_its_clips(takes_of, tmp_path):
    data_set = open_data_set(config(takes_of.joined_table(), tmp_path / "cache"))
    (tmp_path / "clips.csv").write_text(data_set.manifest())
    run = SimpleNamespace(name="one", id="0123456789", artifact=lambda name: tmp_path / Path(name).name)
    assert clip_table(run) == {clip.id: (clip.fold, clip.group) for clip in data_set.clips}


def test_the_fingerprint_changes_with_the_ends_of_a_stretch_and_not_with_how_they_are_written(takes_of, tmp_path):
    prints = [
        open_data_set(config(takes_of.joined_table(change=change), tmp_path / "cache")).fingerprint
        for change in (
            lambda rows: rows,
            lambda rows: [row.replace(",0.5,1.0,", ",0.500,1,") for row in rows],
            lambda rows: [row.replace(",0.5,1.0,", ",0.5,0.9,") for row in rows],
        )
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_stretch_beyond_the_end_is_told_with_its_row_or_skipped(takes_of, tmp_path):
    table = takes_of.joined_table(change=lambda rows: [*rows, "take3.flac,2.5,3.5,low,test"])
    with pytest.raises(DataError, match=r"clips\.csv row 50: .*take3\.flac, 2\.5-3\.5 s: ends at 3\.00 s") as caught:
        open_data_set(config(table, tmp_path / "cache"))
    assert "\n" not in str(caught.value)
    data_set = open_data_set(config(table, tmp_path / "cache", on_error="skip"))
    assert data_set.skipped == ("take3.flac@2.5-3.5: ends at 3.00 s",)


def test_a_file_of_which_there_are_stretches_may_be_listed_as_a_whole_too(takes_of, tmp_path):
    table = takes_of.joined_table(change=lambda rows: [*rows, "take1.flac,,,low,2"])
    data_set = open_data_set(config(table, tmp_path / "cache"))
    assert {clip.fold for clip in data_set.clips if clip.group == "take1.flac"} == {"2"}
    (whole,) = [clip for clip in data_set.clips if clip.id == "take1.flac"]
    assert data_set.scans[data_set.clips.index(whole)].frames == CLIPS * CLIP


# tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    ["filename,start,end,label,fold", "file,onset,offset,class,fold", "path,Begin,End,label,fold",
     "filename,start_time,end_time,label,fold"],
)  # fmt: skip
def test_start_and_end_have_the_names_that_people_give_them(takes_of, header):
    clips = csv_table.load(takes_of.joined_table(header), seed=0).clips
    assert {clip.stretch for clip in clips} == {Stretch(number / 2, number / 2 + 0.5) for number in range(CLIPS)}


def test_where_the_separator_is_another_a_comma_is_a_decimal_one(takes_of):
    rows = [row.replace(",", ";").replace(".0;", ",0;").replace(".5;", ",5;") for row in takes_of.joined_rows()]
    table = takes_of.table(takes_of.joined, "filename;start;end;label;fold", rows)
    assert csv_table.load(table, seed=0).clips == csv_table.load(takes_of.joined_table(), seed=0).clips


@pytest.mark.parametrize(
    ("row", "tells"),
    [
        ("take0.flac,1.0,1.0,low,1", "row 50: the start, 1.0 s, is not before the end, 1.0 s"),
        ("take0.flac,2,1,low,1", "row 50: the start, 2 s, is not before"),
        ("take0.flac,-1,1,low,1", "row 50: the start '-1' is no time"),
        ("take0.flac,nan,1,low,1", "row 50: the start 'nan' is no time"),
        ("take0.flac,0,inf,low,1", "row 50: the end 'inf' is no time"),
        ("take0.flac,0:01,0:02,low,1", "row 50: the start '0:01' is no time; write seconds"),
        ('take0.flac,"0,1","0,2",low,1', "row 50: the start '0,1' is no time"),
        ("take0.flac,1,,low,1", "row 50: the end is missing"),
        ("take0.flac,,1,low,1", "row 50: the start is missing"),
        ("take0.flac,0,0.5,low,1", "row 50: 'take0.flac', 0-0.5 s, stands in row 2 already"),
        ("take0.flac,0.000,0.5000,high,1", "row 50: 'take0.flac', 0-0.5 s, stands in row 2 already"),
        ("./take0.flac,0,0.5,low,1", "row 50: './take0.flac', 0-0.5 s, stands in row 2 already, as 'take0.flac'"),
        ("take0.flac,0.1,0.4,low,2", "crosses folds"),
    ],
)
def test_a_stretch_that_is_none_is_told_with_its_row(takes_of, row, tells):
    assert tells in refusal(takes_of.joined_table(change=lambda rows: [*rows, row]))


def test_one_end_of_stretches_alone_is_refused(takes_of):
    assert "column 'start' is one end of a stretch" in refusal(
        takes_of.joined_table("filename,start,seconds,label,fold")
    )


def test_stretches_that_share_sound_share_their_group(takes_of):
    header = "filename,start,end,label,fold,group"
    rows = [f"{row},{number // 3}" for number, row in enumerate(takes_of.joined_rows())]
    assert (
        len({clip.group for clip in csv_table.load(takes_of.table(takes_of.joined, header, rows), seed=0).clips}) == 16
    )
    over = [*rows, "take0.flac,1.25,1.75,low,1,0"]
    message = refusal(takes_of.table(takes_of.joined, header, over))
    assert "'take0.flac@1.25-1.75'" in message
    assert "'take0.flac@1.5-2'" in message
    assert "give both the same" in message


def test_another_spelling_of_the_file_is_the_same_recording(takes_of):
    table = takes_of.joined_table(change=lambda rows: [*rows, "./take0.flac,0.1,0.4,low,1"])
    clip = csv_table.load(table, seed=0).clips[-1]
    assert (clip.id, clip.group) == ("take0.flac@0.1-0.4", "take0.flac")


def test_stretches_of_a_copied_recording_across_folds_are_refused(takes_of, tmp_path):
    shutil.copy(takes_of.joined / "take0.flac", takes_of.joined / "copy.flac")
    for row in ("copy.flac,0.0,0.5,low,2", "copy.flac,0.1,0.4,low,2", "copy.flac,,,low,2"):
        table = takes_of.joined_table(change=lambda rows, row=row: [*rows, row])
        with pytest.raises(DataError, match=r"'take0\.flac@0-0\.5' \(fold 1\).*a copy would cross the split"):
            open_data_set(config(table, tmp_path / "cache"))
    table = takes_of.joined_table(change=lambda rows: [*rows, "copy.flac,0.1,0.4,low,1"])
    assert len(open_data_set(config(table, tmp_path / "cache")).clips) == 49


def test_folds_that_are_drawn_keep_a_recording_together(takes_of):
    rows = [row.rpartition(",")[0] for row in takes_of.joined_rows()]
    table = csv_table.load(takes_of.table(takes_of.joined, "filename,start,end,label", rows), seed=0)
    folds = {}
    for clip in table.clips:
        assert folds.setdefault(clip.path, clip.fold) == clip.fold
    assert "48 stretches of 8 recordings, grouped by them" in table.understood
    assert not [note for note in table.notes if "group of its own" in note]


# label tracks ----------------------------------------------------------------------------------------------------


def test_a_folder_of_recordings_with_label_tracks_is_the_table_that_it_says(takes_of):
    read = csv_table.load(takes_of.label_tracks(), seed=0)
    rows = [row.rpartition(",")[0] for row in takes_of.joined_rows()]
    table = csv_table.load(takes_of.table(takes_of.joined, "filename,start,end,label", rows), seed=0)
    same = ("id", "path", "label", "fold", "group", "stretch")
    assert [[getattr(clip, name) for name in same] for clip in read.clips] == [
        [getattr(clip, name) for name in same] for clip in table.clips
    ]
    assert "label tracks; 48 stretches of 8 recordings" in read.understood


def test_points_in_time_are_left_out_with_a_note_and_so_are_recordings_without_a_track(takes_of):
    folder = takes_of.label_tracks()
    with (folder / "take0.txt").open("a") as file:
        file.write("1.5\t1.5\tclick\n\n")
    shutil.copy(folder / "take0.flac", folder / "unmarked.flac")
    (folder / "README.txt").write_text("Recorded in June.\n")
    table = csv_table.load(folder, seed=0)
    assert len(table.clips) == 48
    assert any(note.startswith("1 labels of points in time") for note in table.notes)
    assert any("no label track" in note and "unmarked.flac" in note for note in table.notes)


@pytest.mark.parametrize(
    ("line", "tells"),
    [
        ("1.0\tcrow", "take0.txt line 13: is no label"),
        ("2.0\t1.0\tlow", "take0.txt line 13: the start, 2.0 s, is not before the end"),
        ("-1.0\t1.0\tlow", "take0.txt line 13: the start '-1.0' is no time"),
        ("0.0\t0.5\thigh", "take0.txt line 13: 'take0.flac', 0-0.5 s, stands in line 1 already"),
    ],
)
def test_a_line_that_is_no_label_is_told(takes_of, line, tells):
    folder = takes_of.label_tracks()
    with (folder / "take0.txt").open("a") as file:
        file.write(f"{line}\n")
    assert tells in refusal(folder)


def test_a_label_track_stands_beside_one_recording(takes_of):
    folder = takes_of.label_tracks()
    one = folder / "take0.txt"
    assert "too small to split" in refusal(one), "one recording cannot be split"
    shutil.copy(folder / "take0.flac", folder / "take0.wav")
    assert "found take0.flac and take0.wav" in refusal(one)
    assert "take0.flac and take0.wav are both beside it" in refusal(folder)
    (folder / "take0.flac").unlink()
    (folder / "take0.wav").unlink()
    assert "there is none" in refusal(one)


def test_label_tracks_and_a_table_or_classes_beside_them_are_refused_with_the_choice(takes_of):
    folder = takes_of.label_tracks()
    takes_of.joined_table()
    assert "holds a table, clips.csv, and label tracks" in refusal(folder)
    (folder / "clips.csv").unlink()
    for name in ("cats", "dogs"):
        (folder / name).mkdir()
        shutil.copy(folder / "take0.flac", folder / name / "a.flac")
    assert "cats, dogs classes, or do label tracks" in refusal(folder)
    for name in ("cats", "dogs"):
        shutil.copy(folder / "take0.txt", folder / name / "a.txt")
    assert len(csv_table.load(folder, seed=0).clips) == 60


# hosts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["FLAC", "OGG"])
def test_hosts_make_the_features_that_this_machine_makes(takes_of, tmp_path, monkeypatch, form):
    monkeypatch.setattr(slices, "SLICE", 4)
    if form == "OGG":
        for path in sorted(takes_of.joined.glob("*.flac")):
            values, rate = soundfile.read(path)
            soundfile.write(path, values, rate, format="OGG", subtype="VORBIS")
    table = takes_of.joined_table()
    _, here = extract(table, tmp_path / "here")
    monkeypatch.setattr(ExtractConfig, "_hosts_reach_it", lambda self: self)

    class Here:
        cpus = 2

        def run(self, work, jobs):
            yield from ((number, work(job)) for number, job in enumerate(jobs))

    shared = ExtractConfig(dataset="csv", data_dir=f"file://{table}", cache_dir=f"file://{tmp_path}/there", jobs=2)
    begun = extraction(shared)
    begun._hosts = hosts.Hosts(Here(), shared.place_of, f"{shared.cache_dir}/scans")
    data_set = open_data_set(shared, begun)
    there = begun.finish(data_set)
    assert there.values.tobytes() == here.values.tobytes()
    assert there.report.made == 48


def test_a_recording_in_an_object_store_is_copied_for_as_long_as_it_is_read(recording, monkeypatch):
    path, copies = recording("OGG", "VORBIS"), []

    def download(uri, copy):
        assert uri == "s3://bucket/take.ogg"
        shutil.copy(path, copy)
        copies.append(Path(copy))

    monkeypatch.setattr(object_store, "download", download)
    whole, rate = audio.decode(path)
    places = [("s3://bucket/take.ogg", Stretch(1, 2)), ("s3://bucket/take.ogg", Stretch(30, 31))]
    take = takes(places, hosts._at_hand)
    np.testing.assert_array_equal(take[0]().samples, whole[rate : 2 * rate])
    assert copies[0].exists()
    np.testing.assert_array_equal(take[1]().samples, whole[30 * rate : 31 * rate])
    assert len(copies) == 1
    assert not copies[0].exists()
    with pytest.raises(DataError, match="vanished after it was listed"):
        takes([("file:///nowhere/take.ogg", Stretch(1, 2))], hosts._at_hand)[0]()
