"""The feature store, named after what happens to its user: killed runs, torn files, full disks, changed parameters."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from soundstack.features import store as cache
from soundstack.features.store import FeatureStore
from soundstack.utils.errors import StoreError
from soundstack.utils.files import write_atomically

SPEC = {"rate": 8000, "clip_db": -80.0}
KEYS = [f"key{number}" for number in range(5)]
FEATURES = np.random.default_rng(0).standard_normal((5, 3, 2)).astype(np.float32)


def store_in(folder, spec=SPEC):
    return FeatureStore(folder, "logmel", spec)


def filled(folder):
    store = store_in(folder)
    with store.lock():
        store.add(KEYS[:3], FEATURES[:3])
        store.add(KEYS[3:], FEATURES[3:])
    return store


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_features_come_back_in_the_order_asked_for_across_shards(tmp_path):
    filled(tmp_path)
    order = [4, 0, 2, 0, 3]
    again = store_in(tmp_path).read([KEYS[number] for number in order])
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, FEATURES[order])


def test_features_too_large_for_the_memory_are_mapped_from_a_file_that_is_gathered_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "MEMORY_SHARE", 0)
    store = filled(tmp_path)
    order = [KEYS[number] for number in (4, 0, 2, 0, 3)]
    mapped = store.read(order)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, FEATURES[[4, 0, 2, 0, 3]])
    mapped[:] = 0  # copy-on-write: what is stored stays
    np.testing.assert_array_equal(store_in(tmp_path).read(order), FEATURES[[4, 0, 2, 0, 3]])
    assert len(list(store.folder.glob("gathered/*"))) == 1
    np.testing.assert_array_equal(store.read(KEYS), FEATURES)
    assert len(list(store.folder.glob("gathered/*"))) == 2


def test_a_disk_that_is_full_before_the_gathered_file_is_whole_keeps_nothing_of_it(tmp_path, monkeypatch):
    def full(file, header):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache, "MEMORY_SHARE", 0)
    monkeypatch.setattr(cache.np.lib.format, "write_array_header_1_0", full)
    store = filled(tmp_path)
    with pytest.raises(StoreError, match="free space") as caught:
        store.read(KEYS)
    one_line(caught)
    assert not list(store.folder.glob("gathered/*"))


def test_missing_names_the_positions_of_what_is_not_there(tmp_path):
    store = filled(tmp_path)
    assert store.missing(["new", *KEYS, "newer"]) == [0, 6]
    assert store_in(tmp_path).missing(KEYS) == []


def test_files_that_are_open_do_not_become_more_with_the_data(tmp_path):
    # A process may have 64 files open, and there are 300 shards to write, to find again, and to read.
    script = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import numpy as np
from soundstack.features import store as cache
folder, keys = Path(sys.argv[1]), [f"key{number}" for number in range(300)]
store = cache.FeatureStore(folder, "logmel", {})
with store.lock():
    for number, key in enumerate(keys):
        store.add([key], np.full((1, 2), number, np.float32))
again = cache.FeatureStore(folder, "logmel", {})
assert again.missing(keys) == [], len(again.missing(keys))
assert again.read(keys)[:, 0].tolist() == list(range(300))
cache.MEMORY_SHARE = 0
assert again.read(keys[::-1])[:, 0].tolist() == list(range(300))[::-1]
"""
    pytest.importorskip("resource", reason="the system has no limits to set")
    environment = os.environ | {"PYTHONPATH": str(Path(cache.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_a_shard_that_is_removed_while_it_is_in_use_is_said_in_one_line(tmp_path):
    store = filled(tmp_path)
    for shard in store.folder.glob("*.npy"):
        shard.unlink()
    with pytest.raises(StoreError, match="makes it anew") as caught:
        store.read(KEYS)
    one_line(caught)


def test_the_folder_tells_its_reader_the_configuration(tmp_path):
    store = filled(tmp_path)
    assert json.loads((store.folder / "spec.json").read_text()) == SPEC


@pytest.mark.parametrize("changed", [{"clip_db": -60.0}, {"rate": 8001}, {"more": 1}])
def test_changed_parameters_give_another_store(tmp_path, changed):
    store = filled(tmp_path)
    other = store_in(tmp_path, SPEC | changed)
    assert other.folder != store.folder
    assert other.missing(KEYS) == list(range(5))
    assert FeatureStore(tmp_path, "picture", SPEC).folder != store.folder


def test_the_same_parameters_in_another_order_give_the_same_store(tmp_path):
    assert store_in(tmp_path, dict(reversed(SPEC.items()))).folder == store_in(tmp_path).folder


# killed ----------------------------------------------------------------------------------------------------------


def test_killed_while_writing_a_shard_leaves_nothing_half_and_the_next_run_cleans_up(tmp_path, monkeypatch):
    def killed(file, array, **options):
        file.write(array.tobytes()[:10])
        raise KeyboardInterrupt

    store = store_in(tmp_path)
    monkeypatch.setattr(cache.np, "save", killed)
    with pytest.raises(KeyboardInterrupt), store.lock():
        store.add(KEYS, FEATURES)
    monkeypatch.undo()
    assert list(store.folder.glob("*.npy")) == []
    (store.folder / ".left-by-SIGKILL.tmp").touch()
    after = store_in(tmp_path)
    assert after.missing(KEYS) == list(range(5))
    with after.lock():
        assert list(after.folder.glob(".*.tmp")) == []
        after.add(KEYS, FEATURES)
    np.testing.assert_array_equal(store_in(tmp_path).read(KEYS), FEATURES)


def test_killed_between_a_shard_and_its_index_makes_the_shard_anew(tmp_path, monkeypatch):
    replaced = cache.replaced

    def killed(path, **options):
        if path.suffix == ".json" and path.name != "spec.json":
            raise KeyboardInterrupt
        return replaced(path, **options)

    store = store_in(tmp_path)
    monkeypatch.setattr(cache, "replaced", killed)
    with pytest.raises(KeyboardInterrupt), store.lock():
        store.add(KEYS, FEATURES)
    monkeypatch.undo()
    after = store_in(tmp_path)
    assert after.missing(KEYS) == list(range(5))
    with after.lock():
        after.add(KEYS, FEATURES)
    np.testing.assert_array_equal(store_in(tmp_path).read(KEYS), FEATURES)


@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "text"])
@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_damaged_shard_counts_as_missing_and_is_made_anew(tmp_path, damage, suffix):
    store = filled(tmp_path)
    shard = store._rows[KEYS[0]][0]
    path = store.folder / f"{shard}{suffix}"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-3], "empty": b"", "zeros": bytes(len(whole)), "text": b"not what it was"}[damage])
    after = store_in(tmp_path)
    assert after.missing(KEYS) == [0, 1, 2]
    with after.lock():
        after.add(KEYS[:3], FEATURES[:3])
    np.testing.assert_array_equal(store_in(tmp_path).read(KEYS), FEATURES)


