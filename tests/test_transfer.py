"""Transfer between domains: what adapts, what it may see, what it is given, and what is told of it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

import transfer
from soundstack.config import cli
from soundstack.config.transfer import TransferConfig
from soundstack.datasets.clips import Clip
from soundstack.transfer import experiment
from soundstack.transfer.compare import Comparison
from soundstack.transfer.dann import DannSpec, ReversedGradient, learning_rate_at, weight_at
from soundstack.transfer.domains import Domain, Pair, halved, load, pair_of, selected
from soundstack.transfer.pairs import pairs
from soundstack.transfer.rerecording import Place, write
from soundstack.utils.errors import ConfigError, DataError

CPU, SPEC = torch.device("cpu"), DannSpec(steps=100)
CLASSES = ("a", "b", "c")


def domain(seed: int, *, shift: float = 0.0, name: str = "s", classes: tuple[str, ...] = CLASSES) -> Domain:
    """Twenty clips a class in four folds and a test part; classes lie along axes, a shift moves all of them."""
    rng = np.random.default_rng(seed)
    clips, rows = [], []
    for fold in ("1", "2", "3", "4", "test"):
        for number, label in enumerate(classes):
            for take in range(4):
                clip = f"{name}-{fold}-{label}-{take}"
                clips.append(Clip(clip, Path(clip), label, fold, f"{name}{fold}{label}{take // 2}"))
                rows.append(3 * np.eye(6)[number] + shift + 0.5 * rng.standard_normal(6))
    return Domain(tuple(clips), tuple(clip.id for clip in clips), np.array(rows, np.float32))


@pytest.fixture(scope="module")
def shifted() -> Pair:
    """A pair whose target is the source, moved along all axes."""
    return pair_of(domain(0), domain(1, shift=4.0, name="t"), 0, shared_groups=False)


def right(pair: Pair, scores: NDArray[np.float64]) -> float:
    return float(np.mean(scores.argmax(axis=1) == pair.test.truth(pair.classes)))


# what adapts -----------------------------------------------------------------------------------------------------


def test_the_gradient_is_reversed_and_weighted() -> None:
    values = torch.tensor([1.0, -2.0], requires_grad=True)
    passed = ReversedGradient.apply(values, 0.25)
    assert passed.equal(values)
    (passed * torch.tensor([1.0, 3.0])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [-0.25, -0.75]


def test_the_schedules_are_the_papers() -> None:
    assert weight_at(0) == 0
    assert weight_at(0.1) == pytest.approx(2 / (1 + math.exp(-1)) - 1)
    assert weight_at(1) == pytest.approx(1, abs=1e-4)
    assert [learning_rate_at(p) for p in (0, 1)] == pytest.approx([0.01, 0.01 / 11**0.75])


def test_adaptation_closes_a_shift_that_the_source_alone_cannot(shifted: Pair) -> None:
    adapted = experiment.adapt(shifted, SPEC, CPU)
    reached = {name: right(shifted, each.scores) for name, each in adapted.items()}
    assert reached["source_only"] < 0.6
    assert min(reached[name] for name in ("statistics", "coral", "subspace", "dann")) > 0.9
    assert right(shifted, experiment.bound(shifted, SPEC, CPU)) > 0.9
    folds = (shifted.source.folds, shifted.target.folds)
    before, after = (experiment.a_distance(adapted[name], folds, CPU) for name in ("source_only", "statistics"))
    assert before > 1.9
    assert after < 0.5


def test_a_seed_fixes_dann_and_another_changes_it(shifted: Pair) -> None:
    one, same, other = (experiment.adapt(shifted, DannSpec(1.0, 5, seed), CPU)["dann"].scores for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


# what it may see -------------------------------------------------------------------------------------------------


def test_labels_of_the_target_change_nothing_but_bound_and_scores(shifted: Pair) -> None:
    rng = np.random.default_rng(0)

    def shuffled(part: Domain) -> Domain:
        labels = rng.permutation([clip.label for clip in part.clips])
        return replace(part, clips=tuple(map(lambda clip, label: replace(clip, label=label), part.clips, labels)))

    other = replace(shifted, target=shuffled(shifted.target), test=shuffled(shifted.test))
    before, after = (experiment.adapt(pair, SPEC, CPU) for pair in (shifted, other))
    for name, adapted in before.items():
        for part in ("scores", "source", "target"):
            assert np.array_equal(getattr(adapted, part), getattr(after[name], part)), (name, part)
    assert not np.array_equal(experiment.bound(shifted, SPEC, CPU), experiment.bound(other, SPEC, CPU))


def test_the_test_part_changes_nothing_that_is_learnt(shifted: Pair) -> None:
    fewer = replace(shifted, test=shifted.test.where(lambda clip: clip.id.endswith("0")))
    kept = [row for row, clip in enumerate(shifted.test.clips) if clip.id.endswith("0")]
    whole = experiment.adapt(shifted, SPEC, CPU)
    for name, adapted in experiment.adapt(fewer, SPEC, CPU).items():
        assert np.array_equal(adapted.source, whole[name].source), name
        np.testing.assert_allclose(adapted.scores, whole[name].scores[kept], rtol=1e-4, atol=1e-5)


def test_a_group_or_a_sound_in_both_domains_is_refused() -> None:
    source, target = domain(0), domain(1, name="t")
    stray = replace(target.clips[0], group=source.clips[0].group)
    mixed = replace(target, clips=(stray, *target.clips[1:]))
    with pytest.raises(DataError, match=r"Group 's1a0' is in both domains"):
        pair_of(source, mixed, 0, shared_groups=True)
    pair_of(source, mixed, 0, shared_groups=False)  # names of two data sets mean nothing to each other
    copied = replace(target, contents=(source.contents[0], *target.contents[1:]))
    with pytest.raises(DataError, match="are the same sound"):
        pair_of(source, copied, 0, shared_groups=False)


def test_classes_of_one_domain_are_left_out_and_two_must_be_common() -> None:
    pair = pair_of(domain(0), domain(1, name="t", classes=("a", "c", "d")), 0, shared_groups=False)
    assert pair.classes == ("a", "c")
    assert pair.source.labels == pair.target.labels == pair.test.labels == {"a", "c"}
    assert pair.notes == ("Classes of one domain alone are left out: b, d.",)
    with pytest.raises(DataError, match="two common classes at least: the source has a, b, c; the target has c, d"):
        pair_of(domain(0), domain(1, name="t", classes=("c", "d")), 0, shared_groups=False)


def test_a_target_that_lies_in_the_test_part_alone_is_divided_by_group() -> None:
    unknown = domain(1, name="t")
    unknown = replace(unknown, clips=tuple(replace(clip, fold="test") for clip in unknown.clips))
    pair = pair_of(domain(0), unknown, 0, shared_groups=False)
    assert not {clip.group for clip in pair.target.clips} & {clip.group for clip in pair.test.clips}
    assert pair.target.labels == pair.test.labels == set(CLASSES)
    assert "the target's clips all lay in one part" in " ".join(pair.notes).lower()


def test_half_of_the_groups_of_a_class_are_re_recorded_and_all_of_the_test() -> None:
    clips = domain(0).clips
    moved = halved(clips, 0)
    assert moved == halved(clips[::-1], 0) != halved(clips, 1)
    for label in CLASSES:
        development = {clip.group for clip in clips if clip.label == label and clip.fold != "test"}
        assert len(development & moved) == len(development) / 2
    assert {clip.group for clip in clips if clip.fold == "test"} <= moved


# re-recording ----------------------------------------------------------------------------------------------------


def test_a_re_recording_is_fixed_by_seed_and_names_and_keeps_the_level() -> None:
    dry = 0.1 * np.random.default_rng(0).standard_normal((8000, 1)).astype(np.float32)
    place = Place.drawn(1.0, 0)
    wet = place.record(dry, 8000, "group", "clip")
    assert wet.shape == dry.shape
    assert np.array_equal(wet, Place.drawn(1.0, 0).record(dry, 8000, "group", "clip"))
    assert np.sqrt(np.mean(wet**2)) == pytest.approx(np.sqrt(np.mean(dry**2)), rel=1e-3)
    for other in ((Place.drawn(1.0, 1), "group", "clip"), (place, "other", "clip"), (place, "group", "other")):
        assert not np.allclose(other[0].record(dry, 8000, *other[1:]), wet, atol=1e-3)
    assert not place.record(np.zeros_like(dry), 8000, "group", "clip").any()


def test_a_stronger_re_recording_is_further_from_the_original() -> None:
    dry = np.zeros((16000, 1), np.float32)
    dry[4000:4400] = np.random.default_rng(0).standard_normal((400, 1))
    likeness = [
        float(np.corrcoef(dry[:, 0], Place.drawn(strength, 0).record(dry, 16000, "group", "clip")[:, 0])[0, 1])
        for strength in (0.1, 0.5, 1.0)
    ]
    assert likeness == sorted(likeness, reverse=True)


def test_re_recorded_files_are_a_table_that_is_written_once(
    tiny_csv: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tiny_csv(tmp_path / "dry", classes=2)
    data_set, _ = load(TransferConfig(dataset="csv", data_dir=str(table), jobs=1).of_source, CPU)
    made = write(data_set.clips, Place.drawn(1.0, 0), tmp_path / "wet", 2)
    with made.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == [f"{clip.id}.flac" for clip in data_set.clips]
    monkeypatch.setattr(Place, "record", None)  # a second call makes nothing
    assert write(data_set.clips, Place.drawn(1.0, 0), tmp_path / "wet", 2) == made


# what is told ----------------------------------------------------------------------------------------------------


def comparison(**right_of: int) -> Comparison:
    """Systems that are right for so many of 40 clips, each a group, in both of two seeds."""
    labels = ["a", "b"] * 20
    truth = np.arange(40) % 2
    scores = {}
    for name, count in right_of.items():
        predicted = np.where(np.arange(40) < count, truth, 1 - truth)
        scores[name] = [np.eye(2)[predicted]] * 2
    clips = [f"clip{number}" for number in range(40)]
    return Comparison(("a", "b"), [clips] * 2, [labels] * 2, [clips] * 2, scores, {"dann": [1.5, 0.5]})


def test_the_share_of_the_gap_is_that_of_the_scores() -> None:
    made = comparison(source_only=20, dann=35, coral=15, target_supervised=40)
    share = made.gains["dann"]["accuracy"][1]
    assert share is not None
    assert share.value == pytest.approx(0.75)
    assert 0.5 < share.low < 0.75 < share.high < 1
    assert made.gains["coral"]["accuracy"][0].high < 0
    told = "\n".join(made.said())
    assert "dann helps: 37.5 [" in told
    assert "points, 75.0 [" in told
    assert "coral harms: -12.5 [" in told
    metrics = made.metrics()
    assert metrics["transfer/dann_accuracy"] == 35 / 40
    assert metrics["transfer/dann_accuracy_closed"] == pytest.approx(0.75)
    assert metrics["transfer/dann_a_distance"] == 1.0


def test_without_a_certain_gap_no_share_is_told() -> None:
    made = comparison(source_only=30, dann=31, target_supervised=31)
    assert made.gains["dann"]["accuracy"][1] is None
    assert "It may be none, so no share of it is told." in made.said()
    assert made.said()[-1].startswith("dann is not certain to help: 2.5 [")
    assert made.to_json()["dann"]["accuracy"]["closed"] is None


# the entry point -------------------------------------------------------------------------------------------------


def test_a_run_re_records_adapts_scores_and_logs_and_does_it_again_alike(
    tiny_csv: Callable[..., Path], tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tiny_csv(tmp_path / "dry", classes=2, each=2)
    given = {"dataset": "csv", "data_dir": str(table), "name": "tiny", "seeds": "2", "steps": "5"}
    made = transfer.run(TransferConfig.model_validate(given))
    assert "target_supervised" in capsys.readouterr().out
    (run,) = MlflowClient(store).search_runs([MlflowClient(store).get_experiment_by_name("tests").experiment_id])
    assert run.info.run_name == "tiny-transfer-rerecorded"
    assert run.data.metrics["transfer/dann_accuracy"] == made.intervals["dann"]["accuracy"].value
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    content = json.loads((folder / "transfer.json").read_text())
    assert (content["schema"], content["seeds"]) == (1, [0, 1])
    assert content["counts"] == {"source": 8, "target": 8, "test": 4}
    for name in ("transfer.csv", "transfer.png", "domains.png", "data/clips.csv", "predictions/dann.parquet"):
        assert (folder / name).is_file(), name
    again = transfer.run(TransferConfig.model_validate(given))
    assert all(np.array_equal(made.scores[name], again.scores[name]) for name in made.scores)


def with_microphones(table: Path, of: Callable[[dict[str, str]], str]) -> None:
    """Give a table a column ``microphone``."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "microphone"])
        writer.writeheader()
        writer.writerows(row | {"microphone": of(row)} for row in rows)


