"""A timeline picture of every predicted file, drawn once: a picture says in its metadata what it was drawn from."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from soundstack.audio.find import SoundFile
from soundstack.evaluation.none_rule import NONE, NoneRule, answers_of
from soundstack.evaluation.sound_plots import timeline_figure
from soundstack.prediction.store import PredictionStore
from soundstack.recognisers.timelines import Floats, Timeline
from soundstack.utils import object_store
from soundstack.utils.errors import AudioError
from soundstack.utils.files import write_atomically
from soundstack.utils.progress import duration

FOLDER = "timelines"
_KEY = "Source"
#: Bytes that file systems take.
_LONGEST_NAME = 255


def picture_paths(output: Path, files: Sequence[SoundFile]) -> list[Path]:
    """Where the pictures of files lie: below ``timelines``, as a file lies below the input.

    A file whose name is too long for that, or whose place another one has taken, gets a name with a digest of its path.
    """
    paths: dict[Path, None] = {}
    for file in files:
        above = [part for part in Path(file.name).parts[:-1] if part not in {"..", file.path.anchor}]
        path = Path(output, FOLDER, *above, f"{file.path.name}.png")
        if path in paths or len(os.fsencode(path.name)) > _LONGEST_NAME:
            digest = hashlib.sha256(os.fsencode(file.path)).hexdigest()[:12]
            path = path.with_name(f"{file.path.stem[:40]}-{digest}.png")
        paths[path] = None
    return list(paths)


def draw(
    output: Path,
    files: Sequence[SoundFile],
    store: PredictionStore,
    labels: Sequence[str],
    model: str,
    advance: Callable[[int], object] = lambda count: None,
    *,
    uri: str = "",
    rule: NoneRule | None = None,
) -> None:
    """Draw the files that have windows and no up-to-date picture; ``advance`` is called after each file.

    Where the output folder lies in an object store, ``uri`` is its place there, which gets every picture first;
    ``rule`` tells when the model answers none, if ever.

    Raises:
        StoreError: The folder cannot be written.
    """
    for file, path in zip(files, picture_paths(output, files), strict=True):
        found = store.read(file, none=rule is not None)
        source = f"{store.key} {file.path} {file.size} {file.modified}".encode("ascii", "replace").decode()
        if not isinstance(found, AudioError) and _drawn_from(path) != source:
            title = f"{file.name}  ({duration(found.seconds)}, {model})"
            shown, shares, best = _shown(rule, labels, found)
            figure = timeline_figure(found.starts, found.ends, shares, shown, title, best=best)
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=120, metadata={_KEY: source})
            if uri:
                object_store.write(f"{uri}/{path.relative_to(output).as_posix()}", picture.getbuffer())
            write_atomically(path, picture.getbuffer(), instead="output_dir")
        advance(1)


def _shown(
    rule: NoneRule | None, labels: Sequence[str], found: Timeline
) -> tuple[Sequence[str], Floats, list[int] | None]:
    """The rows of a picture: classes, their probabilities (W, K), and which is the answer, where it may be none."""
    if rule is None or found.none is None:
        return labels, found.probabilities, None
    answers, _ = answers_of(rule, labels, found.probabilities, found.none)
    shown, shares = list(labels), found.probabilities
    if not rule.by_class:
        shown, shares = [*shown, NONE], np.column_stack([shares, found.none])
    return shown, shares, [shown.index(answer) for answer in answers]


def _drawn_from(path: Path) -> str:
    try:
        with Image.open(path) as picture:
            return str(picture.info.get(_KEY, ""))
    except (OSError, ValueError):
        return ""
