"""A PostgreSQL server of the tests' own, where PostgreSQL and its driver are installed."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PASSWORD = "correct-horse-7"


@contextmanager
def running() -> Iterator[str]:
    """Run a server on a free port for a user ``sound`` with ``PASSWORD``; yields its address without a database.

    It refuses to run as root, so root runs it as nobody; its folder therefore lies outside pytest's, which are private.
    """
    programs = [Path(found).parent for found in [shutil.which("initdb")] if found]
    programs += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("needs PostgreSQL: there is no initdb on the PATH or in /usr/lib/postgresql")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip('needs a driver of PostgreSQL: uv pip install "psycopg[binary]"')
    user = "nobody" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        command = [str(programs[-1] / program), "-D", f"{folder}/data", *arguments]
        subprocess.run(command, cwd=folder, user=user, check=True, stdout=subprocess.DEVNULL)

    try:
        (folder / "password").write_text(PASSWORD)
        if user:
            account = pwd.getpwnam(user)
            for path in (folder, folder / "password"):
                os.chown(path, account.pw_uid, account.pw_gid)
        call("initdb", "-U", "sound", "-A", "scram-sha-256", f"--pwfile={folder}/password", "-N")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        call("pg_ctl", "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql://sound@127.0.0.1:{port}"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
