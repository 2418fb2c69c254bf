"""The report: which runs it takes, what it says of them beside the paper's figures, and in which forms."""

from __future__ import annotations

import contextlib
import csv
import doctest
import io
import json
import re
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

import report as entry_point
from soundstack.config import cli
from soundstack.config.lowdata import LowdataConfig
from soundstack.config.steps import CrnnConfig, DeepSpectrumConfig, FuseConfig
from soundstack.config.tools import ReportConfig
from soundstack.evaluation.score_table import ScoreTable
from soundstack.evaluation.statistics import holm, score_intervals
from soundstack.report import beyond, collect, comparisons, paper, render, rows, tables
from soundstack.report.comparisons import per_class_figure
from soundstack.report.document import Bullets, Cell, Column, Commands, Heading, Report, Table
from soundstack.tracking import reader as tracking_reader
from soundstack.tracking import run as tracking
from soundstack.tracking.reader import ModelRun
from soundstack.utils.errors import ConfigError, MemberError, StoreError
from soundstack.utils.files import write_json

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
WHOLE_ESC50 = {"clips_devel": 1600, "clips_test": 400}
WHOLE_DCASE2018 = {"clips_devel": 72_984, "clips_test": 72_972}


def scored(value: float, **more: object) -> dict[str, object]:
    """A score as the JSON of a comparison has it."""
    return {"value": value, "low": value - 0.1, "high": value + 0.1} | more


FEW_CLIPS = {
    "dataset": "esc10",
    "sizes": [
        {"clips": 1, "name": "1", "in_all": 3, "smaller_classes": []},
        {"clips": 8, "name": "8", "in_all": 20, "smaller_classes": ["rain"]},
    ],
    "draws": 5,
    "test_clips": 12,
    "systems": [
        {
            "name": name,
            "points": [
                {"clips": clips, "accuracy": scored(value)} for clips, value in zip((1, 8), values, strict=True)
            ],
        }
        for name, values in (("cnn", (0.4, 0.8)), ("svm", (0.6, 0.7)))
    ],
    "notes": [],
}
TRANSFER = {
    "source": {"name": "esc10", "where": "all"},
    "target": {"name": "far", "where": "half"},
    "systems": {
        "source_only": {
            "accuracy": scored(0.5, closed=None),
            "macro_f1": scored(0.45, closed=None),
            "a_distance": [1.0, 2.0],
        },
        "dann": {
            "accuracy": scored(0.7, closed=scored(0.6)),
            "macro_f1": scored(0.65, closed=None),
            "a_distance": [0.5],
        },
    },
    "said": ["DANN helps."],
    "notes": [],
}


# runs made by hand, as the entry points log them ------------------------------------------------------------------


def model_run(
    name: str,
    *,
    hours: float = 0,
    fingerprint: str = "data1",
    metrics: Mapping[str, float] | None = None,
    params: Mapping[str, object] | None = None,
    **tags: str,
) -> ModelRun:
    """A run as the reader returns it, with no store behind it."""
    scores = {f"{part}_{measure}": 0.5 for part in ("devel", "test") for measure in ("accuracy", "macro_f1")}
    return ModelRun(
        id=f"{name}@{hours}",
        name=name,
        dataset=name.partition("-")[0],
        data_fingerprint=fingerprint,
        started=NOON + timedelta(hours=hours),
        params={key: str(value) for key, value in (params or {}).items()},
        metrics=scores | dict(metrics or {}),
        tags=tags,
    )


def chosen(*runs: ModelRun, wanted: str = "all") -> list[collect.DataSetResults]:
    """The choice among runs in any order."""
    return collect.choose(sorted(runs, key=lambda run: run.started, reverse=True), wanted)


@dataclass(frozen=True)
class FakeData:
    """A data set of labels alone: ``each`` clips of a class in a fold, two of them a group."""

    classes: Sequence[str]
    each: int = 4
    folds: Sequence[str] = ("1", "2", "3", "4", "test")

    def clips(self, part: str) -> list[tuple[str, str, str, str]]:
        """Clip, label, fold and group of each clip of ``devel`` or ``test``."""
        return [
            (f"{fold}-{label}-{take}.wav", label, fold, f"{fold}-{label}-{take // 2}")
            for fold in self.folds
            if (fold == "test") == (part == "test")
            for label in self.classes
            for take in range(self.each)
        ]

    def scores(self, part: str, skill: float, seed: int) -> ScoreTable:
        """Scores that are right the more often the greater ``skill`` is."""
        clips, labels, folds, _ = zip(*self.clips(part), strict=True)
        values = np.random.default_rng(seed).standard_normal((len(clips), len(self.classes)))
        values[np.arange(len(clips)), [self.classes.index(label) for label in labels]] += skill
        return ScoreTable(clips, labels, folds, values, tuple(self.classes), "decision")


