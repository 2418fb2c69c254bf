"""What is kept of a fold, under way or finished: in a file of this machine, or, by its URI, where all hosts see it.

A file is written after each epoch, and a lock keeps two processes from training the same fold. In a store there is no
lock: hosts that train the same fold write the same; and a put takes longer than a short epoch, so that states are some
seconds apart. Either is written whole or not at all, and read as plain tensors, never unpickled.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from soundstack.utils import object_store
from soundstack.utils.files import remove_unfinished, write_atomically
from soundstack.utils.locks import exclusive

#: Time between two states that are put into a store: what a host that dies costs at most.
SECONDS = 20.0

#: A file, a URI, or ``None`` where nothing is kept.
Checkpoint = Path | str | None


def load(place: Checkpoint) -> dict[str, Any]:
    """What a checkpoint holds; a missing or damaged one holds nothing.

    Raises:
        StoreError: The store cannot be asked.
    """
    file: io.BytesIO | Path | None = None
    if isinstance(place, str):
        with suppress(FileNotFoundError):
            file = io.BytesIO(object_store.read(place))
    else:
        file = place
    with suppress(Exception):  # whatever torch raises on a missing or torn file: the fold is trained anew
        return torch.load(file, map_location="cpu", weights_only=True) if file else {}
    return {}


def save(place: Checkpoint, content: dict[str, Any]) -> None:
    """Write a checkpoint in the place of an earlier one.

    Raises:
        StoreError: It cannot be written.
    """
    if place is None:
        return
    file = io.BytesIO()  # by way of the memory: on a full disk torch raises anything but an OSError
    torch.save(content, file)
    if isinstance(place, str):
        object_store.write(place, file.getbuffer())
    else:
        write_atomically(place, file.getbuffer(), instead="cache_dir")


def pace(place: Checkpoint) -> Callable[[], bool]:
    """Return what tells, after each epoch, whether it is to be kept."""
    before = time.monotonic()

    def is_due() -> bool:
        nonlocal before
        if isinstance(place, str):
            if time.monotonic() - before < SECONDS:
                return False
            before = time.monotonic()
        return place is not None

    return is_due


@contextmanager
def held(place: Checkpoint, what: str) -> Iterator[None]:
    """Hold a fold among the processes of this machine; those of other hosts are not kept from it."""
    if not isinstance(place, Path):
        yield
        return
    with exclusive(place.with_suffix(".lock"), what):
        remove_unfinished(place.parent, place.name)
        yield
