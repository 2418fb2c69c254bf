"""What the user gives as own data, as rows: a table, a folder with a table, or a folder with one folder a class.

In a folder, the first level are the classes, however deep the sounds lie below; where the first level are splits
(``train``, ``val``, ``test`` ...), the second. A folder that can be read in two ways is refused with both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soundstack.audio.containers import SUFFIXES
from soundstack.audio.find import walk
from soundstack.audio.tables import NAMES, TABLE_SUFFIXES, Table, read_table
from soundstack.datasets.splits import WORDS
from soundstack.utils.errors import DataError

REQUIRED = ("filename", "label")
OPTIONAL = ("fold", "split", "group")
#: Larger files, in bytes, are no lists of clips that somebody left in a folder.
_LARGEST = 1 << 26
#: Not read, but told of.
_WORKBOOKS = {".xlsx", ".xls", ".ods"}


@dataclass(frozen=True)
class Rows:
    """One row a clip: its cells by role (``filename``, ``label`` ...), and where it stands, in words.

    File names are relative to ``folder``. ``name`` is what messages call the whole, ``form`` says in words how it was
    read, and ``notes`` what the reader should be told.
    """

    name: str
    folder: Path
    rows: Sequence[Mapping[str, str]]
    where: Sequence[str]
    form: Sequence[str]
    notes: Sequence[str] = ()


def read(place: Path) -> Rows:
    """Read a table or a folder.

    Raises:
        DataError: It cannot be read, lacks a column, lists nothing, or may be read in several ways.
    """
    return _folder(place) if place.is_dir() else _table(read_table(place), place.parent)


def _table(table: Table, folder: Path) -> Rows:
    places = table.columns_of((*REQUIRED, *OPTIONAL))
    if missing := [role for role in REQUIRED if role not in places]:
        found = ", ".join(name for name in table.header if name)
        others = "; ".join(f"{role} may be called {', '.join(NAMES[role][1:])}" for role in missing)
        raise DataError(
            f"{table.name}: column {', '.join(missing)} is missing; found {found}. "
            f"Needed: {', '.join(REQUIRED)}; optional: {', '.join(OPTIONAL)}. {others}."
        )
    if table.cells.empty:
        raise DataError(f"{table.name} lists no clips.")
    called = {role: table.header[place] for role, place in places.items()}
    columns = ", ".join(role if role == name.casefold() else f"{role} = {name!r}" for role, name in called.items())
    cells = table.cells[list(places.values())].set_axis(list(places), axis=1)
    return Rows(
        table.name,
        folder,
        [dict(zip(called, map(str, values), strict=True)) for values in cells.itertuples(index=False, name=None)],
        [f"{table.name} row {row}" for row in cells.index],
        [*([table.form] if table.form else []), f"columns {columns}"],
    )


def _folder(folder: Path) -> Rows:
    texts = _texts_in(folder)
    tables = [name for name in texts if _lists_clips(folder / name)]
    sounds = [path.relative_to(folder) for path in walk(folder)]
    below = {path.parts[0] for path in sounds if len(path.parts) > 1}
    if len(tables) > 1:
        raise DataError(
            f"{folder} holds several tables of clips: {', '.join(tables)}; give one of them as data_dir, as in "
            f"{folder / tables[0]}."
        )
    if tables and len(below) > 1:
        raise DataError(
            f"{folder} holds a table, {tables[0]}, and folders with sounds, {_few(below)}: for the table, give "
            f"data_dir={folder / tables[0]}; to take each folder for a class, move the table elsewhere."
        )
    if tables or (len(texts) == 1 and not below):  # the only one tells itself what is wrong with it
        only = folder / (tables or texts)[0]
        return _table(read_table(only), folder)
    if not below:
        raise DataError(
            f"{folder} holds neither one folder a class with sound files ({', '.join(sorted(SUFFIXES))}), nor a table "
            f"with columns {', '.join(REQUIRED)}."
        )
    read = _classes(folder, sounds, below)
    if texts := [name for name in texts if not name.lower().endswith(".txt")]:
        unread = f"Beside the folders, {', '.join(texts)} is no table of clips and was not read."
        return replace(read, notes=[*read.notes, unread])
    return read


def _classes(folder: Path, sounds: Sequence[Path], below: set[str]) -> Rows:
    splits = {name for name in below if name.casefold() in WORDS}
    others, depth = below - splits, int(splits == below)
    if others and len(splits) > 1:
        raise DataError(
            f"{folder}: are the folders {_few(splits)} splits, or classes as {_few(others)}? For splits, keep nothing "
            "beside them; for classes, write a table."
        )
    if len(others) == 1 and not splits:
        only = folder / next(iter(others))
        raise DataError(
            f"{folder} has one folder with sounds alone, {only.name}; if the folders in it are the classes, give "
            f"data_dir={only}."
        )
    rows, where, loose = [], [], []
    for path in sounds:
        if len(path.parts) > depth + 1:
            split = {"split": path.parts[0]} if depth else {}
            rows.append({"filename": path.as_posix(), "label": path.parts[depth], **split})
            where.append(f"folder {'/'.join(path.parts[: depth + 1])}")
        else:
            loose.append(path.as_posix())
    if not rows:
        raise DataError(f"{folder}: {_few(below)} hold no folders of classes; lay the sounds as train/CLASS/file.wav.")
    notes = []
    if loose:
        notes.append(
            f"{len(loose):,} sound files lie in no folder of a class and are left out (first: {sorted(loose)[0]})."
        )
    if empty := _folders(folder, depth) - {place.removeprefix("folder ") for place in where} - below:
        notes.append(f"Folders without sound files ({', '.join(sorted(SUFFIXES))}) are left out: {_few(empty)}.")
    return Rows(folder.name, folder, rows, where, ["each folder is a class"], notes)


def _folders(folder: Path, depth: int) -> set[str]:
    """The folders of the first level, and with a ``depth`` of 1 of the second, without those that are hidden."""
    patterns = ["/".join("*" * level) for level in range(1, depth + 2)]
    found = {path.relative_to(folder) for pattern in patterns for path in folder.glob(pattern) if path.is_dir()}
    return {name.as_posix() for name in found if not any(part.startswith(".") for part in name.parts)}


def _texts_in(folder: Path) -> list[str]:
    """The names of the files in a folder that may be tables."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in TABLE_SUFFIXES | _WORKBOOKS
        and not path.name.startswith(".")
        and path.is_file()
        and path.stat().st_size <= _LARGEST
    )


def _lists_clips(path: Path) -> bool:
    """Whether a table names files and labels; notes, and lists of something else, do not."""
    try:
        return len(read_table(path).columns_of(REQUIRED)) == len(REQUIRED)
    except DataError:
        return False


def _few(names: set[str]) -> str:
    return " ".join(", ".join(sorted(names)[:4]).split()) + (" ..." if len(names) > 4 else "")
