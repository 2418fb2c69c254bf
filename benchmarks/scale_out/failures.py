"""Figures of features: shards through two hosts, and what becomes of them when a host, a driver or a link is lost."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from bed import BedError, Host, kill, until
from machines import SLICES, Setup, check_equal, stored
from services import ADDRESS

_KIND = "efficientnet"
#: So long may a command take that is not disturbed.
_PATIENCE = 300.0


def shards(setup: Setup) -> str:
    """Log-mel and EfficientNet-Lite0 shards of ESC-10 through two hosts, equal to those of one machine."""
    setup.embedded("extract", dataset="esc10")
    setup.embedded("deepspectrum", dataset="esc10")
    setup.workers()
    said = []
    for step, kind in (("extract", "logmel"), ("deepspectrum", _KIND)):
        started = time.monotonic()
        done = setup.hosts["a"].run(_command(setup, step, "s3://cache/shards"), _PATIENCE)
        if done.returncode:
            raise BedError(f"{step}: {done.stderr[-2000:]}")
        number = check_equal(setup, "s3://cache/shards", kind)
        said.append(f"{kind} {time.monotonic() - started:.0f} s, {number} files equal")
    return "; ".join(said)


def _command(setup: Setup, step: str, cache: str) -> list[str]:
    return setup.command(step, dataset="esc10", data_dir="s3://sounds/esc10", cache_dir=cache, cluster=ADDRESS)


def killed_host(setup: Setup) -> str:
    """One of two hosts is switched off in the middle: the other one does the rest."""
    return _disturbed(setup, "killed-host", 60, lambda driver, host: host.kill())


def cut_link(setup: Setup) -> str:
    """One of two hosts is cut off in the middle, without a word."""
    return _disturbed(setup, "cut-link", 120, lambda driver, host: host.cut())


def killed_driver(setup: Setup) -> str:
    """The command is killed in the middle and given again."""
    return _disturbed(setup, "killed-driver", 60, lambda driver, host: kill(driver), again=True)


def _disturbed(
    setup: Setup,
    name: str,
    limit: float,
    disturb: Callable[[subprocess.Popen[bytes], Host], object],
    *,
    again: bool = False,
) -> str:
    """Run a command, disturb it when the first slices are stored, and time what it then takes to have all stored.

    Raises:
        BedError: All were stored before, or are not in time, or differ.
    """
    setup.embedded("deepspectrum", dataset="esc10")
    for attempt in range(4):
        setup.workers()
        place = f"s3://cache/{name}-{attempt}-{int(time.time())}"
        host, command = setup.hosts["a"], _command(setup, "deepspectrum", place)
        driver = host.begin(command, name)
        until(lambda place=place: bool(stored(place, _KIND)), _PATIENCE, f"{name}: a first slice", 0.01)  # type: ignore[misc]
        disturb(driver, setup.hosts["two"])
        disturbed = time.monotonic()
        number = len(stored(place, _KIND))
        if number < SLICES:
            break
        kill(driver)
    else:
        raise BedError(f"{name}: all slices were always stored at once")
    setup.say(f"{name}: {number} of {SLICES} stored")
    if again:
        driver = host.begin(command, name)
    until(lambda: len(stored(place, _KIND)) == SLICES, _PATIENCE, f"{name}: the rest", 0.1)
    rest = time.monotonic() - disturbed
    try:
        code = driver.wait(_PATIENCE)
    finally:
        kill(driver)
    whole = time.monotonic() - disturbed
    check_equal(setup, place, _KIND)
    if code or rest > limit:
        raise BedError(
            f"{name}: ended with {code}, all stored after {rest:.0f} s of {limit:.0f}; {host.said(name)[-1500:]}"
        )
    return (
        f"{number} of {SLICES} slices stored; the rest after {rest:.0f} s (limit {limit:.0f}), the command's end after "
        f"{whole:.0f} s; equal"
    )


def token(setup: Setup) -> str:
    """Without the cluster's token, a command is refused in one line; so is a machine that wants to join."""
    setup.workers()
    host, said = setup.hosts["a"], []
    host.run(["bash", "-c", "printf f%.0s $(seq 64) > /tmp/other"])
    cases = {
        "none": {"RAY_AUTH_MODE": "disabled"},
        "another": {"RAY_AUTH_TOKEN_PATH": "/tmp/other"},
    }
    for which, more in cases.items():
        started = time.monotonic()
        done = host.run(_command(setup, "extract", "s3://cache/token"), 120, **more)
        lines = done.stderr.strip().splitlines()
        if done.returncode != 2 or "Traceback" in done.stderr or "cluster" not in lines[-1]:
            raise BedError(f"token {which}: ended with {done.returncode}; {done.stderr[-1000:]}")
        said.append(f"{which}: refused after {time.monotonic() - started:.0f} s")
        setup.say(lines[-1])
    ray = str(setup.place.venv("soundstack") / "bin" / "ray")
    joining = [ray, "start", f"--address={ADDRESS}", "--num-cpus=1", "--block"]
    if host.run(joining, 120, **cases["another"]).returncode == 0:
        raise BedError("a machine with another token joins the cluster")
    return "; ".join(said)
