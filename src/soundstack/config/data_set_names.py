"""The names of the data sets, read from the source: a command line knows them without loading what loads them."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_REGISTERED = re.compile(r'^@data_set\(((?:"\w+"(?:, )?)+)', re.MULTILINE)


@cache
def modules() -> dict[str, str]:
    """The module that registers each data set by :func:`soundstack.datasets.catalogue.data_set`, by the set's name.

    None where the data sets are not shipped. Modules are called as :func:`soundstack.utils.code_versions.code_version` takes
    them: ``datasets.esc50``.
    """
    package = find_spec("soundstack.datasets")
    found: dict[str, str] = {}
    for folder in map(Path, (package and package.submodule_search_locations) or ()):
        for path in folder.rglob("*.py"):
            module = ".".join(["datasets", *path.relative_to(folder).with_suffix("").parts])
            for names in _REGISTERED.findall(path.read_text(encoding="utf-8")):
                found.update(dict.fromkeys(re.findall(r"\w+", names), module))
    return dict(sorted(found.items()))
