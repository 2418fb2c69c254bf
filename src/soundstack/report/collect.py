"""Which tracked runs a report shows: one column holds runs on exactly the same data, one row runs of one setting.

On each data set the newest run decides: its data fingerprint is the column's, its name's newest run is the row's. Runs
of the same name and setting with other seeds join it. Whatever is left out is listed with the reason.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from soundstack.config.places import project
from soundstack.config.steps import MODEL_STEPS, PRESETS, CrnnConfig
from soundstack.datasets.clips import listed_id
from soundstack.report import paper
from soundstack.report.rows import TITLES, TableRow
from soundstack.tracking.reader import ModelRun
from soundstack.utils.errors import DataError, StoreError

#: What may differ between runs of one row: the seed, and whatever changes no result.
_FREE = frozenset({"seed"}).union(*(config.irrelevant for config in MODEL_STEPS.values()))
_NAMED = frozenset({"dataset", "name", "network", "pretraining", "members"})


@dataclass(frozen=True)
class Score:
    """A score in 0..1: of one seed with its 95 % interval, where it has one; of several, mean and sample deviation."""

    value: float
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    seeds: int = 1


@dataclass(frozen=True)
class SystemRuns:
    """The runs of one model, one a seed, newest first: of that are confusions and paired tests."""

    name: str
    runs: tuple[ModelRun, ...]

    @property
    def newest(self) -> ModelRun:
        """The newest run."""
        return self.runs[0]

    def score(self, metric: str) -> Score | None:
        """The score over the runs that logged ``metric``; None where none did."""
        logged = [run.metrics for run in self.runs if math.isfinite(run.metrics.get(metric, math.nan))]
        values = [metrics[metric] for metrics in logged]
        if len(values) > 1:
            return Score(statistics.fmean(values), deviation=statistics.stdev(values), seeds=len(values))
        if not values:
            return None
        return Score(values[0], logged[0].get(f"{metric}_ci_low"), logged[0].get(f"{metric}_ci_high"))

    @property
    def members(self) -> frozenset[str]:
        """What a fusion stacked: names without data set and version; empty for other systems."""
        logged = self.newest.params.get("resolved_members", "")
        names = (part.strip().partition("/")[0] for part in logged.split(",") if part.strip())
        return frozenset(name.removeprefix(f"{self.newest.dataset}-") for name in names)


@dataclass(frozen=True)
class DataSetResults:
    """What a report shows of one data set: systems by name without ``<dataset>-``, and runs left out, with the why."""

    dataset: str
    newest: ModelRun
    systems: Mapping[str, SystemRuns]
    left_out: Sequence[tuple[ModelRun, str]]

    @property
    def title(self) -> str:
        """The data set's name for readers."""
        return TITLES.get(self.dataset, f"{self.dataset} (your own clips)")

    @property
    def measure(self) -> str:
        """The paper's score (section 4): macro-F1 on the unbalanced DCASE 2018, accuracy elsewhere."""
        return "macro_f1" if self.dataset == "dcase2018" else "accuracy"

    @property
    def paper_dataset(self) -> str | None:
        """Whose figures of Table 3 stand beside ours: ESC-50's beside its part ESC-10."""
        if self.dataset == "esc10":
            return "esc50"
        return self.dataset if self.dataset in paper.TABLES[3] else None

    @property
    def runs(self) -> list[ModelRun]:
        """All runs that are shown, system by system."""
        return [run for system in self.systems.values() for run in system.runs]

    @cached_property
    def clips(self) -> tuple[int, int] | None:
        """Clips in development and test; None where no run tells."""
        for run in self.runs:
            if {"clips_devel", "clips_test"} <= run.metrics.keys():
                return int(run.metrics["clips_devel"]), int(run.metrics["clips_test"])
        for run in self.runs:
            with contextlib.suppress(StoreError, DataError):
                in_test = [fold == "test" for fold, _ in clip_table(run).values()]
                return in_test.count(False), in_test.count(True)
        return None

    @property
    def comparable(self) -> bool:
        """Whether ours and the paper's figures are scores on the same clips: published data set, whole."""
        return self.clips in set(product(*paper.CLIPS.get(self.dataset, ())))

    @property
    def data_dir(self) -> str:
        """Where the newest run that read sound files had them, for commands to repeat."""
        told = [run for run in self.runs if "data_dir" in run.params]
        return max(told, key=lambda run: run.started).params["data_dir"] if told else "auto"