def log_run(
    name: str,
    data: FakeData,
    *,
    skill: float = 2.0,
    hours: float = 0,
    fingerprint: str = "data1",
    params: Mapping[str, object] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    status: str = "FINISHED",
    artifacts: bool = True,
) -> str:
    """Log a model run, started ``hours`` after noon; its scores are those of its predictions but for ``metrics``."""
    client = MlflowClient()
    start = int((NOON + timedelta(hours=hours)).timestamp() * 1000)
    experiment = client.get_experiment_by_name("tests").experiment_id
    run = client.create_run(experiment, start_time=start, run_name=name).info.run_id
    logged = {"seed": 0} | dict(params or {})
    scores = {
        part: data.scores(part, skill, int(logged["seed"]) + number) for number, part in enumerate(("devel", "test"))
    }
    groups = {clip: group for part in scores for clip, _, _, group in data.clips(part)}
    values: dict[str, float] = {f"clips_{part}": len(table.clips) for part, table in scores.items()}
    for part, table in scores.items():
        for measure, interval in score_intervals(table, groups).items():
            values[f"{part}_{measure}"] = interval.value
            values[f"{part}_{measure}_ci_low"], values[f"{part}_{measure}_ci_high"] = interval.low, interval.high
    marks = {"dataset": name.partition("-")[0], "data_fingerprint": fingerprint} | dict(tags or {})
    client.log_batch(
        run,
        metrics=[Metric(key, value, start, 0) for key, value in (values | dict(metrics or {})).items()],
        params=[Param(key, str(value)) for key, value in logged.items()],
        tags=[RunTag(key, value) for key, value in marks.items()],
    )
    if artifacts:
        with tempfile.TemporaryDirectory() as folder:
            for part, table in scores.items():
                table.to_parquet(Path(folder) / "predictions" / f"{part}.parquet")
            (Path(folder) / "data").mkdir()
            with (Path(folder) / "data" / "clips.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["filename", "label", "fold", "group"])
                writer.writerows(row for part in scores for row in data.clips(part))
            notes = [f"Note {number} on {name}." for number in range(7 if name.startswith("esc50") else 0)]
            (Path(folder) / "data" / "data.json").write_text(json.dumps({"notes": notes}))
            client.log_artifacts(run, folder)
    client.set_terminated(run, status, end_time=start + 1000)
    return run


@dataclass(frozen=True)
class Reported:
    """A store with runs, and the report that was made of them."""

    folder: Path
    printed: str
    ids: Mapping[str, str]

    def text(self, name: str) -> str:
        """A file of the report."""
        return (self.folder / name).read_text(encoding="utf-8")

    def csv(self, name: str) -> list[dict[str, str]]:
        """A CSV file of the report, row by row."""
        with (self.folder / name).open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tracking store of this module's own, with no runs yet."""
    folder = tmp_path_factory.mktemp("report")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        mlflow.set_tracking_uri(uri)
        experiment = MlflowClient().create_experiment("tests", artifact_location=str(folder / "artifacts"))
        patch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
        tracking.connect.cache_clear()
        yield folder
    tracking.connect.cache_clear()
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def refused(empty_store: Path) -> str:
    """What a report of a store without runs prints; made before there are runs."""
    return refusal(["--output_dir", str(empty_store / "nothing")])


def refusal(arguments: list[str]) -> str:
    """The one line on standard error with which the entry point refuses."""
    stream, handler = io.StringIO(), signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stderr(stream), pytest.raises(SystemExit) as caught:
            cli.run(ReportConfig, entry_point.run, arguments)
    finally:
        signal.signal(signal.SIGTERM, handler)  # a run takes it over
    assert caught.value.code == cli.USER_ERROR
    return stream.getvalue()


@pytest.fixture(scope="module")
def reported(empty_store: Path, refused: str) -> Reported:
    """One report on two data sets of the paper, ESC-10, and everything that must stay out of it."""
    odd = FakeData(("100% & more", "cat", "dog_{1}|#2"))
    esc10, domestic = FakeData(("dog", "rain", "rooster")), FakeData(("cooking", "other", "working"))
    exact = {f"devel_accuracy{end}": value for end, value in (("", 0.755), ("_ci_low", 0.72), ("_ci_high", 0.789))} | {
        f"test_accuracy{end}": value for end, value in (("", 0.74), ("_ci_low", 0.7), ("_ci_high", 0.78))
    }
    nested = {"devel_nested_accuracy": 0.73, "devel_nested_accuracy_ci_low": 0.7, "devel_nested_accuracy_ci_high": 0.76}
    step = {"soundstack.step": "crnn"}
    ids = {
        "densenet": log_run("esc50-densenet121-imagenet", odd, hours=1, metrics=WHOLE_ESC50 | exact | nested),
        "lite": log_run("esc50-efficientnet_lite0-imagenet", odd, hours=2, metrics=WHOLE_ESC50, skill=2.5),
        "crnn": log_run(
            "esc50-crnn",
            odd,
            hours=3,
            metrics=WHOLE_ESC50,
            skill=1.5,
            params={"epochs": 7, "data_dir": "/my data"},
            tags=step,
        ),
        "fusion": log_run(
            "esc50-fusion-crnn_deepspectrum",
            odd,
            hours=9,
            skill=3,
            metrics=WHOLE_ESC50,
            params={"resolved_members": "esc50-crnn/3,esc50-densenet121-imagenet/1"},
        ),
        # A finished run with the name of a row that was never run on the column's data.
        "old": log_run("esc50-vgg16-imagenet", odd, hours=0, fingerprint="other", metrics={"test_accuracy": 0.123456}),
        "failed": log_run("esc50-resnet50-imagenet", odd, hours=4, status="FAILED", artifacts=False),
        "known": log_run(
            "dcase2018-crnn-lr0.01_b64_60db",
            domestic,
            hours=4.5,
            metrics=WHOLE_DCASE2018 | {"test_known_macro_f1": 0.871, "test_unknown_macro_f1": 0.632},
            artifacts=False,
        ),
        "viridis": log_run("dcase2018-resnet50-imagenet-viridis", domestic, hours=5, metrics=WHOLE_DCASE2018),
    }
    for seed, accuracy in ((0, 0.5), (1, 0.6), (2, 0.7)):
        ids[f"seed{seed}"] = log_run(
            "esc10-crnn", esc10, hours=seed, params={"seed": seed}, metrics={"test_accuracy": accuracy}
        )
    client = MlflowClient()
    with tracking.run("esc10-extract", CrnnConfig()) as run:  # knows its data, but scores no model
        run.tags({"dataset": "esc10", "data_fingerprint": "extracted"})
    for step, found in (("lowdata", FEW_CLIPS), ("transfer", TRANSFER), ("transfer", None)):
        with tracking.run(f"esc10-{step}{'' if found else '-broken'}", LowdataConfig()) as run:
            run.tags({"soundstack.step": step, "dataset": "esc10", "data_fingerprint": "compared"})
            if found:
                write_json(run.folder / f"{step}.json", found)
    renamed = log_run("bold-stork-7", esc10, hours=3, tags={"dataset": "esc10", "registered_model": "esc10-fusion/4"})
    ids["renamed"] = renamed
    output, printed = empty_store / "reports", io.StringIO()
    with contextlib.redirect_stdout(printed):
        entry_point.run(ReportConfig(output_dir=str(output), swaps=200))
    found = client.search_runs([client.get_experiment_by_name("tests").experiment_id], "run_name = 'report'")
    finished = [run for run in found if run.info.status == "FINISHED"]
    assert len(finished) == 1
    ids["report"] = finished[0].info.run_id
    return Reported(output, printed.getvalue(), ids)


def test_comparisons_of_systems_follow_the_paper_s_tables(reported: Reported) -> None:
    text = re.sub(r"\\(.)", r"\1", reported.text("report.md"))
    beyond_paper = text[text.index("## Beyond the paper") : text.index("## Runs")]
    assert "Test accuracy by clips a class, ESC-10 (%)" in beyond_paper
    assert "| cnn | 40.0 [30.0, 50.0] | **80.0** [70.0, 90.0] |" in beyond_paper
    assert "| svm | **60.0** [50.0, 70.0] | 70.0 [60.0, 80.0] |" in beyond_paper
    assert "Classes with fewer clips, of which all are taken: rain." in beyond_paper
    assert "figures/few-clips-esc10.png" in beyond_paper
    assert "From esc10 to far half" in beyond_paper
    assert "| source_only | 50.0 [40.0, 60.0] | 45.0 [35.0, 55.0] | – | 1.50 |" in beyond_paper
    assert "DANN helps." in beyond_paper
    assert re.search(r"Left out: esc10-transfer-broken .*transfer\.json", beyond_paper)


def test_fine_tuned_networks_stand_beside_frozen_ones() -> None:
    runs = [
        model_run(f"esc10-{name}", metrics={"test_accuracy": value}) for name, value in (("a-none", 0.4), ("crnn", 0.1))
    ]
    assert not list(beyond.blocks(chosen(*runs), []))
    tuned = [model_run(f"esc10-finetune-{name}", metrics={"test_accuracy": 0.9}) for name in ("a-none", "b-none")]
    _, table = beyond.blocks(chosen(*runs, *tuned), [])
    assert isinstance(table, Table)
    of_name = {line[0].text: [cell.text for cell in line[1:]] for line in table.sections["ESC-10"]}
    assert of_name == {"a-none": ["50.0", "50.0", "40.0", "90.0"], "b-none": ["not run", "50.0", "not run", "90.0"]}


def test_notes_on_the_data_are_told_and_of_many_the_first(reported: Reported) -> None:
    for name in ("report.md", "report.html"):
        text = re.sub(r"\\(.)", r"\1", reported.text(name))
        assert text.count("Notes on the data") == 1  # the runs of the other data sets have none
        assert [int(number) for number in re.findall(r"Note (\d) on esc50-fusion-crnn_deepspectrum\.", text)] == [
            *range(5)
        ]
        assert "2 more notes in data/data.json of the newest run." in text


# the paper's figures ---------------------------------------------------------------------------------------------


def test_the_paper_s_tables_agree_where_they_print_the_same_result() -> None:
    resnet, crnns = (81.9, 80.3), (81.4, 82.2)
    in_table = {number: by_dataset["dcase2018"] for number, by_dataset in paper.TABLES.items()}
    assert in_table[2]["resnet50-imagenet"] == in_table[3]["resnet50-imagenet"] == resnet
    assert in_table[1]["fusion-crnn"] == in_table[3]["fusion-crnn"] == crnns


def test_the_paper_s_bold_figures_are_the_best_of_their_groups() -> None:
    # What the paper prints in bold, by data set and group: a slip of a digit in the data would move it.
    densenet, openl3 = "densenet121-imagenet", "openl3_mel256_env_512-audioset"
    pann, with_audioset = "panns_wavegram_logmel_cnn14-audioset", "fusion-deepspectrum_audioset"
    bold = {
        "dcase2018": [(densenet, densenet), (pann, pann), (with_audioset, with_audioset)],
        "dcase2017": [(densenet, densenet), (openl3, openl3), (with_audioset, "fusion-all")],
        "esc50": [(densenet, densenet), (pann, pann), (with_audioset, with_audioset)],
    }
    for dataset, groups in bold.items():
        by_group = groupby(rows.table_3(dataset).rows, key=lambda row: row.group)
        for (_, members), expected in zip(by_group, groups, strict=False):
            names = [row.name for row in members if row.name in paper.ROWS]
            for part, name in enumerate(expected):
                assert max(names, key=lambda each: paper.TABLES[3][dataset][each][part]) == name


def test_every_figure_of_the_paper_has_a_row() -> None:
    for number, by_dataset in paper.TABLES.items():
        for dataset, figures in by_dataset.items():
            layout = rows.layouts(dataset)[number - 1]
            assert {row.name for row in layout.rows} >= figures.keys()
            assert len(figures) == {1: 10, 2: 5, 3: 19}[number]


def test_the_command_of_every_row_makes_a_run_of_that_row_s_name() -> None:
    configs = {"crnn": CrnnConfig, "deepspectrum": DeepSpectrumConfig, "fuse": FuseConfig}
    for dataset in ("dcase2018", "demo"):
        for row in [row for layout in rows.layouts(dataset) for row in layout.rows if row.step in configs]:
            words = re.findall(r"-P (\S+)", rows.command(row, dataset, "x"))
            settings = dict(word.split("=", 1) for word in words) | {"dataset": "demo"}
            settings.pop("data_dir", None)
            arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
            assert cli.parse(configs[row.step], arguments).model_name == f"demo-{row.name}"


def test_a_data_folder_with_a_space_is_quoted_in_commands() -> None:
    row = rows.table_3("esc50").rows[0]
    assert rows.command(row, "esc50", "/my data").endswith(
        "-e deepspectrum -P dataset=esc50 -P 'data_dir=/my data' -P network=densenet121 -P pretraining=imagenet"
    )


def test_the_examples_in_the_docstrings_hold() -> None:
    for module in (paper, rows, tables):
        assert doctest.testmod(module).failed == 0


# which runs are taken ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("older", "reason"),
    [
        pytest.param(model_run("esc50-crnn", hours=1), "older run of seed 0", id="the same seed"),
        # even if there is no other of the name
        pytest.param(
            model_run("esc50-vgg16-none", hours=1, fingerprint="data2"),
            "other data: fingerprint data2",
            id="other data",
        ),
        pytest.param(
            model_run("esc50-crnn", hours=1, params={"seed": 1, "epochs": "2"}),
            "other setting than the newest run of this name: epochs=2 (100)",
            id="a seed of another setting",
        ),
    ],
)
def test_a_run_that_is_no_seed_beside_the_newest_is_left_out_and_listed(older: ModelRun, reason: str) -> None:
    newest = model_run("esc50-crnn", hours=2, params={"seed": 0, "epochs": "100"})
    (results,) = chosen(newest, older)
    assert {name: system.runs for name, system in results.systems.items()} == {"crnn": (newest,)}
    assert results.left_out == [(older, reason)]


