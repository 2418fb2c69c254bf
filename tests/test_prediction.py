"""Prediction on new sound: streamed windows are the server's, bad files are told, finished work is done once."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import soundfile
from pydantic import ValidationError

from soundstack.audio import decoder
from soundstack.audio import find as sound_files
from soundstack.audio.decode import Samples, decode
from soundstack.audio.decoder import SoundReader
from soundstack.audio.find import SoundFile
from soundstack.audio.windows import windows
from soundstack.config.tools import PredictConfig
from soundstack.fusion.recogniser import FusionRecogniser
from soundstack.prediction import run as prediction
from soundstack.prediction import tables as prediction_tables
from soundstack.prediction import timelines as prediction_timelines
from soundstack.prediction.store import PredictionStore, claim, model_key
from soundstack.recognisers import timelines
from soundstack.recognisers.base import Decoded, Recogniser, System
from soundstack.utils.errors import AudioError, DataError, MemberError, StoreError
from test_recognisers import LABELS, crnn
from test_windows import spans, timeline_of_the_whole

Tone = Callable[..., Path]


@dataclass(kw_only=True)
class Loudness(Recogniser):
    """A recogniser that costs nothing: scores are what can be measured in the samples; it counts its clips."""

    type: ClassVar[str] = "loudness"
    kind: ClassVar[Any] = "decision"
    labels: tuple[str, ...] = LABELS
    length: float = 1.0
    clips: int = 0
    fail_after: int = 10**9

    @property
    def seconds(self) -> float:
        return self.length

    @property
    def systems(self) -> tuple[System, ...]:
        raise NotImplementedError

    def scores(self, clips: Sequence[Decoded]) -> Any:
        self.clips += len(clips)
        if self.clips > self.fail_after:
            raise KeyboardInterrupt
        return np.array([[x.mean(), x.std(), np.abs(x).max()] for x, _ in clips], dtype=np.float64)

    def score_examples(self, examples: Any) -> Any:
        raise NotImplementedError

    def _save(self, folder: Path) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def _load(cls, folder: Path, content: dict[str, Any], device: Any) -> Recogniser:
        raise NotImplementedError


@pytest.fixture
def folder(tmp_path: Path, tone: Tone) -> Path:
    """Files of several formats, rates, channels and lengths, and three that cannot be used."""
    place = tmp_path / "field"
    tone("short.wav", seconds=0.4, folder=place)
    tone("exact.flac", seconds=1.0, folder=place)
    tone("deep/long.ogg", seconds=7.3, rate=16000, hertz=300, channels=2, folder=place)
    tone("deep/stereo.mp3", seconds=3.05, rate=44100, hertz=1000, channels=2, folder=place)
    tone("empty.wav", seconds=0, folder=place)
    (place / "text.wav").write_text("Not a sound at all.")
    whole = tone("cut.wav", seconds=2, folder=place).read_bytes()
    (place / "cut.wav").write_bytes(whole[:-1000])
    return place


def predicted(recogniser: Recogniser, place: Path, store: PredictionStore, jobs: int = 2) -> list[SoundFile]:
    files = sound_files.find(str(place))
    prediction.predict(recogniser, [file for file in files if file not in store], store, jobs=jobs)
    return files


# windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff"])
def test_a_file_read_in_blocks_holds_the_samples_of_the_whole(
    name: str, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "BLOCK", 1000)
    path = tone(name, seconds=3.3, rate=16000, channels=2)
    samples, rate = decode(path)
    with SoundReader(path) as opened:
        cuts = list(windows(opened.blocks(), opened.rate, 1.0))
    assert [(cut.start, cut.stop) for cut in cuts] == spans(len(samples), rate, 1.0)
    for cut in cuts:
        np.testing.assert_array_equal(cut.samples, samples[cut.start : cut.stop])


def damaged(kind: str, tone: Tone) -> Path:
    if kind == "nan":
        path = tone("nan.wav", seconds=0)
        sound = np.zeros(9000)
        sound[-5] = np.nan
        soundfile.write(path, sound, 8000, subtype="FLOAT")
        return path
    path = tone("bad.flac" if kind == "short flac" else "bad.wav", seconds=0 if kind == "empty" else 3)
    if kind == "text":
        path.write_text("Not a sound at all.")
    elif kind != "empty":
        path.write_bytes(path.read_bytes()[:-2000])
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "short wav", "short flac", "nan"])
def test_a_damaged_file_is_refused_for_the_reason_that_decoding_it_whole_gives(kind: str, tone: Tone) -> None:
    path = damaged(kind, tone)
    with pytest.raises(AudioError) as whole:
        decode(path)
    with pytest.raises(AudioError) as streamed, SoundReader(path) as opened:
        list(windows(opened.blocks(), opened.rate, 1.0))
    assert str(streamed.value) == str(whole.value)


# scores ----------------------------------------------------------------------------------------------------------


def fusion(other_seconds: float) -> FusionRecogniser:
    from svm_making import fit_svm

    members = {"one": crnn(), "two": crnn("each" if other_seconds == 1.0 else "mean")}
    x = np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32)
    svm = fit_svm(x, np.arange(12) % 3, 1e-2, n_classes=3)
    return FusionRecogniser(labels=LABELS, members=members, svm=svm)


@pytest.mark.parametrize(
    "recogniser", [crnn(), crnn("each"), crnn("first"), fusion(1.0), fusion(2.0)],
    ids=["mean", "each", "first", "fusion of unlike members", "fusion"],
)  # fmt: skip
def test_streamed_scores_are_those_of_the_whole(recogniser: Recogniser, folder: Path, tmp_path: Path) -> None:
    store = PredictionStore(tmp_path / "store.sqlite")
    files = predicted(recogniser, folder, store, jobs=3)
    good = [file for file in files if not isinstance(store.read(file), AudioError)]
    assert len(good) == 4
    for file in good:
        found, expected = store.read(file), timeline_of_the_whole(recogniser, file.path)
        np.testing.assert_array_equal(found.starts, expected.starts)
        np.testing.assert_array_equal(found.ends, expected.ends)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
        np.testing.assert_allclose(found.mean_probabilities, expected.mean_probabilities, atol=1e-5)


def test_a_long_recording_is_never_whole_in_memory(tmp_path: Path, tone: Tone) -> None:
    path = tone("long.wav", seconds=600, rate=16000, hertz=0, channels=2)  # 77 MB as float32
    store = PredictionStore(tmp_path / "store.sqlite")
    files = sound_files.find(str(path))
    tracemalloc.start()
    try:
        prediction.predict(Loudness(length=1.0), files, store, jobs=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert store.read(files[0]).seconds == 600
    assert peak < 20e6


def test_a_file_whose_scores_are_no_numbers_is_a_bad_file(
    tmp_path: Path, tone: Tone, monkeypatch: pytest.MonkeyPatch
) -> None:
    recogniser, store = Loudness(), PredictionStore(tmp_path / "store.sqlite")
    monkeypatch.setattr(recogniser, "scores", lambda clips: np.full((len(clips), 3), np.nan))
    (file,) = predicted(recogniser, tone("a.wav"), store)
    assert str(store.read(file)).startswith("is too loud for its scores to be numbers")


def test_an_error_of_ours_in_a_decoding_thread_is_raised_and_nothing_hangs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(samples: Samples, rate: int, spec: object) -> Samples:
        raise RuntimeError("a bug")

    monkeypatch.setattr(timelines, "prepare", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        predicted(crnn(), folder, PredictionStore(tmp_path / "store.sqlite"))


def test_progress_adds_up_to_the_bytes_of_all_files(folder: Path, tmp_path: Path) -> None:
    files = sound_files.find(str(folder))
    steps: list[int] = []
    prediction.predict(Loudness(), files, PredictionStore(tmp_path / "store.sqlite"), jobs=2, advance=steps.append)
    assert sum(steps) == sum(file.size for file in files)
    assert min(steps) >= 0


# finished work ---------------------------------------------------------------------------------------------------


def test_what_is_finished_is_not_scored_again_and_a_changed_file_is(folder: Path, tmp_path: Path, tone: Tone) -> None:
    recogniser = Loudness()
    files = predicted(recogniser, folder, PredictionStore(tmp_path / "store.sqlite"))
    scored = recogniser.clips
    again = PredictionStore(tmp_path / "store.sqlite")
    assert all(file in again for file in files)
    assert predicted(recogniser, folder, again) == files
    assert recogniser.clips == scored
    tone("short.wav", seconds=0.5, folder=folder)
    predicted(recogniser, folder, PredictionStore(tmp_path / "store.sqlite"))
    assert recogniser.clips == scored + 1


def test_an_interrupted_prediction_keeps_what_is_finished(tmp_path: Path, tone: Tone) -> None:
    for number in range(100):
        tone(f"in/{number:03}.wav", seconds=0.2, hertz=100 + number)
    store = PredictionStore(tmp_path / "store.sqlite")
    with pytest.raises(KeyboardInterrupt):
        predicted(Loudness(fail_after=70), tmp_path / "in", store, jobs=1)
    rest = Loudness()
    resumed = PredictionStore(tmp_path / "store.sqlite")
    files = predicted(rest, tmp_path / "in", resumed)
    assert rest.clips == 100 - 64  # two batches had been scored
    whole = PredictionStore(tmp_path / "whole.sqlite")
    predicted(Loudness(), tmp_path / "in", whole)
    for file in files:
        np.testing.assert_array_equal(resumed.read(file).probabilities, whole.read(file).probabilities)


def test_a_killed_prediction_keeps_what_is_finished(tmp_path: Path, tone: Tone) -> None:
    for number in range(100):
        tone(f"in/{number:03}.wav", seconds=0.2)
    script = (
        "import os, sys; from pathlib import Path; from test_prediction import *\n"
        "class Killed(Loudness):\n"
        "    def scores(self, clips):\n"
        "        if self.clips >= 64: os.kill(os.getpid(), 9)\n"
        "        return super().scores(clips)\n"
        # One thread decodes: of several, one may be slow to tell that its file has ended, which is then not finished.
        "predicted(Killed(), Path(sys.argv[1]), PredictionStore(Path(sys.argv[2]), every=0), jobs=1)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path / "in"), str(tmp_path / "store.sqlite")]
    assert subprocess.run(command, env=environment).returncode == -9
    rest = Loudness()
    predicted(rest, tmp_path / "in", PredictionStore(tmp_path / "store.sqlite"))
    assert rest.clips == 100 - 64


@pytest.mark.parametrize("damage", ["cut", "overwritten", "no database"])
def test_a_damaged_store_counts_as_nothing_done(damage: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    files = predicted(Loudness(), folder, PredictionStore(path))
    whole = path.read_bytes()
    damages = {"cut": whole[:-40], "overwritten": whole[:-8192] + bytes(8192), "no database": b"x" * 9000}
    path.write_bytes(damages[damage])
    again = PredictionStore(path)
    assert not any(file in again for file in files)
    predicted(Loudness(), folder, again)
    assert all(file in PredictionStore(path) for file in files)


def test_a_store_that_cannot_be_written_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").mkdir()
    with pytest.raises(StoreError, match=r"Cannot write .*another output_dir"):
        PredictionStore(tmp_path / "store.sqlite")


def test_another_version_and_other_weights_have_other_keys(tmp_path: Path) -> None:
    crnn().save(tmp_path / "a")
    crnn().save(tmp_path / "b")
    assert model_key(tmp_path / "a", "m/1", "cpu") == model_key(tmp_path / "b", "m/1", "cpu")
    assert model_key(tmp_path / "a", "m/1", "cpu") != model_key(tmp_path / "a", "m/2", "cpu")
    assert model_key(tmp_path / "a", "m/1", "cpu") != model_key(tmp_path / "a", "m/1", "cuda")
    (tmp_path / "b" / "recogniser.json").write_text("{}")
    assert model_key(tmp_path / "a", "m/1", "cpu") != model_key(tmp_path / "b", "m/1", "cpu")


def test_two_predictions_do_not_share_an_output_folder(tmp_path: Path) -> None:
    writing = pytest.raises(StoreError, match="another prediction is writing")
    with claim(tmp_path, "key"), writing, claim(tmp_path, "key"):
        pass
    with claim(tmp_path, "key") as store:
        assert store.key == "key"


# tables and pictures ---------------------------------------------------------------------------------------------


def test_the_tables_hold_windows_files_and_errors(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(prediction_tables, "_ROWS", 5)  # several row groups
    store = PredictionStore(tmp_path / "store.sqlite")
    files = predicted(Loudness(), folder, store)
    totals = prediction_tables.write(tmp_path, files, store, LABELS, "demo/3")
    windows = pd.read_csv(tmp_path / "predictions.csv")
    shares = [f"p_{label}" for label in LABELS]
    assert list(windows.columns) == ["file", "start", "end", "label", "probability", *shares, "model"]
    pd.testing.assert_frame_equal(windows, pd.read_parquet(tmp_path / "predictions.parquet"), check_dtype=False)
    assert set(windows["model"]) == {"demo/3"}
    np.testing.assert_allclose(windows["probability"], windows[shares].max(axis=1))
    assert [f"p_{label}" for label in windows["label"]] == windows[shares].idxmax(axis=1).tolist()
    by_file = pd.read_csv(tmp_path / "files.csv").set_index("file")
    assert set(by_file.index) == {"short.wav", "exact.flac", "deep/long.ogg", "deep/stereo.mp3"}
    means = windows.groupby("file")[shares].mean()
    np.testing.assert_allclose(by_file.loc[means.index, shares], means)
    assert by_file.loc["deep/long.ogg", "seconds"] == pytest.approx(7.3)
    errors = pd.read_csv(tmp_path / "errors.csv").set_index("file")["reason"]
    assert errors["empty.wav"] == "holds no samples"
    assert errors["cut.wav"].startswith("is truncated")
    assert errors["text.wav"].startswith("cannot be decoded")
    assert (totals.files, totals.bad, totals.windows) == (4, 3, len(windows))
    assert dict(totals.by_label) == by_file["label"].value_counts().to_dict()


def test_tables_of_nothing_but_bad_files_have_their_headings(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text.wav").write_text("Not a sound at all.")
    store = PredictionStore(tmp_path / "store.sqlite")
    files = predicted(Loudness(), tmp_path / "in", store)
    totals = prediction_tables.write(tmp_path, files, store, LABELS, "demo/3")
    assert (totals.files, totals.bad) == (0, 1)
    assert list(pd.read_csv(tmp_path / "files.csv").columns)[:2] == ["file", "seconds"]
    assert len(pd.read_parquet(tmp_path / "predictions.parquet")) == 0


def test_a_timeline_picture_is_drawn_once_and_again_for_another_model(tmp_path: Path, tone: Tone) -> None:
    tone("in/deep/a.wav", seconds=3)

    def draw(key: str) -> tuple[float, bytes]:
        store = PredictionStore(tmp_path / f"{key}.sqlite")
        files = predicted(Loudness(), tmp_path / "in", store)
        prediction_timelines.draw(tmp_path, files, store, LABELS, "demo/3")
        path = tmp_path / "timelines" / "deep" / "a.wav.png"
        return path.stat().st_mtime_ns, path.read_bytes()[:8]

    first, second, other = draw("x"), draw("x"), draw("y")
    assert first == second
    assert other[0] > first[0]
    assert first[1] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("name", ["/abs/olute/a.wav", "../../a.wav", "deep/../../../a.wav"])
def test_pictures_stay_in_their_folder(name: str, tmp_path: Path) -> None:
    (path,) = prediction_timelines.picture_paths(tmp_path, [SoundFile(name, Path("/abs/olute/a.wav"))])
    assert path.resolve().is_relative_to(tmp_path / "timelines")


def test_no_picture_takes_the_place_of_another_and_no_name_is_too_long(tmp_path: Path, tone: Tone) -> None:
    for name in ("a/x.wav", "b/a/x.wav", f"{'n' * 250}.wav"):
        tone(f"in/{name}", seconds=1)
    table = tmp_path / "in" / "b" / "list.csv"
    table.write_text(f"filename\na/x.wav\n../a/x.wav\n../{'n' * 250}.wav\n")
    store = PredictionStore(tmp_path / "store.sqlite")
    files = predicted(Loudness(), table, store)
    prediction_timelines.draw(tmp_path, files, store, LABELS, "demo/3")
    pictures = sorted((tmp_path / "timelines").rglob("*.png"))
    assert len(pictures) == 3
    assert pictures == sorted(prediction_timelines.picture_paths(tmp_path, files))


# what is asked for -----------------------------------------------------------------------------------------------


def names(wanted: object) -> list[str]:
    return [file.name for file in sound_files.find(str(wanted))]


def test_a_folder_is_searched_through_for_sound(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")
    (folder / "._short.wav").write_text("x")
    assert names(folder) == [
        "cut.wav", "empty.wav", "exact.flac", "short.wav", "text.wav", "deep/long.ogg", "deep/stereo.mp3"
    ]  # fmt: skip


def test_a_glob_a_file_and_a_table_name_files(folder: Path) -> None:
    assert names(folder / "**" / "*.ogg") == [str(folder / "deep" / "long.ogg")]
    assert names(folder / "short.wav") == ["short.wav"]
    table = folder / "list.csv"
    table.write_text("Filename, note\ndeep/long.ogg, x\nshort.wav,\nshort.wav,\ngone.wav,\n")
    found = sound_files.find(str(table))
    assert [file.name for file in found] == ["deep/long.ogg", "short.wav", "gone.wav"]
    assert [file.problem for file in found] == ["", "", "cannot be read (No such file or directory)"]


def test_a_table_finds_files_whose_names_have_another_unicode_form_on_the_disk_and_each_once(tmp_path: Path) -> None:
    (tmp_path / "Tu\u0308r.wav").touch()
    (tmp_path / "files.csv").write_text("filename\nT\u00fcr.wav\n./T\u00fcr.wav\nTu\u0308r.wav\n", encoding="utf-8")
    (found,) = sound_files.find(str(tmp_path / "files.csv"))
    assert (found.name, found.problem) == ("T\u00fcr.wav", "")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_list_of_files_may_be_any_export_of_a_spreadsheet(folder: Path, encoding: str, separator: str) -> None:
    (folder / "deep" / "long.ogg").rename(folder / "deep" / "T\u00fcr.ogg")
    rows = [("Note", "Path"), ("\u00e4", "short.wav"), ("", "deep\\T\u00fcr.ogg"), ("", "C:\\rec\\deep\\stereo.mp3")]
    text = "\r\n".join(separator.join(row) for row in rows)
    (folder / "list.txt").write_bytes(text.encode(encoding))
    found = sound_files.find(str(folder / "list.txt"))
    assert [file.problem for file in found] == ["", "", ""]
    assert [file.path.name for file in found] == ["short.wav", "T\u00fcr.ogg", "stereo.mp3"]


def test_the_tables_open_in_a_spreadsheet_and_no_file_name_is_a_formula(tmp_path: Path, tone: Tone) -> None:
    named = ["=1+1.wav", "+a.wav", "-b.wav", "@c.wav", "T\u00fcr=1.wav"]
    for name in named:
        tone(f"in/{name}", seconds=1)
    (tmp_path / "in" / "=bad.wav").write_text("no sound")
    store = PredictionStore(tmp_path / "store.sqlite")
    prediction_tables.write(tmp_path, predicted(Loudness(), tmp_path / "in", store), store, LABELS, "m/1")
    for name in ("predictions.csv", "files.csv", "errors.csv"):
        assert (tmp_path / name).read_bytes().startswith(b'\xef\xbb\xbf"file",')
        read = pd.read_csv(tmp_path / name)["file"]
        assert not [each for each in read if each.startswith(("=", "+", "-", "@"))]
        assert all((tmp_path / "in" / each).is_file() for each in read)
    assert set(pd.read_csv(tmp_path / "files.csv")["file"]) == {*(f"./{name}" for name in named[:4]), named[4]}
    assert set(pd.read_parquet(tmp_path / "predictions.parquet")["file"]) == set(named)


def test_a_file_that_is_not_there_is_an_error_in_the_table_and_not_fatal(folder: Path, tmp_path: Path) -> None:
    (folder / "list.csv").write_text("filename\nshort.wav\ngone.wav\n")
    store = PredictionStore(tmp_path / "store.sqlite")
    files = predicted(Loudness(), folder / "list.csv", store)
    assert prediction_tables.write(tmp_path, files, store, LABELS, "m/1").bad == 1


def test_input_that_names_nothing_is_refused_in_a_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "bad.csv").write_text("place,label\na,b\n")
    (tmp_path / "two.csv").write_text("path,file\na,b\n")
    (tmp_path / "book.csv").write_bytes(b"PK\x03\x04 and more")
    (tmp_path / "empty.csv").write_text("filename\n")
    for wanted, message in (
        (tmp_path / "none", "hold no sound files"),
        (tmp_path / "gone", "does not exist; give a folder"),
        (tmp_path / "*.wav", "no file fits the glob"),
        (tmp_path / "bad.csv", "no column filename; found place, label"),
        (tmp_path / "two.csv", "which column is the filename, 'path' or 'file'"),
        (tmp_path / "book.csv", "is a workbook; save its sheet as CSV"),
        (tmp_path / "empty.csv", "lists no files"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            sound_files.find(str(wanted))
        assert "\n" not in str(caught.value)


def test_the_input_is_required() -> None:
    with pytest.raises(ValidationError, match="is required; give a folder"):
        PredictConfig()
    with pytest.raises(ValidationError, match="name a registered model"):
        PredictConfig(input="x", model=" ")


# the entry point -------------------------------------------------------------------------------------------------


def test_a_missing_model_is_refused_with_what_there_is(store: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from soundstack.tracking import registered_models

    with pytest.raises(MemberError, match="There are: none; train some first"):
        registered_models.find_model("demo-fusion")
    client = MlflowClient()
    client.create_registered_model("bird-crnn")
    crnn().save(tmp_path / "model" / "artifacts" / "saved")
    client.create_model_version("bird-crnn", str(tmp_path / "model"))
    with pytest.raises(MemberError, match=r"'demo-fusion' is no registered model.* There are: bird-crnn"):
        registered_models.find_model("demo-fusion")
    with pytest.raises(MemberError, match=r"has no version '7'\. There are: bird-crnn/1"):
        registered_models.find_model("bird-crnn/7")
    with pytest.raises(MemberError, match="has no version 'champion'"):
        registered_models.find_model("bird-crnn@champion")
    client.set_registered_model_alias("bird-crnn", "champion", "1")
    for wanted in ("bird-crnn", "bird-crnn/1", "bird-crnn@champion", "models:/bird-crnn/1"):
        found = registered_models.find_model(wanted)
        assert (found.name, found.shown) == ("bird-crnn", "bird-crnn/1")
        assert (found.folder / "recogniser.json").is_file()
    with pytest.raises(MemberError, match="not a model of this project"):
        registered_models.find_model(str(tmp_path))


def test_a_prediction_is_a_run_with_its_counts_and_tables_and_a_second_one_scores_nothing(
    store: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    import predict

    monkeypatch.chdir(tmp_path)
    crnn().save(tmp_path / "saved")
    config = PredictConfig(model="saved", input="field", output_dir=str(tmp_path / "out"), device="cpu", timeline=True)
    totals = predict.run(config)
    assert (totals.files, totals.bad) == (4, 3)
    shown = capsys.readouterr().out
    assert "4 files" in shown
    assert "3 bad files were left out" in shown
    assert str(tmp_path / "out" / "files.csv") in shown
    monkeypatch.chdir(tmp_path)
    predict.run(PredictConfig(model="saved", input="field", output_dir=str(tmp_path / "out"), device="cpu"))
    assert "7 files were done by an earlier run" in capsys.readouterr().out
    client = MlflowClient()
    (experiment,) = [each for each in client.search_experiments() if each.name == "tests"]
    second, first = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in (first, second)} == {"predict-saved"}
    assert {run.info.status for run in (first, second)} == {"FINISHED"}
    metrics = first.data.metrics
    assert (metrics["files"], metrics["files_bad"], metrics["files_scored"]) == (4, 3, 7)
    assert metrics["audio_seconds_per_second"] > 0
    assert second.data.metrics["files_scored"] == 0
    stored = {item.path for item in client.list_artifacts(first.info.run_id)}
    assert {"predictions.csv", "predictions.parquet", "files.csv", "errors.csv", "config.json"} <= stored
    assert len(list((tmp_path / "out" / "timelines").rglob("*.png"))) == 4
