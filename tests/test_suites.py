"""Suites: what they run, what they fuse, and how they go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soundstack.config import suite as suites
from soundstack.config.steps import CrnnConfig, DeepSpectrumConfig, FuseConfig, MainConfig
from soundstack.evaluation.evaluation import RegisteredModel
from soundstack.evaluation.statistics import Interval
from soundstack.evaluation.tables import SystemScores
from soundstack.suites import runner, summary
from soundstack.suites.runner import Outcome
from soundstack.tracking import reuse
from soundstack.utils.errors import ConfigError, WeightsError

DATASETS = ("demo", "esc10", "esc50", "dcase2017", "dcase2018", "csv")
PAPER_NETWORKS = ("densenet121", "resnet50", "vgg16", "vgg19")


def main_config(dataset: str, folder: Path, **values: Any) -> MainConfig:
    given = {} if dataset == "demo" else {"data_dir": str(folder)}
    return MainConfig.model_validate({"dataset": dataset, **given, **values})


def row_names(config: MainConfig) -> list[str]:
    rows = [row for row in config.chosen_suite.rows if row.applies(config.dataset)]
    return [runner.row_settings(row, config, config.seed, 1).model_name for row in rows]


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("name", suites.NAMES)
def test_every_suite_is_valid_on_every_data_set(name: str, dataset: str, tmp_path: Path) -> None:
    config = main_config(dataset, tmp_path, suite=name)
    names = row_names(config)
    assert len(set(names)) == len(names), "two rows would be registered under one name"
    fusions = [fusion for fusion in config.chosen_suite.fusions if fusion.applies(dataset)]
    assert len({fusion.suffix for fusion in fusions}) == len(fusions)
    for fusion in fusions:
        assert len(fusion.pick(config.data_name, names)) >= 2, f"{fusion.suffix} has nothing to fuse"
        FuseConfig.model_validate({"dataset": dataset, "suffix": fusion.suffix, **fusion.parameters})


def test_table3_holds_every_row_of_the_paper(tmp_path: Path) -> None:
    names = row_names(main_config("esc50", tmp_path, suite="table3"))
    for network in PAPER_NETWORKS:
        assert {f"esc50-{network}-imagenet", f"esc50-{network}-none"} <= set(names)
    assert {
        "esc50-crnn",
        "esc50-openl3_mel256_env_512-audioset",
        "esc50-panns_wavegram_logmel_cnn14-audioset",
    } <= set(names)


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        ("imagenet", {f"{network}-imagenet" for network in PAPER_NETWORKS}),
        ("untrained", {f"{network}-none" for network in PAPER_NETWORKS}),
        ("deepspectrum", {f"{n}-{p}" for n in PAPER_NETWORKS for p in ("imagenet", "none")}),
        ("crnn_deepspectrum", {"crnn", *(f"{n}-{p}" for n in PAPER_NETWORKS for p in ("imagenet", "none"))}),
    ],
)
@pytest.mark.parametrize("name", ["table3", "full"])
def test_the_papers_fusions_hold_the_papers_members(name: str, suffix: str, expected: set[str], tmp_path: Path) -> None:
    config = main_config("esc50", tmp_path, suite=name)
    fusion = next(f for f in config.chosen_suite.fusions if f.suffix == suffix and f.applies("esc50"))
    assert set(fusion.pick("esc50", row_names(config))) == {f"esc50-{member}" for member in expected}


@pytest.mark.parametrize("name", ["table3", "full"])
def test_on_dcase2018_the_crnn_is_three_thresholds(name: str, tmp_path: Path) -> None:
    config = main_config("dcase2018", tmp_path, suite=name)
    names = row_names(config)
    for suffix in ("crnn", "all"):
        fusion = next(f for f in config.chosen_suite.fusions if f.suffix == suffix and f.applies("dcase2018"))
        picked = [member for member in fusion.pick("dcase2018", names) if "-crnn" in member]
        assert picked == [f"dcase2018-crnn-lr0.01_b64_{db}db" for db in (30, 45, 60)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: [{crnn: {}, deepspectrum: {}}]", "rows.0: a row names one of crnn, deepspectrum, finetune"),
        ("rows: []", "rows: "),
        ("colour: red\nrows: [{crnn: {}}]", "colour: Extra inputs"),
        ("rows: [", "not readable YAML"),
    ],
)
def test_a_broken_suite_file_says_where(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        suites.load(str(file))


def test_an_unknown_suite_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'table4' is not known; allowed: quick, best, table1"):
        suites.load("table4")


def test_a_users_row_with_a_wrong_parameter_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("rows: [{crnn: {}}, {crnn: {epochs: 0}}]")
    config = MainConfig(suite=str(file))
    with pytest.raises(ConfigError, match=r"suite row 2 \(crnn\): epochs: 0 is not allowed"):
        runner.run_suite(config, fake_steps([]), "data")


def test_a_users_suite_may_use_a_former_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("rows: [{deepspectrum: {clip_features: none, nested: yes}}]")
    config = MainConfig(suite=str(file))
    settings = runner.row_settings(config.chosen_suite.rows[0], config, 0, 1)
    assert (settings.feature_bound, settings.nested) == ("none", True)  # type: ignore[union-attr]


def trained(name: str, version: str = "1") -> RegisteredModel:
    score = Interval(0.5, 0.4, 0.6)
    return RegisteredModel(name, version, True, SystemScores(name, score, score, score, score))


def fake_steps(log: list[Any], unreachable: tuple[str, ...] = ()) -> runner.Steps:
    def step(config: Any) -> RegisteredModel:
        log.append(config)
        if config.model_name in unreachable:
            raise WeightsError("weights.pth is not there; fetch it.")
        return trained(config.model_name)

    return {"crnn": step, "deepspectrum": step, "fuse": step}


@pytest.fixture
def nothing_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "find_done", lambda config, fingerprint: None)


def test_weights_are_looked_for_before_a_run_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(spec: Any, folder: Any) -> None:
        raise WeightsError(f"{spec.name}.pth is not there; fetch it.")

    monkeypatch.setattr(reuse, "find_done", lambda config, fingerprint: None)
    monkeypatch.setattr(runner.weights, "find_or_fetch", unreachable)
    log: list[Any] = []
    config = MainConfig(systems="vgg16-imagenet,vgg16-none,densenet121-none", cache_dir=str(tmp_path))
    outcomes = runner.run_suite(config, fake_steps(log), "data")
    assert outcomes[0].note == "vgg16.pth is not there; fetch it."
    assert [config.model_name for config in log] == ["demo-vgg16-none", "demo-densenet121-none", "demo-fusion"]


@pytest.mark.usefixtures("nothing_done")
def test_quick_trains_three_systems_and_fuses_exactly_these_versions() -> None:
    log: list[Any] = []
    outcomes = runner.run_suite(MainConfig(epochs=3), fake_steps(log), "data")
    assert [type(config) for config in log] == [CrnnConfig, DeepSpectrumConfig, DeepSpectrumConfig, FuseConfig]
    assert log[0].epochs == 3
    assert log[-1].members == "demo-crnn/1,demo-efficientnet_lite0-imagenet/1,demo-densenet121-none/1"
    assert [outcome.name for outcome in outcomes][-1] == "demo-fusion"


@pytest.mark.usefixtures("nothing_done")
def test_unreachable_weights_are_reported_and_the_rest_goes_on() -> None:
    log: list[Any] = []
    missing = "demo-efficientnet_lite0-imagenet"
    outcomes = runner.run_suite(MainConfig(), fake_steps(log, (missing,)), "data")
    by_name = {outcome.name: outcome for outcome in outcomes}
    assert by_name[missing].trained is None
    assert "weights.pth" in by_name[missing].note
    assert log[-1].members == "demo-crnn/1,demo-densenet121-none/1"
    assert by_name["demo-fusion"].note == f"without {missing}"


@pytest.mark.usefixtures("nothing_done")
def test_a_fusion_of_one_is_not_run() -> None:
    log: list[Any] = []
    gone = ("demo-efficientnet_lite0-imagenet", "demo-densenet121-none")
    outcomes = runner.run_suite(MainConfig(), fake_steps(log, gone), "data")
    assert not any(isinstance(config, FuseConfig) for config in log)
    assert "needs two members and has 1" in outcomes[-1].note


@pytest.mark.usefixtures("nothing_done")
def test_seeds_repeat_only_what_is_random() -> None:
    log: list[Any] = []
    runner.run_suite(MainConfig(seed=4, seeds=3), fake_steps(log), "data")
    runs = [(config.model_name, config.seed) for config in log]
    assert [seed for name, seed in runs if name == "demo-crnn"] == [4, 5, 6]
    assert [seed for name, seed in runs if name == "demo-densenet121-none"] == [4, 5, 6]
    assert [seed for name, seed in runs if name == "demo-efficientnet_lite0-imagenet"] == [4]
    assert [seed for name, seed in runs if name == "demo-fusion"] == [4, 5, 6]
    assert {config.drawn_with for config in log if isinstance(config, CrnnConfig)} == {4}


@pytest.mark.usefixtures("nothing_done")
def test_seeds_repeat_a_sampled_search_and_the_fusions_that_it_is_in_and_no_fusion_of_fixed_rows(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "rows:\n"
        "- deepspectrum: {network: efficientnet_lite0}\n"
        "- deepspectrum: {network: efficientnet_lite0, colour_map: hot, suffix: hot}\n"
        "- deepspectrum: {network: efficientnet_lite0, trials: 5, suffix: sampled}\n"
        "fusions:\n"
        "- {suffix: grid, members: 'efficientnet_lite0-imagenet, *-hot'}\n"
        "- {suffix: all, members: '*'}\n"
        "- {suffix: sampled, members: 'efficientnet_lite0-imagenet, *-hot', parameters: {trials: 5}}\n"
    )
    log: list[Any] = []
    outcomes = runner.run_suite(MainConfig(suite=str(file), seeds=2), fake_steps(log), "data")
    seeds = {name: [config.seed for config in log if config.model_name == name] for name in {o.name for o in outcomes}}
    repeated = {name for name, its_seeds in seeds.items() if its_seeds == [0, 1]}
    assert repeated == {"demo-efficientnet_lite0-imagenet-sampled", "demo-fusion-all", "demo-fusion-sampled"}
    assert [seeds[name] for name in seeds.keys() - repeated] == [[0]] * 3


def test_what_is_done_is_taken_over_unless_a_rerun_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "find_done", lambda config, fingerprint: trained(config.model_name, "7"))
    log: list[Any] = []
    outcomes = runner.run_suite(MainConfig(), fake_steps(log), "data")
    assert log == []
    assert {outcome.note for outcome in outcomes} == {"reused"}
    runner.run_suite(MainConfig(rerun=True), fake_steps(log), "data")
    assert len(log) == 4


@pytest.mark.parametrize(
    ("prefix", "serve"),
    [
        ("/home/ada/.mlflow/envs/mlflow-1a2b", "uvx --python 3.11 --from mlflow=="),
        ("/home/ada/soundstack/.venv", "mlflow models serve -m models:/demo-fusion/1 --env-manager local"),
    ],
)
def test_the_next_commands_are_those_that_work_in_the_users_shell(
    prefix: str, serve: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    score = Interval(0.5, 0.4, 0.6)
    trained = RegisteredModel("demo-fusion", "1", True, SystemScores("demo-fusion", score, score, score, score))
    monkeypatch.setattr("sys.prefix", prefix)
    summary.after_main([Outcome("demo-fusion", 0, trained, 1.0)])
    lines = [line for line in capsys.readouterr().out.splitlines() if "models serve" in line]
    assert len(lines) == 1
    assert serve in lines[0]
    assert f"--env-manager {'uv' if '.mlflow' in prefix else 'local'}" in lines[0]