def test_seeds_of_one_setting_are_averaged() -> None:
    runs = [
        model_run("esc50-crnn", hours=seed, params={"seed": seed, "jobs": seed}, metrics={"test_accuracy": value})
        for seed, value in enumerate((0.5, 0.6, 0.7))
    ]
    (results,) = chosen(*runs)
    score = results.systems["crnn"].score("test_accuracy")
    assert score == collect.Score(pytest.approx(0.6), deviation=pytest.approx(0.1), seeds=3)
    assert tables.interval(score) == "± 10.0 (3 seeds)"


@pytest.mark.parametrize(
    ("newest", "older"),
    [
        ({"epochs": "auto", "resolved_epochs": 100}, {"epochs": "100.0", "resolved_epochs": 100}),
        ({"nested": "yes"}, {"nested": "True"}),
    ],
    ids=["auto and the value that it became", "yes and True"],
)
def test_two_spellings_of_one_setting_are_one_setting(newest: dict[str, object], older: dict[str, object]) -> None:
    (results,) = chosen(
        model_run("esc50-crnn", hours=2, params={"seed": 0} | newest),
        model_run("esc50-crnn", hours=1, params={"seed": 1} | older),
    )
    assert len(results.systems["crnn"].runs) == 2


def test_fusions_of_other_versions_of_the_same_members_are_seeds_of_one_row() -> None:
    (results,) = chosen(
        model_run("esc50-fusion", hours=2, params={"seed": 0, "members": "crnn/1,vgg16-none/1"}),
        model_run("esc50-fusion", hours=1, params={"seed": 1, "members": "vgg16-none/2,crnn/2"}),
        model_run("esc50-fusion", hours=0, params={"seed": 2, "members": "crnn/3"}),
    )
    assert [run.seed for run in results.systems["fusion"].runs] == ["0", "1"]


