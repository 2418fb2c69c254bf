"""What code and what machine made a result."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from typing import Any

import soundstack
from soundstack.utils.code_versions import code_version
from soundstack.utils.project import PROJECT

_PACKAGES = (
    "mlflow", "torch", "torchvision", "torchaudio", "librosa", "scikit-learn", "numpy", "scipy", "pandas",
    "matplotlib", "optuna", "av", "soxr", "safetensors",
)  # fmt: skip


@cache
def git_commit() -> str:
    """Return the project's commit, with ``-dirty`` where tracked files differ from it; empty outside a checkout."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def environment() -> dict[str, Any]:
    """Describe code, packages and machine, for ``config.json``."""
    import torch

    return {
        "soundstack": soundstack.__version__,
        "git_commit": git_commit(),
        "code_fingerprint": code_version(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }
