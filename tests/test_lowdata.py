"""Few clips: draws that all systems share, curves with intervals, and nothing that a draw lacks has a say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray
from pydantic import ValidationError

import lowdata as entry_point
from soundstack.config.lowdata import LowdataConfig
from soundstack.crnn.training import CrnnJob
from soundstack.datasets.clips import Clip
from soundstack.datasets.data_set import DataSet
from soundstack.datasets.open_data_set import open_data_set
from soundstack.evaluation.statistics import intervals_over_draws, score_intervals
from soundstack.features.extract import Extracted
from soundstack.features.make import ExtractionReport
from soundstack.lowdata import curves, draws, systems
from soundstack.report import beyond
from soundstack.report.render import text_table
from soundstack.training import checkpoints
from soundstack.training.fold import train_fold
from soundstack.utils.errors import DataError, WeightsError
from test_nested import table

SYSTEMS = "efficientnet_lite0-none,crnn"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where features are kept, which a network makes once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config(tiny_csv: Callable[..., Path], tmp_path: Path, cache: Path) -> LowdataConfig:
    place = tiny_csv(tmp_path / "data", each=2)
    return LowdataConfig(
        dataset="csv", data_dir=str(place), cache_dir=str(cache), name="tiny", systems=SYSTEMS, clips="1,2,all",
        draws=2, epochs=1, device="cpu",
    )  # fmt: skip


@pytest.fixture
def data_set(config: LowdataConfig) -> DataSet:
    return open_data_set(config)


def with_clips(data_set: DataSet, change: Callable[[Clip], Clip]) -> DataSet:
    clips = tuple(map(change, data_set.clips))
    return replace(data_set, clip_table=replace(data_set.clip_table, clips=clips))


# draws -----------------------------------------------------------------------------------------------------------


def test_a_draw_holds_that_of_fewer_clips_and_the_seed_decides(data_set: DataSet) -> None:
    drawn = draws.draw(data_set, [1, 2, 8], 3, seed=5)
    assert [(each.size, each.number) for each in drawn[:4]] == [(1, 0), (2, 0), (8, 0), (1, 1)]
    one, two, every = (set(each.clips.tolist()) for each in drawn[:3])
    assert one < two < every == set(range(len(data_set.clip_table.devel)))
    labels = Counter(data_set.clips[place].label for place in two)
    assert set(labels.values()) == {2}
    again, other = draws.draw(data_set, [1, 2, 8], 3, seed=5), draws.draw(data_set, [1, 2, 8], 3, seed=6)
    assert all(np.array_equal(a.clips, b.clips) for a, b in zip(drawn, again, strict=True))
    assert any(not np.array_equal(a.clips, b.clips) for a, b in zip(drawn, other, strict=True))
    assert not np.array_equal(drawn[0].clips, drawn[3].clips)


def test_clips_of_other_groups_come_first(data_set: DataSet) -> None:
    grouped = with_clips(data_set, lambda clip: replace(clip, group=f"{clip.fold}-{clip.label}"))
    for each in draws.draw(grouped, [4], 5, seed=0):  # four folds: four groups a class
        assert set(Counter(grouped.clips[place].group for place in each.clips).values()) == {1}


def test_of_a_class_with_fewer_clips_all_are_taken_and_all_is_the_largest(data_set: DataSet) -> None:
    label = data_set.clip_table.labels[0]
    few = tuple(clip for clip in data_set.clips if clip.label != label or clip.fold in ("1", "2", "test"))
    unequal = replace(data_set, clip_table=replace(data_set.clip_table, clips=few))
    assert draws.sizes(unequal, "1,6,99,all") == [1, 6, 8]
    drawn = draws.draw(unequal, [6], 2, seed=0)[0]
    assert sorted(Counter(unequal.clips[place].label for place in drawn.clips).values()) == [4, 6, 6]


def test_a_group_in_the_test_part_is_refused(data_set: DataSet) -> None:
    leaky = with_clips(data_set, lambda clip: replace(clip, group="one"))
    with pytest.raises(DataError, match="crosses folds"):
        draws.draw(leaky, [1], 2, seed=0)


@pytest.mark.parametrize("clips", ["0", "1,x", "", "-1", "1.5"])
def test_numbers_of_clips_are_checked(clips: str) -> None:
    with pytest.raises(ValidationError):
        LowdataConfig(clips=clips)


def test_numbers_of_clips_are_put_in_order() -> None:
    assert LowdataConfig(clips="all, 4,1,4").clips == "1,4,all"


# nothing else has a say ------------------------------------------------------------------------------------------


def scored(
    data_set: DataSet, config: LowdataConfig, name: str, change: Callable[[NDArray[Any]], None]
) -> tuple[systems.System, list[NDArray[np.float64]], Extracted[Any]]:
    """A system's scores of the test examples where features were changed."""
    system = systems.system(name, config, torch.device("cpu"))
    features = system.extraction().finish(data_set)
    values = np.array(features.values)
    change(values)
    changed = replace(features, values=values)
    return system, system.scores(data_set, changed, draws.draw(data_set, [1], 2, seed=0), lambda count: None), changed


