"""A tracking database that was moved or copied together with its ``mlruns``.

MLflow stores where artifacts lie as absolute paths, so such a database would go on reading from the old place, and
writing to it. Here its paths are made those of the ``mlruns`` beside it, if everything that they lead to lies there.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from soundstack.utils.errors import StoreError

_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_WITH_FILES = (("runs", "artifact_uri"), ("logged_models", "artifact_location"))


def bring_home(database: Path, experiment: str, present_run: str | None = None) -> None:
    """Let a moved or copied database know its new place; nothing is done to one that keeps its artifacts elsewhere.

    Args:
        database: MLflow's SQLite file; nobody else may be at this.
        experiment: The number of the one that new runs go to.
        present_run: A run that was made just now, which has no artifacts yet.

    Raises:
        StoreError: Artifacts that it names lie in the old place only: nothing is changed.
    """
    home = database.parent / "mlruns"
    with closing(sqlite3.connect(database, timeout=60, isolation_level=None)) as connection:
        experiments = connection.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall()
        roots: dict[str, bool] = {}  # whether new runs go there
        for number, location in experiments:
            if location and location.endswith(f"/mlruns/{number}"):
                root = location.removesuffix(f"/{number}")
                roots[root] = roots.get(root, False) or str(number) == experiment
        for root, used in roots.items():
            old = _local(root)
            if old is None or old == home or (old.exists() and home.exists() and old.samefile(home)):
                continue
            names = _files_below(connection, root, present_run)
            here = {name for name in names if (home / name).exists()}
            left = [name for name in names if name not in here and (old / name).exists()]
            if here and not left:
                _rewrite(connection, root, home.as_uri() if root.startswith("file:") else str(home))
                print(
                    f"{database} was moved here from {old.parent}: its artifacts are those in {home}.", file=sys.stderr
                )
            elif here or (used and database == Path("mlflow.db").absolute() and _strays(old, names)):
                raise StoreError(
                    f"{database} comes from {old.parent}, and artifacts of its runs are not in {home}: copy {old} "
                    f"there, or remove {database.name} to begin a new one."
                )


def _local(root: str) -> Path | None:
    parts = urlsplit(root)
    if root.startswith("file:"):
        return Path(unquote(parts.path))
    return Path(root) if root.startswith("/") else None


def _files_below(connection: sqlite3.Connection, root: str, present_run: str | None) -> list[str]:
    """Folders of artifacts, relative to the root; some runs have none."""
    names = []
    for table, column in _WITH_FILES:
        key = "run_uuid" if table == "runs" else "model_id"
        query = f"SELECT {column} FROM {table} WHERE substr({column}, 1, ?) = ? AND {key} IS NOT ?"
        found = connection.execute(query, (len(root) + 1, f"{root}/", present_run))
        names += [location.removeprefix(f"{root}/") for (location,) in found]
    return names


def _strays(old: Path, names: list[str]) -> bool:
    """Tell whether a folder's own database would write to a place that has a database of its own, or is gone."""
    return (old.parent / "mlflow.db").exists() or (bool(names) and not old.exists())


def _rewrite(connection: sqlite3.Connection, root: str, new: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for table, column in _LOCATIONS:
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
            (new, len(root) + 1, len(root) + 1, f"{root}/"),
        )
    connection.execute("COMMIT")
