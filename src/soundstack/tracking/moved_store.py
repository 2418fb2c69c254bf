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

_ARTIFACTS = (
    "SELECT artifact_uri FROM runs WHERE run_uuid IS NOT ? UNION ALL SELECT artifact_location FROM logged_models"
)


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
        experiments = connection.execute("SELECT experiment_id, artifact_location FROM experiments")
        locations = {str(number): location or "" for number, location in experiments}
        ours = {number: place for number, place in locations.items() if place.endswith(f"/mlruns/{number}")}
        for root in {place.removesuffix(f"/{number}") for number, place in ours.items()}:
            used = ours.get(experiment) == f"{root}/{experiment}"  # new runs go there
            old = local(root)
            if old is None or old == home or (old.exists() and home.exists() and old.samefile(home)):
                continue
            # Folders of artifacts, relative to the root; some runs have none.
            places = [place or "" for (place,) in connection.execute(_ARTIFACTS, (present_run,))]
            names = [place.removeprefix(f"{root}/") for place in places if place.startswith(f"{root}/")]
            here = {name for name in names if (home / name).exists()}
            left = [name for name in names if name not in here and (old / name).exists()]
            # A folder's own database would write to a place that has a database of its own, or is gone.
            strays = (old.parent / "mlflow.db").exists() or (names and not old.exists())
            if here and not left:
                _rewrite(connection, root, home.as_uri() if root.startswith("file:") else str(home))
                print(
                    f"{database} was moved here from {old.parent}: its artifacts are those in {home}.", file=sys.stderr
                )
            elif here or (used and database == Path("mlflow.db").absolute() and strays):
                raise StoreError(
                    f"{database} comes from {old.parent}, and artifacts of its runs are not in {home}: copy {old} "
                    f"there, or remove {database.name} to begin a new one."
                )


def local(root: str) -> Path | None:
    """The folder that a location of artifacts is; none where it is of another kind."""
    parts = urlsplit(root)
    if root.startswith("file:"):
        return Path(unquote(parts.path))
    return Path(root) if root.startswith("/") else None


def _rewrite(connection: sqlite3.Connection, root: str, new: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for table, column in (
        ("experiments", "artifact_location"),
        ("runs", "artifact_uri"),
        ("logged_models", "artifact_location"),
        ("model_versions", "source"),
        ("model_versions", "storage_location"),
    ):
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
            (new, len(root) + 1, len(root) + 1, f"{root}/"),
        )
    connection.execute("COMMIT")
