"""What a registered model takes with it: the modules that it runs, and the libraries that these import; no more."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import soundstack
from soundstack.utils.code_versions import imported_files, imported_libraries

_LOADER = "serving.served_model"


def copy_code(modules: Iterable[str], folder: Path) -> Path:
    """Copy what serving runs into a folder, and return the copied package.

    ``modules`` are those that the model needs besides the served model itself, as ``Recogniser.modules`` names them.
    """
    package = Path(soundstack.__file__).parent
    copy = folder / package.name
    for file in imported_files(*_roots(modules)):
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / file, copy / file)
    return copy


def requirements(modules: Iterable[str]) -> list[str]:
    """The libraries that the copied code imports, at the versions of this environment, as pip takes them."""
    # A build tag such as +cpu is unknown to package indexes.
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in imported_libraries(*_roots(modules))]


def _roots(modules: Iterable[str]) -> list[str]:
    return [_LOADER, *(module.removeprefix("soundstack.") for module in modules)]
