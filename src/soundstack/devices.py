"""Where torch computes, and how it is kept repeatable there."""

from __future__ import annotations

import contextlib
import ctypes
import os

import torch

from soundstack.errors import ConfigError


def keep_pages() -> None:
    """Let the allocator keep freed memory: glibc gives large blocks back after every batch and faults them in again."""
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to tune
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        library.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD


def choose(device: str) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda``; on a GPU, fix the algorithms so that a seed fixes a run.

    Raises:
        ConfigError: CUDA is asked for and not usable.
    """
    keep_pages()
    usable = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not usable:
        raise ConfigError("device: cuda is not usable here (no GPU, driver or CUDA build of torch); use auto or cpu.")
    if not usable:
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda")
