"""Folds and trials on other hosts: the same models and the same search, whoever ends first and whoever dies.

Without Ray, another process or this one stands for the hosts; with it, two nodes of a real cluster do.
"""

# ruff: noqa: F811 (fixtures of another module)

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from soundstack.config.steps import CrnnConfig, MainConfig
from soundstack.config.suite import Row
from soundstack.crnn import fold_hosts, search
from soundstack.crnn import system as crnn
from soundstack.datasets.data_set import DataSet
from soundstack.datasets.open_data_set import open_data_set
from soundstack.spectrograms.extract import Spectrograms, extraction
from soundstack.suites.runner import row_settings
from soundstack.training import checkpoints, cross_validation
from soundstack.training.fold import FoldJob, FoldModel, train_fold
from soundstack.utils import cluster
from soundstack.utils.errors import StoreError
from test_cluster import nodes, other_process, token  # noqa: F401  (fixtures)
from test_crnn_tuning import COLUMNS, Run
from test_training import assert_equal
from waiting import until

CPU = torch.device("cpu")
GIVEN: dict[str, Any] = {"clip_seconds": 0.5, "sample_rate": 8000, "epochs": 3, "batch_size": 4}


@pytest.fixture(autouse=True)
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hosts keep what they took over; each fold is one thread's work."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "host"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "host"
    torch.set_num_threads(threads)


def local(table: Path, **given: Any) -> CrnnConfig:
    places = {"data_dir": str(table), "cache_dir": str(table.parent.parent / "here")}
    return CrnnConfig(dataset="csv", name="tones", **places, **GIVEN | given)


def shared(table: Path, address: str = "auto", **given: Any) -> CrnnConfig:
    places = {"data_dir": f"file://{table}", "cache_dir": f"file://{table.parent.parent}/there"}
    return CrnnConfig(dataset="csv", name="tones", cluster=address, **places, **GIVEN | given)


def opened(config: CrnnConfig) -> tuple[DataSet, Spectrograms]:
    begun = extraction(config)
    data_set = open_data_set(config, begun)
    return data_set, begun.finish(data_set)


def train(config: CrnnConfig, **given: Any) -> dict[str, FoldModel]:
    data_set, spectrograms = opened(config)
    parts = cross_validation.parts_of(data_set, nested=False)
    return crnn.train_folds(data_set, spectrograms, crnn.training_spec(config), config, CPU, parts=parts, **given)


def kept(config: CrnnConfig) -> dict[str, Path]:
    """The checkpoints of a cache in a store, by their parts."""
    found = (Path(config.cache_dir.removeprefix("file://")) / "training").glob("*/fold-*.pt")
    return {path.stem.removeprefix("fold-"): path for path in found}


def assert_same(one: dict[str, FoldModel], other: dict[str, FoldModel]) -> None:
    assert list(one) == list(other)
    for part, model in one.items():
        assert_equal(model, other[part])


# folds -----------------------------------------------------------------------------------------------------------


def test_folds_trained_elsewhere_equal_those_trained_here(
    tmp_path: Path, tiny_csv: Callable[..., Path], other_process: None, mirrors: Path
) -> None:
    table, epochs, ended = tiny_csv(tmp_path / "data"), [], []
    there = train(shared(table), progress=epochs.append, on_fold=lambda fold, model: ended.append(fold))
    assert_same(there, train(local(table)))
    assert list(there) == ended == ["1", "2", "3", "4", "1+2"]
    assert sum(epochs) == 3 * 5
    assert not any(model.reused for model in there.values())
    assert len(list(mirrors.rglob("*.npy"))) == 1, "a host takes over what it learns from, once"


