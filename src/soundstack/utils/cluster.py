"""Work on the hosts of a Ray cluster. Ray is an extra, imported here alone; ``docs/scale.md`` says how to start it.

A job is a top-level function of the package and one argument; it must not matter how often it is done, since that of a
host that dies is done again. The package travels with the jobs, and a host whose code or libraries are others than the
driver's is refused: its results could not be told from ours.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import util
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from soundstack.utils.code_versions import behind_results, versions_of
from soundstack.utils.errors import ConfigError, SoundstackError, WorkerError

REQUIREMENT = "ray[default]==2.60.0"
#: Jobs that are handed out at a time: more than cores, so that nobody waits for the driver, and few in its memory.
IN_FLIGHT = 256
_ANSWERS = 20.0
"""Seconds in which somebody must answer there."""
#: Where nothing ends for so long, and a host was lost, all that is under way is handed out once more.
STALL_SECONDS = 10.0
#: So often is a job done again whose host was lost.
RETRIES = 5

Job = TypeVar("Job")
Done = TypeVar("Done")


def checked(address: str) -> str:
    """Return ``none``, ``auto`` or ``HOST:PORT`` as it is given.

    Raises:
        ValueError: It is something else, Ray is not installed, or nothing keeps strangers out of the cluster.
    """
    if address == "none":
        return address
    if not re.fullmatch(r"auto|([\w.-]+|\[[\da-f:]+\]):\d{1,5}", address, re.IGNORECASE):
        raise ValueError(f"{address!r} is not understood; give none, auto, or HOST:PORT as `ray start --head` shows it")
    if not is_installed():
        raise ValueError(f"{address} needs Ray on every host; install it: uv pip install '{REQUIREMENT}'")
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise ValueError(
            "without a token, anybody on the network runs code on a Ray cluster; set RAY_AUTH_MODE=token for every "
            "`ray start` and for this command (docs/scale.md)"
        )
    return address


def is_installed() -> bool:
    """Whether Ray is."""
    return util.find_spec("ray") is not None


@dataclass(frozen=True)
class Cluster:
    """A running Ray cluster, and what a job takes of a host: cores, and GPUs or shares of one."""

    address: str
    cpus: int = 1
    gpus: float = 0.0

    def run(self, work: Callable[[Job], Done], jobs: Iterable[Job]) -> Iterator[tuple[int, Done]]:
        """Do jobs on the hosts, and yield their numbers and what came of them, as they end.

        Raises:
            ConfigError: The cluster cannot be reached, or has another token.
            WorkerError: A host has other code or libraries, or a job was ended from outside again and again.
            SoundstackError: The first one that a job raised.
        """
        ray = _connected(self.address)
        options = {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "max_retries": RETRIES,
            "scheduling_strategy": "SPREAD",
        }
        task = ray.remote(_checked_work).options(**options)
        self._tell_if_none_fits(ray)
        waiting, versions = enumerate(jobs), versions_of(behind_results())
        handed_out: dict[int, Job] = {}
        under_way: dict[Any, int] = {}
        lost = _lost_hosts(ray)
        try:
            while True:
                handed_out |= (new := dict(islice(waiting, IN_FLIGHT - len(handed_out))))
                under_way |= {task.remote(versions, work, job): number for number, job in new.items()}
                if not handed_out:
                    return
                ended, _ = ray.wait(list(under_way), num_returns=1, timeout=STALL_SECONDS)
                if ended:
                    number = under_way.pop(ended[0])
                    if handed_out.pop(number, None) is not None:  # else a copy of it was faster
                        yield number, _result(ray, ended[0])
                elif lost < (lost := _lost_hosts(ray)):
                    # Ray waits for tasks of a host whose link was cut, minutes after it has given the host up.
                    under_way |= {task.remote(versions, work, job): number for number, job in handed_out.items()}
        finally:
            for each in under_way:
                ray.cancel(each)

    def _tell_if_none_fits(self, ray: Any) -> None:
        hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(host.get("CPU", 0) >= self.cpus and host.get("GPU", 0) >= self.gpus for host in hosts):
            wanted = f"{self.cpus} cores" + (f" and {self.gpus:g} GPUs" if self.gpus else "")
            print(f"cluster: no host has {wanted} for a task; waiting until one joins.", file=sys.stderr, flush=True)


def _lost_hosts(ray: Any) -> int:
    return sum(not node["Alive"] for node in ray.nodes())


def _checked_work(wanted: dict[str, str], work: Callable[[Any], Any], job: Any) -> Any:
    """What a host does, if its code and libraries are those of the driver."""
    here = versions_of(tuple(wanted))
    if other := next((name for name in wanted if here[name] != wanted[name]), None):
        raise WorkerError(
            f"The host {os.uname().nodename} has {other} {here[other]}, and this machine {wanted[other]}; install the "
            "versions of conda.yaml on both."
        )
    return work(job)


@cache
def _connected(address: str) -> Any:
    """Ray, connected to the cluster; its jobs get the package as it is here."""
    import ray

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment = {
        "py_modules": [str(Path(__file__).parents[1])],
        "excludes": ["**/__pycache__"],
        "env_vars": {"OMP_WAIT_POLICY": "PASSIVE"},  # see entrypoints/_project.py
    }
    try:
        if address != "auto":  # Ray would ask for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _ANSWERS).close()
        ray.init(address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"cluster: {address} cannot be joined ({_in_a_line(error)}); check the address and the token, and that Ray "
            "runs on this machine, too: ray start --address=HOST:PORT --num-cpus=0."
        ) from None
    finally:
        for number, handler in before.items():  # Ray sets its own: an interrupted run ends as it does without it
            signal.signal(number, handler)
    return ray


def _result(ray: Any, ended: Any) -> Any:
    try:
        return ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, SoundstackError):
            raise type(cause)(str(cause)) from None
        if isinstance(cause, ImportError):
            raise WorkerError(f"A host lacks a library ({cause}); install conda.yaml's on every host.") from None
        raise
    except ray.exceptions.RayError as error:
        raise WorkerError(
            f"A job was ended on its hosts {RETRIES + 1} times ({_in_a_line(error)}); look at their memory and logs."
        ) from None


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
