"""What happens to a user's download when connections, servers and files are not as they should be."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from urllib3.util import Retry

from local_http import LocalServer, Served
from soundstack.config import cli
from soundstack.utils import download as remote
from soundstack.utils.errors import DataError, DownloadError
from soundstack.utils.remote_file import RemoteFile, require_space
from waiting import PATIENCE, until

CONTENT = np.random.default_rng(7).bytes(1_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRY", remote.RETRY.new(backoff_factor=0, backoff_jitter=0))


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer() as running:
        yield running


def fetch(url: str, target: Path, **known: Any) -> Path:
    """One file, of which this is known, fetched to a path."""
    return remote.fetch([RemoteFile(url, target.name, **known)], target.parent)[0]


def names(folder: Path) -> set[str]:
    """The files of a folder, without the locks, which may stay."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def cut_off(server: LocalServer, target: Path, monkeypatch: pytest.MonkeyPatch, after: int, **known: Any) -> None:
    """Leave the part of a download that broke off after so many bytes and was given up."""
    server.files["x.bin"].cuts = [after]
    with monkeypatch.context() as patch:
        patch.setattr(remote, "RETRY", Retry(total=0))
        with pytest.raises(DownloadError, match="connection"):
            fetch(server.url_of("x.bin"), target, **known)
    assert not target.exists()


# --- the plain way --------------------------------------------------------------------------------


