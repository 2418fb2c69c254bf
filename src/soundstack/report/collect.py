"""Which tracked runs a report shows: one column holds runs on exactly the same data, one row runs of one setting.

On each data set the newest run decides: its data fingerprint (and ``data_subset``) is the column's, its name's newest
run is the row's. Runs of the same name and setting with other seeds join it. Whatever is left out is listed with
the reason.
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

from soundstack.config.places import project
from soundstack.config.presets import PRESETS
from soundstack.config.steps import MODEL_STEPS, CrnnConfig
from soundstack.report import paper
from soundstack.report.rows import TITLES, TableRow, measure
from soundstack.tracking.reader import ModelRun
from soundstack.utils.errors import DataError, StoreError

#: What may differ between runs of one row: the seed, and whatever changes no result.
_FREE = frozenset({"seed"}).union(*(config.irrelevant for config in MODEL_STEPS.values()))
_NAMED = frozenset({"dataset", "name", "network", "pretraining", "members"})


@dataclass(frozen=True)
class Score:
    """A score in 0..1 over one or several seeds.

    One seed: ``low`` and ``high`` are the run's 95 % interval, None where it has none. Several: ``value`` is their
    mean and ``deviation`` their sample standard deviation.
    """

    value: float
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    seeds: int = 1


@dataclass(frozen=True)
class SystemRuns:
    """The runs of one model, one a seed, newest first."""

    name: str
    runs: tuple[ModelRun, ...]

    @property
    def newest(self) -> ModelRun:
        """The newest run: what confusions and paired tests are made from."""
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
class LeftOut:
    """A run that is not shown, and why."""

    run: ModelRun
    reason: str


@dataclass(frozen=True)
class DataSetResults:
    """What a report shows of one data set; ``systems`` by name without ``<dataset>-``."""

    dataset: str
    newest: ModelRun
    systems: Mapping[str, SystemRuns]
    left_out: tuple[LeftOut, ...]

    @property
    def title(self) -> str:
        """The data set's name for readers."""
        return TITLES.get(self.dataset, f"{self.dataset} (your own clips)")

    @property
    def measure(self) -> str:
        """``"accuracy"`` or ``"macro_f1"``: the paper's score on this data set."""
        return measure(self.dataset)

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
            if "clips_devel" in run.metrics and "clips_test" in run.metrics:
                return int(run.metrics["clips_devel"]), int(run.metrics["clips_test"])
        for run in self.runs:
            with contextlib.suppress(StoreError, DataError):
                in_test = [fold == "test" for fold, _ in clip_table(run).values()]
                return in_test.count(False), in_test.count(True)
        return None

    @property
    def comparable(self) -> bool:
        """Whether ours and the paper's figures are scores on the same clips: published data set, whole."""
        expected = paper.CLIPS.get(self.dataset)
        if expected is None or self.clips is None or self.newest.subset:
            return False
        return all(number in allowed for number, allowed in zip(self.clips, expected, strict=True))

    @property
    def data_dir(self) -> str:
        """Where the newest run that read sound files had them, for commands to repeat."""
        told = [run for run in self.runs if "data_dir" in run.params]
        return max(told, key=lambda run: run.started).params["data_dir"] if told else "auto"


def choose(runs: Sequence[ModelRun], wanted: str) -> list[DataSetResults]:
    """Choose the runs to show, by data set: in the paper's order, then the user's own by name.

    Args:
        wanted: comma-separated data sets, or ``all``

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
            return {row["filename"]: (row["fold"], row["group"]) for row in csv.DictReader(file)}
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
    prescribed = dict(row.settings) if row else {}
    found = {}
    for name, default in config.defaults().items():
        if name in _FREE | _NAMED or name not in run.params:
            continue
        if name == "split_seed" and run.dataset in TITLES:  # published folds are not drawn
            continue
        expected = prescribed.get(name, str(default))
        if expected == "auto" and config is CrnnConfig:
            expected = str(getattr(PRESETS[run.dataset if run.dataset in TITLES else "csv"], name, expected))
        given = run.params[name]
        if given != "auto" and _plain(given) != _plain(expected):
            found[name] = given
    return found


def _results(dataset: str, runs: Sequence[ModelRun]) -> DataSetResults:
    """Sort the runs (newest first) of one data set: into systems, and those that are left out."""
    newest = runs[0]
    fitting: dict[str, list[ModelRun]] = {}
    left_out: list[LeftOut] = []
    for run in runs:
        if run.data_fingerprint != newest.data_fingerprint:
            left_out.append(LeftOut(run, f"other data: fingerprint {run.data_fingerprint}"))
        elif run.subset != newest.subset:
            left_out.append(LeftOut(run, f"other part of the data: {run.subset or 'all of it'}"))
        else:
            fitting.setdefault(run.short_name, []).append(run)
    systems = {}
    for name, candidates in fitting.items():
        kept: list[ModelRun] = []
        for run in candidates:
            if reason := _why_not(run, kept):
                left_out.append(LeftOut(run, reason))
            else:
                kept.append(run)
        systems[name] = SystemRuns(name, tuple(kept))
    return DataSetResults(dataset, newest, systems, tuple(left_out))


def _why_not(run: ModelRun, kept: Sequence[ModelRun]) -> str:
    """Why a run is no further seed of those kept, of which the first is the newest of its name; empty where it is."""
    if kept and (other := ", ".join(_differences(run, kept[0]))):
        return f"other setting than the newest run of this name: {other}"
    return f"older run of seed {run.seed}" if run.seed in {known.seed for known in kept} else ""


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
