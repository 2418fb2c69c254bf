"""Learn from a labelled source what is scored on an unlabelled target: DANN, baselines, bounds (reference [45])."""

from __future__ import annotations

from typing import TYPE_CHECKING

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.transfer import TransferConfig

if TYPE_CHECKING:
    from soundstack.transfer.compare import Comparison


def run(config: TransferConfig) -> Comparison:
    """Open the pairs of domains, adapt, score the target's test part, and log it as one MLflow run."""
    from soundstack.tracking import run as tracking
    from soundstack.transfer import experiment, figures
    from soundstack.transfer.pairs import pairs
    from soundstack.utils import devices
    from soundstack.utils.files import save_figure, write_atomically, write_json
    from soundstack.utils.progress import bar

    device = devices.choose(config.device)
    with tracking.run(config.run_title, config) as opened:
        with opened.stage("scan"):
            found = pairs(config, device)
        with opened.stage("adapt"), bar("adapt", config.seeds, "seeds") as advance:
            outcome = experiment.run(found, config, device, advance)
        with opened.stage("track"):
            comparison = outcome.comparison
            opened.settings(config, {"device": device.type, "classes": ",".join(comparison.classes)})
            found.data_set.log(opened, *outcome.notes)
            opened.metrics(comparison.metrics())
            write_json(opened.folder / "transfer.json", outcome.to_json(config, found))
            write_atomically(opened.folder / "transfer.csv", comparison.frame().to_csv(index=False))
            for system in comparison.scores:
                comparison.table(system).to_parquet(opened.folder / "predictions" / f"{system}.parquet")
            accuracies = {system: scores["accuracy"] for system, scores in comparison.intervals.items()}
            save_figure(figures.bars_figure(accuracies), opened.folder / "transfer.png")
            save_figure(figures.map_figure(outcome.mapped), opened.folder / "domains.png")
    for note in outcome.notes:
        print(f"Note: {note}")
    print(f"\n{comparison.frame().to_string(index=False)}\nin brackets: 95 % interval\n")
    print("\n".join(comparison.said()))
    return comparison


if __name__ == "__main__":
    cli.run(TransferConfig, run)
