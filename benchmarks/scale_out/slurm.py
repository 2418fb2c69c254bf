"""The sbatch script of ``docs/scale.md`` on a Slurm cluster of two of the set-up's hosts, which share a home."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from bed import SERVER, BedError, until
from machines import WORKERS, Setup, compare, digests, fresh
from services import begin

_SERVER_NAME = "server"
#: What the page asks of the cluster, and what is asked here.
_HERE = {
    "--nodes=4": "--nodes=2",
    "--cpus-per-task=32": "--cpus-per-task=1",
    "--dataset dcase2018": "--dataset esc10",
    "$SCRATCH/dcase2018": "$SCRATCH/esc10",
}


def slurm(setup: Setup) -> str:
    """The page's sbatch script, with this cluster's numbers for the page's, equal to one machine."""
    if missing := [name for name in ("slurmctld", "slurmd", "sbatch", "munged", "mungekey") if not shutil.which(name)]:
        raise BedError(f"needs {', '.join(missing)}: apt-get install slurm-wlm munge")
    setup.embedded("extract", dataset="esc10")
    for name in WORKERS:
        setup.leave(name)
    home = _home(setup)
    conf = setup.place.secret / "slurm.conf"
    for name in WORKERS:
        setup.make_host(name, home=home, SLURM_CONF=str(conf))
    _start(setup, conf)
    (home / "job.sh").write_text(script((setup.root / "docs" / "scale.md").read_text(encoding="utf-8")))
    host, scratch = setup.hosts["one"], home / "scratch"
    more = {"SCRATCH": str(scratch), "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db"}
    done = host.run(["sbatch", "--wait", f"--output={home}/job.log", str(home / "job.sh")], 580, **more)
    said = (home / "job.log").read_text(errors="replace") if (home / "job.log").exists() else ""
    if done.returncode:
        raise BedError(f"sbatch ended with {done.returncode}: {done.stderr[-500:]} {said[-2500:]}")
    here, there = (digests(folder / "features", "logmel") for folder in _caches(setup, scratch))
    number = compare({name: here.get(name, "") for name in there}, there)
    for name in WORKERS:
        setup.leave(name)
    return f"{number} files of two Slurm nodes equal; head, hosts and command end with the job"


def _caches(setup: Setup, scratch: Path) -> tuple[Path, Path]:
    return setup.place.work / "reference" / "cache", scratch / "soundstack-cache"


def script(page: str) -> str:
    """The sbatch script of the page, with this cluster's numbers.

    Raises:
        BedError: The page has no such script, or asks something else.
    """
    found = re.search(r"```sh\n(#!/bin/bash\n#SBATCH.*?)```", page, re.DOTALL)
    if not found or not all(asked in found[1] for asked in _HERE):
        raise BedError("docs/scale.md has no sbatch script as it was")
    text = found[1]
    for asked, here in _HERE.items():
        text = text.replace(asked, here)
    return text


def _home(setup: Setup) -> Path:
    """A home for all nodes, as clusters have it: the checkout, its environment, the sounds."""
    home = fresh(setup.place.work / "home")
    shutil.copytree(setup.root, home / "soundstack")
    (home / "soundstack" / ".venv").symlink_to(setup.place.venv("soundstack"))
    shutil.copytree(setup.sounds, home / "scratch" / "esc10")
    return home


def _start(setup: Setup, conf: Path) -> None:
    """Start Slurm: the controller on the server, a daemon on each host, and munge, which all reach by its socket."""
    munge = fresh(setup.place.secret / "munge")
    munge.chmod(0o711)
    subprocess.run(["mungekey", "--create", f"--keyfile={munge}/key"], check=True)
    options = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    words = [f"--{option}={munge}/{name}" for option, name in options.items()]
    begin(setup.place, "munge", ["munged", "--foreground", "--force", *words])
    until((munge / "socket").exists, 30, "munge")
    nodes = "".join(f"NodeName={name} NodeAddr={setup.hosts[name].address} CPUs=2 State=UNKNOWN\n" for name in WORKERS)
    conf.write_text(
        f"ClusterName=bed\nSlurmctldHost={_SERVER_NAME}({SERVER})\nSlurmUser=root\nAuthType=auth/munge\n"
        f"AuthInfo=socket={munge}/socket\nCredType=cred/munge\nStateSaveLocation=/tmp/slurmctld\n"
        "SlurmctldPidFile=/tmp/slurmctld.pid\nSlurmdSpoolDir=/tmp/slurmd-%n\nSlurmdPidFile=/tmp/slurmd-%n.pid\n"
        "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\n"
        "SelectTypeParameters=CR_Core\nReturnToService=2\nMpiDefault=none\nMailProg=/bin/true\n"
        f"{nodes}PartitionName=main Nodes={','.join(WORKERS)} Default=YES State=UP\n"
    )
    Path("/tmp/slurmctld").mkdir(exist_ok=True)
    begin(setup.place, "slurmctld", ["slurmctld", "-D", "-c", "-f", str(conf)])
    for name in WORKERS:
        setup.hosts[name].begin(["slurmd", "-D", "-N", name, "-f", str(conf)], "slurmd")

    def idle() -> bool:
        shown = setup.hosts["one"].run(["sinfo", "--noheader", "--format=%T %D"]).stdout
        return shown.split() == ["idle", str(len(WORKERS))]

    until(idle, 60, "Slurm's nodes are idle", 0.5)
