"""What hosts talk to: an object store with Amazon's interface, a database, an MLflow server, and the head of a cluster.

All of them run on the "server", in the outer namespaces, and end with these.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bed import SERVER, BedError, until

#: What the services are made of, each in an environment of its own beside conda.yaml's.
SWIFT = ("swift==2.38.3", "eventlet==0.41.3", "xattr==1.3.0", "lxml==6.1.3", "pyeclib==1.8.0", "pastedeploy==3.1.0")
BOTO3 = "boto3==1.44.8"
_STORE, _DATABASE, _MLFLOW, HEAD = 6440, 6441, 6442, 6431
ADDRESS = f"{SERVER}:{HEAD}"
TRACKING = f"http://{SERVER}:{_MLFLOW}"
STUDIES = f"postgresql://sound@{SERVER}:{_DATABASE}/studies"
BUCKETS = ("sounds", "cache", "mlflow", "out")
_PASSWORD = "only-inside-the-bed"
#: Ray's settings that differ from its defaults, on every machine.
RAY = {
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "RAY_enable_worker_prestart": "0",
}
#: To a store of one machine: who it is, and where.
STORE_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test:tester",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_ENDPOINT_URL": f"http://{SERVER}:{_STORE}",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_RINGS = {"account": 6202, "container": 6201, "object": 6200}


@dataclass(frozen=True)
class Place:
    """Folders of the set-up, below the one that the user gives."""

    work: Path

    def venv(self, name: str) -> Path:
        """An environment: ``soundstack``, ``swift`` or ``mlflow``."""
        return self.work / "venvs" / name

    @property
    def logs(self) -> Path:
        """What services and commands print."""
        return self.work / "logs"

    @property
    def secret(self) -> Path:
        """The folder of the cluster's token; of the set-up, hosts see this and their libraries alone."""
        return self.work / "secret"

    def environment(self) -> dict[str, str]:
        """What commands of hosts find in their environment."""
        return {
            "PATH": f"{self.venv('soundstack')}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(Path.home()),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "PGPASSWORD": _PASSWORD,
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.secret / "token"),
            "MLFLOW_TRACKING_URI": TRACKING,
            **STORE_ENVIRONMENT,
        }


def install(place: Place, pins: list[str], extras: list[str]) -> None:
    """Make the environments that are not there yet. Needs a package index; the rest needs no network."""
    mlflow = [pin for pin in pins if pin.startswith(("mlflow==", "sqlalchemy=="))]
    wanted = {"soundstack": [*pins, *extras], "swift": [*SWIFT], "mlflow": [*mlflow, *extras[1:], BOTO3]}
    for name, requirements in wanted.items():
        done = place.venv(name) / "installed.txt"
        text = "\n".join(requirements)
        if not done.is_file() or done.read_text() != text:
            subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", "3.11", place.venv(name)], check=True)
            python = str(place.venv(name) / "bin" / "python")
            subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, *requirements], check=True)
            done.write_text(text)


def new_token(place: Place) -> None:
    """Write the token of a cluster."""
    place.secret.mkdir(parents=True, exist_ok=True)
    path = place.secret / "token"
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_text(secrets.token_hex(32))


def begin(
    place: Place, name: str, command: list[str], more: Mapping[str, str] | None = None, user: str | None = None
) -> subprocess.Popen[bytes]:
    """Start a service of the server, as a user and with ``more`` in its environment."""
    environment = os.environ | dict(more or {})
    with (place.logs / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd="/tmp", user=user)


def _listens(port: int, process: subprocess.Popen[bytes], name: str, seconds: float = 60) -> None:
    def up() -> bool:
        if process.poll() is not None:
            raise BedError(f"{name} ended with {process.returncode}; see its log")
        with socket.socket() as tried:
            tried.settimeout(1)
            return tried.connect_ex((SERVER if port not in _RINGS.values() else "127.0.0.1", port)) == 0

    until(up, seconds, name)