def test_a_driver_that_forgot_everything_finds_finished_folds_and_asks_no_host(
    tmp_path: Path, tiny_csv: Callable[..., Path], other_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shared(tiny_csv(tmp_path / "data"))
    first = train(config)
    shutil.rmtree(config.cache_path)
    monkeypatch.setattr(fold_hosts.FoldHosts, "_sent", lambda *given: pytest.fail("asked"))
    again = train(config)
    assert_same(again, first)
    assert all(model.reused for model in again.values())


def test_a_fold_that_a_host_left_is_continued_by_another_one(
    tmp_path: Path, tiny_csv: Callable[..., Path], other_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark in the history of what the host left is there at the end: nothing was trained anew."""
    table = tiny_csv(tmp_path / "data")
    config = shared(table)
    data_set, spectrograms = opened(config)
    (job,) = crnn._jobs(data_set, spectrograms, crnn.training_spec(config), config, CPU, ["2"])

    def leave(count: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train_fold(replace(job, inputs=torch.from_numpy(spectrograms.values)), leave)
    state = torch.load(kept(config)["2"], weights_only=True)
    (of_first_epoch,) = state["history"]["train_loss"]
    state["history"]["train_loss"] = [77.0]
    torch.save(state, kept(config)["2"])
    there = train(config)
    assert there["2"].history["train_loss"][0] == 77.0
    there["2"].history["train_loss"][0] = of_first_epoch
    assert_same(there, train(local(table)))


def test_a_damaged_checkpoint_costs_its_fold_and_is_replaced(
    tmp_path: Path, tiny_csv: Callable[..., Path], other_process: None
) -> None:
    config = shared(tiny_csv(tmp_path / "data"))
    first = train(config)
    whole = kept(config)["3"].read_bytes()
    kept(config)["3"].write_bytes(whole[: len(whole) // 2])
    again = train(config)
    assert_same(again, first)
    assert {part: model.reused for part, model in again.items()} == {part: part != "3" for part in again}
    assert "scores" in torch.load(kept(config)["3"], weights_only=True)


def test_spectrograms_that_vanished_from_the_store_are_told(
    tmp_path: Path, tiny_csv: Callable[..., Path], other_process: None
) -> None:
    config = shared(tiny_csv(tmp_path / "data"))
    data_set, spectrograms = opened(config)
    shutil.rmtree(tmp_path / "there" / "features")
    with pytest.raises(StoreError, match="Spectrograms are missing in logmel-"):
        crnn.train_folds(data_set, spectrograms, crnn.training_spec(config), config, CPU)


def test_the_key_names_what_changes_a_fold_and_nothing_else(
    tmp_path: Path, tiny_csv: Callable[..., Path], other_process: None
) -> None:
    table = tiny_csv(tmp_path / "data")
    data_set, spectrograms = opened(local(table))

    def key(config: CrnnConfig, device: str = "cpu") -> str:
        return crnn.training_key(data_set, spectrograms, crnn.training_spec(config), config, torch.device(device))

    here, there = key(local(table)), key(shared(table))
    assert here == key(local(table, jobs=2, trials=3, parallel_trials=2, suffix="x", cluster_cpus=2))
    assert there == key(shared(table, "head:1", trials=3, parallel_trials=2), "cuda"), "this machine's device"
    assert key(shared(table, cluster_gpus=1)) == key(shared(table, cluster_gpus=0.5, cluster_cpus=2))
    different = [here, there, key(shared(table, cluster_cpus=2)), key(shared(table, cluster_gpus=1))]
    assert len({*different, key(local(table, epochs=4)), key(local(table, seed=1))}) == 6


# who ends first --------------------------------------------------------------------------------------------------


ORDERS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "as asked": lambda jobs: jobs,
    "reversed": lambda jobs: jobs[::-1],
    "shuffled": lambda jobs: random.Random(0).sample(jobs, len(jobs)),
}


def hosts_in(order: str, handed_out: list[int], closed: list[str]) -> Callable[..., Iterator[tuple[int, Any]]]:
    """A cluster of this process, whose jobs end in an order."""

    def run(self: cluster.Cluster, work: Callable[[Any], Any], jobs: Any) -> Iterator[tuple[int, Any]]:
        numbered = list(enumerate(jobs))
        handed_out.append(len(numbered))
        try:
            for number, job in ORDERS[order](numbered):
                yield number, work(job)
        finally:
            closed.append("closed")

    return run


@pytest.mark.parametrize("order", ORDERS)
def test_folds_are_judged_in_order_whichever_ends_first_and_a_pruned_trial_stops_the_rest(
    order: str, token: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(cluster.Cluster, "run", hosts_in(order, [], closed))
    monkeypatch.setattr(fold_hosts, "train_sent", lambda sent: sent.job.fold)
    store = SimpleNamespace(knowing=lambda keys: None)
    hosts = fold_hosts.FoldHosts(cluster.Cluster("auto"), store, ())
    jobs = [SimpleNamespace(fold=str(n), spec=SimpleNamespace(epochs=2), finished=lambda: None) for n in range(6)]
    judged: list[str] = []
    assert hosts.train(jobs, on_fold=lambda fold, model: judged.append(fold)) == [*"012345"]
    assert judged == [*"012345"]

    def judge(fold: str, model: object) -> None:
        judged.append(fold)
        if fold == "2":
            raise KeyError(fold)

    judged.clear()
    with pytest.raises(KeyError):
        hosts.train(jobs, on_fold=judge)
    assert judged == [*"012"]
    assert closed == ["closed"] * 2


@pytest.fixture
def tune(tmp_path: Path, tiny_csv: Callable[..., Path], token: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tune, here or in an order of hosts, on folds that the settings alone make good or bad.

    Returns the best settings, the table of trials, what their runs were told, and how many folds were asked at a time.
    """
    monkeypatch.setattr(cluster, "is_installed", lambda: True)
    table = tiny_csv(tmp_path / "data")
    made: dict[object, Any] = {}

    def train(job: FoldJob, progress: Any = None) -> Any:
        made[job.checkpoint] = SimpleNamespace(spec=job.spec)
        return made[job.checkpoint]

    def macro_f1(data_set: DataSet, fold: str, model: Any) -> float:
        return max(0.0, 1 - abs(torch.tensor(model.spec.learning_rate).log10().item() + 3.1)) - 0.01 * int(fold)

    monkeypatch.setattr(FoldJob, "finished", lambda job: made.get(job.checkpoint))
    monkeypatch.setattr(cross_validation, "train_fold", train)
    monkeypatch.setattr(fold_hosts, "train_sent", lambda sent: train(sent.job))
    monkeypatch.setattr(cross_validation, "held_out_macro_f1", macro_f1)
    data_set, spectrograms = opened(local(table))

    def run(order: str = "", parallel_trials: int = 2) -> tuple[Any, pd.DataFrame, list[Any], list[int]]:
        made.clear()
        told: list[Any] = []
        main, handed_out = Run("tones-crnn", tmp_path), []

        @contextmanager
        def open_trial(name: str, params: Any, pruned: Any) -> Iterator[Run]:
            told.append((name, dict(params), of_trial := Run(name, tmp_path)))
            yield of_trial

        main.trial = open_trial
        monkeypatch.setattr(cluster.Cluster, "run", hosts_in(order, handed_out, []))
        options = {"trials": 11, "parallel_trials": parallel_trials}
        config = shared(table, **options) if order else local(table, **options)
        best = search.tune(data_set, spectrograms, config, CPU, main)
        trials = pd.read_csv(tmp_path / "tuning" / "trials.csv")
        return best, trials, [(name, params, each.told) for name, params, each in told], handed_out

    return run


@pytest.mark.parametrize("parallel_trials", [1, 2, 4])
def test_a_search_on_hosts_is_that_of_this_machine_whoever_ends_first(tune: Any, parallel_trials: int) -> None:
    expected, here, told, _ = tune(parallel_trials=parallel_trials)
    assert set(here.state) == {"COMPLETE", "PRUNED"}
    for order in ORDERS:
        best, there, told_there, handed_out = tune(order, parallel_trials)
        assert best == expected
        pd.testing.assert_frame_equal(there[COLUMNS], here[COLUMNS])
        assert told_there == told
        assert max(handed_out) == 4 * parallel_trials, "all folds of a batch are under way at a time"


def test_a_suite_passes_the_cluster_and_the_batches_on(token: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "is_installed", lambda: True)
    given = {"cluster": "head:1", "cluster_cpus": 3, "cluster_gpus": 0.5, "cache_dir": "s3://b/c", "studies": "auto"}
    tuned = {"trials": 6, "parallel_trials": 2}
    settings = row_settings(Row(crnn={}), MainConfig(**given, **tuned), 0, 1)
    assert isinstance(settings, CrnnConfig)
    assert {name: getattr(settings, name) for name in given | tuned} == given | tuned


# Ray -------------------------------------------------------------------------------------------------------------


def test_two_hosts_train_the_folds_of_one_machine(nodes: Any, tmp_path: Path, tiny_csv: Callable[..., Path]) -> None:
    table = tiny_csv(tmp_path / "data")
    assert_same(train(shared(table, nodes.address)), train(local(table)))


def test_a_host_that_dies_costs_the_epochs_since_the_last_checkpoint(
    nodes: Any, tmp_path: Path, tiny_csv: Callable[..., Path]
) -> None:
    table = tiny_csv(tmp_path / "data", each=4)
    config, left = shared(table, nodes.address, epochs=40), []

    def kill_one(count: int) -> None:
        if count and not left:
            left.extend(kept(config))
            nodes.remove_node(nodes.hosts.pop(), allow_graceful=False)

    there = train(config, progress=kill_one)
    assert 1 <= len(left) < 5
    until(lambda: len(kept(config)) == 5)
    assert_same(there, train(local(table, epochs=40)))
