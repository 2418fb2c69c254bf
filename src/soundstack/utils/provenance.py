"""What code and what machine made a result."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import soundstack
from soundstack.utils.code_versions import code_version

_PACKAGE = Path(__file__).parents[1]
_PACKAGES = (
    "mlflow", "torch", "torchvision", "torchaudio", "librosa", "scikit-learn", "numpy", "scipy", "pandas",
    "matplotlib", "optuna", "av", "soxr", "safetensors",
)  # fmt: skip


@cache
def git_commit() -> str:
    """Return the project's commit, with ``-dirty`` where tracked files differ from it; empty outside a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            cwd=_PACKAGE,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        if done.returncode:
            raise OSError(done.stderr)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def environment() -> dict[str, Any]:
    """Describe code, packages and machine, for ``config.json``."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "soundstack": soundstack.__version__,
        "git_commit": git_commit(),
        "code_fingerprint": code_version(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "gpu": gpu,
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }
