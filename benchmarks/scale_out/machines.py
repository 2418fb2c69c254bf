"""The machines of the set-up: two hosts that work, two from which commands are given; and the product's commands."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bed import CHECKOUT, SERVER, BedError, Host, address, until
from services import ADDRESS, Place

#: Hosts that work, and hosts where commands are given, by the numbers of their addresses.
WORKERS = {"one": 1, "two": 2}
DRIVERS = {"a": 3, "b": 4}
#: The addresses of all machines by their names.
NAMES = {"server": SERVER} | {name: address(number) for name, number in (WORKERS | DRIVERS).items()}
SLICES = 8
"""Of 32 of the 249 clips of ESC-10's excerpt."""


@dataclass
class Setup:
    """Everything that a figure needs.

    Attributes:
        checkout: the user's, which hosts do not see.
        root: a copy of it, of which commands are run.
        sounds: the folder of ESC-10 on this machine.
        settings: of Ray, as variables ``RAY_...``, for head and hosts.
    """

    place: Place
    checkout: Path
    root: Path
    sounds: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    cores: dict[str, int] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    _ray: Any = None

    def say(self, text: str) -> None:
        """Tell how it goes, on stderr."""
        print(f"  {text}", file=sys.stderr, flush=True)

    @property
    def python(self) -> str:
        """The hosts' interpreter."""
        return str(self.place.venv("soundstack") / "bin" / "python")

    def environment(self) -> dict[str, str]:
        """What all machines find in their environment."""
        return self.place.environment() | dict(self.settings)

    def make_host(self, name: str, home: Path | None = None, **more: str) -> Host:
        """Bring a host up; one from which commands are given gets a copy of the checkout.

        Args:
            home: a home that it shares with other hosts, in the place of its own.
            more: of its environment.
        """
        hidden = [Path.home(), self.checkout, self.sounds, self.place.work]
        kept = [Path(sys.base_prefix), self.place.venv("soundstack"), self.place.secret]
        environment = self.environment() | more
        if home:
            kept, environment = [*kept, home], environment | {"HOME": str(home)}
        number = (WORKERS | DRIVERS)[name]
        host = Host(name, number, hidden, kept, environment, self.place.logs).start()
        self.hosts[name] = host
        seen = host.run(["ls", "-A", *map(str, [self.checkout, self.sounds])]).stdout
        if set(seen.split()) & {"src", "meta", "audio"}:
            raise BedError(f"host {name} sees the checkout or the sounds")
        if name in DRIVERS:
            shutil.copytree(self.root, host.path(CHECKOUT))
        return host

    def join(self, name: str, cores: int, seconds: float = 90) -> Host:
        """Let a host join the cluster, brought up if need be."""
        host = self.hosts.get(name) or self.make_host(name)
        ray = str(self.place.venv("soundstack") / "bin" / "ray")
        words = [f"--address={ADDRESS}", f"--node-ip-address={host.address}", f"--num-cpus={cores}"]
        host.begin([ray, "start", *words, "--disable-usage-stats", "--block"], "ray")
        until(lambda: host.address in self.alive(), seconds, f"host {name} joins the cluster", 0.5)
        self.cores[name] = cores
        return host

    def leave(self, name: str) -> None:
        """Switch a host off, and wait until the cluster has noticed."""
        host = self.hosts.pop(name, None)
        if host:
            with suppress(subprocess.TimeoutExpired):  # a host that says farewell is not waited for
                host.run([str(self.place.venv("soundstack") / "bin" / "ray"), "stop"], 30)
            host.kill()
            until(lambda: host.address not in self.alive(), 120, f"host {name} is given up", 0.5)

    def alive(self) -> set[str]:
        """The addresses of the cluster's living machines."""
        return {node["NodeManagerAddress"] for node in self.ray.nodes() if node["Alive"]}

    @property
    def ray(self) -> Any:
        """Ray, connected from the server."""
        if self._ray is None:
            import ray

            ray.init(ADDRESS, log_to_driver=False, logging_level="ERROR", _node_ip_address=SERVER)
            self._ray = ray
        return self._ray

    def workers(self, cores: int = 1) -> None:
        """Have the working hosts up and joined, each with so many cores, and a host of commands, too."""
        alive = self.alive()
        for name in WORKERS:
            if self.cores.get(name) != cores or name not in self.hosts or self.hosts[name].address not in alive:
                self.leave(name)
                self.join(name, cores)
        if "a" not in self.hosts:
            self.join("a", 0)

    def command(self, step: str, **parameters: str | int) -> list[str]:
        """An entry point's command line on a driver's host."""
        return [self.python, str(CHECKOUT / "entrypoints" / f"{step}.py"), *_words(parameters)]

    def embedded(self, step: str, **parameters: str | int) -> None:
        """Run a step on the server itself, without a cluster, on local files, unless that is done."""
        if (asked := str((step, parameters))) in self.done:
            return
        folder = self.place.work / "reference"
        folder.mkdir(exist_ok=True)
        places: dict[str, str | int] = {"data_dir": str(self.sounds), "cache_dir": str(folder / "cache")}
        given = parameters if step == "predict" else places | parameters
        command = [self.python, str(self.root / "entrypoints" / f"{step}.py"), *_words(given)]
        environment = self.place.environment() | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=580)
        if done.returncode:
            raise BedError(f"{step} without a cluster: {done.stderr[-2000:]}")
        self.done.add(asked)


