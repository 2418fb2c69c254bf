"""Run all benchmarks and write ``docs/performance.md``: the table, its plots and the machine's description.

    python benchmarks/run.py [--quick] [--only NAME ...]
    python benchmarks/run.py --only svm_path --options "--size large --folds 1"
    python benchmarks/run.py --page                  # write the page of what was measured, measure nothing

Every other script of this folder is run, in a process of its own and one after the other. Those with the parser of
``_common`` give rows of the table; what the others print is shown as it is. ``--quick`` does less of everything:
minutes in place of hours. A script that fails is named, and the others go on.

Results are collected in ``docs/performance.json``, each with its date, command and load: what is measured again
replaces what was measured before, the rest of the page stays.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from _common import ROOT, Row, machine  # isort: skip

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DOCS = ROOT / "docs"
RESULTS = DOCS / "performance.json"
#: What the loads at the start differ by from run to run.
LOAD = "load average at the start"
QUICK: dict[str, list[str]] = {
    "confidence": ["--repeats", "20"],
    "crnn_step": ["--turns", "3"],
    "encoders": ["--turns", "1"],
    "gpu": ["--clips", "128"],
    "logmel": ["--clips", "16", "--turns", "3"],
    "networks": ["--clips", "16", "--turns", "2"],
    "picture": ["--turns", "3"],
    "pipeline": ["--seeds", "1", "--epochs", "3"],
    "predict": ["--clips", "100", "--hours", "0.1"],
    "project": ["--epochs", "3", "--seconds", "3"],
    "scale": ["--sizes", "100", "200"],
    "startup": ["--turns", "2"],
    "svm_path": ["--size", "small"],
    "transfer": ["--seeds", "1"],
    "unequal": ["--draws", "3"],
}


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, few turns")
    parser.add_argument("--only", action="append", metavar="NAME", help="a script's name without .py; may be repeated")
    parser.add_argument("--options", default="", help="further options of the script, in quotes; with one --only")
    parser.add_argument("--page", action="store_true", help="only write the page of what has been measured")
    options = parser.parse_args()
    scripts = [path for path in sorted(Path(__file__).parent.glob("[!_]*.py")) if path.name != "run.py"]
    if unknown := set(options.only or ()) - {path.stem for path in scripts}:
        parser.error(f"no script {', '.join(sorted(unknown))}; there are: {', '.join(path.stem for path in scripts)}")
    chosen = [] if options.page else [path for path in scripts if not options.only or path.stem in options.only]
    if options.options and len(chosen) != 1:
        parser.error("--options belongs to one script: give --only NAME")
    known: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    failed = []
    for path in chosen:
        given = [*(QUICK.get(path.stem, []) if options.quick else []), *shlex.split(options.options)]
        print(f"--- {path.stem} {shlex.join(given)}", flush=True)
        described = machine()
        title = f"{path.stem} {options.options}".strip()
        draws = '"--plot"' in path.read_text()
        picture = re.sub(r"[^a-z0-9]+", "-", title.lower()) + ".png" if draws else ""
        try:
            rows, text = run(path, [*given, *(["--plot", str(DOCS / picture)] if picture else [])])
        except subprocess.CalledProcessError as error:
            failed.append(path.stem)
            print(f"{path.stem} ended with {error.returncode}", file=sys.stderr)
            continue
        command = shlex.join(["python", f"benchmarks/{path.name}", *given])
        measured = {"script": path.stem, "command": command, "date": date.today().isoformat(), "machine": described}
        if not options.options:
            known = {name: result for name, result in known.items() if result["script"] != path.stem}
        for row in rows:
            known[row.stage] = measured | {"row": asdict(row)}
        if not rows:
            known[title] = measured | {"text": last_table(text), "picture": picture}
        known = dict(sorted(known.items(), key=lambda item: item[1]["script"]))
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    rows = [Row(**result["row"]) for result in known.values() if "row" in result]
    plot(rows)
    page = DOCS / "performance.md"
    page.write_text(written(known))
    print(f"\n{table(rows)}\n\n{page.relative_to(ROOT)}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def run(path: Path, arguments: list[str]) -> tuple[list[Row], str]:
    """The rows that a script gives, and what it prints.

    Raises:
        CalledProcessError: It failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        if re.search(r"parser\(\s*__doc__", path.read_text(encoding="utf-8")):  # of _common
            arguments = [*arguments, "--json", str(file)]
        process = subprocess.Popen([sys.executable, str(path), *arguments], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, path.name)
        rows = [Row(**row) for row in json.loads(file.read_text())] if file.exists() else []
    return rows, "".join(lines)


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| stage | baseline | baseline | ours | faster, clock | faster, processor time | target | equality |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        cpu = "" if row.cpu is None else f"{row.cpu:.2f}x"
        target = "" if row.target is None else f"{row.target:g}x"
        lines.append(
            f"| {row.stage} | {row.baseline} | {row.theirs:.3g} {row.unit} | {row.ours:.3g} {row.unit} "
            f"| {row.clock:.2f}x | {cpu} | {target} | {row.equality} |"
        )
    return "\n".join(lines)


