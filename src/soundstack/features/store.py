"""The feature cache: what is on disk, why a killed process cannot damage it, and how it is found again.

A store holds the features of one configuration, ``<cache>/features/<kind>-<fingerprint>/``::

    spec.json            the configuration, for the reader
    <shard>.npy          features of up to a few hundred examples; open only while it is looked at
    <shard>.json         their keys, in row order; written last: a shard with this file is complete
    gathered/<keys>.npy  the rows of one data set in order, only where they are too many for the memory

The fingerprint covers every parameter that changes a feature, and only those. A key is the content hash of the
sound file plus the channel, so renamed or relabelled clips, and data sets that share clips, reuse what is there, and an
edited file does not. Files are written under a temporary name and renamed; a killed process leaves at most an
unfinished temporary file, which the next one removes. A lock a store keeps two processes from doing the same work.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from soundstack.utils.errors import StoreError
from soundstack.utils.files import remove_unfinished, replaced, write_atomically
from soundstack.utils.locks import exclusive
from soundstack.utils.project import fingerprint

#: Features of one data set that take more of the machine's memory than this are read from a mapped file.
MEMORY_SHARE = 0.25


class FeatureStore:
    """Features of one configuration, by example key."""

    def __init__(self, cache: Path, kind: str, spec: dict[str, Any]) -> None:
        self.folder = cache / "features" / f"{kind}-{fingerprint(spec)}"
        self._spec = spec
        self._rows: dict[str, tuple[str, int]] = {}
        self.refresh()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the store for writing; others wait, then find the work done."""
        with exclusive(self.folder / ".lock", f"features {self.folder.name}"):
            remove_unfinished(self.folder)
            remove_unfinished(self.folder / "gathered")
            self.refresh()
            yield

    def refresh(self) -> None:
        """Read the list of finished shards; a damaged one counts as missing and is made anew."""
        self._rows.clear()
        for index in sorted(self.folder.glob("*.json")):
            if index.name == "spec.json":
                continue
            try:
                keys = json.loads(index.read_text(encoding="utf-8"))
                if len(self._shard(index.stem)) != len(keys):
                    raise ValueError("row count")
            except (OSError, ValueError, EOFError):
                continue
            self._rows.update({key: (index.stem, row) for row, key in enumerate(keys)})

    def _shard(self, name: str) -> NDArray[Any]:
        """Map a shard; whoever keeps the array keeps the file open, and there are as many as the data set is large."""
        mapped: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return mapped

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Return the positions of the keys that are not stored yet."""
        return [position for position, key in enumerate(keys) if key not in self._rows]

    def add(self, keys: Sequence[str], features: NDArray[Any]) -> None:
        """Store features (len(keys), ...) as one shard: all of it or nothing."""
        if len(keys) != len(features):
            raise ValueError(f"{len(keys)} keys for {len(features)} rows")
        if not self._rows:
            recipe = json.dumps(self._spec, indent=1, default=str)
            write_atomically(self.folder / "spec.json", recipe, instead="cache_dir")
        name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        final = self.folder / f"{name}.npy"
        with replaced(final, instead="cache_dir") as file:
            np.save(file, features, allow_pickle=False)
        write_atomically(final.with_suffix(".json"), json.dumps(list(keys)), instead="cache_dir")
        self._rows.update({key: (name, row) for row, key in enumerate(keys)})

    def read(self, keys: Sequence[str]) -> NDArray[Any]:
        """Return the features of the keys, (len(keys), ...), in their order.

        They are in memory, or, where they would take more than ``MEMORY_SHARE`` of it, in a file of the store that is
        mapped copy-on-write: the system then holds what is in use.

        Raises:
            StoreError: The gathered file cannot be written, or a shard has vanished meanwhile.
        """
        if not keys:
            raise ValueError("no keys to read")
        first = self._stored(self._rows[keys[0]][0])
        shape = (len(keys), *first.shape[1:])
        if first.dtype.itemsize * math.prod(shape) <= MEMORY_SHARE * psutil.virtual_memory().total:
            out = np.empty(shape, dtype=first.dtype)
            self._gather(keys, out)
            return out
        path = self.folder / "gathered" / f"{hashlib.sha256(chr(10).join(keys).encode()).hexdigest()[:16]}.npy"
        with self.lock():  # another process may be gathering the same
            if not path.is_file():
                self._gather_to(path, keys, shape, first.dtype)
        return np.load(path, mmap_mode="c", allow_pickle=False)

    def _gather(self, keys: Sequence[str], out: NDArray[Any]) -> None:
        by_shard: dict[str, list[tuple[int, int]]] = {}
        for position, key in enumerate(keys):
            shard, row = self._rows[key]
            by_shard.setdefault(shard, []).append((position, row))
        for shard, pairs in by_shard.items():
            positions, rows = zip(*pairs, strict=True)
            out[list(positions)] = self._stored(shard)[list(rows)]

    def _stored(self, name: str) -> NDArray[Any]:
        try:
            return self._shard(name)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self.folder / name}.npy was removed or damaged while it was in use; the same command makes it anew."
            ) from error

    def _gather_to(self, path: Path, keys: Sequence[str], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        with replaced(path, instead="cache_dir") as file:
            needed, free = dtype.itemsize * math.prod(shape), shutil.disk_usage(path.parent).free
            if needed > free:  # a mapped file takes its blocks as they are touched: a full disk would be a bus error
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            out = np.lib.format.open_memmap(file.name, mode="w+", dtype=dtype, shape=shape)
            self._gather(keys, out)
            out.flush()
