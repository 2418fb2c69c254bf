"""What an archive from the internet may and may not do to the disk."""

from __future__ import annotations

import errno
import io
import os
import signal
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundstack.datasets import archives
from soundstack.datasets.archives import extract_zip, is_unpacked
from soundstack.utils import signals
from soundstack.utils.errors import DataError, DownloadError
from soundstack.utils.remote_file import digest


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            # Through ZipInfo.filename, since the constructor tidies a name up.
            info = zipfile.ZipInfo("placeholder")
            info.filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def everything(folder: Path) -> dict[str, bytes]:
    """All files below a folder by relative name, without the state of the unpacking."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and archives._STATE not in path.parts
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "inner" / "data"


# --- the plain way ---------------------------------------------------------------------------------


def test_an_archive_is_unpacked_with_its_folders(tmp_path: Path, folder: Path) -> None:
    content = {"root/meta.txt": b"a\tb\n", "root/audio/1.wav": b"RIFF", "root/empty": b""}
    archive = make_zip(tmp_path / "x.zip", {"root/": b"", **content})
    extract_zip(archive, folder)
    assert everything(folder) == content


def test_two_archives_share_a_root_and_a_later_one_replaces_files(tmp_path: Path, folder: Path) -> None:
    extract_zip(make_zip(tmp_path / "x.zip", {"root/a": b"1", "root/same": b"old"}), folder)
    extract_zip(make_zip(tmp_path / "y.zip", {"root/b": b"2", "root/same": b"new"}), folder)
    assert everything(folder) == {"root/a": b"1", "root/b": b"2", "root/same": b"new"}


def test_a_folder_that_another_archive_makes_at_the_same_time_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, folder = make_zip(tmp_path / "x.zip", {"root/audio/a": b"1"}), tmp_path / "out"
    make = Path.mkdir

    def beaten(path: Path, *args: object, **options: object) -> None:
        if path.name == "audio" and path.is_relative_to(folder / "root"):
            make(path)  # the other one's, between the look and the making
        make(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", beaten)
    extract_zip(archive, folder)
    assert (folder / "root" / "audio" / "a").read_bytes() == b"1"


def test_backslashes_of_old_windows_tools_are_folders(tmp_path: Path, folder: Path) -> None:
    extract_zip(make_zip(tmp_path / "x.zip", {"root\\audio\\": b"", "root\\audio\\1.wav": b"RIFF"}), folder)
    assert everything(folder) == {"root/audio/1.wav": b"RIFF"}


def test_a_second_call_skips_an_archive_that_is_unpacked(tmp_path: Path, folder: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"root/a": b"1", "root/b": b"2"})
    extract_zip(archive, folder)
    before = [path.stat().st_mtime_ns for path in (folder / "root").iterdir()]
    extract_zip(archive, folder)
    assert [path.stat().st_mtime_ns for path in (folder / "root").iterdir()] == before


@pytest.mark.parametrize("damage", ["removed", "truncated", "no marker", "damaged marker", "another archive"])
def test_an_archive_is_unpacked_again_if_anything_is_not_as_it_left_it(
    tmp_path: Path, folder: Path, damage: str
) -> None:
    archive = make_zip(tmp_path / "x.zip", {"root/a": b"1", "root/b": b"2"})
    extract_zip(archive, folder)
    marker = folder / ".unpacked" / "x.zip.json"
    expected = {"root/a": b"1", "root/b": b"2"}
    match damage:
        case "removed":
            (folder / "root" / "a").unlink()
        case "truncated":
            (folder / "root" / "a").write_bytes(b"")
        case "no marker":
            marker.unlink()
        case "damaged marker":
            marker.write_text('{"md5": ')
        case "another archive":
            expected = {"root/a": b"3", "root/b": b"2"}
            make_zip(archive, expected)
    assert not is_unpacked(folder, "x.zip", digest(archive))
    extract_zip(archive, folder)
    assert everything(folder) == expected
    assert is_unpacked(folder, "x.zip", digest(archive))


def test_that_an_archive_is_unpacked_is_known_without_the_archive(tmp_path: Path, folder: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"root/a": b"1"})
    assert not is_unpacked(folder, "x.zip")
    extract_zip(archive, folder)
    md5 = digest(archive)
    archive.unlink()
    assert is_unpacked(folder, "x.zip")
    assert is_unpacked(folder, "x.zip", md5.upper())
    assert not is_unpacked(folder, "x.zip", "0" * 32)
    assert not is_unpacked(folder, "y.zip")


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path, folder: Path) -> None:
    leftover = folder / ".unpacked" / "x.zip.tmp" / "root"
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"ha")
    (leftover / "a").write_bytes(b"half of it")
    extract_zip(make_zip(tmp_path / "x.zip", {"root/a": b"1"}), folder)
    assert everything(folder) == {"root/a": b"1"}
    assert not leftover.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from soundstack.datasets.archives import extract_zip

move = Path.replace

def killed_at_3(source, target):
    if target.name == "3" and ".unpacked" not in target.parts:
        os.kill(os.getpid(), signal.SIGKILL)
    return move(source, target)

Path.replace = killed_at_3
extract_zip(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_process_killed_while_moving_leaves_whole_files_and_the_next_one_ends_the_work(
    tmp_path: Path, folder: Path
) -> None:
    content = {f"root/{n}": bytes([n]) * 1000 for n in range(5)}
    archive = make_zip(tmp_path / "x.zip", content)
    (folder / "root").mkdir(parents=True)
    (folder / "root" / "3").write_bytes(b"of the user")
    command = [sys.executable, "-c", KILLED, str(archive), str(folder)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == -signal.SIGKILL
    assert everything(folder) == {name: content[name] for name in list(content)[:3]}
    assert not is_unpacked(folder, "x.zip")
    refused = make_zip(tmp_path / "again" / "x.zip", {"root/a": b"1", "../b": b"2"})
    with pytest.raises(DataError, match="is refused"):
        extract_zip(refused, folder)
    assert everything(folder)["root/3"] == b"of the user", "what was moved away is put back"
    extract_zip(archive, folder)
    assert everything(folder) == content
    assert sorted(path.name for path in (folder / ".unpacked").iterdir()) == ["x.zip.json", "x.zip.lock"]


def a_folder_in_the_way(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "root" / "new" / "4").mkdir(parents=True)


def a_file_in_the_way(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "root" / "new").write_bytes(b"a file")


def _fails_at(name: str, error: BaseException, patch: pytest.MonkeyPatch) -> None:
    move = Path.replace

    def failing(source: Path, target: Path) -> Path:
        if target.name == name and source.parent.name != "root":
            raise error
        return move(source, target)

    patch.setattr(Path, "replace", failing)


def a_disk_that_fails(folder: Path, patch: pytest.MonkeyPatch) -> None:
    _fails_at("4", OSError(errno.EIO, "Input/output error"), patch)


def ctrl_c(folder: Path, patch: pytest.MonkeyPatch) -> None:
    _fails_at("4", KeyboardInterrupt(), patch)


def a_marker_that_cannot_be_written(folder: Path, patch: pytest.MonkeyPatch) -> None:
    _fails_at("x.zip.json", OSError(errno.ENOSPC, "No space left on device"), patch)


@pytest.mark.parametrize(
    "trouble",
    [a_folder_in_the_way, a_file_in_the_way, a_disk_that_fails, ctrl_c, a_marker_that_cannot_be_written],
)
def test_an_archive_whose_files_cannot_all_be_moved_leaves_the_folder_as_it_was(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    archive = make_zip(tmp_path / "x.zip", {"root/1": b"1", "root/2": b"2", "other/3": b"3", "root/new/4": b"4"})
    (folder / "root").mkdir(parents=True)
    (folder / "root" / "2").write_bytes(b"of the user")
    with monkeypatch.context() as patch:
        trouble(folder, patch)
        before = {path: path.is_dir() or path.read_bytes() for path in folder.rglob("*")}
        with pytest.raises((DataError, KeyboardInterrupt)):
            extract_zip(archive, folder)
    state = folder / ".unpacked"
    after = {
        path: path.is_dir() or path.read_bytes() for path in folder.rglob("*") if state not in (path, *path.parents)
    }
    assert after == before
    assert not is_unpacked(folder, "x.zip")
    assert not {"x.zip.tmp", "x.zip.old"} & {path.name for path in state.iterdir()}


def test_who_asks_for_an_end_need_not_wait_for_an_archive_that_another_thread_unpacks(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "interrupted", lambda: True)
    with pytest.raises(KeyboardInterrupt):
        extract_zip(make_zip(tmp_path / "x.zip", {"root/a": b"1"}), folder)
    assert everything(folder) == {}
    assert not (folder / ".unpacked" / "x.zip.tmp").exists()


# --- malicious -------------------------------------------------------------------------------------

ESCAPES = [
    "../escaped",
    "root/../../escaped",
    "/escaped",
    "//escaped",
    "..\\escaped",
    "root\\..\\..\\escaped",
    "\\escaped",
    "C:\\escaped",
    "C:escaped",
    "c:/escaped",
    "\\\\server\\share\\escaped",
    "..",
]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_member_that_would_leave_the_folder_is_refused(tmp_path: Path, folder: Path, name: str) -> None:
    archive = make_zip(tmp_path / "x.zip", {"root/good": b"1", name: b"evil"})
    with pytest.raises(DataError, match=r"x\.zip is refused: its member .* would be written outside the folder"):
        extract_zip(archive, folder)
    assert everything(tmp_path) == {"x.zip": archive.read_bytes()}  # nothing inside, nothing outside
    assert not list(Path("/").glob("escaped*"))
    assert not is_unpacked(folder, "x.zip")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="./\\:aC \x01", min_size=1, max_size=12))
def test_no_name_whatever_writes_outside(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    outer = tmp_path_factory.mktemp("outer")
    folder = outer / "one" / "two" / "data"
    archive = make_zip(outer / "x.zip", {"good": b"1", name: b"evil"})
    try:
        extract_zip(archive, folder)
    except DataError:
        assert everything(folder) == {}
    assert everything(outer).keys() - {f"one/two/data/{file}" for file in everything(folder)} == {"x.zip"}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_a_link_or_device_is_refused(tmp_path: Path, folder: Path, kind: int) -> None:
    link = zipfile.ZipInfo("root/link")
    link.create_system = 3
    link.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("root/good", b"1")
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"member 'root/link' is a link or a device"):
        extract_zip(tmp_path / "x.zip", folder)
    assert everything(folder) == {}


def test_a_link_that_lies_in_the_folder_is_not_followed_out_of_it(tmp_path: Path, folder: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder.mkdir(parents=True)
    (folder / "root").symlink_to(outside)
    with pytest.raises(DataError, match="is a link that leads out of"):
        extract_zip(make_zip(tmp_path / "x.zip", {"a": b"1", "root/b": b"2"}), folder)
    assert everything(outside) == {}
    assert everything(folder) == {}


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"MOST_MEMBERS": 10, "MOST_BYTES": 50_000_000, "MOST_RATIO": 100, "RATIO_FROM": 1_000_000}
    for name, limit in limits.items():
        monkeypatch.setattr(archives, name, limit)


MARKER = b'{"md5": "", "files": [["a", 1]]}'


@pytest.mark.usefixtures("low_limits")
@pytest.mark.parametrize(
    ("members", "why"),
    [
        pytest.param({".unpacked/y.zip.json": MARKER, "a": b"1"}, "name that is not allowed", id="a marker"),
        pytest.param({"root/a": b"1", "root//a": b"2"}, "two members called 'root//a'", id="two of one name"),
        pytest.param({"a": b"1", "b": bytes(5_000_000)}, r"to more than 1\.00MB, as archive bombs do", id="a bomb"),
        pytest.param({str(n): b"" for n in range(11)}, "has 11 members, more than 10", id="too many members"),
        pytest.param({"root/": b""}, "it has no files", id="no files"),
    ],
)
def test_what_no_data_set_has_is_refused_and_nothing_is_left(
    tmp_path: Path, folder: Path, members: dict[str, bytes], why: str
) -> None:
    with pytest.raises(DataError, match=rf"x\.zip is refused: .*{why}"):
        extract_zip(make_zip(tmp_path / "x.zip", members), folder)
    assert everything(folder) == {}
    assert {path.name for path in (folder / ".unpacked").iterdir()} == {"x.zip.lock"}
    assert not is_unpacked(folder, "y.zip")


def test_an_honest_bomb_by_total_size_is_refused_before_it_is_unpacked(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_zip(tmp_path / "x.zip", {"bomb": bytes(60_000_000)})
    monkeypatch.setattr(archives, "MOST_BYTES", 50_000_000)
    monkeypatch.setattr(archives, "MOST_RATIO", 1_000_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("a member was read"))
    with pytest.raises(DataError, match=r"more than 50\.0MB"):
        extract_zip(archive, folder)
    assert everything(folder) == {}


@pytest.mark.usefixtures("low_limits")
def test_a_bomb_whose_headers_are_modest_is_counted_while_it_unpacks(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_zip(tmp_path / "x.zip", {"bomb": bytes(5_000_000)})

    class Unbounded(zipfile.ZipFile):
        """A reader that, unlike today's zipfile, believes the data more than the header."""

        def infolist(self) -> list[zipfile.ZipInfo]:
            infos = super().infolist()
            for info in infos:
                self.honest = info.file_size
                info.file_size = 10
            return infos

        def open(self, name, *args, **kwargs):  # type: ignore[no-untyped-def]
            name.file_size = self.honest
            return super().open(name, *args, **kwargs)

    monkeypatch.setattr(archives.zipfile, "ZipFile", Unbounded)
    with pytest.raises(DataError, match="as archive bombs do"):
        extract_zip(archive, folder)
    assert everything(folder) == {}


