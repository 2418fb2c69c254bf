"""ESC-50 and ESC-10 from the folder or the archive, and what is said when something is wrong with them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

import archives_for_tests as tiny
from local_http import LocalServer
from soundstack.datasets import download as sources
from soundstack.datasets import esc50
from soundstack.utils.errors import DataError

REAL = Path(__file__).parents[2] / "shared" / "data" / "esc10"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that a download leaves: it holds ``ESC-50-master/``."""
    tiny.unpack_all(tiny.esc50(), tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[list[list[str]]], object]) -> None:
    """Change the rows of the list; row 0 is the header."""
    path = folder / "ESC-50-master" / "meta" / "esc50.csv"
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    change(rows)
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def test_folds_1_to_4_are_development_and_fold_5_is_the_test(folder: Path) -> None:
    data = esc50.load(folder)
    assert data.name == "esc50"
    assert data.labels == ("chirping_birds", "dog", "rooster")
    assert data.folds == ("1", "2", "3", "4")
    assert (len(data.devel), len(data.test)) == (12, 3)
    assert {clip.id[0] for clip in data.test} == {"5"}
    assert (data.seconds, data.sample_rate) == (5.0, 44_100)
    assert data.licence == "CC BY-NC 3.0"
    assert "10.1145/2733373.2806390" in data.citation


def test_a_clip_has_the_columns_of_its_row(folder: Path) -> None:
    clip = next(clip for clip in esc50.load(folder).clips if clip.id == "3-100314-A-14.wav")
    assert (clip.label, clip.fold, clip.group) == ("chirping_birds", "3", "100314")
    assert clip.path == folder / "ESC-50-master" / "audio" / "3-100314-A-14.wav"
    info = soundfile.info(clip.path)
    assert (info.samplerate, info.channels, info.subtype) == (44_100, 1, "PCM_16")


def test_esc10_is_the_rows_that_are_marked_so_with_its_own_licence(folder: Path) -> None:
    data = esc50.load(folder, subset="esc10")
    assert data.name == "esc10"
    assert data.labels == ("dog", "rooster")
    assert len(data.clips) == 10
    assert data.licence == "CC BY 3.0"
    assert data.notes == ("These are 10 of the 400 published esc10 clips.",)


def test_the_folder_itself_will_do_too(folder: Path) -> None:
    assert len(esc50.load(folder / "ESC-50-master").clips) == 15


def test_other_formats_than_wav_are_taken_as_the_list_names_them(folder: Path) -> None:
    audio = folder / "ESC-50-master" / "audio"
    for path in audio.iterdir():
        data, rate = soundfile.read(path)
        soundfile.write(path.with_suffix(".flac"), data, rate)
        path.unlink()

    def rename(rows: list[list[str]]) -> None:
        for row in rows[1:]:
            row[0] = row[0].replace(".wav", ".flac")

    edit(folder, rename)
    assert all(clip.path.suffix == ".flac" and clip.path.is_file() for clip in esc50.load(folder).clips)


def test_carriage_returns_a_byte_order_mark_empty_lines_and_other_column_orders_do_no_harm(
    folder: Path,
) -> None:
    before = esc50.load(folder)
    edit(folder, lambda rows: rows.__setitem__(slice(None), [row[::-1] for row in rows]))
    path = folder / "ESC-50-master" / "meta" / "esc50.csv"
    text = path.read_text().replace("\n", "\r\n") + "\r\n\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert esc50.load(folder) == before


@pytest.mark.skipif(not REAL.is_dir(), reason="the 249 real clips of ESC-10 are not beside the project")
def test_the_real_clips_of_esc10_load() -> None:
    data = esc50.load(REAL, subset="esc10")
    assert len(data.clips) == 249
    assert len(data.labels) == 10
    assert len(data.test) == 47


# --- what can be wrong -----------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no folder .*/nowhere \(ESC-50\): run the download"):
        esc50.load(tmp_path / "nowhere")


def test_a_folder_without_the_list_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no meta/esc50\.csv.*Run the download with dataset=esc50"):
        esc50.load(tmp_path)


def test_missing_columns_are_named(folder: Path) -> None:
    edit(
        folder,
        lambda rows: rows.__setitem__(0, ["filename", "fold", "target", "label", "esc10", "source", "take"]),
    )
    with pytest.raises(DataError, match=r"esc50\.csv lacks the column category, src_file; it has filename, fold"):
        esc50.load(folder)


def test_an_empty_list_is_named(folder: Path) -> None:
    (folder / "ESC-50-master" / "meta" / "esc50.csv").write_text("")
    with pytest.raises(DataError, match=r"lacks the column filename, .*; it has none"):
        esc50.load(folder)


