"""The version of the code behind a result: what everything that is remembered is found by, next to data and parameters.

It is derived from the imports, so that no list must be kept: what a step does not import cannot change its results.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

_PACKAGE = Path(__file__).parent
#: What cannot change a result, of ours and of others: it checks, says, shows, locks, fetches (what is verified) or
#: keeps what passes through it unchanged.
_WITHOUT_EFFECT = {
    "code_versions", "errors", "files", "locks", "markdown", "presence", "progress", "provenance", "remote",
    "remote_file", "signals", "tracking", "tracking_store",
    "filelock", "mlflow",  "psutil", "pydantic", "pydantic_settings", "requests", "sqlalchemy", "tqdm", "urllib3",
    "yaml",
}  # fmt: skip


@cache
def code_version(*roots: str, package: Path = _PACKAGE) -> str:
    """Return 12 hex digits of the code behind modules, and of the libraries that it computes with.

    They cover the source of the modules (``"spectrogram"``, ``"networks.crnn"``; with none, of the whole package), that
    of all modules of the package that their imports lead to, also those inside functions, and the versions of the
    installed distributions that these import. Comments, docstrings and imports for type checking alone do not count.
    """
    seen: set[str] = set()
    digest = hashlib.sha256()
    libraries: set[str] = set()
    waiting = list(roots) or [_dotted(path.relative_to(package)) for path in package.rglob("*.py")]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _module(package, name).own - _WITHOUT_EFFECT
    for name in sorted(seen):
        module = _module(package, name)
        digest.update(f"{name} {module.digest}\n".encode())
        libraries |= module.others - _WITHOUT_EFFECT
    for library in sorted(libraries):
        digest.update(f"{library} {_versions(library)}\n".encode())
    return digest.hexdigest()[:12]


class _Module(NamedTuple):
    """What counts of a module: a digest of its code, and what it imports, ours and others'."""

    digest: str
    own: frozenset[str]
    others: frozenset[str]


@cache
def _module(package: Path, name: str) -> _Module:
    tree = _Stripped().visit(ast.parse(_file(package, name).read_text(encoding="utf-8")))
    own, others = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in imported:
            top, _, rest = full.partition(".")
            if top == package.name:
                own.add(rest if _file(package, rest).is_file() else rest.rpartition(".")[0])
            elif top not in sys.stdlib_module_names:
                others.add(top)
    return _Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), frozenset(own), frozenset(others))


class _Stripped(ast.NodeTransformer):
    """Leaves out what no result depends on: strings that stand alone, as docstrings do, and imports for types."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def _file(package: Path, name: str) -> Path:
    path = package.joinpath(*name.split(".")) if name else package
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _dotted(path: Path) -> str:
    return ".".join(path.parent.parts if path.stem == "__init__" else path.with_suffix("").parts)


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _versions(library: str) -> str:
    """The versions of the distributions that an importable name comes from; empty where it is not installed."""
    try:  # most are called as what they install; to look through all takes half a second
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        pass
    return " ".join(f"{name}=={metadata.version(name)}" for name in sorted(set(_distributions().get(library, ()))))