@pytest.mark.usefixtures("low_limits")
def test_a_header_that_understates_a_member_is_found_out(tmp_path: Path, folder: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"bomb": bytes(5_000_000)})
    raw = archive.read_bytes()
    archive.write_bytes(raw.replace(struct.pack("<L", 5_000_000), struct.pack("<L", 10)))
    with pytest.raises(DataError, match=r"damaged or no zip archive.*download it again"):
        extract_zip(archive, folder)
    assert everything(folder) == {}


def test_a_small_archive_of_silence_is_no_bomb(tmp_path: Path, folder: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"silence.wav": bytes(441_000)})
    extract_zip(archive, folder)
    assert everything(folder) == {"silence.wav": bytes(441_000)}


# --- damaged ---------------------------------------------------------------------------------------


def test_an_archive_that_is_not_there_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"There is no archive .*x\.zip: download it first"):
        extract_zip(tmp_path / "x.zip", folder)


def test_what_is_no_zip_is_named(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"<html>Sign in to go on</html>")
    with pytest.raises(DataError, match=r"x\.zip is damaged or no zip archive.*Delete it and download it again"):
        extract_zip(tmp_path / "x.zip", folder)


@pytest.mark.parametrize("at", [60, -200])
def test_a_flipped_byte_is_found_and_nothing_is_left(tmp_path: Path, folder: Path, at: int) -> None:
    noise = bytes(range(256)) * 40
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("root/good", noise)
        archive.writestr("root/bad", noise)
    raw = bytearray(stored.getvalue())
    raw[at] ^= 1
    (tmp_path / "x.zip").write_bytes(raw)
    with pytest.raises(DataError, match="damaged"):
        extract_zip(tmp_path / "x.zip", folder)
    assert everything(folder) == {}


def test_an_encrypted_archive_is_refused(tmp_path: Path, folder: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"a": b"secret"})
    raw = bytearray(archive.read_bytes())
    raw[6] |= 1  # the local header's flag
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # the directory's flag
    archive.write_bytes(raw)
    with pytest.raises(DataError, match=r"encrypted.*nothing was unpacked"):
        extract_zip(archive, folder)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "x.zip", {"a": b"1"})
    with pytest.raises(DataError, match=r"cannot be unpacked into .*x\.zip: .*Choose a folder that is writable"):
        extract_zip(archive, archive)


def test_a_full_disk_is_told_before_anything_is_unpacked(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(place: Path, needed: int) -> None:
        raise DownloadError(f"{needed} are needed")

    monkeypatch.setattr(archives, "require_space", full)
    with pytest.raises(DownloadError, match="5000 are needed"):
        extract_zip(make_zip(tmp_path / "x.zip", {"a": bytes(5000)}), folder)
    assert everything(folder) == {}