def plot(rows: list[Row]) -> None:
    """Ratios as bars, on the clock and in processor time, with their targets."""
    if not rows:
        return
    figure = Figure(figsize=(9, 0.5 * len(rows) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = list(range(len(rows)))
    axes.barh([at - 0.2 for at in places], [row.clock for row in rows], 0.38, label="clock", color="#3b6ea8")
    timed = [(at + 0.2, row.cpu) for at, row in enumerate(rows) if row.cpu is not None]
    axes.barh([at for at, _ in timed], [cpu for _, cpu in timed], 0.38, label="processor time", color="#9dbbdd")
    wanted = [(at, row.target) for at, row in enumerate(rows) if row.target is not None]
    axes.plot([target for _, target in wanted], [at for at, _ in wanted], "k|", markersize=18, label="target")
    axes.set_xscale("log")
    axes.set_yticks(places, [row.stage for row in rows])
    axes.invert_yaxis()
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("times faster than the baseline of the same run")
    axes.legend(loc="upper right")
    DOCS.mkdir(exist_ok=True)
    figure.savefig(DOCS / "performance.png", dpi=110)


def line(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def written(known: dict[str, dict[str, Any]]) -> str:
    """The page of all results."""
    rows = [Row(**result["row"]) for result in known.values() if "row" in result]
    commands = {result["command"]: result for result in known.values()}
    machine_of = {
        name: {key: value for key, value in of["machine"].items() if key != LOAD} for name, of in commands.items()
    }
    machines = [of for place, of in enumerate(machine_of.values()) if of not in list(machine_of.values())[:place]]
    parts = [
        "# Performance",
        "Written by `python benchmarks/run.py`; do not edit. A ratio is that of two medians of one run in which both "
        "did the same work in turns. On a busy machine processor time tells more than the clock.",
        "\n".join(
            [line("machine", *map(str, range(1, len(machines) + 1))), line(*["---"] * (len(machines) + 1))]
            + [line(key, *(each.get(key, "") for each in machines)) for key in machines[0]]
        ),
    ]
    if rows:
        parts += [table(rows), "![Ratios and targets](performance.png)"]
    notes = [f"- **{row.stage}**: {row.note}." for row in rows if row.note]
    if notes:
        parts += ["## What bounds them", "\n".join(notes)]
    for name, result in known.items():
        if "text" in result:
            parts += [f"## {name}", about(result["script"]), f"```\n{result['text']}\n```"]
            if result.get("picture"):
                parts.append(f"![{name}, drawn]({result['picture']})")
    parts += [
        "## How it was measured",
        "\n".join(
            [line("command", "date", "machine", "load at its start"), line(*["---"] * 4)]
            + [
                line(f"`{name}`", of["date"], str(machines.index(machine_of[name]) + 1), of["machine"].get(LOAD, ""))
                for name, of in commands.items()
            ]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def about(script: str) -> str:
    """What a script says it measures: its first paragraph, and what follows its commands."""
    text = ast.get_docstring(ast.parse((Path(__file__).parent / f"{script}.py").read_text())) or ""
    return "\n\n".join(part for part in text.split("\n\n") if not part.startswith(" "))


def last_table(text: str) -> str:
    """What a script prints in the end: its last paragraph."""
    return text.rstrip().rpartition("\n\n")[2].lstrip("\n")


if __name__ == "__main__":
    main()
