"""Where the user stands: what is relative starts there, and what a run makes lies there.

``mlflow run`` starts entry points in the project's folder, which may be read-only or a clone that is soon forgotten; so
they go back to the folder in which the command was typed, before anything is read from a path.
"""

from __future__ import annotations

import os
import re
import shlex
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from soundstack.utils.project import PROJECT

if TYPE_CHECKING:
    import psutil

_REMOTE = re.compile(r"[a-z+]+://|[\w.-]+@[\w.-]+:")


def stand_with_the_user() -> None:
    """Go to the folder of the process that gave this one its MLflow run, as ``mlflow run`` does.

    Without such a process, or where it cannot be asked (another user's, another machine's), nothing changes.
    """
    if (starter := _starter()) is not None:
        import psutil

        with suppress(psutil.Error, OSError):
            os.chdir(starter.cwd())


@cache
def project() -> str:
    """What ``mlflow run`` is to be given for this project, as it is typed where the user stands."""
    starter = _starter()
    words = starter.cmdline() if starter is not None else []
    for before, word in pairwise(words):
        if _REMOTE.match(word) and before not in ("-P", "-v", "--param-list", "--version"):
            return shlex.quote(word)
    return "." if Path.cwd() == PROJECT else shlex.quote(str(PROJECT))


@cache
def _starter() -> psutil.Process | None:
    """The process that made this one's MLflow run: the nearest above it to which the run was not yet known."""
    run = os.environ.get("MLFLOW_RUN_ID")
    if not run or Path.cwd() != PROJECT:
        return None
    import psutil

    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            # A shell between the two knows the run; where macOS hides its environment, it stands in the project.
            shell = process.name() in ("bash", "sh") and "-c" in process.cmdline()
            if not shell and process.environ().get("MLFLOW_RUN_ID") != run:
                return process
    return None