def test_a_file_is_fetched_with_its_folder_and_nothing_is_left_beside_it(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", CONTENT)
    target = tmp_path / "new" / "folder" / "x.bin"
    assert fetch(server.url_of("x.bin"), target, sha256=SHA256, md5=MD5, size=len(CONTENT)) == target
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == {"x.bin"}


def test_a_file_that_is_there_and_right_is_taken_without_asking_the_server(server: LocalServer, tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(CONTENT)
    fetch(server.url_of("x.bin"), target, sha256=SHA256)
    assert server.requests == []


def test_a_file_in_a_folder_of_which_nothing_is_writable_is_taken(server: LocalServer, tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(CONTENT)
    fetch(server.url_of("x.bin"), target, md5=MD5)
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]  # not even a lock was made


def test_a_file_that_is_there_but_wrong_is_fetched_anew(
    server: LocalServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.add("x.bin", CONTENT)
    target = tmp_path / "x.bin"
    target.write_bytes(b"damaged")
    fetch(server.url_of("x.bin"), target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert str(target) in caplog.text
    assert "fetched anew" in caplog.text


def test_a_wrong_file_stays_until_the_right_one_has_come(server: LocalServer, tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"damaged")
    with pytest.raises(DownloadError, match="404"):
        fetch(server.url_of("x.bin"), target, sha256=SHA256)
    assert target.read_bytes() == b"damaged"


def test_redirects_are_followed(server: LocalServer, tmp_path: Path) -> None:
    server.add("real.bin", CONTENT)
    server.add("x.bin", Served(b"", redirect=server.url_of("real.bin")))
    fetch(server.url_of("x.bin"), tmp_path / "x.bin", sha256=SHA256)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_a_file_without_a_declared_length_is_fetched(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", Served(CONTENT, chunked=True))
    fetch(server.url_of("x.bin"), tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_a_prefix_of_a_sha256_is_enough_and_may_be_in_capitals(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", CONTENT)
    fetch(server.url_of("x.bin"), tmp_path / "x.bin", sha256=SHA256[:8].upper())
    with pytest.raises(DownloadError, match=r"its sha256 is .* where 00000000 was published"):
        fetch(server.url_of("x.bin"), tmp_path / "y.bin", sha256="00000000")


@pytest.mark.parametrize("wrong", [{"sha256": ""}, {"sha256": "abc"}, {"sha256": "x" * 64}, {"md5": MD5[:8]}])
def test_what_is_no_checksum_is_refused_before_anything_is_fetched(
    server: LocalServer, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="hexadecimal digits"):
        fetch(server.url_of("x.bin"), tmp_path / "x.bin", **wrong)
    assert server.requests == []


# --- interrupted ----------------------------------------------------------------------------------


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", Served(CONTENT, cuts=[300_000, 400_000]))
    fetch(server.url_of("x.bin"), tmp_path / "x.bin", sha256=SHA256)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    assert [request.range for request in server.requests] == [None, "bytes=300000-", "bytes=700000-"]
    assert [request.if_range for request in server.requests] == [None, '"v1"', '"v1"']


def test_a_resumed_download_equals_a_whole_one(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("x.bin", CONTENT)
    target = tmp_path / "x.bin"
    cut_off(server, target, monkeypatch, after=600_001)
    assert (tmp_path / "x.bin.part").stat().st_size == 600_001
    server.requests.clear()
    fetch(server.url_of("x.bin"), target)  # no checksum: the ETag alone must do
    assert target.read_bytes() == CONTENT
    assert [request.range for request in server.requests] == ["bytes=600001-"]
    assert names(tmp_path) == {"x.bin"}


def test_a_part_that_is_whole_but_was_not_moved_needs_no_request(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("x.bin", CONTENT)
    target = tmp_path / "x.bin"
    cut_off(server, target, monkeypatch, after=999_999)
    with (tmp_path / "x.bin.part").open("ab") as part:
        part.write(CONTENT[-1:])  # killed between the last byte and the move
    server.requests.clear()
    fetch(server.url_of("x.bin"), target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.requests == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({}, Served(CONTENT[::-1], etag='"v2"'), id="changed"),
        pytest.param({}, Served(CONTENT[::-1], etag='"v2"', honours_if_range=False), id="changed, condition ignored"),
        pytest.param({}, Served(CONTENT[:400_000], honours_if_range=False), id="shrank"),
        pytest.param({"ignores_start": True}, None, id="a range that begins elsewhere"),
        pytest.param({"ranges": False}, None, id="a server without ranges"),
    ],
)
def test_what_cannot_be_continued_is_not_spliced_but_fetched_from_the_beginning(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, Any], after: Served | None
) -> None:
    served = server.add("x.bin", Served(CONTENT, **before))
    target = tmp_path / "x.bin"
    cut_off(server, target, monkeypatch, after=500_000)
    served = server.add("x.bin", after or served)
    fetch(server.url_of("x.bin"), target)
    assert target.read_bytes() == served.content


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_or_a_checksum_nothing_is_resumed(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, etag: str | None
) -> None:
    server.add("x.bin", Served(CONTENT, etag=etag))
    target = tmp_path / "x.bin"
    cut_off(server, target, monkeypatch, after=500_000)
    server.requests.clear()
    fetch(server.url_of("x.bin"), target)
    assert target.read_bytes() == CONTENT
    assert [request.range for request in server.requests] == [None]


@pytest.mark.parametrize(
    ("date", "known"), [(None, {"md5": MD5}), ("Wed, 01 Jan 2020 00:00:00 GMT", {})], ids=["checksum", "date"]
)
def test_a_checksum_is_enough_to_resume_and_so_is_a_date(
    server: LocalServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    date: str | None,
    known: dict[str, Any],
) -> None:
    target = tmp_path / "x.bin"
    server.add("x.bin", Served(CONTENT, etag=None, modified=date))
    cut_off(server, target, monkeypatch, after=500_000, **known)
    server.requests.clear()
    fetch(server.url_of("x.bin"), target, **known)
    assert target.read_bytes() == CONTENT
    assert [(request.range, request.if_range) for request in server.requests] == [("bytes=500000-", date)]


def test_a_part_of_another_address_is_not_continued(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("x.bin", CONTENT)
    server.add("y.bin", CONTENT[::-1])
    target = tmp_path / "x.bin"
    cut_off(server, target, monkeypatch, after=500_000)
    fetch(server.url_of("y.bin"), target)
    assert target.read_bytes() == CONTENT[::-1]


def test_a_part_whose_record_is_damaged_is_not_continued(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("x.bin", CONTENT)
    target = tmp_path / "x.bin"
    cut_off(server, target, monkeypatch, after=500_000)
    (tmp_path / "x.bin.part").write_bytes(b"other bytes")
    (tmp_path / "x.bin.part.json").write_text('{"url": ')
    fetch(server.url_of("x.bin"), target)
    assert target.read_bytes() == CONTENT


def test_attempts_that_bring_new_bytes_are_not_counted(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", Served(CONTENT, always_cut=50_000))  # twenty requests, where five repeats are allowed
    fetch(server.url_of("x.bin"), tmp_path / "x.bin", sha256=SHA256)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_a_server_that_always_breaks_off_at_the_same_place_is_given_up(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", Served(CONTENT, ranges=False, always_cut=50_000))
    with pytest.raises(
        DownloadError, match=r"x\.bin could not be fetched to .*x\.bin: the connection .*run this again"
    ):
        fetch(server.url_of("x.bin"), tmp_path / "x.bin")
    assert len(server.requests) < 10


def test_an_answer_without_length_that_breaks_off_is_not_taken_for_whole(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", Served(CONTENT, chunked=True, cuts=[500_000]))
    fetch(server.url_of("x.bin"), tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_a_file_shorter_than_published_is_taken_up_even_if_the_server_tells_no_length(
    server: LocalServer, tmp_path: Path
) -> None:
    server.add("x.bin", Served(CONTENT, until_close=True, cuts=[500_000]))
    fetch(server.url_of("x.bin"), tmp_path / "x.bin", size=len(CONTENT))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    assert [request.range for request in server.requests] == [None, "bytes=500000-"]


def test_passing_server_errors_are_tried_again(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", Served(CONTENT, statuses=[503, 429, 502], retry_after="0"))
    fetch(server.url_of("x.bin"), tmp_path / "x.bin", sha256=SHA256)
    assert len(server.requests) == 4


def test_pauses_grow_and_a_server_that_names_one_is_obeyed(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    wait = threading.Event.wait

    def noted(event: threading.Event, seconds: float | None = None) -> bool:
        if seconds is None:  # for a thread to start
            return wait(event)
        pauses.append(seconds)
        return False

    monkeypatch.setattr(threading.Event, "wait", noted)
    monkeypatch.setattr(remote, "RETRY", remote.RETRY.new(backoff_factor=0.5))
    server.add("x.bin", Served(CONTENT, statuses=[503, 503, 503]))
    fetch(server.url_of("x.bin"), tmp_path / "x.bin")
    assert pauses == sorted(pauses)
    assert len(set(pauses)) >= 2
    pauses.clear()
    server.add("x.bin", Served(CONTENT, statuses=[429], retry_after="7"))
    fetch(server.url_of("x.bin"), tmp_path / "y.bin")
    assert pauses == [7]


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {"md5": MD5}])
def test_a_wrong_checksum_is_refused_named_and_removed(
    server: LocalServer, tmp_path: Path, known: dict[str, Any]
) -> None:
    lie = CONTENT[:-1] + b"x"
    server.add("x.bin", lie)
    target = tmp_path / "x.bin"
    with pytest.raises(DownloadError) as refused:
        fetch(server.url_of("x.bin"), target, **known)
    [(algorithm, published)] = known.items()
    message = str(refused.value)
    for part in (
        server.url_of("x.bin"),
        str(target),
        algorithm,
        published,
        hashlib.new(algorithm, lie).hexdigest(),
    ):
        assert part in message
    assert "\n" not in message
    assert names(tmp_path) == set()


def test_a_file_of_another_size_than_published_is_refused_before_it_is_fetched(
    server: LocalServer, tmp_path: Path
) -> None:
    server.add("x.bin", CONTENT)
    with pytest.raises(DownloadError, match=r"offers 1,000,000 bytes where 5 were published"):
        fetch(server.url_of("x.bin"), tmp_path / "x.bin", size=5)
    assert names(tmp_path) == set()


def test_a_server_that_sends_without_end_is_stopped(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", Served(CONTENT, chunked=True, repeat=100))
    with pytest.raises(DownloadError, match="more than the 1,000 bytes"):
        fetch(server.url_of("x.bin"), tmp_path / "x.bin", size=1000)
    assert names(tmp_path) == set()
    assert server.sent < 50 * len(CONTENT)


def test_a_length_that_is_not_true_is_noticed(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", Served(CONTENT, declared_length=2_000_000, ranges=False))
    with pytest.raises(DownloadError, match=r"1,000,000"):
        fetch(server.url_of("x.bin"), tmp_path / "x.bin")
    assert not (tmp_path / "x.bin").exists()


def test_a_missing_file_is_named_with_what_to_do(server: LocalServer, tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    with pytest.raises(DownloadError) as refused:
        fetch(server.url_of("x.bin"), target)
    message = str(refused.value)
    assert server.url_of("x.bin") in message
    assert str(target) in message
    assert "404 Not Found" in message
    assert "Check the address" in message
    assert len(server.requests) == 1  # no use in asking again


def test_a_server_that_does_not_answer_is_named_with_the_reason(tmp_path: Path) -> None:
    with LocalServer() as gone:
        url = gone.url_of("x.bin")
    with pytest.raises(DownloadError, match=r"no answer from 127\.0\.0\.1:\d+ \(Connection refused\).*save it there"):
        fetch(url, tmp_path / "x.bin")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x.bin", "file:///etc/hostname", "x.bin", "http:///x.bin"])
def test_only_http_is_fetched(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="only http and https"):
        fetch(url, tmp_path / "x.bin")


def test_a_redirect_to_another_scheme_is_refused(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", Served(b"", redirect="file:///etc/hostname"))
    with pytest.raises(DownloadError, match=r"cannot be fetched to .*Check the address"):
        fetch(server.url_of("x.bin"), tmp_path / "x.bin")
    assert not (tmp_path / "x.bin").exists()


def test_a_target_that_cannot_be_written_is_named(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", CONTENT)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DownloadError, match=r"cannot be saved as .*x\.bin.*Choose a folder"):
        fetch(server.url_of("x.bin"), tmp_path / "file" / "x.bin")


# --- disk space -----------------------------------------------------------------------------------


def pretend_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=free))


def test_a_full_disk_is_told_before_anything_is_fetched(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("x.bin", CONTENT)
    pretend_free(monkeypatch, 900_000)
    files = [RemoteFile(server.url_of("x.bin"), f"{n}.bin", size=len(CONTENT)) for n in range(3)]
    with pytest.raises(DownloadError, match=r"The disk of .* has 900kB free and 3\.00MB are needed: free some space"):
        remote.fetch(files, tmp_path / "not" / "yet", needed=3 * len(CONTENT))
    assert server.requests == []
    with pytest.raises(DownloadError, match=r"1\.00MB are needed"):
        fetch(server.url_of("x.bin"), tmp_path / "x.bin")


def test_only_what_is_still_to_come_needs_space(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("x.bin", CONTENT)
    cut_off(server, tmp_path / "x.bin", monkeypatch, after=600_000)
    (tmp_path / "y.bin").write_bytes(CONTENT)
    pretend_free(monkeypatch, 450_000)
    files = [RemoteFile(server.url_of("x.bin"), name, size=len(CONTENT)) for name in ("x.bin", "y.bin")]
    remote.fetch(files, tmp_path)
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_enough_space_is_no_reason_to_complain(tmp_path: Path) -> None:
    require_space(tmp_path, 1)


# --- several --------------------------------------------------------------------------------------


def test_several_files_are_fetched_at_a_time_and_returned_in_order(server: LocalServer, tmp_path: Path) -> None:
    meeting = threading.Barrier(3, timeout=PATIENCE)

    def meet_others() -> None:
        meeting.wait()

    files = []
    for n in range(3):
        server.add(f"{n}.bin", CONTENT[n:])
        files.append(RemoteFile(server.url_of(f"{n}.bin"), f"{n}.bin", md5=hashlib.md5(CONTENT[n:]).hexdigest()))
    paths = remote.fetch(files, tmp_path, jobs=3, then=lambda *_: meet_others())
    assert [path.name for path in paths] == ["0.bin", "1.bin", "2.bin"]
    assert [path.read_bytes() == CONTENT[n:] for n, path in enumerate(paths)] == [True] * 3


def test_one_file_that_fails_does_not_keep_the_others_from_coming(server: LocalServer, tmp_path: Path) -> None:
    server.add("good.bin", CONTENT)
    good = RemoteFile(server.url_of("good.bin"), "good.bin")
    missing = [RemoteFile(server.url_of(f"{n}.bin"), f"{n}.bin") for n in range(2)]
    with pytest.raises(DownloadError, match=r"/0\.bin could not be fetched.*404"):
        remote.fetch([missing[0], good], tmp_path, jobs=1)
    assert names(tmp_path) == {"good.bin"}
    with pytest.raises(DownloadError, match=r"2 of 3 files could not be had.*run this again.*404"):
        remote.fetch([*missing, good], tmp_path, jobs=1)


def test_what_is_done_with_each_file_may_fail_too(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", CONTENT)

    def refuse(file: RemoteFile, path: Path) -> None:
        raise DataError(f"{path.name} is of no use.")

    with pytest.raises(DataError, match=r"x\.bin is of no use"):
        remote.fetch([RemoteFile(server.url_of("x.bin"), "x.bin")], tmp_path, then=refuse)


def test_ctrl_c_ends_the_running_downloads_and_they_can_be_resumed(server: LocalServer, tmp_path: Path) -> None:
    server.add("quick.bin", CONTENT)
    server.add("slow.bin", Served(CONTENT, chunked=True, repeat=300, delay=0.02))
    server.add("later.bin", CONTENT)
    files = [RemoteFile(server.url_of(name), name) for name in ("quick.bin", "slow.bin", "later.bin")]

    def interrupt(file: RemoteFile, path: Path) -> None:
        until((tmp_path / "slow.bin.part").exists)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.fetch(files, tmp_path, jobs=2, then=interrupt)
    assert server.sent < 300 * len(CONTENT)
    assert "slow.bin" not in names(tmp_path)
    assert names(tmp_path) >= {"quick.bin", "slow.bin.part"}
    server.add("slow.bin", CONTENT)
    remote.fetch(files, tmp_path)
    assert {path.name for path in tmp_path.glob("*.bin")} == {"quick.bin", "slow.bin", "later.bin"}
    assert {path.read_bytes() == CONTENT for path in tmp_path.glob("*.bin")} == {True}


INTERRUPTED = """
import signal
import sys
from pathlib import Path
from soundstack.config import cli; from soundstack.utils import download as remote
from soundstack.config.tools import DownloadConfig
from soundstack.utils.remote_file import RemoteFile

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background inherit that it is ignored
url, folder, single = sys.argv[1:]

def download(config):
    if single == "single":
        remote.fetch([RemoteFile(url, "x.bin")], Path(folder))
    else:
        remote.fetch([RemoteFile(f"{url}?{n}", f"{n}.bin") for n in range(3)], Path(folder), jobs=2)

cli.run(DownloadConfig, download, [])
"""


@pytest.mark.parametrize("single", ["single", "several"])
@pytest.mark.parametrize(
    "served",
    [
        pytest.param({"statuses": [503] * 100, "retry_after": "120"}, id="in the pause before the next attempt"),
        pytest.param({"hold_at": "headers"}, id="before a silent server answers"),
        pytest.param({"hold_at": "body"}, id="in the middle of an answer that goes no further"),
    ],
)
def test_ctrl_c_ends_a_download_that_waits_for_a_server(
    server: LocalServer, tmp_path: Path, served: dict[str, Any], single: str
) -> None:
    hold = None if "statuses" in served else threading.Event()
    for name in ("x.bin", *(f"x.bin?{n}" for n in range(3))):
        server.add(name, Served(CONTENT, hold=hold, **served))
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, server.url_of("x.bin"), str(tmp_path), single],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.asked.wait(PATIENCE)
        if served.get("hold_at") == "body":
            until(lambda: any(part.stat().st_size for part in tmp_path.glob("*.part")))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=50)  # less than any of its waits, and far more than it needs
        assert process.returncode == cli.INTERRUPTED
        assert "Traceback" not in said
    finally:
        process.kill()
        process.communicate()
        if hold is not None:
            hold.set()


def _fetch_in_process(url: str, target: Path) -> None:
    fetch(url, target)


def test_two_processes_fetch_the_same_file_once(server: LocalServer, tmp_path: Path) -> None:
    server.add("x.bin", Served(CONTENT, delay=0.5))
    context = multiprocessing.get_context("spawn")  # a fork with threads is not safe everywhere
    workers = [
        context.Process(target=_fetch_in_process, args=(server.url_of("x.bin"), tmp_path / "x.bin")) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (tmp_path / "x.bin").read_bytes() == CONTENT
    assert server.counts["x.bin"] == 1


def test_a_host_that_does_not_exist_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unknown(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DownloadError, match=r"there is no nowhere\.invalid to be found.*save it there"):
        fetch("http://nowhere.invalid/weights.pth", tmp_path / "weights.pth")
    assert asked == ["nowhere.invalid"]
