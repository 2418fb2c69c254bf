"""Build a set-up of several machines on this one, and take the figures of ``docs/scale.md`` in it.

    python benchmarks/scale_out/run.py --work FOLDER --sounds FOLDER_OF_ESC-10 [--only NAME ...]

Needs root (for namespaces), iproute2, util-linux, PostgreSQL, uv, and a package index for the first time. FOLDER,
outside ``/tmp`` and on a disk with extended attributes, keeps three environments (5 GB), the store, and logs; all else
ends with the command. Prints a Markdown row for each figure, and ends with 1 where one is not as it must be.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "src")]

import failures  # noqa: E402
import machines  # noqa: E402
import services  # noqa: E402
import slurm  # noqa: E402
import tasks  # noqa: E402
import together  # noqa: E402
from bed import enter  # noqa: E402

#: What is taken, in this order: rows are trained once, and then serve predictions.
FIGURES: dict[str, Callable[[machines.Setup], str]] = {
    "shards": failures.shards,
    "killed_host": failures.killed_host,
    "killed_driver": failures.killed_driver,
    "cut_link": failures.cut_link,
    "token": failures.token,
    "processor": tasks.processor,
    "sleeping": tasks.sleeping,
    "rows": together.rows,
    "folds": together.folds,
    "predict": together.predict,
    "slurm": slurm.slurm,
}


def pins(conda: str) -> tuple[list[str], list[str]]:
    """The libraries of ``conda.yaml`` with their versions, and its extras: Ray first, then PostgreSQL's driver."""
    required = re.findall(r"^ +- ([^#\s]+==[^#\s]+)", conda, re.MULTILINE)
    extras = re.findall(r"^# +- ((?:ray|psycopg)\S+==\S+)", conda, re.MULTILINE)
    return required, sorted(extras, reverse=True)


def row(name: str, said: str, load: str) -> str:
    """A figure as a line of a Markdown table."""
    return f"| `--only {name}` | {said} | {load} |"


def main() -> None:
    """Build, measure, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the set-up; made if need be, kept")
    parser.add_argument("--sounds", type=Path, required=True, help="folder of ESC-10 (meta/, audio/)")
    parser.add_argument("--only", action="extend", nargs="+", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES))
    options = parser.parse_args()
    work, sounds = options.work.resolve(), options.sounds.resolve()
    if Path("/tmp") in (work, *work.parents) or Path("/tmp") in sounds.parents:
        parser.error("the set-up has a /tmp of its own; give folders elsewhere")
    if not (sounds / "meta").is_dir():
        parser.error(f"{sounds} is no ESC-10: it has no folder meta")
    if missing := [program for program in ("ip", "unshare", "nsenter", "uv", "git") if not shutil.which(program)]:
        parser.error(f"needs {', '.join(missing)}")
    place, chosen = services.Place(work), [name for name in FIGURES if name in (options.only or FIGURES)]
    place.logs.mkdir(parents=True, exist_ok=True)
    conda = (ROOT / "conda.yaml").read_text(encoding="utf-8")
    if Path(sys.prefix) != place.venv("soundstack"):
        services.install(place, *pins(conda))
    enter([str(place.venv("soundstack") / "bin" / "python"), *sys.argv], machines.NAMES)
    machines.fresh(place.logs)
    os.environ.update(place.environment() | services.RAY)
    services.new_token(place)
    services.start_store(place)
    services.start_database(place)
    services.start_tracking(place)
    built = machines.Setup(place, ROOT, machines.snapshot(ROOT, work / "checkout"), sounds, services.RAY)
    services.start_head(place)
    machines.upload_sounds(built)
    print("| command | measured | load |\n|---|---|---|", flush=True)
    raise SystemExit(bool([name for name in chosen if not taken(built, name)]))


def taken(built: machines.Setup, name: str) -> bool:
    """Take a figure and print its row; whether it is as it must be."""
    started, load = time.monotonic(), machines.load()
    try:
        said = FIGURES[name](built)
    except Exception as error:  # whatever it is, the other figures are taken
        said = f"FAILED after {time.monotonic() - started:.0f} s: {type(error).__name__}: {error}"
    print(row(name, said, load), flush=True)
    return not said.startswith("FAILED")


if __name__ == "__main__":
    main()
