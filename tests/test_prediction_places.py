"""Prediction on archives elsewhere: the tables of a disk, byte by byte, from a store and from a cluster's hosts."""

# ruff: noqa: F811 (fixtures of another module)
from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import predict
from soundstack.audio import find as sound_files
from soundstack.audio.find_stored import find_stored
from soundstack.config import cli
from soundstack.config.tools import PredictConfig
from soundstack.prediction import hosts
from soundstack.prediction.tables import TABLES
from soundstack.utils import cluster, object_store
from soundstack.utils.errors import ConfigError, DataError, StoreError
from test_cluster import nodes, other_process, token  # noqa: F401  (fixtures)
from test_recognisers import crnn

Tone = Callable[..., Path]


@pytest.fixture
def archive(tmp_path: Path, tone: Tone) -> Path:
    """Sounds in several folders, bad ones among them, and a saved model beside them."""
    place = tmp_path / "field"
    for name in ("b.wav", "a.wav", "c/x.wav", "c/d/y.flac", "a/z.wav"):
        tone(name, seconds=0.4 + len(name) / 3, hertz=200 + 50 * len(name), folder=place)
    (place / "text.wav").write_text("Not a sound at all.")
    (place / ".hidden.wav").write_text("x")
    (place / "notes.txt").write_text("x")
    crnn().save(tmp_path / "saved")
    return place


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small slices, and one thread here and in what is started from here."""
    monkeypatch.setattr(hosts, "SLICE", 2)
    # With several threads, the last digits of a CRNN's scores depend on what else is in a batch.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def standing(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command stands in a folder of its own, as those of several machines do."""
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(tmp_path / "user")


def tables(given: Path | str, output: Path, **more: Any) -> dict[str, bytes]:
    """Predict, and return what lies in the output folder."""
    place = f"file://{output}" if object_store.is_uri(str(given)) else str(output)
    model = str(output.parent / "saved")
    predict.run(PredictConfig(model=model, input=str(given), output_dir=place, device="cpu", **more))
    return {name: (output / name).read_bytes() for name in TABLES}


def test_the_tables_of_a_store_and_of_other_hosts_are_those_of_a_disk(
    tmp_path: Path, archive: Path, other_process: None
) -> None:
    here = tables(archive, tmp_path / "here")
    assert tables(f"file://{archive}", tmp_path / "one", jobs=2) == here
    there = tables(f"file://{archive}", tmp_path / "there", cluster="auto", timeline=True)
    assert there == here
    assert len(list((tmp_path / "there" / "parts").rglob("*.sqlite"))) == 3
    assert len(list((tmp_path / "there" / "timelines").rglob("*.png"))) == 5
    assert here["errors.csv"].count(b"\n") == 2


