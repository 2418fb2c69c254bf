"""Sounds that people labelled on the page, as a table that ``dataset=csv`` takes: in a folder,

- ``corrections.csv``: ``filename,label,group`` and what the model had said. It is replaced whole, under a lock, so that
  several people and several pages can save at a time; of two labels of one sound the later one stays.
- ``sounds/<digest>.flac``: the sound, encoded anew and so without what else the file held, named by its content.
- ``.corrections.lock``: held while the table is written.
"""

from __future__ import annotations

import csv
import hashlib
import io
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import soundfile

from soundstack.audio.decode import Samples
from soundstack.utils.errors import ConfigError, StoreError
from soundstack.utils.files import replaced, write_atomically
from soundstack.utils.locks import exclusive

TABLE = "corrections.csv"
COLUMNS = ("filename", "label", "group", "recognised", "probability", "model", "saved")
_LONGEST = 100
_REMEDY = "corrections_dir"
#: The largest value that FLAC's 24 bits hold; louder sound is kept as floats.
_LARGEST = 1 - 2.0**-23


@dataclass(frozen=True)
class Recognised:
    """What the model had said of a sound, for the table."""

    model: str
    label: str = ""
    probability: float | None = None


def checked_text(what: str, text: str, known: Collection[str] = ()) -> str:
    """A label or a group as it may stand in a table that people open as a spreadsheet.

    Raises:
        ConfigError: It is too long, holds what cannot be printed, or would be taken for a formula.
    """
    text = unicodedata.normalize("NFC", text).strip()
    if text in known:
        return text
    if len(text) > _LONGEST or not text.isprintable():
        raise ConfigError(f"{what}: give at most {_LONGEST} letters, on one line.")
    if text[:1] in set("=+-@'\""):
        raise ConfigError(f"{what}: begin with a letter or a digit; spreadsheets take {text[0]} for a formula.")
    return text


def save(folder: Path, sound: tuple[Samples, int], label: str, group: str, recognised: Recognised) -> tuple[Path, int]:
    """Keep a sound, (frames, channels) and rate in Hz, with its right label; return its file and the rows there are.

    Sound of up to 24 bits is kept to the last one. The texts are checked ones; without a ``group`` the sound is one of
    its own.

    Raises:
        StoreError: The folder cannot be written, or its table is not one of ours.
    """
    samples, rate = sound
    digest = hashlib.sha256(np.ascontiguousarray(samples).tobytes() + str((rate, samples.shape)).encode())
    loud = float(np.abs(samples).max()) > _LARGEST
    name = f"sounds/{digest.hexdigest()[:24]}.{'wav' if loud else 'flac'}"
    row = {
        "filename": name,
        "label": label,
        "group": group or Path(name).stem,
        "recognised": recognised.label,
        "probability": "" if recognised.probability is None else f"{recognised.probability:.4f}",
        "model": recognised.model,
        "saved": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with exclusive(folder / ".corrections.lock", "Writing corrections", f"or choose another {_REMEDY}"):
        path = folder / name
        if not path.exists():
            kind, subtype = ("WAV", "FLOAT") if loud else ("FLAC", "PCM_24")
            with replaced(path, instead=_REMEDY) as file:
                soundfile.write(file, samples, rate, format=kind, subtype=subtype)
        rows, columns = _read(folder / TABLE)
        rows = [each for each in rows if each["filename"] != name] + [row]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
        # With a byte order mark, by which Excel knows UTF-8.
        write_atomically(folder / TABLE, text.getvalue().encode("utf-8-sig"), instead=_REMEDY)
    return path, len(rows)


def _read(table: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The rows and columns of a table, also those that its user added."""
    if not table.exists():
        return [], list(COLUMNS)
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{table} cannot be read ({error}); mend it, or choose another {_REMEDY}.") from None
    if not {"filename", "label", "group"} <= set(columns) or any(None in row for row in rows):
        raise StoreError(f"{table} has not the columns filename,label,group; mend it, or choose another {_REMEDY}.")
    return rows, columns
