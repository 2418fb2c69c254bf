"""Extraction on other hosts: the same shards, whoever dies; what hosts cannot see is refused; nobody else needs Ray.

Without Ray, another process stands for the hosts. With it, two nodes of a real cluster do (`docs/scale.md`).
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile

from soundstack.config import cli
from soundstack.config.steps import DeepSpectrumConfig, ExtractConfig
from soundstack.datasets.open_data_set import open_data_set
from soundstack.spectrograms.extract import extraction
from soundstack.utils import cluster, object_store, slices
from soundstack.utils.errors import ConfigError, DataError, StoreError, WorkerError
from soundstack.utils.project import PROJECT
from waiting import PATIENCE

GIVEN: dict[str, Any] = {"clip_seconds": 0.5, "sample_rate": 8000}


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token such as a cluster is started with."""
    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))


@pytest.fixture
def other_process(token: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another process in the place of a cluster: what it is sent is pickled, and it knows nothing of this one."""
    monkeypatch.setattr(cluster, "is_installed", lambda: True)

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:

        def run(self: cluster.Cluster, work: Callable[[Any], Any], jobs: Any) -> Iterator[tuple[int, Any]]:
            for number, job in enumerate(jobs):
                yield number, pool.submit(work, job).result(PATIENCE)

        monkeypatch.setattr(cluster.Cluster, "run", run)
        yield


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE", 4)


def shared(table: Path, store: Path, address: str = "auto", **given: Any) -> ExtractConfig:
    """What extracts a table's sounds on the hosts, with a cache in a folder that all see."""
    places = {"data_dir": f"file://{table}", "cache_dir": f"file://{store}"}
    return ExtractConfig(dataset="csv", name="tones", cluster=address, **places, **given)


def local(table: Path, cache: Path, **given: Any) -> ExtractConfig:
    return ExtractConfig(dataset="csv", name="tones", data_dir=str(table), cache_dir=str(cache), jobs=2, **given)


def extract(config: ExtractConfig, progress: Callable[[int], object] = lambda count: None) -> Any:
    begun = extraction(config)
    return begun.finish(open_data_set(config, begun), progress)


def shards(cache: Path) -> dict[str, bytes]:
    """The files of all stores, by their names below the cache."""
    found = (path for path in (cache / "features").rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(cache)): path.read_bytes() for path in found}


# another process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, GIVEN, {"channels": "each", **GIVEN}], ids=["auto", "given", "each"])
def test_shards_made_elsewhere_have_the_names_and_bytes_of_those_made_here(
    tmp_path: Path, tiny_csv: Callable[..., Path], other_process: None, small_slices: None, given: dict[str, Any]
) -> None:
    table = tiny_csv(tmp_path / "data", channels=2)
    here = extract(local(table, tmp_path / "here", **given))
    there = extract(shared(table, tmp_path / "there", **given))
    assert shards(tmp_path / "there") == shards(tmp_path / "here")
    assert len(shards(tmp_path / "there")) == 1 + 2 * 4
    assert there.values.tobytes() == here.values.tobytes()
    assert (there.report.made, there.report.reused) == (here.report.made, 0)
    assert there.report.processors


def test_a_sound_that_occurs_twice_is_made_once(
    tmp_path: Path, tiny_csv: Callable[..., Path], other_process: None, small_slices: None
) -> None:
    table = tiny_csv(tmp_path / "data")
    shutil.copy(table.parent / "pitch0-1-0.wav", table.parent / "x-copy.wav")  # in another slice
    with table.open("a") as file:
        file.write("x-copy.wav,pitch0,1\n")
    assert extract(shared(table, tmp_path / "there")).report.made == 15
    extract(local(table, tmp_path / "here"))
    assert shards(tmp_path / "there") == shards(tmp_path / "here")