def test_clips_outside_the_draw_and_test_clips_change_no_svm(data_set: DataSet, config: LowdataConfig) -> None:
    (drawn, _) = draws.draw(data_set, [1], 2, seed=0)
    others = np.setdiff1d(np.arange(len(data_set.clips)), drawn.clips)[:-1]  # the last is scored

    def disturb(values: NDArray[Any]) -> None:
        values[others] = 7.0

    (_, before, _), (_, after, _) = (
        scored(data_set, config, "efficientnet_lite0-none", change) for change in (lambda values: None, disturb)
    )
    assert np.array_equal(before[0][-1], after[0][-1])
    assert not np.array_equal(before[0][0], after[0][0])


def test_clips_outside_the_draw_and_test_clips_change_no_network(data_set: DataSet, config: LowdataConfig) -> None:
    system = systems.system("crnn", config, torch.device("cpu"))
    assert isinstance(system, systems.Trained)
    features = system.extraction().finish(data_set)
    drawn = draws.draw(data_set, [1], 2, seed=0)[:1]
    job = replace(system.jobs(data_set, features, drawn)[0], checkpoint=None)
    assert isinstance(job, CrnnJob) and isinstance(job.inputs, torch.Tensor)
    others = np.setdiff1d(np.arange(len(data_set.clips)), drawn[0].clips)
    inputs, targets = job.inputs.clone(), job.targets.clone()
    inputs[others], targets[others] = -1.0, 0
    models = [train_fold(each) for each in (job, replace(job, inputs=inputs, targets=targets))]
    assert all(torch.equal(models[0].weights[name], models[1].weights[name]) for name in models[0].weights)


@pytest.mark.parametrize("name", ["crnn", "finetune-efficientnet_lite0-none"])
def test_networks_learn_from_what_is_drawn_and_score_the_test_clips(
    data_set: DataSet, config: LowdataConfig, name: str
) -> None:
    system = systems.system(name, config, torch.device("cpu"))
    assert isinstance(system, systems.Trained)
    recipe = system.extraction().recipe(data_set.audio)
    features = Extracted(np.zeros((len(data_set.examples), 1, 1), np.float32), recipe, ExtractionReport())
    drawn = draws.draw(data_set, [1, 8], 2, seed=0)
    jobs = system.jobs(data_set, features, drawn)
    for job, draw in zip(jobs, drawn, strict=True):
        assert job.train.tolist() == draw.clips.tolist()  # one example a clip
        assert set(job.held_out.tolist()) == set(np.flatnonzero(data_set.example_folds == "test"))
        assert job.spec.epochs == systems.passes(1, len(draw.clips), 24)
    assert len({job.fold for job in jobs}) == len({job.checkpoint for job in jobs}) == 4


# the whole -------------------------------------------------------------------------------------------------------


