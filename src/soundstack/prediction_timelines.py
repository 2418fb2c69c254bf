"""A timeline picture of every predicted file, drawn once: a picture says in its metadata what it was drawn from."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from soundstack.evaluation.plots import duration, timeline_figure
from soundstack.prediction_parts import Parts, replacing
from soundstack.sound_files import SoundFile

FOLDER = "timelines"
_KEY = "Source"


def picture_path(output: Path, file: SoundFile) -> Path:
    """Where the picture of a file lies: below ``timelines``, as the file lies below the input."""
    above = [part for part in Path(file.name).parts[:-1] if part not in {"..", file.path.anchor}]
    return Path(output, FOLDER, *above, f"{file.path.name}.png")


def draw(
    output: Path,
    files: Sequence[SoundFile],
    parts: Parts,
    labels: Sequence[str],
    model: str,
    advance: Callable[[int], object] = lambda count: None,
) -> None:
    """Draw the files that have windows and no up-to-date picture.

    Args:
        advance: Called with the number of files done since the last call.

    Raises:
        StoreError: The folder cannot be written.
    """
    for file in files:
        scored = parts.read(file)
        path = picture_path(output, file)
        source = f"{parts.folder.name} {file.path} {file.size} {file.modified}".encode("ascii", "replace").decode()
        if not scored.problem and _drawn_from(path) != source:
            title = f"{file.name}  ({duration(scored.seconds)}, {model})"
            figure = timeline_figure(scored.starts, scored.ends, scored.probabilities, labels, title)
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=120, metadata={_KEY: source})
            with replacing(path) as temporary:
                temporary.write_bytes(picture.getvalue())
        advance(1)


def _drawn_from(path: Path) -> str:
    try:
        with Image.open(path) as picture:
            return str(picture.info.get(_KEY, ""))
    except (OSError, ValueError):
        return ""
