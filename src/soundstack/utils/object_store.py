"""Places beyond this machine: files in an object store, or in a folder that all hosts mount, by the URI of a place.

``s3://bucket/folder`` and its kin are opened by pyarrow, with the credentials, region and endpoint that each host has
in its environment (``AWS_...``) or by its role: no credential is ever part of a place, since places are logged.
``file:///folder`` says that every host has the same folder there. An object is there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from soundstack.utils.errors import StoreError
from soundstack.utils.files import replaced, write_atomically

SCHEMES = ("s3", "gs", "abfs", "abfss", "hdfs", "file")
#: Objects that are fetched at a time: a store answers late, but many at once.
READERS = 16
#: Bytes that are copied at a time.
_BLOCK = 1 << 20


class Stored(NamedTuple):
    """What a listing tells of a file: its size in bytes, and when it was written, in nanoseconds since 1970."""

    size: int
    modified: int


def is_uri(place: str) -> bool:
    """Whether a place is a URI, and not a path of this machine."""
    return "://" in place


def checked(uri: str) -> str:
    """Return the URI of a place without slashes at its end.

    Raises:
        ValueError: It is none that can be opened, or holds credentials; the message does not repeat them.
    """
    scheme, _, rest = uri.strip().partition("://")
    host, _, path = rest.partition("/")
    if scheme not in SCHEMES:
        raise ValueError(f"{scheme}:// is no known store; give {', '.join(f'{each}://' for each in SCHEMES)} or a path")
    if ":" in host.rpartition("@")[0] or ("@" in host and not scheme.startswith("abfs")):
        raise ValueError("holds credentials, and places are logged; leave them to the environment, as AWS_... for s3")
    if {"?", "#"} & set(rest) or ".." in path.split("/"):
        raise ValueError(f"give {scheme}:// and a plain path; settings go into the environment, as AWS_ENDPOINT_URL")
    if bool(host) == (scheme == "file") or (scheme == "file" and not path):
        raise ValueError("give file:///folder, which all hosts mount, or s3://bucket/folder")
    return uri.strip().rstrip("/")


def listed(uri: str) -> dict[str, Stored]:
    """The files below a place by their names relative to it, in order; none where there is no such place.

    Raises:
        StoreError: The store cannot be asked.
    """
    from pyarrow.fs import FileSelector, FileType

    with _asking(uri):
        system, path = _opened(uri)
        found = system.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    below = len(path.rstrip("/")) + 1
    files = {info.path[below:]: Stored(info.size, info.mtime_ns or 0) for info in found if info.type == FileType.File}
    # A store may hold any name; as a path here, it must not lead elsewhere.
    return {name: files[name] for name in sorted(files) if not {"", ".", ".."} & set(name.split("/"))}


def stored(uri: str) -> Stored | None:
    """What a listing tells of one file; None where there is no such file.

    Raises:
        StoreError: The store cannot be asked.
    """
    from pyarrow.fs import FileType

    with _asking(uri):
        system, path = _opened(uri)
        info = system.get_file_info(path)
    return Stored(info.size, info.mtime_ns or 0) if info.type == FileType.File else None


def exists(uri: str) -> bool:
    """Whether a file is there.

    Raises:
        StoreError: The store cannot be asked.
    """
    return stored(uri) is not None


def read(uri: str) -> bytes:
    """The bytes of a file.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: The store cannot be asked.
    """
    with _asking(uri):
        system, path = _opened(uri)
        with system.open_input_stream(path) as file:
            return bytes(file.read())


def write(uri: str, content: bytes | memoryview) -> None:
    """Write a file whole, in the place of an earlier one.

    Raises:
        StoreError: The store does not take it.
    """
    if uri.startswith("file://"):
        write_atomically(Path(uri.removeprefix("file://")), content)
        return
    with _asking(uri):
        system, path = _opened(uri)
        with system.open_output_stream(path) as file:
            file.write(content)


def download(uri: str, path: Path) -> None:
    """Copy a file of any length to a path of this machine.

    Raises:
        FileNotFoundError: It is not there.
        StoreError: The store cannot be asked, or the path not written.
    """
    with _asking(uri):
        system, there = _opened(uri)
        with system.open_input_stream(there) as source, path.open("wb") as target:
            while block := source.read(_BLOCK):
                try:
                    target.write(block)
                    target.flush()
                except OSError as error:
                    raise StoreError(
                        f"{path.parent} cannot be written ({error.strerror}); free space, or set TMPDIR elsewhere."
                    ) from None


def upload(path: Path, uri: str) -> None:
    """Copy a file of any length from this machine to a place, over an earlier one.

    Raises:
        StoreError: The store does not take it.
    """
    with _asking(uri), path.open("rb") as source, ExitStack() as target:
        if uri.startswith("file://"):
            file: Any = target.enter_context(replaced(Path(uri.removeprefix("file://"))))
        else:
            system, there = _opened(uri)
            file = target.enter_context(system.open_output_stream(there))
        shutil.copyfileobj(source, file, _BLOCK)


def fetch(uri: str, files: Mapping[str, Stored], folder: Path) -> None:
    """Bring files of a place (by their names below it) into a folder, with their times; what is there is left alone.

    Raises:
        StoreError: The store cannot be asked, or the folder not written.
    """

    def bring(name: str) -> None:
        path, stored = folder / name, files[name]
        if not _is_same(path, stored):
            try:
                write_atomically(path, read(f"{uri}/{name}"))
            except FileNotFoundError:
                raise StoreError(f"{uri}/{name} was removed while it was in use; run again.") from None
            os.utime(path, ns=(stored.modified, stored.modified))

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(bring, files))


def send(files: Iterable[Path], folder: Path, uri: str) -> None:
    """Write files of a folder to a place, those that it lacks or has in another size.

    Raises:
        StoreError: The store cannot be asked, or does not take them.
    """
    there = listed(uri)

    def put(path: Path) -> None:
        name = path.relative_to(folder).as_posix()
        if name not in there or there[name].size != path.stat().st_size:
            write(f"{uri}/{name}", path.read_bytes())

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(put, files))


def outline(files: Mapping[str, Stored], folder: Path) -> None:
    """Lay out files by name, size and time alone, for who looks which there are: they hold nothing and take no room.

    Raises:
        StoreError: The folder cannot be written.
    """
    try:
        for name, stored in files.items():
            path = folder / name
            if not _is_same(path, stored):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    file.truncate(stored.size)
                os.utime(path, ns=(stored.modified, stored.modified))
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error.strerror or error}); free space.") from None


def _is_same(path: Path, stored: Stored) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == stored


def _opened(uri: str) -> tuple[Any, str]:
    """The file system of a place, and the path of the place there."""
    scheme, _, rest = uri.partition("://")
    host, _, path = rest.partition("/")
    system, top = _system(scheme, host)
    return system, f"{top}/{path}" if scheme != "file" else f"/{path}"


@cache
def _system(scheme: str, host: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    # Without this option, each put begins a transfer in parts: three requests instead of one.
    options = "?allow_delayed_open=true" if scheme == "s3" else ""
    system, top = FileSystem.from_uri(f"{scheme}://{host or '/'}{options}")
    return system, top.rstrip("/")


@contextmanager
def _asking(uri: str) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ArrowException) as error:
        reason = " ".join(str(error).split())[:300]
        raise StoreError(
            f"{uri}: the store does not answer as it should ({reason}); check the place, and the endpoint, region and "
            "credentials in the environment of this host."
        ) from None