def test_one_seed_has_its_interval_and_a_score_without_one_has_none() -> None:
    run = model_run("esc50-crnn", metrics={"test_accuracy_ci_low": 0.4, "test_accuracy_ci_high": 0.6})
    system = collect.SystemRuns("crnn", (run,))
    assert system.score("test_accuracy") == collect.Score(0.5, 0.4, 0.6)
    assert tables.interval(system.score("devel_accuracy")) == ""
    assert system.score("devel_nested_accuracy") is None


def test_differences_are_given_on_the_whole_published_data_set_only() -> None:
    def comparable(name: str, devel: int, test: int) -> bool:
        return chosen(model_run(name, metrics={"clips_devel": devel, "clips_test": test}))[0].comparable

    assert comparable("esc50-crnn", 1600, 400)
    assert comparable("dcase2018-crnn", 72_984, 72_972)
    assert not comparable("esc50-crnn", 1599, 400)
    assert not comparable("esc10-crnn", 320, 80)


def test_settings_off_the_defaults_are_told_but_not_those_of_the_row() -> None:
    row = next(row for row in rows.TABLE_1.rows if row.name == "crnn-lr0.01_b64_30db")
    params = {"learning_rate": 0.01, "batch_size": 64, "clip_db": -30.0, "suffix": "x", "epochs": 2, "seed": 5}
    run = model_run("dcase2018-crnn-lr0.01_b64_30db", params=params, **{"soundstack.step": "crnn"})
    system = collect.SystemRuns(row.name, (run,))
    assert collect.off_default(system, row) == {"epochs": "2"}


