"""Where torch computes, and how it is kept repeatable there."""

from __future__ import annotations

import contextlib
import ctypes
import os

import torch
from torch import Tensor

from soundstack.utils.errors import ConfigError
from soundstack.utils.project import cores


def keep_pages() -> None:
    """Let the allocator keep freed memory: glibc gives large blocks back after every batch and faults them in again."""
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to tune
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        library.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD


def choose(device: str) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda`` (a ConfigError if not usable); on a GPU, see that a seed fixes a run."""
    keep_pages()
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())  # torch counts the machine's, and a container may be given fewer
    usable = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not usable:
        raise ConfigError("device: cuda is not usable here (no GPU, driver or CUDA build of torch); use auto or cpu.")
    if not usable:
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # float32 is what it says, so that features from a GPU and from a processor can be told apart by rounding only.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda")


def working(cluster: str, gpus: float, here: torch.device) -> torch.device:
    """The device that computes: of a cluster by the GPUs that its tasks take, whatever this machine has; else this."""
    if cluster == "none":
        return here
    return torch.device("cuda" if gpus else "cpu")


def moved(values: Tensor, device: torch.device) -> Tensor:
    """Values on the device; a GPU takes them from pinned memory, while it still works on what came before."""
    if values.device.type == device.type:
        return values
    return values.pin_memory().to(device, non_blocking=True)


def free_memory(device: torch.device) -> float:
    """Bytes of a GPU that are free, or held by torch for later use."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
