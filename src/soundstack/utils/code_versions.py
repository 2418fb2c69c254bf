"""The version of the code behind a result: what everything that is remembered is found by, next to data and parameters.

It is derived from the imports, so that no list must be kept: what a step does not import cannot change its results.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Set
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

_PACKAGE = Path(__file__).parents[1]
#: What cannot change a result, packages and modules of ours and libraries: it checks, says, shows, locks, fetches (what
#: is verified) or keeps what passes through it unchanged.
_WITHOUT_EFFECT = {
    "tracking", "utils.cluster", "utils.code_versions", "utils.download", "utils.errors", "utils.files", "utils.locks",
    "utils.markdown", "utils.object_store", "utils.progress", "utils.provenance", "utils.remote_file", "utils.signals",
    "filelock", "huggingface_hub", "jinja2", "mlflow", "psutil", "pydantic", "requests", "sqlalchemy", "tqdm",
    "urllib3", "yaml",
}  # fmt: skip


@cache
def code_version(*roots: str, package: Path = _PACKAGE) -> str:
    """Return 12 hex digits of the code behind modules, and of the libraries that it computes with.

    They cover the source of the modules (by their names, with or without that of the package; with none, of the whole
    package), that of all modules of the package that their imports lead to, also those inside functions, and the
    versions of the installed distributions that these import. Comments, docstrings and imports for type checking alone
    do not count.
    """
    digest = hashlib.sha256()
    libraries: set[str] = set()
    modules = [root.removeprefix(f"{package.name}.") for root in roots] or list(imports(package))
    for name in sorted(_closure(modules, package, without=_WITHOUT_EFFECT)):
        module = _module(package, name)
        digest.update(f"{name} {module.digest}\n".encode())
        libraries |= module.others - _WITHOUT_EFFECT
    for library in sorted(libraries):
        versions = " ".join(f"{name}=={metadata.version(name)}" for name in _distributions(library))
        digest.update(f"{library} {versions}\n".encode())
    return digest.hexdigest()[:12]


def imports(package: Path = _PACKAGE) -> dict[str, frozenset[str]]:
    """Return every module of the package and those of the package that it imports, by dotted names below it."""
    paths = (path.relative_to(package).with_suffix("") for path in package.rglob("*.py"))
    names = {".".join(path.parts).removesuffix("__init__").removesuffix(".") for path in paths}
    return {name: _module(package, name).own - {""} for name in sorted(names - {""})}


def imported_files(*roots: str, package: Path = _PACKAGE) -> set[Path]:
    """Return the files of modules and of all modules of the package that their imports lead to, below the package."""
    files = {_file(package, name).relative_to(package) for name in _closure(roots, package)}
    return files | {folder / "__init__.py" for file in files for folder in file.parents}


@cache
def behind_results(package: Path = _PACKAGE) -> tuple[str, ...]:
    """Return the names of the installed distributions that the results of a package may depend on, and its own."""
    others = set().union(*(_module(package, name).others for name in imports(package))) - _WITHOUT_EFFECT
    return (package.name, *sorted({name for library in others for name in _distributions(library)}))


@cache
def versions_of(names: tuple[str, ...], package: Path = _PACKAGE) -> dict[str, str]:
    """Return the versions of distributions, none where one is missing; the package's own is a digest of its files.

    Nothing is imported or parsed for it: each process of another host asks.
    """
    found = {package.name: ""}
    for name in set(names) - {package.name}:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(
            f"{path.relative_to(package).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return found | {package.name: digest.hexdigest()[:12]}


def imported_libraries(*roots: str, package: Path = _PACKAGE) -> list[str]:
    """Return the installed distributions that modules, and those that their imports lead to, import."""
    libraries = set().union(*(_module(package, name).others for name in _closure(roots, package)))
    return sorted({name for library in libraries for name in _distributions(library)})


def _closure(roots: Iterable[str], package: Path, without: Set[str] = frozenset({""})) -> set[str]:
    """The modules that the imports of some lead to, those inside functions too, but by way of none of ``without``."""
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [own for own in _module(package, name).own if not {own, own.partition(".")[0]} & without]
    return seen


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


@cache
def _distributions(library: str) -> list[str]:
    """The distributions that an importable name comes from; none where it is not installed."""
    try:  # most are called as what they install; to look through all takes half a second
        metadata.version(library)
    except metadata.PackageNotFoundError:
        return sorted(set(_all_distributions().get(library, ())))
    return [library]


_all_distributions = cache(metadata.packages_distributions)