def test_asking_for_a_data_set_without_runs_names_those_that_have_some() -> None:
    with pytest.raises(
        StoreError, match=r"no finished model run of esc50, only of esc10, demo\. Leave it out, or train"
    ):
        chosen(model_run("demo-crnn"), model_run("esc10-crnn"), wanted="demo,esc50")


# which systems are looked at closely ------------------------------------------------------------------------------


def test_the_best_are_chosen_on_devel_never_on_test() -> None:
    results = chosen(
        model_run("esc50-vgg16-none", metrics={"devel_accuracy": 0.9, "test_accuracy": 0.1}),
        model_run("esc50-vgg19-none", metrics={"devel_accuracy": 0.2, "test_accuracy": 0.9}),
        model_run("esc50-crnn"),
        model_run("esc50-fusion-all", metrics={"devel_accuracy": 0.3}),
        model_run("esc50-fusion-untrained", metrics={"devel_accuracy": 0.4}),
    )
    names = [system.name for system in comparisons.chosen(results, "auto")["esc50"]]
    assert names == ["vgg16-none", "crnn", "fusion-untrained"]


def test_on_dcase_2018_the_fused_crnns_are_the_crnn_and_no_fusion_of_systems() -> None:
    results = chosen(
        model_run("dcase2018-fusion-crnn", metrics={"devel_macro_f1": 0.9}),
        model_run("dcase2018-fusion-all", metrics={"devel_macro_f1": 0.8}),
    )
    assert [system.name for system in comparisons.chosen(results, "auto")["dcase2018"]] == ["fusion-crnn", "fusion-all"]
    assert comparisons.best_fusion(results[0]).name == "fusion-all"


def test_rows_are_named_with_or_without_the_data_set() -> None:
    results = chosen(model_run("esc50-crnn"), model_run("esc10-crnn"), model_run("esc10-fusion"))
    found = comparisons.chosen(results, "esc10-fusion,crnn")
    assert [system.name for system in found["esc10"]] == ["fusion", "crnn"]
    assert [system.name for system in found["esc50"]] == ["crnn"]
    with pytest.raises(MemberError, match=r"rows: 'vgg' is no model .* there are: crnn, fusion\."):
        comparisons.chosen(results, "vgg")


def predictions(name: str, wrong: int, clips: int = 40) -> comparisons.Predictions:
    """Predictions on two classes that miss the first ``wrong`` clips."""
    labels = tuple("ab"[clip % 2] for clip in range(clips))
    scores = np.array([[label == "a", label == "b"] for label in labels], dtype=float)
    scores[:wrong] = 1 - scores[:wrong]
    names = tuple(map(str, range(clips)))
    table = ScoreTable(names, labels, ("test",) * clips, scores, ("a", "b"), "probability")
    return comparisons.Predictions(name, name, "0", table, {clip: clip for clip in names})


def test_all_tests_of_all_data_sets_are_corrected_together() -> None:
    systems = [predictions("good", 0), predictions("fair", 6), predictions("poor", 20)]
    compared, failed = comparisons.compare({"esc50": systems, "esc10": systems[1:]}, n_swaps=200, seed=0)
    assert list(compared[["dataset", "a", "b"]].itertuples(index=False, name=None)) == [
        ("esc50", "good", "fair"),
        ("esc50", "good", "poor"),
        ("esc50", "fair", "poor"),
        ("esc10", "fair", "poor"),
    ]
    raw = compared[["accuracy_p", "macro_f1_p"]].to_numpy().ravel()
    corrected = compared[["accuracy_holm_p", "macro_f1_holm_p"]].to_numpy().ravel()
    assert corrected == pytest.approx(holm(raw))
    smallest = int(np.argmin(raw))
    assert corrected[smallest] == pytest.approx(8 * raw[smallest])
    assert compared["accuracy_difference"][0] == pytest.approx(6 / 40)
    assert not failed


def test_systems_on_different_clips_are_not_compared_but_named() -> None:
    compared, failed = comparisons.compare({"csv": [predictions("a", 1), predictions("b", 1, clips=38)]}, 100, 0)
    assert compared.empty
    assert failed[0].startswith("a and b cannot be compared: Score tables hold different clips")


# the forms --------------------------------------------------------------------------------------------------------

ODD = Table(
    key="odd",
    title="50 % of a_b & c",
    columns=(Column("class", number=False), Column("ours", "Devel"), Column("paper", "Devel")),
    lines=(("x < y", [Cell("[a]_{#}|\\"), Cell("81.2", "± 1.0", best=True), "−"]),),
    notes=("$1 ~ ^2",),
)


def test_latex_escapes_what_latex_would_take_for_commands() -> None:
    text = render.to_latex(Report("a_b", "50 %", (ODD,)))
    assert text.startswith("% a\\_b. 50 \\%\n% Needs \\usepackage{booktabs}.\n")
    assert r"\caption{50 \% of a\_b \& c}" in text
    assert r"{}[a]\_\{\#\}\textbar{}\textbackslash{} & \textbf{81.2} {\scriptsize $\pm$ 1.0} & $-$ \\" in text
    assert r" & \multicolumn{2}{c}{Devel} \\" in text
    assert r"\cmidrule(lr){2-3}" in text
    assert r"\multicolumn{3}{l}{\textit{x \textless{} y}} \\" in text
    assert r"\$1 \textasciitilde{} \textasciicircum{}2" in text


