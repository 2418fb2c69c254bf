"""Hosts as namespaces: each a network, process, mount and host-name namespace, joined by a bridge of this machine.

Everything is made inside namespaces of one outer process (:func:`enter`), the "server" at ``10.77.0.1``. When that
process ends, however it ends, the kernel takes every process, link and mount with it: nothing is left to clean.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

SERVER = "10.77.0.1"
_BRIDGE = "bed"
_INSIDE = "SOUNDSTACK_BED"
#: Where a driver's host has its copy of the checkout.
CHECKOUT = Path("/tmp/soundstack")


class BedError(RuntimeError):
    """Something of the set-up did not come up in time, or a figure is not what it must be."""


def until(done: Callable[[], bool], seconds: float, what: str, every: float = 0.05) -> float:
    """Wait for something, and return the seconds it took.

    Raises:
        BedError: It took longer than ``seconds``.
    """
    started = time.monotonic()
    while not done():
        if time.monotonic() - started > seconds:
            raise BedError(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)
    return time.monotonic() - started


def enter(command: Sequence[str], named: Mapping[str, str]) -> None:
    """Run a command in namespaces of its own, where these names have these addresses; return if already in them.

    Ends the program with the command's exit status otherwise.
    """
    if os.environ.get(_INSIDE):
        for line in ("link set lo up", f"link add {_BRIDGE} type bridge", f"addr add {SERVER}/24 dev {_BRIDGE}",
                     f"link set {_BRIDGE} up"):  # fmt: skip
            _ip(line)
        for folder in ("/dev/shm", "/tmp"):
            subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
        subprocess.run(["hostname", "server"], check=True)
        names = "".join(f"{address} {name}\n" for name, address in [("localhost", "127.0.0.1"), *named.items()])
        Path("/tmp/hosts").write_text(names)
        subprocess.run(["mount", "--bind", "/tmp/hosts", "/etc/hosts"], check=True)
        return
    if os.geteuid():
        raise SystemExit("run.py: makes namespaces and therefore needs root")
    unshare = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child"]
    outer = subprocess.Popen([*unshare, *command], env=os.environ | {_INSIDE: "1"})
    signal.signal(signal.SIGTERM, lambda *_: outer.kill())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command gets it, too
    raise SystemExit(outer.wait())


def _ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)


def address(number: int) -> str:
    """The address of a host by its number."""
    return f"10.77.0.{10 + number}"


@dataclass
class Host:
    """A machine of the set-up, seen from the outer namespaces.

    Attributes:
        number: its address is ``10.77.0.(10 + number)``.
        hidden: folders that it sees empty.
        kept: folders that it sees although they lie in hidden ones.
        environment: of all its commands.
        logs: where the output of what it runs in the background goes.
    """

    name: str
    number: int
    hidden: Sequence[Path]
    kept: Sequence[Path]
    environment: Mapping[str, str]
    logs: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _unshare: subprocess.Popen[bytes] | None = None
    _init: int = 0

    @property
    def address(self) -> str:
        """Its address."""
        return address(self.number)

    def start(self) -> Host:
        """Bring the host up: its namespaces, what it does not see, its link.

        Raises:
            BedError: It does not come up.
        """
        ours, theirs = f"{_BRIDGE}-{self.number}", f"peer-{self.number}"
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["ip", "link", "del", ours], check=True, stderr=subprocess.DEVNULL)
        _ip(f"link add {ours} type veth peer name {theirs}")
        _ip(f"link set {ours} master {_BRIDGE} up")
        command = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child"]
        script = "\n".join(_boot(self.name, self.hidden, self.kept, theirs, self.address))
        with self._log("boot") as log:
            self._unshare = subprocess.Popen([*command, "bash", "-c", script], stdout=log, stderr=log)
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        until(lambda: bool(children.read_text().split()), 10, f"host {self.name}: its first process")
        self._init = int(children.read_text().split()[0])
        _move(theirs, self._init)
        until(lambda: self.run(["test", "-e", "/tmp/up"]).returncode == 0, 20, f"host {self.name}")
        return self

    def _log(self, name: str) -> IO[bytes]:
        return (self.logs / f"{self.name}-{name}.log").open("ab")

    def _inside(self, command: Sequence[str], more: Mapping[str, str]) -> list[str]:
        values = [f"{name}={value}" for name, value in {**self.environment, **more}.items()]
        nsenter = ["nsenter", f"--target={self._init}", "--net", "--pid", "--mount", "--uts", "--ipc", "--wd=/tmp"]
        return [*nsenter, "env", "-i", *values, *command]

    def run(self, command: Sequence[str], timeout: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the host, with ``more`` in its environment, and return what it printed."""
        return subprocess.run(self._inside(command, more), capture_output=True, text=True, timeout=timeout)

    def begin(self, command: Sequence[str], log: str, **more: str) -> subprocess.Popen[bytes]:
        """Start a command on the host; its output goes to a file. It ends with the host at the latest."""
        with self._log(log) as file:
            process = subprocess.Popen(self._inside(command, more), stdout=file, stderr=file, start_new_session=True)
        self.running.append(process)
        return process

    def said(self, log: str) -> str:
        """What commands that were begun under this name have printed."""
        return (self.logs / f"{self.name}-{log}.log").read_text(errors="replace")

    def path(self, path: Path) -> Path:
        """Where the server finds a path of the host."""
        return Path(f"/proc/{self._init}/root{path}")

    def kill(self) -> None:
        """Switch the host off, if it is not yet."""
        if self._init:  # a number that is free again may be another process's
            with suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGKILL)
            self._init = 0
        if self._unshare:
            self._unshare.wait(20)
        for process in self.running:
            process.wait(20)
        self.running.clear()

    def cut(self) -> None:
        """Cut its link: nothing arrives any more, and nobody is told."""
        _ip(f"link set {_BRIDGE}-{self.number} down")


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill what :meth:`Host.begin` started, at once, with all of its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)


def _move(link: str, process: int) -> None:
    _ip(f"link set {link} netns {process}")


def _boot(name: str, hidden: Sequence[Path], kept: Sequence[Path], link: str, address: str) -> list[str]:
    """The commands that a host begins with, in bash."""
    lines = ["set -e", f"hostname {shlex.quote(name)}", "mount -t tmpfs none /mnt"]
    for number, path in enumerate(kept):
        lines += [f"mkdir /mnt/{number}", f"mount --bind {shlex.quote(str(path))} /mnt/{number}"]
    for path in dict.fromkeys([Path("/dev/shm"), Path("/tmp"), *hidden]):
        lines += [f"mkdir -p {shlex.quote(str(path))}", f"mount -t tmpfs none {shlex.quote(str(path))}"]
    for number, path in enumerate(kept):
        place = shlex.quote(str(path))
        lines += [f"mkdir -p {place}", f"mount --bind /mnt/{number} {place}"]
    return [
        *lines,
        "umount -l -R /mnt",
        f"until ip link set {link} up 2>/dev/null; do sleep 0.05; done",
        f"ip link set lo up; ip addr add {address}/24 dev {link}",
        "touch /tmp/up",
        "while sleep 3600; do :; done",  # as the first process, bash also takes leave of orphans
    ]
