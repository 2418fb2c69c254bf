"""What the user gives as own data, as rows: a table, a folder with a table or with label tracks, or one folder a class.

In a folder, the first level are the classes, however deep the sounds lie below; where the first level are splits
(``train``, ``val``, ``test`` ...), the second. Where recordings have label tracks beside them
(:mod:`soundstack.datasets.label_tracks`), these tell the labels, and folders do not. A folder that can be read in two
ways is refused with both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soundstack.audio.containers import SUFFIXES
from soundstack.audio.find import walk
from soundstack.audio.tables import NAMES, TABLE_SUFFIXES, Table, read_table
from soundstack.datasets.label_tracks import is_label_track, read_track, sound_of, tracks_of
from soundstack.datasets.splits import WORDS
from soundstack.utils.errors import DataError

REQUIRED = ("filename", "label")
OPTIONAL = ("fold", "split", "group", "start", "end")
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
    if place.is_dir():
        return _folder(place)
    if is_label_track(place):
        return _labelled(place.parent, {place: sound_of(place)})
    return _table(read_table(place), place.parent)


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
    if len(times := [called[role] for role in ("start", "end") if role in called]) == 1:
        raise DataError(
            f"{table.name}: column {times[0]!r} is one end of a stretch of a recording; give both, as start and end in "
            "seconds, or call it otherwise."
        )
    columns = ", ".join(role if role == name.casefold() else f"{role} = {name!r}" for role, name in called.items())
    cells = table.cells[list(places.values())].set_axis(list(places), axis=1)
    if times and table.decimal_comma:
        cells = cells.assign(**{role: cells[role].str.replace(",", ".") for role in ("start", "end")})
    return Rows(
        table.name,
        folder,
        [dict(zip(called, map(str, values), strict=True)) for values in cells.itertuples(index=False, name=None)],
        [f"{table.name} row {row}" for row in cells.index],
        [*([table.form] if table.form else []), f"columns {columns}"],
    )


def _folder(folder: Path) -> Rows:
    found = list(walk(folder))
    tracks = tracks_of(found)
    texts = [name for name in _texts_in(folder) if folder / name not in tracks]
    tables = [name for name in texts if _lists_clips(folder / name)]
    sounds = [path.relative_to(folder) for path in found]
    below = {path.parts[0] for path in sounds if len(path.parts) > 1}
    if len(tables) > 1:
        raise DataError(
            f"{folder} holds several tables of clips: {', '.join(tables)}; give one of them as data_dir, as in "
            f"{folder / tables[0]}."
        )
    if tracks:
        return _tracks_in(folder, tracks, tables, [path for path in found if path not in set(tracks.values())], below)
    if tables and len(below) > 1:
        raise DataError(
            f"{folder} holds a table, {tables[0]}, and folders with sounds, {_few(below)}: for the table, give "
            f"data_dir={folder / tables[0]}; to take each folder for a class, move the table elsewhere."
        )
    if tables or (len(texts) == 1 and not below):  # the only one tells itself what is wrong with it
        only = folder / (tables or texts)[0]
        return read(only)
    if not below:
        raise DataError(
            f"{folder} holds neither one folder a class with sound files ({', '.join(sorted(SUFFIXES))}), nor a table "
            f"with columns {', '.join(REQUIRED)}."
        )
    classes = _classes(folder, sounds, below)
    if texts := [name for name in texts if not name.lower().endswith(".txt")]:
        unread = f"Beside the folders, {', '.join(texts)} is no table of clips and was not read."
        return replace(classes, notes=[*classes.notes, unread])
    return classes


def _tracks_in(
    folder: Path, tracks: Mapping[Path, Path], tables: Sequence[str], left: Sequence[Path], below: set[str]
) -> Rows:
    first = next(iter(tracks)).relative_to(folder)
    if tables:
        raise DataError(
            f"{folder} holds a table, {tables[0]}, and label tracks beside recordings, as {first}; for the table, give "
            f"data_dir={folder / tables[0]}; for the label tracks, move it elsewhere."
        )
    if left and len(below) > 1:
        raise DataError(
            f"{folder}: are {_few(below)} classes, or do label tracks, as {first}, tell them? {len(left):,} sound "
            f"files have none beside them, as {left[0].relative_to(folder)}. Move the tracks elsewhere, or those files."
        )
    read = _labelled(folder, tracks)
    if not left:
        return read
    unmarked = (
        f"{len(left):,} sound files have no label track of their name beside them and are left out (first: "
        f"{left[0].relative_to(folder)})."
    )
    return replace(read, notes=[*read.notes, unmarked])


def _labelled(folder: Path, tracks: Mapping[Path, Path]) -> Rows:
    """The stretches that label tracks mark in their recordings."""
    rows, where, points = [], [], 0
    for track, sound in tracks.items():
        labels, of_time = read_track(track, track.relative_to(folder).as_posix())
        name = sound.relative_to(folder).as_posix()
        rows += [{"filename": name, "start": start, "end": end, "label": label} for start, end, label, _ in labels]
        where += [place for *_, place in labels]
        points += of_time
    if not rows:
        raise DataError(f"{folder}: the label tracks mark no stretch of sound.")
    notes = [f"{points:,} labels of points in time mark no sound and are left out."] if points else []
    name = folder.name if len(tracks) > 1 else next(iter(tracks)).name
    return Rows(name, folder, rows, where, ["label tracks"], notes)


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