def test_markdown_and_html_keep_names_as_they_are() -> None:
    said = ("<script>", Heading(2, '"{{ 7 * 7 }}"'), Bullets("a|b", ["*c*"]), Commands("d~", [("e", "f > '<g>'")]))
    report = Report("a_b <1>", "see https://example.org/x.", (*said, ODD))
    text = render.to_markdown(report)
    assert text.startswith("# a\\_b &lt;1&gt;\n")
    assert '\n## "{{ 7 \\* 7 }}"\n\n**a\\|b**\n\n- \\*c\\*\n' in text
    assert "\n**d\\~**\n\n```sh\n# e\nf > '<g>'\n```\n" in text
    assert "| class | Devel: ours | Devel: paper |\n| :-- | --: | --: |\n| *x &lt; y* | | |\n" in text
    assert "| \\[a\\]\\_{\\#}\\|\\\\ | **81.2** ± 1.0 | − |" in text
    page = render.to_html(report, {})
    assert "&lt;script&gt;" in page and "<script" not in page
    assert '<h2 id="7-7">&#34;{{ 7 * 7 }}&#34;</h2>' in page
    assert "f &gt; &#39;&lt;g&gt;&#39;" in page
    assert '<a href="https://example.org/x" rel="noopener noreferrer">https://example.org/x</a>.' in page
    assert '<th class="group first" colspan="2">Devel</th>' in page


def test_the_terminal_s_table_is_aligned_ascii() -> None:
    assert render.text_table(ODD).splitlines() == [
        "50 % of a_b & c",
        "",
        "           ------ Devel -------",
        "class               ours  paper",
        "---------  -------------  -----",
        "x < y:",
        "[a]_{#}|\\  *81.2 +/- 1.0      -",
        "",
        "$1 ~ ^2",
    ]


def test_a_dollar_or_a_long_name_in_a_figure_is_text() -> None:
    figure = per_class_figure({"$x_1$": [0.5, 1.0], "y" * 60: [0.2, 0.3]}, ("a$b$", "c"))
    figure.canvas.draw()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["c", r"a\$b\$"]  # bottom to top: the hardest class of the last system on top


# a report from a store --------------------------------------------------------------------------------------------


def row_of(text: str, start: str) -> str:
    """The first line of a Markdown text that starts so."""
    return next(line for line in text.splitlines() if line.startswith(start))


def section(text: str, title: str) -> str:
    """A part of the Markdown report, from its heading to the next one of the level."""
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_a_score_stands_beside_the_paper_s_with_interval_and_difference(reported: Reported) -> None:
    esc50 = section(reported.text("report.md"), "ESC-50")
    assert (
        "| System | Pre-training | Devel: ours | Devel: paper | Devel: difference | Devel, nested: ours | Test: ours "
        "| Test: paper | Test: difference |"
    ) in esc50
    assert row_of(esc50, "| Densenet121 | ImageNet").startswith(
        "| Densenet121 | ImageNet | 75.5 [72.0, 78.9] | **73.6** | +1.9 | 73.0 [70.0, 76.0] | "
    )
    assert row_of(esc50, "| Densenet121 | ImageNet").endswith("| 74.0 [70.0, 78.0] | **75.0** | −1.0 |")


def test_nested_devel_scores_never_stand_in_the_devel_column(reported: Reported) -> None:
    esc50 = section(reported.text("report.md"), "ESC-50")
    assert row_of(esc50, "| EfficientNet-Lite0").split(" | ")[5] == "–"  # none was logged
    assert [row["value"] for row in reported.csv("results.csv") if row["part"] == "devel_nested"] == ["0.73"]


def test_rows_that_were_not_run_say_so_and_how_to_run_them(reported: Reported) -> None:
    esc50 = section(reported.text("report.md"), "ESC-50")
    assert row_of(esc50, "| VGG19 | ImageNet") == "| VGG19 | ImageNet | not run | 62.9 |  |  | not run | 62.5 |  |"
    assert (
        "# VGG19, ImageNet\nmlflow run . --env-manager local -e deepspectrum -P dataset=esc50 -P 'data_dir=/my data' "
        "-P network=vgg19 -P pretraining=imagenet\n"
    ) in esc50
    assert (
        "-e fuse -P dataset=esc50 -P members=densenet121-none,resnet50-none,vgg16-none,vgg19-none -P suffix=untrained"
        in esc50
    )


def test_rows_of_ours_are_marked_and_those_not_run_are_not_shown(reported: Reported) -> None:
    esc50 = section(reported.text("report.md"), "ESC-50")
    assert row_of(esc50, "| EfficientNet-Lite0").startswith("| EfficientNet-Lite0 (not in the paper) | ImageNet |")
    assert "CNN10" not in esc50


def test_runs_on_other_data_failed_runs_and_extractions_stay_out(reported: Reported) -> None:
    text = reported.text("report.md")
    assert "12.3" not in section(text, "ESC-50")
    assert row_of(section(text, "ESC-50"), "| VGG16 | ImageNet").count("not run") == 2
    assert "| esc50-vgg16-imagenet | 1 | 2025-03-01 12:00 | other data: fingerprint other |" in text
    assert (
        "Data fingerprint data1, that of the newest run (esc50-fusion-crnn\\_deepspectrum, 2025-03-01 21:00 UTC)"
        in text
    )
    assert "1 run on other data left out" in text
    assert "extracted" not in text
    assert reported.ids["failed"] not in reported.text("runs.csv")
    assert {row["run_id"]: row["left_out"] for row in reported.csv("runs.csv")}[reported.ids["old"]]


def test_what_a_run_did_otherwise_is_noted_below_the_table(reported: Reported) -> None:
    esc50 = section(reported.text("report.md"), "ESC-50")
    assert "- Proposed CRNN: run with epochs=7, which is not the default." in esc50
    assert (
        "- CRNN + DEEP SPECTRUM: stacks other members than the paper, without densenet121-none, resnet50-imagenet, "
        "resnet50-none, vgg16-imagenet, vgg16-none, vgg19-imagenet, vgg19-none."
    ) in esc50.replace("\\_", "_")