def start_store(place: Place) -> None:
    """Start OpenStack Swift with its S3 door: one disk, one replica, a proxy."""
    folder, bins = place.work / "swift", place.venv("swift") / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "disks" / "d1").mkdir(parents=True)
    try:
        os.setxattr(folder, "user.bed", b"1")
    except OSError:
        raise BedError(f"{folder} has no extended attributes, which Swift needs; work on ext4 or XFS") from None
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = bed\nswift_hash_path_prefix = bed\n"
        "[storage-policy:0]\nname = one\ndefault = yes\n"
    )
    for name, port in _RINGS.items():
        for words in (["create", "6", "1", "1"], ["add", f"r1z1-127.0.0.1:{port}/d1", "1"], ["rebalance"]):
            command = [str(bins / "swift-ring-builder"), f"{name}.builder", *words]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        own = f"[pipeline:main]\npipeline = {name}-server\n[app:{name}-server]\nuse = egg:swift#{name}\n"
        _start_swift(place, folder, name, "127.0.0.1", port, own)
    filters = ("catch_errors", "gatekeeper", "listing_formats", "s3api", "tempauth", "bulk", "slo", "dlo")
    more = {"s3api": "location = us-east-1\n", "tempauth": "user_test_tester = testing .admin\n"}
    own = f"[pipeline:main]\npipeline = {' '.join(filters)} proxy-server\n"
    own += "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
    own += "".join(f"[filter:{each}]\nuse = egg:swift#{each}\n{more.get(each, '')}" for each in filters)
    _start_swift(place, folder, "proxy", SERVER, _STORE, own)
    os.environ.update(STORE_ENVIRONMENT)
    from pyarrow.fs import S3FileSystem

    system = S3FileSystem(allow_bucket_creation=True, endpoint_override=STORE_ENVIRONMENT["AWS_ENDPOINT_URL"])
    for bucket in BUCKETS:
        system.create_dir(bucket)


def _start_swift(place: Place, folder: Path, name: str, address: str, port: int, own: str) -> None:
    settings = folder / f"{name}-server.conf"
    settings.write_text(
        f"[DEFAULT]\nbind_ip = {address}\nbind_port = {port}\nworkers = 0\nuser = root\nswift_dir = {folder}\n"
        f"devices = {folder}/disks\nmount_check = false\nlog_name = {name}\n{own}"
    )
    program = str(place.venv("swift") / "bin" / f"swift-{name}-server")
    _listens(port, begin(place, f"swift-{name}", [program, str(settings)]), f"Swift's {name} server")


def start_database(place: Place) -> None:
    """Start PostgreSQL, as nobody (it refuses to run as root), with databases for MLflow and for studies."""
    programs = [Path(found).parent for found in [shutil.which("initdb")] if found]
    programs += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        raise BedError("needs PostgreSQL: apt-get install postgresql")
    account, folder = pwd.getpwnam("nobody"), Path("/tmp/database")
    folder.mkdir()
    (folder / "password").write_text(_PASSWORD)
    for path in (folder, folder / "password"):
        os.chown(path, account.pw_uid, account.pw_gid)

    def call(program: str, *words: str) -> None:
        subprocess.run([str(programs[-1] / program), *words], user="nobody", cwd=folder, check=True,
                       stdout=subprocess.DEVNULL, env=os.environ | {"PGPASSWORD": _PASSWORD})  # fmt: skip

    data = str(folder / "data")
    call("initdb", "-D", data, "-U", "sound", "-A", "scram-sha-256", f"--pwfile={folder}/password", "-N")
    (folder / "data" / "pg_hba.conf").write_text("host all all 10.77.0.0/24 scram-sha-256\n")
    command = [str(programs[-1] / "postgres"), "-D", data, "-p", str(_DATABASE), "-c", f"listen_addresses={SERVER}",
               "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]  # fmt: skip
    _listens(_DATABASE, begin(place, "postgres", command, user="nobody"), "PostgreSQL")
    for name in ("mlflow", "studies"):
        call("createdb", "-h", SERVER, "-p", str(_DATABASE), "-U", "sound", name)


def start_tracking(place: Place) -> None:
    """Start MLflow's server on PostgreSQL, with artifacts in the store."""
    database = f"postgresql+psycopg://sound@{SERVER}:{_DATABASE}/mlflow"
    bins = place.venv("mlflow") / "bin"
    command = [str(bins / "mlflow"), "server", "--host", SERVER, "--port", str(_MLFLOW), "--workers", "2",
               "--backend-store-uri", database, "--artifacts-destination", "s3://mlflow"]  # fmt: skip
    environment = {
        "PATH": f"{bins}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": database,
        "MLFLOW_S3_ENDPOINT_URL": STORE_ENVIRONMENT["AWS_ENDPOINT_URL"],
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # boto3 sends unasked some that Swift does not know
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    process = begin(place, "mlflow", command, environment)
    _listens(_MLFLOW, process, "MLflow's server", 120)
    with urllib.request.urlopen(f"{TRACKING}/health", timeout=60) as answer:
        assert answer.status == 200


def start_head(place: Place) -> None:
    """Start the head of a Ray cluster, without cores."""
    ray = str(place.venv("soundstack") / "bin" / "ray")
    command = [ray, "start", "--head", f"--node-ip-address={SERVER}", f"--port={HEAD}", "--num-cpus=0",
               "--include-dashboard=false", "--disable-usage-stats", "--block"]  # fmt: skip
    _listens(HEAD, begin(place, "head", command), "the cluster's head", 120)