def test_a_driver_that_forgot_everything_finds_all_done_and_no_sound_is_decoded(
    tmp_path: Path, tiny_csv: Callable[..., Path], other_process: None, small_slices: None
) -> None:
    config = shared(tiny_csv(tmp_path / "data"), tmp_path / "there", **GIVEN)
    first = extract(config)
    shutil.rmtree(config.cache_path)
    again = extract(config)
    assert (again.report.made, again.report.reused, again.report.seconds) == (0, 15, {})
    assert again.values.tobytes() == first.values.tobytes()


@pytest.mark.parametrize("given", [{}, GIVEN], ids=["auto", "given"])
def test_an_interrupted_driver_goes_on_with_the_slices_that_are_left(
    tmp_path: Path,
    tiny_csv: Callable[..., Path],
    other_process: None,
    small_slices: None,
    given: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, run, stored = tiny_csv(tmp_path / "data"), cluster.Cluster.run, []
    config = shared(table, tmp_path / "there", **given)

    def cut(self: cluster.Cluster, work: Any, jobs: Any) -> Iterator[tuple[int, Any]]:
        for each in run(self, work, jobs):
            stored[:] = [name for name in shards(tmp_path / "there") if name.endswith(".npy")]
            if len(stored) == 2:
                raise KeyboardInterrupt
            yield each

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cluster.Cluster, "run", cut)
        extract(config)
    assert 1 <= len(stored) < 4
    assert extract(config).report.made < 15
    extract(local(table, tmp_path / "here", **given))
    assert shards(tmp_path / "there") == shards(tmp_path / "here")


def test_an_edited_sound_is_made_anew_and_no_other(
    tmp_path: Path, tiny_csv: Callable[..., Path], other_process: None, tone: Callable[..., Path]
) -> None:
    table = tiny_csv(tmp_path / "data")
    config = shared(table, tmp_path / "there")
    extract(config)
    tone("pitch0-1-0.wav", seconds=0.5, folder=table.parent)
    assert (extract(config).report.made, extract(config).report.made) == (1, 0)


def test_a_damaged_sound_is_named_by_its_place_here_and_a_vanished_one_by_its_own(
    tmp_path: Path, tiny_csv: Callable[..., Path], other_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tiny_csv(tmp_path / "data")
    config = shared(table, tmp_path / "there")
    (table.parent / "pitch0-1-0.wav").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"pitch0-1-0\.wav"):
        extract(config)
    fetch = object_store.fetch

    def late(*given: Any) -> None:
        (table.parent / "pitch0-2-0.wav").unlink(missing_ok=True)
        fetch(*given)

    monkeypatch.setattr(object_store, "fetch", late)
    with pytest.raises(DataError, match=r"file://.*pitch0-2-0\.wav vanished") as caught:
        extract(shared(table, tmp_path / "another", on_error="skip"))
    assert "\n" not in str(caught.value)