def test_esc_10_shows_the_paper_s_esc_50_without_differences(reported: Reported) -> None:
    esc10 = section(reported.text("report.md"), "ESC-10")
    assert (
        "| System | Pre-training | Devel: ours | Devel: paper, on ESC-50 | Test: ours | Test: paper, on ESC-50 |"
        in esc10
    )
    assert row_of(esc10, "| Proposed CRNN").endswith("| 60.0 ± 10.0 (3 seeds) | 68.8 |")
    assert not [row for row in reported.csv("results.csv") if row["dataset"] == "esc10" and row["difference_points"]]


def test_a_renamed_run_is_found_by_its_registered_model(reported: Reported) -> None:
    esc10 = section(reported.text("report.md"), "ESC-10")
    assert "not run" not in row_of(esc10, "| Quick suite's fusion (not in the paper)")


def test_tables_1_and_2_stand_where_the_paper_has_them(reported: Reported) -> None:
    text = reported.text("report.md")
    domestic = section(text, "DCASE 2018")
    assert "**Table 1, DCASE 2018:" in domestic and "**Table 2, DCASE 2018:" in domestic
    assert "**Table 1, ESC" not in text and "**Table 2, ESC" not in text
    line = row_of(domestic, "| 0.01 | 64 | −60 ")
    assert "| **78.8** |" in line and line.endswith("| 87.1 | 63.2 |")
    assert "Test, known nodes: ours | Test, unknown nodes: ours |" in domestic
    assert row_of(domestic, "| ResNet50 | ImageNet | Magma").startswith(
        "| ResNet50 | ImageNet | Magma | not run | 81.9 |"
    )
    assert (
        "-e crnn -P dataset=dcase2018 -P learning_rate=0.001 -P batch_size=128 -P clip_db=-45 "
        "-P suffix=lr0.001_b128_45db\n"
    ) in domestic


def test_systems_that_no_table_has_a_row_for_are_not_lost() -> None:
    (results,) = chosen(model_run("esc50-crnn-audeep"), model_run("esc50-crnn"))
    (filled,) = tables.result_tables(results)
    assert tables.table(filled).sections["Other systems of ours"][0][0] == Cell("crnn-audeep")


def test_a_smaller_part_of_a_data_set_gets_no_differences_and_a_note() -> None:
    (results,) = chosen(model_run("esc50-crnn", metrics={"clips_devel": 320, "clips_test": 80}))
    (filled,) = tables.result_tables(results)
    table = tables.table(filled)
    assert "difference" not in {column.title for column in table.columns}
    assert (
        "Paper: Amiriparian et al. 2020, Table 3, on the whole data set (1,600 + 400 clips). Our runs used 320 + 80: "
        "no differences."
    ) in table.notes


def test_a_data_set_that_the_paper_lacks_has_only_our_rows() -> None:
    (results,) = chosen(model_run("demo-crnn"), model_run("demo-fusion"))
    (filled,) = tables.result_tables(results)
    assert [each.row.name for each in filled.rows] == ["crnn", "fusion"]
    assert "paper" not in {column.title for column in tables.table(filled).columns}
    assert tables.not_run(filled) is None


def test_the_csv_holds_the_logged_metrics_to_the_last_digit(reported: Reported) -> None:
    client = MlflowClient()
    checked = 0
    for row in reported.csv("results.csv"):
        if row["seeds"] == "1":
            logged = client.get_run(row["run_ids"]).data.metrics
            metric = f"{row['part']}_{row['measure']}"
            assert float(row["value"]) == logged[metric]
            assert (row["ci_low"] or None) == (
                None if f"{metric}_ci_low" not in logged else repr(logged[f"{metric}_ci_low"])
            )
            checked += 1
    assert checked >= 4 * 6
    seeds = next(row for row in reported.csv("results.csv") if row["seeds"] == "3" and row["part"] == "test")
    assert float(seeds["value"]) == pytest.approx(0.6)
    assert seeds["run_ids"].split() == [reported.ids[f"seed{seed}"] for seed in (2, 1, 0)]
    difference = next(row for row in reported.csv("results.csv") if row["run_ids"] == reported.ids["densenet"])
    assert float(difference["difference_points"]) == pytest.approx(75.5 - 73.6)


class Resources(HTMLParser):
    """What a page loads, and the words it says."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect every attribute that makes a browser fetch something."""
        self.tags.add(tag)
        self.loaded += [
            value or "" for name, value in attributes if name in ("src", "srcset", "data", "poster", "action")
        ]


def test_the_html_opens_nothing_but_itself(reported: Reported) -> None:
    page = reported.text("report.html")
    resources = Resources()
    resources.feed(page)
    assert len(resources.loaded) == 7  # confusion and F1 by class of ESC-50, ESC-10 and DCASE 2018, and few clips
    assert all(source.startswith("data:image/png;base64,") for source in resources.loaded)
    assert not resources.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in page


def test_the_files_lie_in_the_folder_and_with_the_run(reported: Reported) -> None:
    client = MlflowClient()
    run = client.get_run(reported.ids["report"])
    assert run.info.run_name == "report"
    there = {item.path for folder in ("", "figures") for item in client.list_artifacts(run.info.run_id, folder)}
    expected = {"report.html", "report.md", "tables.tex"}
    expected |= {f"figures/{name}-esc50.png" for name in ("confusion", "f1-by-class")}
    expected |= {f"{name}.csv" for name in ("results", "per_class", "paired_tests", "runs")}
    assert expected <= there
    assert all((reported.folder / name).is_file() for name in expected)
    assert run.data.params["resolved_datasets"] == "dcase2018,esc50,esc10"
    assert run.data.params["resolved_rows_esc50"] == "efficientnet_lite0-imagenet,crnn,fusion-crnn_deepspectrum"
    links = re.findall(r"!\[.*?\]\((\S+)\)", reported.text("report.md"))
    assert len(links) == 7
    assert all((reported.folder / link).is_file() for link in links)


