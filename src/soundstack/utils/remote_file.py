"""What is known of a published file, by which it is verified, and the room that it needs."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from soundstack.utils.errors import DownloadError
from soundstack.utils.progress import human

ELSEWHERE = "or choose another folder"
"""What to do, beside the usual, where a folder for fetched files cannot be written."""

_CHECKSUMS = {"md5": "[0-9a-fA-F]{32}", "sha256": "[0-9a-fA-F]{8,64}"}


@dataclass(frozen=True)
class RemoteFile:
    """A published file: its ``url``, the ``name`` it gets on disk, and what is known of its contents.

    ``size`` is in bytes; ``md5`` and ``sha256`` are hexadecimal, and ``sha256`` may be a prefix of 8 digits
    or more, as file names of published weights carry them.
    """

    url: str
    name: str
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        for algorithm, published in self.checksums.items():
            if not re.fullmatch(_CHECKSUMS[algorithm], published):
                raise ValueError(
                    f"{published!r} is no {algorithm}: 32 hexadecimal digits are needed, or 8 to 64 of a sha256."
                )

    @property
    def checksums(self) -> dict[str, str]:
        """The published checksums by algorithm."""
        return {name: value for name in _CHECKSUMS if (value := getattr(self, name)) is not None}

    def fault(self, path: Path) -> str | None:
        """What tells the file at ``path`` from the published one, or ``None`` if nothing does."""
        if self.size is not None and (found := path.stat().st_size) != self.size:
            return f"it has {found:,} bytes where {self.size:,} were published"
        for algorithm, published in self.checksums.items():
            if not (found_digest := digest(path, algorithm)).startswith(published.lower()):
                return f"its {algorithm} is {found_digest} where {published.lower()} was published"
        return None


def digest(path: Path, algorithm: str = "md5") -> str:
    """The checksum of a file in hexadecimal; ``algorithm`` as :mod:`hashlib` names it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def content_digest(path: Path) -> str:
    """The sha256 of a file, read once a process as long as its size and time stay."""
    status = path.stat()
    return _content_digest(path, status.st_size, status.st_mtime_ns)


@cache
def _content_digest(path: Path, size: int, modified: int) -> str:
    return digest(path, "sha256")


def require_space(folder: Path, needed: int) -> None:
    """Raise a DownloadError if the disk of ``folder`` (which need not exist yet) has fewer bytes free."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DownloadError(
            f"The disk of {folder} has {human(free)} free and {human(needed)} are needed: "
            "free some space, or choose a folder on another disk."
        )
