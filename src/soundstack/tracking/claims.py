"""Rows that are under way on one of several hosts: the others wait for what it makes, as processes of one host do.

MLflow has no locks. A suite's run therefore bears a tag for the row that it has under way, with the time at which it
asked for it; the earliest that lives has the row. Each looks only when the tags of all who asked before must have
arrived; one that took longer than that trains the row a second time, which costs time but changes no result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from soundstack.tracking import heartbeat
from soundstack.tracking.store import close_orphans, whole

_TAG = "soundstack.claim"
#: A server tells its time in whole seconds; beyond them, what a tag may take to arrive.
_SETTLE_SECONDS = 3.0
_POLL_SECONDS = 5.0


@contextmanager
def claimed(key: str, what: str) -> Iterator[bool]:
    """Claim the row of a key for the open run; while another host has it under way, say so and wait.

    Yields whether another host may have finished it meanwhile: the store is on a server.
    """
    run, tag = mlflow.active_run(), f"{_TAG}.{key}"
    if run is None or not heartbeat.on_server():
        yield False
        return
    mine = (heartbeat.server_time(), run.info.run_id)
    whole(MlflowClient().set_tag)(mine[1], tag, str(mine[0]))
    try:
        time.sleep(_SETTLE_SECONDS)
        told = False
        while any(other < mine for other in _living(tag)):
            if not told:
                print(f"{what}: under way on another host; waiting for what it makes.", file=sys.stderr, flush=True)
                told = True
            time.sleep(_POLL_SECONDS)
        yield True
    finally:
        with suppress(MlflowException, OSError):  # the claim ends with its run at the latest
            whole(MlflowClient().delete_tag)(mine[1], tag)


@whole
def _living(tag: str) -> list[tuple[float, str]]:
    """Time and run of all claims of a row whose processes live; what others left behind is closed."""
    close_orphans()
    query = f"attributes.status = 'RUNNING' and tags.`{tag}` LIKE '%'"
    found = mlflow.search_runs(search_all_experiments=True, filter_string=query, output_format="list")
    return [(float(run.data.tags[tag]), run.info.run_id) for run in found]