def test_a_report_is_no_model_run_for_the_next_one(reported: Reported) -> None:
    found = {run.id for run in tracking_reader.finished_model_runs()}
    assert reported.ids["crnn"] in found
    assert reported.ids["report"] not in found


def test_missing_predictions_are_told_and_do_not_stop_the_report(reported: Reported) -> None:
    domestic = section(reported.text("report.md"), "DCASE 2018")
    assert (
        "CRNN, lr 0.01, 64, −60 is left out of figures and tests: dcase2018-crnn-lr0.01\\_b64\\_60db (run " in domestic
    )
    assert "its artifact data/clips.csv cannot be fetched" in domestic


def test_paired_tests_and_f1_by_class_are_those_of_the_chosen_systems(reported: Reported) -> None:
    tests = reported.csv("paired_tests.csv")
    assert [(row["dataset"], row["a"], row["b"]) for row in tests] == [
        ("esc50", "efficientnet_lite0-imagenet", "crnn"),
        ("esc50", "efficientnet_lite0-imagenet", "fusion-crnn_deepspectrum"),
        ("esc50", "crnn", "fusion-crnn_deepspectrum"),
        ("esc10", "crnn", "fusion"),
    ]
    raw = [float(row[key]) for row in tests for key in ("accuracy_p", "macro_f1_p")]
    corrected = [float(row[key]) for row in tests for key in ("accuracy_holm_p", "macro_f1_holm_p")]
    assert corrected == pytest.approx(holm(raw).tolist())
    f1 = [
        float(row["f1"]) for row in reported.csv("per_class.csv") if (row["dataset"], row["model"]) == ("esc50", "crnn")
    ]
    logged = MlflowClient().get_run(reported.ids["crnn"]).data.metrics["test_macro_f1"]
    assert np.mean(f1) == pytest.approx(logged)


def test_the_latex_has_as_many_cells_in_every_row_as_columns(reported: Reported) -> None:
    for tabular in re.findall(
        r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", reported.text("tables.tex"), re.DOTALL
    ):
        columns, body = tabular
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(lines) > 2
        for line in lines:
            spanned = sum(int(count) - 1 for count in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spanned == len(columns)
    assert r"100\% \& more" in reported.text("tables.tex")


def test_the_terminal_shows_table_3_and_where_the_files_are(reported: Reported) -> None:
    assert "Table 3, ESC-50: DEEP SPECTRUM" in reported.printed
    assert re.search(
        r"^Densenet121 +ImageNet +75\.5 \[72\.0, 78\.9\] +\*73\.6 +\+1\.9 ", reported.printed, re.MULTILINE
    )
    assert "Table 1," not in reported.printed
    assert str(reported.folder / "report.html") in reported.printed


# mistakes -----------------------------------------------------------------------------------------------------------


def test_a_store_without_runs_is_one_clear_line(refused: str) -> None:
    assert refused.count("\n") == 1
    assert refused.startswith("report: The tracking store holds no finished model run yet: train something first")


def test_an_unknown_data_set_is_one_clear_line(reported: Reported) -> None:
    assert refusal(["--datasets", "esc50,birds"]) == (
        "report: datasets: there is no finished model run of birds, only of dcase2018, esc50, esc10. Leave it out, or "
        "train on it first.\n"
    )
    assert "lower-case letters" in refusal(["--datasets", "Birds"])


def test_each_own_table_has_a_part_of_its_own_and_its_commands_name_it() -> None:
    found = chosen(model_run("owls-crnn"), model_run("birds-crnn", params={"dataset": "csv"}), model_run("esc50-crnn"))
    assert [each.dataset for each in found] == ["esc50", "birds", "owls"]
    assert found[1].title == "birds (your own clips)"
    assert set(found[1].systems) == {"crnn"}
    assert "-P dataset=csv -P name=birds -P network=vgg16" in rows.command(rows.table_3("birds").rows[4], "birds")
    fusion = next(row for row in rows.table_3("birds").rows if row.members)
    assert "-e fuse -P dataset=csv -P name=birds -P members=" in rows.command(fusion, "birds", "clips.csv")


def test_the_drawn_folds_of_an_own_table_are_named_where_they_are_not_the_default() -> None:
    def off(name: str) -> dict[str, str]:
        params = {"split_seed": "3", "epochs": "100", "learning_rate": "0.01"}
        (results,) = chosen(model_run(f"{name}-crnn", params=params, **{"soundstack.step": "crnn"}))
        return collect.off_default(results.systems["crnn"])

    assert off("birds") == {"split_seed": "3", "learning_rate": "0.01"}
    assert off("esc50") == {"learning_rate": "0.01"}


def test_a_model_that_was_never_run_is_one_clear_line(reported: Reported) -> None:
    line = refusal(["--datasets", "esc10", "--rows", "densenet121-imagenet"])
    assert line == (
        "report: rows: 'densenet121-imagenet' is no model with a finished run on the reported data; there are: crnn, "
        "fusion.\n"
    )


def test_auto_beside_names_is_refused() -> None:
    with pytest.raises(ConfigError, match="auto stands alone"):
        cli.parse(ReportConfig, ["--rows", "auto,crnn"])