def test_a_list_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "ESC-50-master" / "meta" / "esc50.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"esc50\.csv cannot be read as text"):
        esc50.load(folder)


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        (0, "", "filename '' is no file of the audio folder"),
        (0, "../../secret.wav", "filename '../../secret.wav' is no file of the audio folder"),
        (0, "..", "filename '..' is no file"),
        (1, "6", "fold '6' is none of 1 to 5"),
        (1, "one", "fold 'one' is none of 1 to 5"),
        (3, " ", "category is empty"),
        (4, "maybe", "esc10 'maybe' is neither True nor False"),
        (5, "", "src_file is empty"),
    ],
)
def test_a_malformed_value_is_named_with_its_row(folder: Path, column: int, value: str, why: str) -> None:
    edit(folder, lambda rows: rows[6].__setitem__(column, value))
    with pytest.raises(DataError, match=rf"esc50\.csv row 7 is malformed: {why}"):
        esc50.load(folder)


def test_a_row_with_too_few_values_is_named(folder: Path) -> None:
    edit(folder, lambda rows: rows[3].pop())
    with pytest.raises(DataError, match="row 4 is malformed: it has 6 values for 7 columns"):
        esc50.load(folder)


def test_missing_sound_files_are_counted_and_the_first_is_named_with_its_row(folder: Path) -> None:
    audio = folder / "ESC-50-master" / "audio"
    for name in ("1-100101-A-1.wav", "5-100500-A-0.wav"):
        (audio / name).unlink()
    with pytest.raises(
        DataError,
        match=r"2 of 15 sound files are missing in .*; the first is '1-100101-A-1\.wav'.*esc50\.csv row 3",
    ):
        esc50.load(folder)


def test_no_sound_files_at_all_are_counted(folder: Path) -> None:
    audio = folder / "ESC-50-master" / "audio"
    audio.rename(audio.with_name("sounds"))
    with pytest.raises(DataError, match="15 of 15 sound files are missing"):
        esc50.load(folder)


def test_a_list_without_clips_of_esc10_is_named(folder: Path) -> None:
    path = folder / "ESC-50-master" / "meta" / "esc50.csv"
    path.write_text(path.read_text().replace("True", "False"))
    with pytest.raises(DataError, match="has no clips of esc10: column esc10 is True in no row"):
        esc50.load(folder, subset="esc10")


def test_a_source_that_crosses_folds_is_refused(folder: Path) -> None:
    edit(folder, lambda rows: rows[-1].__setitem__(5, rows[1][5]))  # fold 5's last clip from fold 1's first source
    with pytest.raises(DataError, match="Group '100100' crosses folds"):
        esc50.load(folder)


def test_a_clip_that_is_listed_twice_is_refused(folder: Path) -> None:
    edit(folder, lambda rows: rows.append(list(rows[1])))
    with pytest.raises(DataError, match=r"'1-100100-A-0\.wav' is listed twice"):
        esc50.load(folder)


# --- download --------------------------------------------------------------------------------------


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The tiny archive, which passes for the published one."""
    built = tiny.esc50()
    tiny.publish(monkeypatch, "esc50", built)
    return built["ESC-50-master.zip"]


def test_the_download_leaves_a_folder_that_loads_and_fetches_nothing_the_second_time(
    archive: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalServer({"ESC-50-master.zip": archive}) as server:
        result = sources.download("esc50", tmp_path / "esc50", base_url=server.url)
        again = sources.download("esc50", tmp_path / "esc50", base_url=server.url)
        assert server.counts == {"ESC-50-master.zip": 1}
    assert (result.fetched, result.present) == (("ESC-50-master.zip",), ())
    assert (again.fetched, again.present) == ((), ("ESC-50-master.zip",))
    assert len(esc50.load(tmp_path / "esc50").clips) == 15
    assert not (tmp_path / "esc50" / "archives").exists()
    said = capsys.readouterr().out
    assert "CC BY-NC 3.0" in said
    assert "Piczak" in said


def test_a_changed_checksum_of_the_moving_branch_is_a_warning(
    archive: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tiny.pack("ESC-50-master", {"meta/esc50.csv": "filename\n"})
    with LocalServer({"ESC-50-master.zip": changed}) as server:
        sources.download("esc50", tmp_path, base_url=server.url)
        assert sources.download("esc50", tmp_path, base_url=server.url).fetched == ()
        assert server.counts["ESC-50-master.zip"] == 1
    assert "Warning: ESC-50-master.zip has the MD5" in capsys.readouterr().out


def test_a_damaged_archive_of_the_moving_branch_is_fetched_again_next_time(archive: bytes, tmp_path: Path) -> None:
    with LocalServer({"ESC-50-master.zip": archive[:-100]}) as server:
        with pytest.raises(DataError, match=r"ESC-50-master\.zip is damaged"):
            sources.download("esc50", tmp_path, base_url=server.url)
        server.add("ESC-50-master.zip", archive)
        sources.download("esc50", tmp_path, base_url=server.url)
    assert len(esc50.load(tmp_path).clips) == 15
