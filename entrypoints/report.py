"""Report tracked runs as Tables 1-3 of the paper, with intervals, confusions and paired tests (paper section 4)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.tools import ReportConfig


def run(config: ReportConfig) -> None:
    """Choose the runs, compare them, and write the report to the run ``report`` and to ``output_dir``."""
    from soundstack.report import assemble, beyond, collect, comparisons, render
    from soundstack.tracking import reader as tracking_reader
    from soundstack.tracking import run as tracking
    from soundstack.utils import provenance
    from soundstack.utils.files import copy_files

    with tracking.run("report", config) as opened:
        with opened.stage("read"):
            results = collect.choose(tracking_reader.finished_model_runs(), config.datasets)
            systems = comparisons.chosen(results, config.rows)
            compared = tracking_reader.newest_comparisons(beyond.STEPS, config.datasets)
        with opened.stage("compare"):
            more = list(beyond.blocks(results, compared))
            made, commit = datetime.now(UTC), provenance.git_commit()
            report = assemble.assemble(results, systems, config, made=made, commit=commit, beyond=more)
        with opened.stage("write"):
            files = render.write(report, opened.folder)
            output = Path(config.output_dir)
            copy_files(opened.folder, files, output)
        names = {name: ",".join(system.name for system in chosen) for name, chosen in systems.items()}
        opened.settings(config, {"datasets": ",".join(names)} | {f"rows_{name}": rows for name, rows in names.items()})
        opened.metrics(
            {
                "runs_shown": sum(len(each.runs) for each in results),
                "runs_left_out": sum(len(each.left_out) for each in results),
            }
        )
    for table in report.tables:
        if table.key.startswith("table3-") and table.key != "table3-overview":
            print(f"\n{render.text_table(table)}")
    print(
        f"Report:  {output / files[0]}\n"
        f"         Markdown, LaTeX, CSV and the figures lie beside it, and with the MLflow run {opened.id}"
    )


if __name__ == "__main__":
    cli.run(ReportConfig, run)
