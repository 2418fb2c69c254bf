"""What goes beyond the paper: few clips, other domains, fine-tuning (the future work of paper section 5)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from soundstack.config.network import FINETUNE
from soundstack.evaluation import plots
from soundstack.evaluation.fonts import Figure
from soundstack.evaluation.statistics import Interval
from soundstack.report.collect import DataSetResults, Score
from soundstack.report.document import Block, Bullets, Cell, Column, Heading, Line, Picture, Table, text_columns
from soundstack.report.rows import TITLES
from soundstack.report.tables import interval, percent
from soundstack.tracking.reader import ModelRun
from soundstack.utils.errors import StoreError

#: What a step wrote as JSON.
Content = Mapping[str, Any]
_NONE = Cell("–", muted=True)


def blocks(results: Sequence[DataSetResults], compared: Sequence[ModelRun]) -> Iterator[Block]:
    """The section: fine-tuned models beside frozen ones, and the runs of :data:`STEPS`; empty where there are none."""
    found = [*_fine_tuned(results)]
    for run in sorted(compared, key=lambda run: list(STEPS).index(run.tags["soundstack.step"])):
        step = run.tags["soundstack.step"]
        try:
            content = json.loads(run.artifact(f"{step}.json").read_text(encoding="utf-8"))
        except (StoreError, ValueError) as error:
            found.append(Bullets("Missing", [f"Left out: {error}"]))
        else:
            found += STEPS[step](content)
    if found:
        yield Heading(2, "Beyond the paper")
        yield from found


def few_clips_table(content: Content) -> Table:
    """Test accuracy by system and clips a class, from what ``lowdata`` wrote."""
    best, sizes = best_by_size(content) if len(content["systems"]) > 1 else {}, content["sizes"]
    lines: list[Line] = [
        ("", [each["name"], *(_cell(p["accuracy"], each["name"] == best.get(p["clips"])) for p in each["points"])])
        for each in content["systems"]
    ]
    largest = max(size["clips"] for size in sizes)
    short = {label: size["clips"] for size in reversed(sizes) for label in size["smaller_classes"]}
    return Table(
        key=f"lowdata-{content['dataset']}",
        title=f"Test accuracy by clips a class, {_title(content)} (%)",
        columns=[*text_columns("System"), *(Column(size["name"], "Clips a class") for size in sizes)],
        lines=lines,
        notes=[
            f"Mean of {content['draws']} draws of development clips, the same for all systems, on the "
            f"{content['test_clips']} test clips; all: {sizes[-1]['in_all']} clips, up to {largest} a class. In "
            "brackets: 95 % interval over other draws and other test clips. Bold: best of its column.",
            *([f"Classes with fewer clips, of which all are taken: {', '.join(sorted(short))}."] if short else []),
            *content["notes"],
        ],
    )


def few_clips_figure(content: Content) -> Figure:
    """The same as curves."""
    curves = {each["name"]: [_interval(point["accuracy"]) for point in each["points"]] for each in content["systems"]}
    return plots.few_clips_figure(curves, {size["clips"]: size["name"] for size in content["sizes"]})


def best_by_size(content: Content) -> dict[int, str]:
    """The system with the highest mean accuracy at each number of clips."""
    best: dict[int, tuple[float, str]] = {}
    for each in content["systems"]:
        for point in each["points"]:
            found = point["accuracy"]["value"], each["name"]
            best[point["clips"]] = max(best.get(point["clips"], found), found, key=lambda pair: pair[0])
    return {clips: name for clips, (_, name) in best.items()}


def _few_clips(content: Content) -> Iterator[Block]:
    yield Heading(3, f"Few clips, {_title(content)}")
    yield few_clips_table(content)
    yield Picture(
        f"few-clips-{content['dataset']}.png",
        "Test accuracy by clips a class, with 95 % intervals over other draws and other test clips.",
        few_clips_figure(content),
    )


def _transfer(content: Content) -> Iterator[Block]:
    source, target = (_domain(content[side]) for side in ("source", "target"))
    lines: list[Line] = []
    for name, of_system in content["systems"].items():
        accuracy, macro_f1 = of_system["accuracy"], of_system["macro_f1"]
        closed = _cell(accuracy["closed"]) if accuracy["closed"] else _NONE
        apart = of_system["a_distance"]
        distance = f"{statistics.fmean(apart):.2f}" if apart else _NONE
        lines.append(("", [name, _cell(accuracy), _cell(macro_f1), closed, distance]))
    yield Heading(3, f"From {source} to {target}")
    yield Table(
        key=f"transfer-{source}-{target}".replace(" ", "-"),
        title=f"Test scores on {target} of systems that learnt from {source} (%)",
        columns=[
            *text_columns("System"),
            *(Column(title) for title in ("Accuracy", "Macro-F1", "Gap closed", "A-distance")),
        ],
        lines=lines,
        notes=["In brackets: 95 % interval.", *content["said"], *content["notes"]],
    )


#: The steps whose newest runs are shown, each with what makes blocks of its ``<step>.json``.
STEPS: Mapping[str, Callable[[Content], Iterator[Block]]] = {"lowdata": _few_clips, "transfer": _transfer}


def _fine_tuned(results: Sequence[DataSetResults]) -> Iterator[Block]:
    lines: list[Line] = []
    for each in results:
        for name, tuned in each.systems.items():
            frozen = each.systems.get(name.removeprefix(FINETUNE))
            if name.startswith(FINETUNE):
                scores = [
                    system.score(f"{part}_{each.measure}") if system else None
                    for part in ("devel", "test")
                    for system in (frozen, tuned)
                ]
                lines.append((each.title, [name.removeprefix(FINETUNE), *map(_score_cell, scores)]))
    if lines:
        yield Table(
            key="finetuned",
            title="Fine-tuned networks beside frozen ones with an SVM (%)",
            columns=[
                *text_columns("Network"),
                *(Column(title, part) for part in ("Devel", "Test") for title in ("frozen", "fine-tuned")),
            ],
            lines=lines,
            notes=["The measure of each data set's Table 3. In brackets: 95 % interval, by groups of clips."],
        )


def _title(content: Content) -> str:
    return TITLES.get(content["dataset"], content["dataset"])


def _domain(domain: Content) -> str:
    """A domain as a reader calls it: its name, and which part of it."""
    return " ".join(str(domain[key]) for key in ("name", "where") if domain.get(key) not in (None, "", "all"))


def _score_cell(score: Score | None) -> Cell:
    return Cell(percent(score.value), interval(score)) if score else Cell("not run", muted=True)


def _interval(score: Content) -> Interval:
    return Interval(score["value"], score["low"], score["high"])


def _cell(score: Content, best: bool = False) -> Cell:
    return Cell(percent(score["value"]), interval(Score(score["value"], score["low"], score["high"])), best=best)
