"""What `pip install` of this folder is told: nothing is built, since entry points run from the checkout as it is."""

from __future__ import annotations


def build_wheel(*_: object, **__: object) -> str:
    """Refuse in one line: as pip's build backend."""
    raise SystemExit("Soundstack is not installed: run it from its folder or its address, as in `mlflow run .`")


build_sdist = build_editable = build_wheel