def test_the_command_scores_all_systems_on_the_same_draws(
    config: LowdataConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    content = entry_point.run(config)
    client = MlflowClient()
    runs = {run.info.run_name: run for run in client.search_runs(["0"])}
    assert runs.keys() == {"tiny-lowdata", *(f"tiny-lowdata-{name}" for name in SYSTEMS.split(","))}
    history = client.get_metric_history(runs["tiny-lowdata-crnn"].info.run_id, "lowdata/test_accuracy")
    assert sorted(each.step for each in history) == [1, 2, 8]
    kept = client.download_artifacts(runs["tiny-lowdata"].info.run_id, "lowdata.json", str(tmp_path))
    assert json.loads(Path(kept).read_text()) == json.loads(json.dumps(content))
    assert [size["name"] for size in content["sizes"]] == ["1", "2", "all"]
    assert [size["in_all"] for size in content["sizes"]] == [3, 6, 24]
    for each in content["systems"]:
        for point in each["points"]:
            found = point["accuracy"]
            assert found["low"] < found["high"] and found["low"] <= found["value"] <= found["high"]
            assert found["value"] == pytest.approx(np.mean([draw["accuracy"] for draw in point["draws"]]))
    assert curves.as_csv(content).count("\n") == 1 + 2 * 3 * 2
    printed = capsys.readouterr().out
    assert text_table(beyond.few_clips_table(content)) in printed
    assert f"systems={beyond.best_by_size(content)[8]}" in printed


def test_what_is_done_is_not_done_again(config: LowdataConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trained: list[str] = []
    begin = CrnnJob.begin

    def counted(job: CrnnJob, saved: dict[str, Any]) -> Any:
        trained.append(job.fold)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return begin(job, saved)

    monkeypatch.setattr(CrnnJob, "begin", counted)
    only = config.model_copy(update={"systems": "crnn", "cache_dir": str(tmp_path / "cache")})
    with pytest.raises(KeyboardInterrupt):
        entry_point.run(only)
    first = entry_point.run(only)
    assert len(set(trained)) == 6 and len(trained) == 7  # the one under way was begun twice
    assert entry_point.run(only)["systems"] == first["systems"]
    assert len(trained) == 7
    kept = sorted((only.cache_path / "lowdata").rglob("*.pt"))
    assert len(kept) == 6
    assert not any(checkpoints.load(place)["weights"] for place in kept)
    assert {run.info.status for run in MlflowClient().search_runs(["0"])} == {"FINISHED", "KILLED"}


def test_a_system_without_weights_is_named_and_the_rest_goes_on(
    config: LowdataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> Path:
        raise WeightsError("no weights here")

    monkeypatch.setattr(systems.weights, "find_or_fetch", none)
    content = entry_point.run(config.model_copy(update={"systems": "vgg16-imagenet,efficientnet_lite0-none"}))
    assert [each["name"] for each in content["systems"]] == ["efficientnet_lite0-none"]
    assert content["notes"] == ["vgg16-imagenet: not run. no weights here"]
    with pytest.raises(WeightsError, match="No system is left"):
        entry_point.run(config.model_copy(update={"systems": "vgg16-imagenet"}))


def test_weights_that_are_not_free_for_all_are_told(config: LowdataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems.weights, "find_or_fetch", lambda *_: Path())
    told = {
        name: systems.system(name, config, torch.device("cpu")).restriction for name in ("birdnet-birdsong", "crnn")
    }
    assert told["crnn"] == "" and told["birdnet-birdsong"].startswith("birdnet-birdsong: for non-commercial use only")


def test_fewer_clips_are_passed_more_often_and_learnt_from_for_a_shorter_time() -> None:
    assert systems.passes(100, 200, 200) == 100
    assert systems.passes(100, 2, 200) == 1000


# intervals over draws --------------------------------------------------------------------------------------------

CLIPS, CLASSES = 60, 4
TRUTH = np.arange(CLIPS) % CLASSES


def draw_table(right: NDArray[np.bool_]) -> Any:
    scores = np.eye(CLASSES)[np.where(right, TRUTH, (TRUTH + 1) % CLASSES)]
    return table(scores, TRUTH, np.repeat("test", CLIPS))


def test_draws_that_agree_have_the_interval_of_one() -> None:
    one = draw_table(np.arange(CLIPS) < 45)
    assert intervals_over_draws([one, one, one]) == score_intervals(one)


def test_draws_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    same = rng.permutation(CLIPS) < 30
    apart = [draw_table(np.roll(same, 1) if up else same) for up in (0, 1, 0, 1)]
    further = [draw_table(rng.permutation(CLIPS) < right) for right in (10, 50, 10, 50)]
    widths = [found["accuracy"].high - found["accuracy"].low for found in map(intervals_over_draws, (apart, further))]
    assert widths[0] < widths[1]
    perfect = intervals_over_draws([draw_table(np.ones(CLIPS, bool))] * 3)["accuracy"]
    assert perfect.value == perfect.high == 1.0 and perfect.low < 0.97


def test_intervals_over_draws_hold_the_truth_as_often_as_they_say() -> None:
    # Clips that are more or less hard, and draws that are better or worse.
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        clips, of_draws = rng.normal(0, 1, CLIPS), rng.normal(0, 0.5, 5)
        right = clips + of_draws[:, None] + rng.normal(0, 1, (5, CLIPS)) < 0.5
        found = intervals_over_draws([draw_table(each) for each in right])["accuracy"]
        inside += found.low <= 0.6306 <= found.high  # P(N(0, 1 + 0.25 + 1) < 0.5)
    assert inside >= 0.93 * 200