def test_an_object_store_serves_this_machine_alone_as_well(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow.fs import FileSelector, FileType, _MockFileSystem

    system = _MockFileSystem()
    system.create_dir("b/out/timelines/c/d")
    system.create_dir("b/out/timelines/a")
    monkeypatch.setattr(object_store, "_system", lambda scheme, host: (system, host))
    for path in archive.rglob("*.*"):
        system.create_dir(f"b/in/{path.parent.relative_to(archive)}".removesuffix("/."))
        object_store.upload(path, f"s3://b/in/{path.relative_to(archive).as_posix()}")
    here = tables(archive, tmp_path / "here")
    given = {"model": str(tmp_path / "saved"), "device": "cpu", "timeline": True}
    predict.run(PredictConfig(input="s3://b/in", output_dir="s3://b/out", **given))
    assert {name: object_store.read(f"s3://b/out/{name}") for name in TABLES} == here
    found = system.get_file_info(FileSelector("b/out/timelines", recursive=True))
    assert len([info for info in found if info.type == FileType.File]) == 5


def test_a_driver_that_was_killed_takes_the_parts_that_are_there_on_any_machine(
    tmp_path: Path, archive: Path, other_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, handed_out = cluster.Cluster.run, []

    def cut(self: cluster.Cluster, work: Any, jobs: Any) -> Iterator[tuple[int, Any]]:
        for number, done in run(self, work, jobs):
            if number == 1:  # stored, and not taken over
                raise KeyboardInterrupt
            yield number, done

    def counted(self: cluster.Cluster, work: Any, jobs: Any) -> Iterator[tuple[int, Any]]:
        handed_out.extend(jobs := list(jobs))
        return run(self, work, jobs)

    given = {"given": f"file://{archive}", "output": tmp_path / "there", "cluster": "auto"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cluster.Cluster, "run", cut)
        tables(**given)
    shutil.rmtree(tmp_path / "user" / "predictions")
    monkeypatch.setattr(cluster.Cluster, "run", counted)
    there = tables(**given)
    assert [len(job.files) for job in handed_out] == [2], "the third of three slices"
    assert there == tables(archive, tmp_path / "here")
    handed_out.clear()
    (archive / "b.wav").write_bytes((archive / "a.wav").read_bytes())
    changed = tables(**given)
    assert [file.name for job in handed_out for file in job.files] == ["b.wav"]
    assert changed == tables(archive, tmp_path / "here")


def test_a_file_that_vanished_or_changed_after_it_was_listed_is_a_bad_file(
    tmp_path: Path, archive: Path, other_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = object_store.send

    def late(*given: Any) -> None:
        (archive / "a.wav").unlink()
        (archive / "b.wav").write_bytes(b"shorter")
        send(*given)

    monkeypatch.setattr(object_store, "send", late)
    errors = tables(f"file://{archive}", tmp_path / "there", cluster="auto")["errors.csv"].decode()
    assert '"a.wav","does not exist"' in errors
    assert '"b.wav","has changed since it was listed; run again"' in errors


def test_a_damaged_part_is_refused_by_its_name(tmp_path: Path, archive: Path, other_process: None) -> None:
    given = {"given": f"file://{archive}", "output": tmp_path / "there", "cluster": "auto"}
    tables(**given)
    shutil.rmtree(tmp_path / "user" / "predictions")
    part = sorted((tmp_path / "there" / "parts").rglob("*.sqlite"))[0]
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(StoreError, match=rf"{part.name} is damaged; remove it, and run again"):
        tables(**given)


def test_one_copy_a_thread_is_on_the_disk_and_none_is_left(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download, most, copies = object_store.download, [], []

    def counted(uri: str, path: Path) -> None:
        download(uri, path)
        copies.append(path)
        most.append(sum(copy.exists() for copy in copies))

    monkeypatch.setattr(object_store, "download", counted)
    tables(f"file://{archive}", tmp_path / "there", jobs=1)
    assert most == [1] * 6
    assert not any(copy.parent.exists() for copy in copies)


def test_slices_are_bounded_in_files_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "SLICE", 3)
    monkeypatch.setattr(hosts, "BYTES", 10)
    sizes = [4, 4, 4, 99, 1, 1, 1, 1]
    files = [sound_files.SoundFile(str(at), Path(str(at)), size) for at, size in enumerate(sizes)]
    assert [[file.size for file in part] for part in hosts._slices(files)] == [[4, 4], [4], [99], [1, 1, 1], [1]]


def test_files_of_a_store_have_the_names_and_order_of_those_on_a_disk(archive: Path) -> None:
    def named(found: list[Any]) -> list[tuple[Any, ...]]:
        return [(file.name, file.size, file.modified, file.problem) for file in found]

    table = archive / "list.csv"
    table.write_text("filename\nc/x.wav\n./b.wav\nb.wav\ngone.wav\n")
    for place in (archive, archive / "a.wav", table):
        assert named(find_stored(f"file://{place}")) == named(sound_files.find(str(place)))
    for pattern in ("**/*.wav", "*.wav", "c/**", "**/[xy].*", "**/d/*", ".h*"):
        stored = [file.uri for file in find_stored(f"file://{archive}/{pattern}")]
        assert stored == [f"file://{file.path}" for file in sound_files.find(f"{archive}/{pattern}")]
    table.write_text("filename\n../other.wav\n")
    assert "lies outside of" in find_stored(f"file://{table}")[0].problem


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("gone", "or is not there"), ("*.mp3", "no file fits the glob"), ("notes", "holds no sound")],
)
def test_a_place_that_holds_nothing_is_refused_in_a_line(archive: Path, wanted: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        find_stored(f"file://{archive}/{wanted}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "parameter"),
    [
        ({"input": "field", "output_dir": "s3://b/x"}, "input"),
        ({"input": "s3://b/field"}, "output_dir"),
        ({"input": "s3://b/field", "output_dir": "out"}, "output_dir"),
    ],
)
def test_places_that_hosts_do_not_see_are_refused(other_process: None, given: dict[str, str], parameter: str) -> None:
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    with pytest.raises(ConfigError, match=f"^{parameter}: the hosts of a cluster do not see") as caught:
        cli.parse(PredictConfig, [*words, "--cluster", "auto"])
    assert "\n" not in str(caught.value)


def test_two_hosts_of_a_cluster_write_the_tables_of_one_machine(
    tmp_path: Path, archive: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = request.getfixturevalue("nodes").address
    monkeypatch.setattr(hosts, "SLICE", 2)
    there = tables(f"file://{archive}", tmp_path / "there", cluster=address)
    assert there == tables(archive, tmp_path / "here")
