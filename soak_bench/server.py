"""The real scoring server as a child process on loopback, its workers, and what they hold of the memory."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from soak_bench.workplace import end_group, last_line, plain_environment
from soundstack.utils.errors import SoakError

START_SECONDS = 240.0
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Server:
    """A running server."""

    address: str
    process: subprocess.Popen[str]

    def workers(self) -> dict[int, float]:
        """The server's processes, by pid when they began."""
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return {member.pid: member.create_time() for member in family}

    def memory(self) -> float:
        """Megabytes that the server's processes hold resident."""
        total = 0
        for pid in self.workers():
            try:
                total += psutil.Process(pid).memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total / _MEGABYTE


def stop(process: subprocess.Popen[str], signals: Sequence[int] = (signal.SIGTERM, signal.SIGKILL)) -> None:
    """End a server and all that it started, in whatever process groups."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    end_group(process, signals, 20)
    _, alive = psutil.wait_procs(family, 5)
    for member in alive:
        with suppress(psutil.NoSuchProcess):
            member.kill()  # psutil makes sure that it is still the same process


def free_port() -> int:
    """A TCP port of loopback nobody listens on, nor will: systems give those that are free from 32,768 on."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def scoring(model: str, store: str, folder: Path, log: Path) -> Iterator[Server]:
    """Serve a registered model, ``models:/...``, from a store, with pickles forbidden.

    Raises:
        SoakError: It does not come up.
    """
    command = ["models", "serve", "-m", model, "--env-manager", "local"]
    with _mlflow(command, "/ping", store, folder, log) as server:
        yield server


@contextmanager
def tracking(store: str, artifacts: Path, folder: Path, log: Path, port: int | None = None) -> Iterator[Server]:
    """Run a tracking server in front of a store.

    Raises:
        SoakError: It does not come up.
    """
    command = ["server", "--backend-store-uri", store, "--artifacts-destination", str(artifacts), "--workers", "1"]
    with _mlflow(command, "/health", store, folder, log, port) as server:
        yield server


@contextmanager
def _mlflow(
    command: list[str], health: str, store: str, folder: Path, log: Path, port: int | None = None
) -> Iterator[Server]:
    port = port or free_port()
    environment = plain_environment(store) | {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nothing here runs jobs, and their runners take a core
    }
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while not _answers(address + health):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SoakError(
                    f"mlflow {command[0]} does not come up: {last_line(log.read_text(encoding='utf-8'))} (see {log})"
                )
            time.sleep(0.3)
        yield Server(address, process)
    finally:
        stop(process)


def _answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).ok
    except requests.RequestException:
        return False