def _words(parameters: dict[str, str | int]) -> list[str]:
    return [word for name, value in parameters.items() for word in (f"--{name}", str(value))]


def snapshot(root: Path, folder: Path) -> Path:
    """A copy of a checkout's files, whatever is changed in it meanwhile."""
    listing = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")
    fresh(folder)
    for name in names:
        if name and (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    return folder


def upload_sounds(setup: Setup) -> None:
    """Put the data set into the store."""
    from soundstack.utils import object_store

    files = [path for path in sorted(setup.sounds.rglob("*")) if path.is_file()]
    object_store.send(files, setup.sounds, "s3://sounds/esc10")


def stored(place: str, kind: str) -> list[str]:
    """The names of the finished shards of a kind of features in a store's cache."""
    from soundstack.utils import object_store

    names = object_store.listed(f"{place}/features")
    return finished([name for name in names if name.startswith(kind)])


def finished(names: Sequence[str]) -> list[str]:
    """Of names of files of features, the indices of shards."""
    return [name for name in names if name.endswith(".json") and not name.endswith("/spec.json")]


def check_equal(setup: Setup, place: str, kind: str) -> int:
    """Compare features in the store with those of the embedded run, file by file; return their number.

    Raises:
        BedError: A file is missing, extra, or another one.
    """
    from soundstack.utils import object_store

    folder = setup.place.work / "reference" / "cache" / "features"
    there = {
        name: hashlib.sha256(object_store.read(f"{place}/features/{name}")).hexdigest()
        for name in object_store.listed(f"{place}/features")
        if name.startswith(kind)
    }
    here = digests(folder, kind)
    stores = {name.split("/")[0] for name in there}  # of an earlier version of the code, there may be others
    return compare({name: digest for name, digest in here.items() if name.split("/")[0] in stores}, there)


def digests(folder: Path, kind: str) -> dict[str, str]:
    """The files of a kind of features below a folder by name, with their digests."""
    files = [path for path in folder.glob(f"{kind}*/*") if path.suffix in (".npy", ".json")]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def compare(here: dict[str, str], there: dict[str, str]) -> int:
    """The number of files by name and digest, which must be the same here and there.

    Raises:
        BedError: They are not, or there are none.
    """
    wrong = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if wrong or not there:
        raise BedError(f"{len(wrong)} of {len(there)} files differ from the local ones, as {wrong[:1]}")
    return len(there)


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def load() -> str:
    """How busy the machine is."""
    return f"{os.getloadavg()[0]:.1f}"
