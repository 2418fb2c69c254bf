"""Score systems by the number of clips a class that they learn from, as one MLflow run (paper section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.lowdata import LowdataConfig

if TYPE_CHECKING:
    from soundstack.datasets.data_set import DataSet
    from soundstack.lowdata.draws import Draw
    from soundstack.lowdata.systems import System


def run(config: LowdataConfig) -> dict[str, Any]:
    """Draw clips, let every system learn from each draw as a child run, and return what a report needs of it."""
    from _steps import scan_and_extract
    from soundstack.lowdata import curves, draws
    from soundstack.report import beyond, render
    from soundstack.suites import summary
    from soundstack.tracking import run as tracking
    from soundstack.utils.files import save_figure, write_atomically, write_json

    with tracking.run(f"{config.data_name}-lowdata", config) as opened:
        systems, notes = _systems(config)
        data_set, _ = scan_and_extract(opened, config, systems[0].extraction(), systems[0].name)
        drawn = draws.draw(data_set, draws.sizes(data_set, config.clips), config.draws, config.seed)
        found = [_curve(each, data_set, drawn, config) for each in systems]
        content = curves.content(data_set, drawn, found, config, *notes)
        table = beyond.few_clips_table(content)
        write_json(opened.folder / "lowdata.json", content)
        write_atomically(opened.folder / "lowdata.csv", curves.as_csv(content))
        save_figure(beyond.few_clips_figure(content), opened.folder / "lowdata.png")
        opened.settings(config, {"systems": ",".join(each.name for each in systems)})
    print(f"\n{render.text_table(table)}")
    summary.after_lowdata(config, beyond.best_by_size(content))
    return content


def _systems(config: LowdataConfig) -> tuple[list[System], list[str]]:
    """The systems whose weights can be had, and what is to be said of the others."""
    from soundstack.lowdata.systems import system
    from soundstack.utils import devices
    from soundstack.utils.errors import WeightsError

    device, found, notes = devices.choose(config.device), [], []
    for name in config.chosen_systems:
        try:
            found.append(system(name, config, device))
        except WeightsError as error:
            notes.append(f"{name}: not run. {error}")
            print(notes[-1])
    if not found:
        raise WeightsError("No system is left to compare: none of their weights can be had.")
    return found, [*notes, *filter(None, (each.restriction for each in found))]


def _curve(system: System, data_set: DataSet, drawn: list[Draw], config: LowdataConfig) -> dict[str, Any]:
    """Let a system learn from the draws, as a run of its own."""
    from soundstack.lowdata import curves
    from soundstack.tracking import run as tracking
    from soundstack.utils.progress import bar

    with tracking.run(f"{config.data_name}-lowdata-{system.name}", config) as opened:
        with opened.stage("extract"), bar(system.name, len(data_set.clips), "clips") as advance:
            features = system.extraction().finish(data_set, advance)
        with opened.stage("train"), bar(system.name, system.work(data_set, features, drawn), "steps") as advance:
            scores = system.scores(data_set, features, drawn, advance)
        found = curves.curve(system, data_set, drawn, scores)
        for point in found["points"]:
            opened.metrics(curves.metrics(point), step=point["clips"])
        opened.settings(config, {"system": system.name, "system_settings": found["settings"]})
    return found


if __name__ == "__main__":
    cli.run(LowdataConfig, run)
