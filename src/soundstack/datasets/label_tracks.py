"""Stretches of recordings as people mark them: columns of start and end in a table, and Audacity's label tracks.

A label track is a text file beside its recording (``take1.txt`` beside ``take1.wav``): a label a line, as start and end
in seconds and a text, with tabs between them; a line that begins with a backslash says which frequencies the label
before it is about, and is passed over. A label of a point in time (its start is its end) marks no sound: it is left out
with a note.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from soundstack.audio.containers import SUFFIXES
from soundstack.audio.sound import Stretch
from soundstack.datasets.clips import Clip
from soundstack.utils.errors import DataError

#: What the columns of start and end are called, in seconds.
TIMES = (("start", "end"), ("onset", "offset"), ("begin", "end"), ("start_time", "end_time"))
_NUMBER = r"-?\d+(?:[.,]\d+)?"
_LABEL = re.compile(rf"({_NUMBER})\t({_NUMBER})(?:\t(.*))?")


class Labelled(NamedTuple):
    """A line of a label track: the file's name, start and end as they stand there, the label, and where that is."""

    filename: str
    start: str
    end: str
    label: str
    where: str


def time_columns(columns: Sequence[str], where: str) -> tuple[str, str] | None:
    """The names of the columns that hold starts and ends; None where a table has neither.

    Raises:
        DataError: One of two is missing, or there are several pairs.
    """
    pairs = [pair for pair in TIMES if set(pair) <= set(columns)]
    if len(pairs) > 1:
        several = " and ".join(",".join(pair) for pair in pairs)
        raise DataError(f"{where}: columns {several} both give stretches; leave one pair.")
    halves = {name for pair in TIMES for name in pair} & set(columns) - {name for pair in pairs for name in pair}
    if halves and not pairs:
        raise DataError(
            f"{where}: column {', '.join(sorted(halves))} gives one end of a stretch; give both, as start,end in seconds."
        )
    return pairs[0] if pairs else None


def stretch_of(start: str, end: str, where: str) -> Stretch | None:
    """The stretch that two cells give in seconds, with a decimal point or comma; None where both are empty.

    Raises:
        DataError: One is empty, no number, or negative, or the start is not before the end.
    """
    if not start and not end:
        return None
    seconds = [_seconds(name, text, where) for name, text in (("start", start), ("end", end))]
    if seconds[0] >= seconds[1]:
        raise DataError(f"{where}: the start, {start} s, is not before the end, {end} s.")
    return Stretch(*seconds)


def _seconds(name: str, text: str, where: str) -> float:
    try:
        seconds = float(text.replace(",", "."))
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        what = f"{text!r} is no time" if text else "is missing"
        raise DataError(f"{where}: the {name} {what}; write seconds, as in 12.5, or neither start nor end.")
    return round(seconds, 6)


def check_overlaps(clips: Iterable[Clip]) -> None:
    """Refuse stretches of one file that share sound and not their group, in which a split could part them.

    Raises:
        DataError: Two do, each with its row.
    """
    by_file: dict[Path, list[Clip]] = {}
    for clip in clips:
        by_file.setdefault(clip.path, []).append(clip)
    for same in by_file.values():
        same.sort(key=lambda clip: clip.stretch or (0.0, math.inf))
        latest = same[0]
        for clip in same[1:]:
            start, end = clip.stretch or (0.0, math.inf)
            until = latest.stretch.end if latest.stretch else math.inf
            if start < until and clip.group != latest.group:
                raise DataError(
                    f"{clip.listed or clip.id}: {clip.id!r} shares sound with {latest.id!r}"
                    f"{latest.listed and f' ({latest.listed})'}, but is in another group; give both the same."
                )
            latest = clip if end > until else latest


def is_label_track(path: Path) -> bool:
    """Whether a file begins as a label track of Audacity does."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return _LABEL.fullmatch(file.readline().rstrip("\r\n")) is not None
    except (OSError, UnicodeDecodeError):
        return False


def tracks_of(folder: Path, sounds: Iterable[Path]) -> dict[Path, Path]:
    """The label tracks of a folder's sounds, each with its sound.

    Raises:
        DataError: Two sounds stand beside a label track.
    """
    found: dict[Path, Path] = {}
    for sound in sounds:
        track = sound.with_suffix(".txt")
        if is_label_track(track):
            if track in found:
                raise DataError(
                    f"{track.relative_to(folder)}: {found[track].name} and {sound.name} stand beside this label track; "
                    "leave one."
                )
            found[track] = sound
    return found


def sound_of(track: Path) -> Path:
    """The sound that a label track stands beside.

    Raises:
        DataError: There is none, or several.
    """
    beside = sorted(
        path for path in track.parent.iterdir() if path.stem == track.stem and path.suffix.lower() in SUFFIXES
    )
    if len(beside) != 1:
        found = f"found {' and '.join(path.name for path in beside)}" if beside else "there is none"
        raise DataError(
            f"{track}: a label track has one recording of its name beside it, as {track.stem}.wav; {found}."
        )
    return beside[0]


def read_track(track: Path, filename: str) -> tuple[list[Labelled], int]:
    """The stretches that a label track marks in a file, and how many points in time it marks.

    Raises:
        DataError: It cannot be read, or holds a line that is no label.
    """
    try:
        lines = track.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{track} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{track} is no label track in UTF-8 ({error.reason}); export it from Audacity again."
        ) from None
    found: list[Labelled] = []
    points = 0
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("\\"):
            continue
        where = f"{track.name} line {number}"
        if not (label := _LABEL.fullmatch(line)):
            raise DataError(f"{where}: is no label (start, end and text with tabs between them); export it again.")
        start, end, text = label.groups(default="")
        if _seconds("start", start, where) == _seconds("end", end, where):
            points += 1
        else:
            found.append(Labelled(filename, start, end, text.strip(), where))
    return found, points