def choose(runs: Sequence[ModelRun], wanted: str) -> list[DataSetResults]:
    """Choose the runs of data sets, comma-separated or ``all``: in the paper's order, then the user's own by name.

    Raises:
        StoreError: There is no run to show, or none of a data set that was asked for.
    """
    found = {run.dataset for run in runs}
    there = [*(dataset for dataset in TITLES if dataset in found), *sorted(found - TITLES.keys())]
    if not there:
        raise StoreError(
            "The tracking store holds no finished model run yet: train something first, e.g. with "
            f"`mlflow run {project()} --env-manager local`, or set MLFLOW_TRACKING_URI to the store that has the runs."
        )
    names = there if wanted == "all" else wanted.split(",")
    for name in names:
        if name not in there:
            how = f": `mlflow run {project()} --env-manager local -P dataset={name}`" if name in TITLES else ""
            raise StoreError(
                f"datasets: there is no finished model run of {name}, only of {', '.join(there)}. Leave it out, or "
                f"train on it first{how}."
            )
    return [_results(name, [run for run in runs if run.dataset == name]) for name in there if name in names]


def clip_table(run: ModelRun) -> dict[str, tuple[str, str]]:
    """Fold and group of every clip that a run was scored on, from its ``data/clips.csv``.

    Raises:
        StoreError: The artifact is not there any more.
        DataError: It is not a clip table.
    """
    with run.artifact("data/clips.csv").open(newline="", encoding="utf-8") as file:
        try:
            return {listed_id(row): (row["fold"], row["group"]) for row in csv.DictReader(file)}
        except KeyError as error:
            raise DataError(f"{run.name} (run {run.id[:8]}): data/clips.csv has no column {error}.") from None


def data_notes(run: ModelRun) -> list[str]:
    """What is to be known of the data that a run was scored on: drawn folds, unknown groups, missing clips."""
    try:
        content = json.loads(run.artifact("data/data.json").read_text(encoding="utf-8"))
    except (StoreError, ValueError):  # an incomplete run: what it says otherwise is shown all the same
        return []
    return [str(note) for note in content.get("notes", ())]


def off_default(system: SystemRuns, row: TableRow | None = None) -> dict[str, str]:
    """Settings of a system that differ from the defaults and from what its row prescribes, as they were given."""
    run = system.newest
    config = MODEL_STEPS.get(run.tags.get("soundstack.step", ""))
    if config is None:
        return {}
    expected = {name: str(default) for name, default in config.defaults().items()} | dict(row.settings if row else {})
    if config is CrnnConfig:
        preset = vars(PRESETS[run.dataset if run.dataset in TITLES else "csv"])
        expected |= {name: str(value) for name, value in preset.items() if expected[name] == "auto"}
    ignored = _FREE | _NAMED | ({"split_seed"} if run.dataset in TITLES else set())  # published folds are not drawn
    return {
        name: given
        for name, value in expected.items()
        if name not in ignored and (given := run.params.get(name, "auto")) != "auto" and _plain(given) != _plain(value)
    }


def _results(dataset: str, runs: Sequence[ModelRun]) -> DataSetResults:
    """Sort the runs (newest first) of one data set: into systems, and those that are left out."""
    newest = runs[0]
    fitting: dict[str, list[ModelRun]] = {}
    left_out: list[tuple[ModelRun, str]] = []
    for run in runs:
        if run.data_fingerprint != newest.data_fingerprint:
            left_out.append((run, f"other data: fingerprint {run.data_fingerprint}"))
        else:
            fitting.setdefault(run.short_name, []).append(run)
    systems = {}
    for name, candidates in fitting.items():
        by_seed: dict[str, ModelRun] = {}
        for run in candidates:
            if other := ", ".join(_differences(run, candidates[0])):
                left_out.append((run, f"other setting than the newest run of this name: {other}"))
            elif by_seed.setdefault(run.seed, run) is not run:
                left_out.append((run, f"older run of seed {run.seed}"))
        systems[name] = SystemRuns(name, tuple(by_seed.values()))
    return DataSetResults(dataset, newest, systems, left_out)


def _differences(run: ModelRun, newest: ModelRun) -> Iterator[str]:
    """The result-changing parameters that both runs logged with different values."""
    for name, value in sorted(run.params.items()):
        if name in _FREE or name.startswith("resolved_") or name not in newest.params:
            continue
        mine, other = _plain(_versionless(name, value)), _plain(_versionless(name, newest.params[name]))
        # `auto` and the value that it became are the same setting.
        resolved = [_plain(each.params.get(f"resolved_{name}", each.params[name])) for each in (run, newest)]
        if mine != other and (resolved[0] != resolved[1] or "auto" not in (mine, other)):
            yield f"{name}={value} ({newest.params[name]})"


def _versionless(name: str, value: str) -> str:
    """Members without their versions: another seed stacks other versions of the same models."""
    if name != "members":
        return value
    return ",".join(sorted(part.strip().partition("/")[0] for part in value.split(",")))


def _plain(value: str) -> str:
    """One spelling for equal values: 10, 10.0 and 1e1; yes and True."""
    try:
        return repr(float(value))
    except ValueError:
        return {"yes": "True", "no": "False", "true": "True", "false": "False"}.get(value, value)
