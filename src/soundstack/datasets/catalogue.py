"""The data sets by name: the module of this package that loads one registers it here by :func:`data_set`.

``published_archives.csv`` beside this module has the published archives with their MD5 and, where known, size.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, resources
from typing import TYPE_CHECKING

from soundstack import datasets
from soundstack.config import naming
from soundstack.datasets.clips import ClipTable
from soundstack.utils.remote_file import RemoteFile

if TYPE_CHECKING:
    from soundstack.config.steps import DataConfig

Loader = Callable[["DataConfig"], ClipTable]


@dataclass(frozen=True)
class Archive:
    """One published archive and the part of the data set that it holds, such as ``development/audio``."""

    part: str
    file: RemoteFile


@dataclass(frozen=True)
class Source:
    """Where a published data set comes from.

    ``growth`` is how many times larger the data set is than its archives, from the number, length and format of its
    clips; ``typical_bytes`` stands in for the size of an archive whose size was not published. ``moving`` means that
    the archive is made anew from a branch now and then: another checksum is then a warning, not an error.
    """

    name: str
    title: str
    licence: str
    citation: str
    archives: tuple[Archive, ...] = field(repr=False)
    growth: float
    typical_bytes: int
    moving: bool = False


@dataclass(frozen=True)
class Entry:
    """What loads a data set as it is configured, and where it can be downloaded from, if it can."""

    load: Loader
    source: Source | None = None


_ENTRIES: dict[str, Entry] = {}


def data_set(*names: str, source: Source | None = None) -> Callable[[Loader], Loader]:
    """Register a function as what loads the data sets of these names, values of the parameter ``dataset``."""

    def register(load: Loader) -> Loader:
        _ENTRIES.update(dict.fromkeys(names, Entry(load, source)))
        return load

    return register


@cache
def data_sets() -> dict[str, Entry]:
    """All data sets by name."""
    for module in naming.data_set_modules().values():
        import_module(f"soundstack.{module}")
    return {name: _ENTRIES[name] for name in naming.data_set_modules()}


def published_archives(name: str, urls: Mapping[str, str]) -> tuple[Archive, ...]:
    """The archives of a data set; ``urls``, with ``{file}`` for a file's name, by the first word of their part."""
    text = resources.files(datasets).joinpath("published_archives.csv").read_text(encoding="utf-8")
    archives = []
    for row in csv.DictReader(text.splitlines()):
        if row["data_set"] == name:
            url = urls[row["part"].split("/")[0]].format(file=row["file"])
            size = int(row["bytes"]) if row["bytes"] else None
            archives.append(Archive(row["part"], RemoteFile(url, row["file"], size=size, md5=row["md5"])))
    return tuple(archives)