def test_a_data_set_and_a_cache_in_a_store_serve_this_machine_alone_as_well(
    tmp_path: Path, tiny_csv: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tiny_csv(tmp_path / "birds")
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(tmp_path / "user")
    places = {"data_dir": f"file://{table}", "cache_dir": f"file://{tmp_path}/there"}
    config = ExtractConfig(dataset="csv", **places)
    assert config.data_name == "birds"
    there = extract(config)
    assert there.report.made == 15
    extract(local(table, tmp_path / "here"))
    assert shards(tmp_path / "there") == shards(tmp_path / "here")
    shutil.rmtree(tmp_path / "user" / "cache")
    again = extract(config)
    assert (again.report.made, again.values.tobytes()) == (0, there.values.tobytes())


# what is refused -------------------------------------------------------------------------------------------------


def refused(model: type[Any] = ExtractConfig, **given: str) -> str:
    with pytest.raises(ConfigError) as caught:
        cli.parse(model, [word for name, value in given.items() for word in (f"--{name}", value)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_cluster_without_ray_or_without_a_token_is_refused_with_what_to_do(
    token: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "is_installed", lambda: False)
    assert f"uv pip install '{cluster.REQUIREMENT}'" in refused(cluster="auto")
    monkeypatch.setattr(cluster, "is_installed", lambda: True)
    for wrong in ("ray://head:10001", "head", "", "head:port", "auto2"):
        assert "give none, auto, or HOST:PORT" in refused(cluster=wrong)
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert "RAY_AUTH_MODE=token" in refused(cluster="head:6379")


@pytest.mark.parametrize(
    ("model", "given", "parameter"),
    [
        (ExtractConfig, {}, "cache_dir"),
        (ExtractConfig, {"cache_dir": "/shared"}, "cache_dir"),
        (ExtractConfig, {"cache_dir": "s3://b/c", "dataset": "esc10"}, "data_dir"),
        (ExtractConfig, {"cache_dir": "s3://b/c", "dataset": "esc10", "data_dir": "data"}, "data_dir"),
        (DeepSpectrumConfig, {"cache_dir": "s3://b/c", "weights_dir": "weights"}, "weights_dir"),
    ],
)
def test_places_that_hosts_do_not_see_are_refused(
    other_process: None, model: type[Any], given: dict[str, str], parameter: str
) -> None:
    assert refused(model, cluster="auto", **given).startswith(f"{parameter}: the hosts of a cluster do not see")


@pytest.mark.parametrize(
    "place",
    [
        "ftp://host/x", "https://host/x", "s3://", "s3:///x", "file://host/x", "file:///", "s3://b/../c", "s3://b/x?k=v",
        "s3://key:SECRET@b/x", "s3://SECRET@b/x", "s3://b/x?secret_key=SECRET", "abfs://c:SECRET@account/x",
    ],
)  # fmt: skip
def test_places_of_no_known_store_and_credentials_in_places_are_refused_and_not_repeated(place: str) -> None:
    said = refused(cache_dir=place)
    assert said.startswith("cache_dir: ")
    assert "SECRET" not in said


def test_places_that_must_be_here_take_no_uri() -> None:
    from soundstack.config.tools import ReportConfig

    assert "a path of this machine" in refused(ReportConfig, output_dir="s3://b/x")


# the store -------------------------------------------------------------------------------------------------------


def test_names_that_lead_out_of_a_folder_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Info:
        def __init__(self, path: str) -> None:
            from pyarrow.fs import FileType

            self.path, self.size, self.mtime_ns, self.type = path, 1, 1, FileType.File

    class System:
        def get_file_info(self, selector: object) -> list[Info]:
            return [Info(f"b/c/{name}") for name in ("a.wav", "../../evil.wav", "x/../../evil", "/etc/passwd", "x//y")]

    monkeypatch.setattr(object_store, "_opened", lambda uri: (System(), "b/c"))
    assert list(object_store.listed("s3://b/c")) == ["a.wav"]


def test_what_is_fetched_or_outlined_is_looked_at_once_and_again_when_it_changes(tmp_path: Path) -> None:
    place, uri = tmp_path / "there", f"file://{tmp_path}/there"
    object_store.write(f"{uri}/x/a.csv", b"one")
    object_store.write(f"{uri}/b.wav", b"sound")
    found = object_store.listed(uri)
    assert list(found) == ["b.wav", "x/a.csv"]
    object_store.fetch(uri, {"x/a.csv": found["x/a.csv"]}, tmp_path / "here")
    object_store.outline({"b.wav": found["b.wav"]}, tmp_path / "here")
    assert (tmp_path / "here/x/a.csv").read_bytes() == b"one"
    assert (tmp_path / "here/b.wav").read_bytes() == bytes(5)
    before = (tmp_path / "here/x/a.csv").stat()
    object_store.fetch(uri, found, tmp_path / "here")
    assert (tmp_path / "here/x/a.csv").stat().st_ino == before.st_ino
    object_store.write(f"{uri}/x/a.csv", b"two")
    os.utime(place / "x/a.csv", ns=(before.st_mtime_ns + 1, before.st_mtime_ns + 1))
    object_store.fetch(uri, {"x/a.csv": object_store.listed(uri)["x/a.csv"]}, tmp_path / "here")
    assert (tmp_path / "here/x/a.csv").read_bytes() == b"two"


def test_a_store_that_does_not_answer_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_opened", lambda uri: (_ for _ in ()).throw(OSError("AWS Error\nNETWORK")))
    for ask in (object_store.listed, object_store.read, object_store.exists):
        with pytest.raises(StoreError, match=r"s3://b/x: the store does not answer.*AWS Error NETWORK") as caught:
            ask("s3://b/x")
        assert "\n" not in str(caught.value)


def test_weights_are_taken_from_a_store_into_the_hosts_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from soundstack.networks.registry import NETWORKS
    from soundstack.networks.weights import find_or_fetch
    from soundstack.utils.errors import WeightsError

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    spec, uri = NETWORKS["vgg16"], f"file://{tmp_path}/weights"
    with pytest.raises(WeightsError, match="are not in"):
        find_or_fetch(spec, uri, allow_download=False)
    object_store.write(f"{uri}/{spec.file}", b"another file")
    with pytest.raises(WeightsError, match="not the published file"):
        find_or_fetch(spec, uri, allow_download=False)
    assert (tmp_path / "hub/checkpoints" / spec.file).read_bytes() == b"another file"


# handing out -----------------------------------------------------------------------------------------------------


class FakeRay:
    """As much of Ray as handing out asks for: first tries of stuck jobs never end, and their host is lost meanwhile."""

    exceptions = SimpleNamespace(RayTaskError=ArithmeticError, RayError=ArithmeticError)

    def __init__(self, *stuck: int) -> None:
        self.stuck, self.lost = stuck, 0
        self.tries: list[int] = []
        self.most = 0
        self.cancelled: list[tuple[int, int]] = []

    def remote(self, function: Callable[..., Any]) -> Any:
        def hand_out(code: str, work: Callable[[int], Any], job: int) -> tuple[int, int]:
            self.tries.append(job)
            return len(self.tries) - 1, job

        return SimpleNamespace(options=lambda **given: SimpleNamespace(remote=hand_out))

    def wait(self, tasks: list[tuple[int, int]], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        self.most = max(self.most, len(tasks))
        ended = [(at, job) for at, job in tasks if job not in self.stuck or self.tries.index(job) != at]
        self.lost += not ended
        return ended[:num_returns], []

    def get(self, task: tuple[int, int]) -> int:
        return -task[1]

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 1}}, *[{"Alive": False, "Resources": {}}] * self.lost]

    def cancel(self, task: tuple[int, int]) -> None:
        self.cancelled.append(task)


@pytest.mark.parametrize("stuck", [(), (3,), (0, 4), (7, 8, 9)])
def test_jobs_that_a_lost_host_keeps_are_handed_out_again_and_answered_once(
    stuck: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay(*stuck)
    monkeypatch.setattr(cluster, "_connected", lambda address: ray)
    monkeypatch.setattr(cluster, "IN_FLIGHT", 4)
    done = list(cluster.Cluster("auto").run(abs, range(10)))
    assert sorted(done) == [(number, -number) for number in range(10)]
    assert sorted(ray.tries) == sorted([*range(10), *stuck])
    assert ray.most <= 4 + len(stuck)
    assert sorted(job for _, job in ray.cancelled) == sorted(stuck), "what nobody waits for any more"


def test_what_no_host_can_do_yet_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cluster, "_connected", lambda address: FakeRay())
    list(cluster.Cluster("auto", cpus=2, gpus=0.5).run(abs, [1]))
    assert "no host has 2 cores and 0.5 GPUs" in capsys.readouterr().err


def test_a_host_with_another_library_or_other_code_is_refused_by_name() -> None:
    names = ("soundstack", "numpy")
    here = cluster.versions_of(names)
    assert cluster._checked_work(here, abs, -3) == 3
    for name in names:
        with pytest.raises(WorkerError, match=rf"has {name} {here[name]}, and this machine 0\.1;"):
            cluster._checked_work(here | {name: "0.1"}, abs, -3)


# Ray -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(token: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of a head that works nothing and two hosts of one core, each with processes of its own."""
    if not cluster.is_installed():
        pytest.skip(f"needs Ray: uv pip install '{cluster.REQUIREMENT}'")
    import ray
    from ray.cluster_utils import Cluster

    for attempts_left in reversed(range(5)):  # Ray gives a node half a minute to start, which a busy machine exceeds
        started = Cluster()
        try:
            started.add_node(num_cpus=0, include_dashboard=False)
            started.hosts = [started.add_node(num_cpus=1) for _ in range(2)]
            break
        except Exception:
            started.shutdown()
            if not attempts_left:
                raise
    try:
        yield started
    finally:
        ray.shutdown()
        cluster._connected.cache_clear()
        started.shutdown()


def long_sounds(table: Path) -> Path:
    """Make the sounds of a table long enough that somebody can die in between."""
    for path in table.parent.glob("*.wav"):
        wave, rate = soundfile.read(path, dtype="float32")
        soundfile.write(path, [*wave] * 120, rate)
    return table


def test_two_hosts_make_the_shards_of_one_machine(
    nodes: Any, tmp_path: Path, tiny_csv: Callable[..., Path], small_slices: None
) -> None:
    table = tiny_csv(tmp_path / "data")
    there = extract(shared(table, tmp_path / "there", nodes.address, **GIVEN))
    extract(local(table, tmp_path / "here", **GIVEN))
    assert there.report.made == 15
    assert shards(tmp_path / "there") == shards(tmp_path / "here")


def test_a_host_that_dies_costs_its_slices_and_nothing_else(
    nodes: Any, tmp_path: Path, tiny_csv: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE", 1)
    table, stored = long_sounds(tiny_csv(tmp_path / "data", each=4)), []

    def kill_one(count: int) -> None:
        if count and not stored:
            stored.append(len([name for name in shards(tmp_path / "there") if name.endswith(".json")]) - 1)
            nodes.remove_node(nodes.hosts.pop(), allow_graceful=False)

    there = extract(shared(table, tmp_path / "there", nodes.address), kill_one)
    assert 1 <= stored[0] < 60
    assert there.report.made == 60
    extract(local(table, tmp_path / "here"))
    assert shards(tmp_path / "there") == shards(tmp_path / "here")


def test_a_driver_that_is_killed_and_started_again_ends_where_an_uninterrupted_one_does(
    nodes: Any, store: str, tmp_path: Path, esc10: Path
) -> None:
    places = {"data_dir": f"file://{esc10}", "cache_dir": f"file://{tmp_path}/there", "cluster": nodes.address}
    words = [word for name, value in {"dataset": "esc10", **places}.items() for word in (f"--{name}", value)]
    command = [sys.executable, str(PROJECT / "entrypoints" / "extract.py"), *words]

    def count() -> int:
        return len([name for name in shards(tmp_path / "there") if name.endswith(".json")]) - 1

    driver, until = subprocess.Popen(command, stdout=subprocess.DEVNULL), time.monotonic() + PATIENCE
    while count() < 1 and driver.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert 1 <= count() < 8
    assert subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
    extract(ExtractConfig(dataset="esc10", data_dir=str(esc10), cache_dir=str(tmp_path / "here"), jobs=2))
    assert shards(tmp_path / "there") == shards(tmp_path / "here")


def test_who_has_another_token_or_no_cluster_is_refused_in_one_line(
    nodes: Any, tmp_path: Path, tiny_csv: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tiny_csv(tmp_path / "data")
    (tmp_path / "other").write_text("f" * 64)
    for name, address in (("other", nodes.address), ("token", "127.0.0.1:9")):
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / name))
        words = {"dataset": "csv", "data_dir": f"file://{table}", "cache_dir": f"file://{tmp_path}/there"}
        given = [word for name, value in words.items() for word in (f"--{name}", value)]
        done = subprocess.run(
            [sys.executable, str(PROJECT / "entrypoints" / "extract.py"), *given, "--cluster", address],
            capture_output=True, text=True, timeout=PATIENCE,
            env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith(f"extract: cluster: {address} cannot be joined")
        assert "Traceback" not in done.stderr