def test_a_part_of_a_data_set_is_the_target_of_the_rest(tiny_csv: Callable[..., Path], tmp_path: Path) -> None:
    table = tiny_csv(tmp_path / "both", classes=2, each=2)
    with_microphones(table, lambda row: "xy"["-1.wav" in row["filename"]])
    given = {"dataset": "csv", "data_dir": str(table), "target": "same", "target_where": "microphone=y", "seeds": 1}
    (pair,) = pairs(TransferConfig.model_validate(given), CPU).of_seeds
    assert [len(part.clips) for part in (pair.source, pair.target, pair.test)] == [8, 8, 2]
    assert all(clip.id.endswith("-0.wav") and clip.fold != "test" for clip in pair.source.clips)
    assert all(clip.id.endswith("-1.wav") for part in (pair.target, pair.test) for clip in part.clips)


def test_two_data_sets_are_matched_by_labels_and_chosen_by_a_column(
    tiny_csv: Callable[..., Path], tmp_path: Path, store: str
) -> None:
    tables = [tiny_csv(tmp_path / name, classes=3, seed=seed) for seed, name in enumerate(("studio", "garden"))]
    with_microphones(tables[1], lambda row: "y" if row["label"] == "pitch0" else "x")
    given = {"dataset": "csv", "data_dir": str(tables[0]), "target": "csv", "target_dir": str(tables[1])}
    config = TransferConfig.model_validate(given | {"seeds": 1, "steps": 5, "target_where": "microphone=x"})
    made = transfer.run(config)
    assert made.classes == ("pitch1", "pitch2")
    assert {clip.partition("-")[0] for clip in made.clips[0]} == {"pitch1", "pitch2"}
    _, garden = load(config.of_target, CPU)
    with pytest.raises(DataError, match=r"target_where: no clip has microphone=z; found: x, y\."):
        selected(garden, "microphone=z", "target_where", config.of_target)
    with pytest.raises(DataError, match="no column 'room'; it has filename, label, fold, microphone"):
        selected(garden, "room=1", "target_where", config.of_target)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--target", "csv"], "target_dir: target=csv needs target_dir="),
        (["--target", "same"], "target_where: target=same needs to know which clips"),
        (["--target_where", "node=1"], "target_where: re-recorded clips are drawn by seed"),
        (["--target_dir", "x"], "target_dir: target=rerecorded has no data of its own"),
        (["--source_where", "node"], "source_where: 'node' is no condition; give NAME=VALUE"),
        (["--target", "esc11"], "target: 'esc11' is not allowed; give one of rerecorded, same, "),
    ],
)
def test_a_mistake_is_told_in_one_line(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        cli.parse(TransferConfig, words)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
