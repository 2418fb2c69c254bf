"""The names of the data sets, and of a user's own table of clips: what its runs and models are called.

A name holds no ``-``: registered models are ``<name>-<system>``, so that no name is the beginning of another's models.
Only lower-case letters, digits, ``_`` and ``.`` are in it, which no file system, pattern or address reads otherwise.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import cache
from pathlib import Path

from soundstack.audio.tables import TABLE_SUFFIXES

_REGISTERED = re.compile(r'^@data_set\(((?:"\w+"(?:, )?)+)', re.MULTILINE)

#: Data sets that keep their own names.
PUBLISHED = ("demo", "esc10", "esc50", "dcase2017", "dcase2018")
#: File and folder names that say nothing about what is in the table.
_GENERIC = {
    "all", "annotation", "annotations", "audio", "auto", "clip", "clips", "csv", "data", "dataset", "datasets", "dev",
    "devel", "eval", "filelist", "files", "index", "info", "label", "labelled", "labels", "list", "main", "manifest",
    "meta", "metadata", "none", "recordings", "samples", "sound", "sounds", "table", "test", "train", "training", "wav",
}  # fmt: skip
_LONGEST = 40
_ALLOWED = re.compile(rf"[a-z0-9][a-z0-9_.]{{0,{_LONGEST - 1}}}")


@cache
def data_set_modules() -> dict[str, str]:
    """The module that registers each data set by :func:`soundstack.datasets.catalogue.data_set`, by the set's name.

    They are read from the source: a command line knows them without loading what loads them. Modules are called as
    :func:`soundstack.utils.code_versions.code_version` takes them: ``datasets.esc50``.
    """
    package = Path(__file__).parents[1]
    found: dict[str, str] = {}
    for path in (package / "datasets").rglob("*.py"):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        for names in _REGISTERED.findall(path.read_text(encoding="utf-8")):
            found.update(dict.fromkeys(re.findall(r"\w+", names), module))
    return dict(sorted(found.items()))


def checked(name: str) -> str:
    """Return a name, or raise a ValueError: it cannot be one, or a published data set has it."""
    if name in PUBLISHED:
        raise ValueError(f"{name} is the name of a published data set; choose another for your table")
    if not _ALLOWED.fullmatch(name):
        raise ValueError(
            f"{name!r} is not allowed; give 1 to {_LONGEST} lower-case letters, digits, '_' or '.', and no '-'"
        )
    return name


def of_table(table: Path) -> str:
    """Make a name for a table or a folder: of its name, or of the next folder's where that could be any table's.

    >>> of_table(Path("birds/My Garden.csv")), of_table(Path("birds/meta/clips.csv")), of_table(Path("esc50.csv"))
    ('my_garden', 'birds', 'esc50_own')
    """
    own = table.stem if table.suffix.lower() in TABLE_SUFFIXES else table.name  # a folder's name may hold dots
    slugs = [_slug(word) for word in (own, table.parent.name, table.parent.parent.name)]
    name = next((slug for slug in slugs if slug and slug not in _GENERIC), slugs[0] or "table")
    return f"{name}_own" if name in (*PUBLISHED, "auto") else name


def _slug(word: str) -> str:
    """Spell a word in the letters of a name; where letters have no such spelling, a digest tells words apart."""
    letters = [each for each in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(each)]
    slug = re.sub(r"[^a-z0-9_.]+", "_", "".join(letters)).strip("_.")
    if any(each.isalnum() and not each.isascii() for each in letters):
        spelt = unicodedata.normalize("NFC", word).encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(spelt).hexdigest()[:6]
        slug = f"{slug[: _LONGEST - 7]}_{digest}".lstrip("_")
    return slug[:_LONGEST].strip("_.")
