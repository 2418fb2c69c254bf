"""What befalls a run short of a kill: a full disk, a read-only cache, damaged files, a server that leaves.

A fault must end `main` with status 2 and one line that says what to do, and the same command must, once the fault is
mended, find what an undisturbed run finds.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from soak_bench import server
from soak_bench.kills import damaged
from soak_bench.outcome import Part
from soak_bench.workplace import CRNN, MAIN_SECONDS, Template, Undisturbed, Workplace, end_group, last_line
from soundstack.utils.errors import SoakError

#: Enough for the first files of the tiny data set, not for all (it takes some megabytes).
FULL_DISK = "256k"
ROOMY_DISK = "256m"
#: A main whose server is gone must give up within this, with MLflow told to try twice.
GIVE_UP_SECONDS = 120.0


def run(template: Template, reference: Undisturbed, seed: int, say: Callable[[str], object]) -> Part:
    """Try all faults, one after the other."""
    part = Part("faults")
    started = time.monotonic()
    for fault in (full_disk, read_only_cache, damaged_cache, lost_server):
        say(f"faults: {fault.__name__.replace('_', ' ')}")
        fault(template, reference, seed, part)
    part.figures["seconds"] = time.monotonic() - started
    return part


def full_disk(template: Template, reference: Undisturbed, seed: int, part: Part) -> None:
    """Put the cache on a file system that is too small, then enlarge it."""
    place = Workplace(template, "full-disk", **reference.place.extra)
    with _mounted(place.cache, f"size={FULL_DISK}") as why:
        if why:
            return part.skip("a full disk ends main in one line, and it resumes", why)
        _refused(part, "a full disk ends main in one line", place, place.main())
        subprocess.run(["mount", "-o", f"remount,size={ROOMY_DISK}", str(place.cache)], check=True)
        _resumed(part, "with room again, main resumes to equal scores", place, reference)
        part.check("no damaged entry stays behind a full disk", damaged(place.cache))
    return None


def read_only_cache(template: Template, reference: Undisturbed, seed: int, part: Part) -> None:
    """Make the cache read-only: by its mode bits, or, as they do not bind root, by mounting it so."""
    place = Workplace(template, "read-only", **reference.place.extra)
    if os.geteuid():
        place.cache.mkdir()
        place.cache.chmod(0o555)
        _refused(part, "a read-only cache ends main in one line", place, place.main())
        place.cache.chmod(0o755)
    else:
        with _mounted(place.cache, "ro,size=1m") as why:
            if why:
                return part.skip("a read-only cache ends main in one line, and it resumes", why)
            _refused(part, "a read-only cache ends main in one line", place, place.main())
    return _resumed(part, "with a writable cache, main resumes to equal scores", place, reference)


def damaged_cache(template: Template, reference: Undisturbed, seed: int, part: Part) -> None:
    """Cut every file of a finished cache short, some of them to nothing."""
    place = Workplace(template, "damaged", **reference.place.extra)
    shutil.copytree(reference.place.cache, place.cache)
    rng = np.random.default_rng(seed)
    count = 0
    for file in sorted(
        path for path in place.cache.rglob("*") if path.is_file() and path.suffix in (".npy", ".pt", ".json")
    ):
        os.truncate(file, int(rng.integers(file.stat().st_size + 1)) if rng.integers(4) else 0)
        count += 1
    part.figures["files_cut_short"] = count
    _resumed(
        part, "with every shard and checkpoint cut short, main makes them anew with equal scores", place, reference
    )
    part.check("no damaged entry is left", damaged(place.cache))


def lost_server(template: Template, reference: Undisturbed, seed: int, part: Part) -> None:
    """Take the tracking server away in the middle of `main`, bring it back, and go on."""
    place = Workplace(template, "lost-server", **reference.place.extra)
    place.variables["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "2"  # by default it waits for some minutes
    store, log, port = place.uri, place.folder / "tracking.log", server.free_port()
    artifacts = place.folder / "artifacts"
    with server.tracking(store, artifacts, place.folder, log, port) as serving:
        place.uri = serving.address
        process = place.start()
        began = _wait_for(place, CRNN, process)
        server.stop(serving.process, (signal.SIGKILL,))
        if not began:
            end_group(process)
            return part.check("main gets as far as the CRNN", False, last_line(place.output))
    started = time.monotonic()
    try:
        status = process.wait(GIVE_UP_SECONDS)
        part.check(
            "a tracking server that leaves ends main in one line",
            status == 2 and "Traceback" not in place.output,
            f"status {status} after {time.monotonic() - started:.0f} s: {last_line(place.output)}",
        )
    except subprocess.TimeoutExpired:
        part.check(
            "a tracking server that leaves ends main in one line", False, f"still running after {GIVE_UP_SECONDS:g} s"
        )
    finally:
        end_group(process)
    with server.tracking(store, artifacts, place.folder, log, port):
        _resumed(part, "with the server back, main resumes to equal scores", place, reference)
    return None


def _wait_for(place: Workplace, name: str, process: subprocess.Popen[str]) -> bool:
    """Wait until a run of a name is open; tell whether it came."""
    deadline = time.monotonic() + MAIN_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if any(run.name == name and run.status == "RUNNING" for run in place.runs()):
            return True
        time.sleep(0.1)
    return False


def _refused(part: Part, what: str, place: Workplace, done: subprocess.CompletedProcess[str]) -> None:
    said = [line for line in done.stderr.splitlines() if line.startswith("main: ")]
    proper = done.returncode == 2 and len(said) == 1 and "Traceback" not in done.stderr
    part.check(what, proper, f"status {done.returncode}: {last_line(done.stderr)}")


def _resumed(part: Part, what: str, place: Workplace, reference: Undisturbed) -> None:
    done = place.main()
    if done.returncode:
        return part.check(what, False, f"status {done.returncode}: {last_line(done.stderr)}")
    try:
        problems: Sequence[str] = place.result().differences(reference.result)
    except SoakError as error:
        problems = [str(error)]
    part.check(what, problems)
    left = [f"{run.name} {run.id}" for run in place.runs() if run.status == "RUNNING"]
    return part.check(f"no run is left RUNNING ({place.folder.name})", left)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[str]:
    """Mount a small file system in memory; yields why that is not possible, or nothing."""
    folder.mkdir(parents=True)
    if os.geteuid():
        yield "only root may mount a small file system"
        return
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "soundstack-soak", str(folder)],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError) as error:
        yield f"no file system can be mounted here ({error})"
        return
    if done.returncode:
        yield f"no file system can be mounted here ({last_line(done.stderr)})"
        return
    try:
        yield ""
    finally:
        with suppress(subprocess.SubprocessError):
            subprocess.run(["umount", str(folder)], check=True, capture_output=True, timeout=30)