def test_a_shard_with_another_number_of_rows_than_keys_counts_as_missing(tmp_path):
    store = filled(tmp_path)
    shard = store._rows[KEYS[0]][0]
    np.save(store.folder / f"{shard}.npy", FEATURES[:2])
    assert store_in(tmp_path).missing(KEYS) == [0, 1, 2]


# folders that cannot be written ----------------------------------------------------------------------------------


@pytest.fixture
def read_only():
    """A folder that this process may read but not write, for the superuser too."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        superuser = os.geteuid() == 0
        if superuser:
            try:
                os.seteuid(65534)
            except OSError:
                pytest.skip("needs the right to become another user: rights do not bind the superuser")
        try:
            yield folder
        finally:
            if superuser:
                os.seteuid(0)
            folder.chmod(0o755)


def test_a_read_only_cache_is_refused_in_one_line_that_names_it(read_only):
    with pytest.raises(StoreError) as caught, store_in(read_only).lock():
        pytest.fail("locked")
    assert str(read_only) in one_line(caught)
    assert "cache_dir" in one_line(caught)


def test_a_full_disk_is_reported_in_one_line_and_leaves_nothing_half(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = store_in(tmp_path)
    with store.lock():
        monkeypatch.setattr(cache.np, "save", full)
        with pytest.raises(StoreError, match="No space left") as caught:
            store.add(KEYS, FEATURES)
    assert "cache_dir" in one_line(caught)
    assert list(store.folder.glob("*.npy")) == []
    assert list(store.folder.glob(".*.tmp")) == []


def test_a_file_where_the_cache_should_be_is_refused_in_one_line(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(StoreError) as caught, store_in(tmp_path / "cache").lock():
        pytest.fail("locked")
    assert "cache_dir" in one_line(caught)


def test_an_error_of_the_work_under_the_lock_is_not_blamed_on_the_cache(tmp_path):
    with pytest.raises(BrokenPipeError), store_in(tmp_path).lock():
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


# single files ----------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file.json"
    write_atomically(path, "first")
    write_atomically(path, b"second")
    assert path.read_text() == "second"

    def full(self, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match="No space left"):
        write_atomically(path, "third")
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127])
def test_a_name_may_be_as_long_as_names_can_be(tmp_path, name):
    write_atomically(tmp_path / name, "content")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_that_cannot_be_written_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError) as caught:
        write_atomically(tmp_path / "file" / "below.json", "content")
    assert "below.json" in one_line(caught)
