"""Stretches of recordings as people mark them: columns of start and end in a table, and Audacity's label tracks.

A label track is a text file beside its recording (``take1.txt`` beside ``take1.wav``): a label a line, as start and end
in seconds and a text, with tabs between them; a line that begins with a backslash says which frequencies the label
before it is about, and is passed over. A label of a point in time (its start is its end) marks no sound: it is left out
with a note.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from soundstack.audio.containers import SUFFIXES
from soundstack.audio.sound import Stretch
from soundstack.datasets.clips import Clip
from soundstack.utils.errors import DataError

_NUMBER = r"-?\d+(?:[.,]\d+)?"
_LABEL = re.compile(rf"({_NUMBER})\t({_NUMBER})(?:\t(.*))?")


def stretch_of(start: str, end: str, where: str) -> Stretch | None:
    """The stretch that two cells give in seconds; None where both are empty.

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
        seconds = float(text)
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


def tracks_of(sounds: Iterable[Path]) -> dict[Path, Path]:
    """The label tracks beside sounds, each with its sound.

    Raises:
        DataError: Two sounds stand beside a label track.
    """
    found: dict[Path, Path] = {}
    for sound in sounds:
        track = sound.with_suffix(".txt")
        if is_label_track(track):
            if track in found:
                raise DataError(f"{track}: {found[track].name} and {sound.name} are both beside it; leave one.")
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


def read_track(track: Path, called: str) -> tuple[list[tuple[str, str, str, str]], int]:
    """What a label track says, as starts, ends, labels and where they stand, and how many points in time it marks.

    Raises:
        DataError: It cannot be read, or holds a line that is no label.
    """
    try:
        lines = track.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{track} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{track} is no label track in UTF-8 ({error.reason}); export it from Audacity again."
        ) from None
    found: list[tuple[str, str, str, str]] = []
    points = 0
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("\\"):
            continue
        where = f"{called} line {number}"
        if not (label := _LABEL.fullmatch(line)):
            raise DataError(f"{where}: is no label (start, end and text with tabs between them); export it again.")
        start, end = (time.replace(",", ".") for time in label.groups()[:2])
        if _seconds("start", start, where) == _seconds("end", end, where):
            points += 1
        else:
            found.append((start, end, (label[3] or "").strip(), where))
    return found, points
