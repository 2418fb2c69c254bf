"""What belongs to no step: the project's folder, the cores for this process, and fingerprints."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[3]


def cores(membership: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many cores this process may use: by its affinity, and by the quotas of its container (cgroup v2).

    Of a quota, whole cores count: with a thread more, all are stopped for a part of every period.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, *(int(quota) for quota in _quotas(membership, groups)), usable))


def _quotas(membership: Path, groups: Path) -> Iterator[float]:
    """The quotas in cores of the group that this process is in and of those around it, where they have one."""
    with suppress(OSError):
        lines = membership.read_text(encoding="utf-8").splitlines()
        own = groups / "".join(line[len("0::/") :] for line in lines if line.startswith("0::/"))
        for folder in (own, *own.parents):
            with suppress(OSError, ValueError):  # without a quota it says max
                quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
                yield int(quota) / int(period)
            if folder == groups:
                return


@cache
def processor() -> str:
    """Return what this machine's processor is called."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def fingerprint(content: Any) -> str:
    """Return 12 hex digits of the SHA-256 of JSON-able content (keys sorted, floats in full precision)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
