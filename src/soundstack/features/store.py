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

Where the cache is in an object store, shards are written there, and the folder is a mirror that takes them over. Hosts
of a cluster write them without a lock: of the same keys, they are the same.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil
from numpy.typing import NDArray

from soundstack.utils import object_store
from soundstack.utils.errors import StoreError
from soundstack.utils.files import remove_unfinished, replaced
from soundstack.utils.locks import exclusive
from soundstack.utils.project import fingerprint

#: Features of one data set that take more of the machine's memory than this are read from a mapped file.
MEMORY_SHARE = 0.25
_PART = 4096


class FeatureStore:
    """Features of one configuration, by example key.

    ``cache`` is the cache's folder on this machine; ``place``, if it has one, its URI in an object store.
    """

    def __init__(self, cache: Path, kind: str, spec: dict[str, Any], place: str = "") -> None:
        below = f"features/{kind}-{fingerprint(spec)}"
        self.folder = cache / below
        self._place = place and f"{place}/{below}"
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
            if not self._rows:
                text = json.dumps(self._spec, indent=1, default=str)
                self._write("spec.json", lambda file: file.write(text.encode()))
            yield

    def refresh(self) -> None:
        """Read the list of finished shards; a damaged one counts as missing and is made anew."""
        if self._place:
            self._pull()
        self._rows.clear()
        for index in sorted(self.folder.glob("*.json")):
            if index.name != "spec.json":
                with suppress(OSError, ValueError, StoreError):
                    keys = json.loads(index.read_text(encoding="utf-8"))
                    if len(self._shard(index.stem)) == len(keys):
                        self._note(index.stem, keys)

    def _pull(self) -> None:
        """Take over the shards that are whole in the object store."""
        found = object_store.listed(self._place)
        whole = [name.removesuffix(".json") for name in found if name.endswith(".json") and "/" not in name]
        for suffix in (".npy", ".json"):
            files = {name: found[name] for name in (f"{shard}{suffix}" for shard in whole) if name in found}
            object_store.fetch(self._place, files, self.folder)

    def knowing(self, keys: Sequence[str]) -> FeatureStore:
        """This store as it is sent to a host, where features of those keys alone are not made."""
        sent = copy.copy(self)
        sent._rows = dict.fromkeys(keys, ("", 0))
        return sent

    def mirrored(self, mirrors: Path) -> FeatureStore:
        """This store as a host reads it that was sent it: shards are taken over into a folder of its own."""
        here = copy.copy(self)
        here.folder, here._rows = mirrors / fingerprint(self._place) / self.folder.name, {}
        return here

    def _note(self, shard: str, keys: Sequence[str]) -> None:
        self._rows.update({key: (shard, row) for row, key in enumerate(keys)})

    def _shard(self, name: str) -> NDArray[Any]:
        """Map a shard; whoever keeps the array keeps the file open, and there are as many as the data set is large."""
        path = self.folder / f"{name}.npy"
        try:
            mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise StoreError(
                f"{path} was removed or damaged while it was in use; the same command makes it anew."
            ) from error
        return mapped

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Return the positions of the keys that are not stored yet."""
        return [position for position, key in enumerate(keys) if key not in self._rows]

    def has_shard(self, keys: Sequence[str]) -> bool:
        """Whether the object store has a shard of exactly these keys; known on a host, which has no list."""
        return not keys or object_store.exists(f"{self._place}/{_digest(keys)}.json")

    def add(self, keys: Sequence[str], features: NDArray[Any]) -> None:
        """Store features (len(keys), ...) as one shard: all of it or nothing."""
        shard = _digest(keys)
        self._write(f"{shard}.npy", lambda file: np.save(file, features, allow_pickle=False))
        self._write(f"{shard}.json", lambda file: file.write(json.dumps(list(keys)).encode()))
        self._note(shard, keys)

    def _write(self, name: str, save: Callable[[BinaryIO], object]) -> None:
        if self._place:
            content = io.BytesIO()
            save(content)
            object_store.write(f"{self._place}/{name}", content.getbuffer())
        else:
            with replaced(self.folder / name, instead="cache_dir") as file:
                save(file)

    def read(self, keys: Sequence[str]) -> NDArray[Any]:
        """Return the features of the keys, (len(keys), ...), in their order.

        They are in memory, or, where they would take more than ``MEMORY_SHARE`` of it, in a file of the store that is
        mapped copy-on-write: the system then holds what is in use.

        Raises:
            StoreError: The gathered file cannot be written, or a shard has vanished meanwhile.
        """
        if self._place:  # what hosts have made lies there
            self.refresh()
        row = self._gathered(keys[:1])
        if row.nbytes * len(keys) <= MEMORY_SHARE * psutil.virtual_memory().total:
            return self._gathered(keys)
        path = self.folder / "gathered" / f"{_digest(keys)}.npy"
        with self.lock():  # another process may be gathering the same
            if not path.is_file():
                with replaced(path, instead="cache_dir") as file:
                    header = {"descr": row.dtype.str, "fortran_order": False, "shape": (len(keys), *row.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, header)
                    for start in range(0, len(keys), _PART):
                        file.write(self._gathered(keys[start : start + _PART]).data)
        return np.load(path, mmap_mode="c", allow_pickle=False)

    def _gathered(self, keys: Sequence[str]) -> NDArray[Any]:
        """The features of the keys in memory; each shard is opened once."""
        by_shard: dict[str, list[int]] = {}
        for position, key in enumerate(keys):
            by_shard.setdefault(self._rows[key][0], []).append(position)
        first = self._shard(self._rows[keys[0]][0])
        out = np.empty((len(keys), *first.shape[1:]), first.dtype)
        for shard, positions in by_shard.items():
            out[positions] = self._shard(shard)[[self._rows[keys[position]][1] for position in positions]]
        return out


def _digest(keys: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
