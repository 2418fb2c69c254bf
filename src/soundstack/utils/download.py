"""Files fetched over HTTP: resumable, verified, and either whole or not there.

What is on disk while and after ``x.zip`` is fetched:

- ``x.zip`` exists only when every byte has come and its checksum and size are the published ones: it is moved
  into place by ``os.replace``, so a file that exists is complete.
- ``x.zip.part`` holds the bytes received so far and ``x.zip.part.json`` where they come from: the URL, the
  whole size and the server's validator (ETag or date). A cut or killed download goes on from there, with
  ``If-Range``, so that a file which changed on the server is fetched anew and never spliced. Without a
  validator it goes on only if a checksum is known that would tell. A server that knows no ranges makes it
  start over.
- ``x.zip.lock`` keeps two processes from fetching the same file: the second waits and takes what the first
  fetched.

A file with a wrong checksum is refused, named and removed. Cut connections and passing server errors are
tried again with growing pauses; as long as an attempt brings new bytes, the count of attempts starts anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError, MaxRetryError, NameResolutionError
from urllib3.util import Retry

from soundstack import __version__
from soundstack.utils.errors import DownloadError, SoundstackError, StoreError
from soundstack.utils.locks import exclusive

logger = logging.getLogger(__name__)

TIMEOUT = (10.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes of an answer."""

RETRY = Retry(
    total=5,
    status_forcelist=(429, 500, 502, 503, 504),
    backoff_factor=0.5,
    backoff_jitter=0.5,
    backoff_max=30,
    retry_after_max=120,
)
"""How often a request that brings nothing new is repeated, and how long the pauses are."""

GRACE_SECONDS = 2.0
"""How long Ctrl-C waits for running downloads to stop; one that waits for a server ends with the process."""

ELSEWHERE = "or choose another folder"
"""What to do, beside the usual, where a folder for fetched files cannot be written."""

_CHUNK = 1 << 18
_SHORTEST_PREFIX = 8  # hex digits of a SHA-256, as file names of published weights carry them


@dataclass(frozen=True)
class RemoteFile:
    """A published file: its ``url``, the ``name`` it gets on disk, and what is known of its contents.

    ``size`` is in bytes; ``md5`` and ``sha256`` are hexadecimal, and ``sha256`` may be a prefix of 8 digits
    or more.
    """

    url: str
    name: str
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.md5 is not None and not re.fullmatch(r"[0-9a-fA-F]{32}", self.md5):
            raise ValueError(f"{self.md5!r} is no MD5: 32 hexadecimal digits are needed.")
        if self.sha256 is not None and not re.fullmatch(rf"[0-9a-fA-F]{{{_SHORTEST_PREFIX},64}}", self.sha256):
            raise ValueError(f"{self.sha256!r} is no SHA-256 or prefix of one: 8 to 64 hexadecimal digits are needed.")

    @property
    def has_checksum(self) -> bool:
        return self.md5 is not None or self.sha256 is not None

    def fault(self, path: Path) -> str | None:
        """What tells the file at ``path`` from the published one, or ``None`` if nothing does."""
        if self.size is not None and (found := path.stat().st_size) != self.size:
            return f"it has {found:,} bytes where {self.size:,} were published"
        for algorithm, published in (("md5", self.md5), ("sha256", self.sha256)):
            if published is None:
                continue
            found_digest = digest(path, algorithm)
            if not found_digest.startswith(published.lower()):
                return f"its {algorithm} is {found_digest} where {published.lower()} was published"
        return None


def digest(path: Path, algorithm: str = "md5") -> str:
    """The checksum of a file in hexadecimal; ``algorithm`` as :mod:`hashlib` names it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    progress: bool = True,
) -> Path:
    """Fetch ``url`` to the file ``target``, going on where an earlier attempt stopped; see the module's text.

    A file that is there already is taken if it has the published checksum and size, and fetched anew if it
    has not.

    Args:
        url: an ``http`` or ``https`` address; redirects are followed.
        target: the file to write; its folder is made if need be.
        sha256: the published SHA-256 in hexadecimal, or a prefix of it of at least 8 digits.
        md5: the published MD5 in hexadecimal.
        size: the published size in bytes.
        progress: draw a progress bar where standard error is a terminal.

    Returns:
        ``target``.

    Raises:
        DownloadError: the server cannot be reached or refuses, the disk is full or not writable, or the file
            is not the published one (then nothing of it is kept).
        ValueError: ``md5`` or ``sha256`` is not a checksum.
    """
    target = Path(target)
    file = RemoteFile(url, target.name, size=size, md5=md5, sha256=sha256)
    return fetch_all([file], target.parent, 1, progress=progress, needed=0)[0]


def fetch_all(
    files: Iterable[RemoteFile],
    folder: Path,
    jobs: int = 4,
    *,
    progress: bool = True,
    needed: int | None = None,
    then: Callable[[RemoteFile, Path], None] | None = None,
) -> tuple[Path, ...]:
    """Fetch several files into ``folder``, ``jobs`` at a time; each as :func:`fetch` does.

    One file that fails does not stop the others: what can be had is fetched, then the failure is raised.

    Args:
        files: what to fetch.
        folder: where to; made if need be.
        jobs: how many connections at a time.
        progress: draw one progress bar a running file where standard error is a terminal.
        needed: bytes the disk must have free before anything is fetched; default: what the files still lack.
        then: called with every file once it is there, in the thread that fetched it (to unpack it, say).

    Returns:
        The paths, in the order of ``files``.

    Raises:
        DownloadError: too little disk space, or a file that could not be fetched.
    """
    files = tuple(files)
    if needed := sum(_lacking(file, folder) for file in files) if needed is None else needed:
        require_space(folder, needed)
    stop = threading.Event()

    def one(file: RemoteFile) -> Path:
        path = _fetch(file, folder / file.name, progress=progress, stop=stop)
        if then is not None and not stop.is_set():
            then(file, path)
        return path

    failures: list[SoundstackError] = []
    results: dict[RemoteFile, Future[Path]] = {file: Future() for file in files}
    waiting = iter(results.items())
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                file, result = next(waiting, (None, None))
            if file is None or result is None or stop.is_set():
                return
            try:
                result.set_result(one(file))
            except BaseException as error:  # raised where the caller sees it
                result.set_exception(error)

    # Not a pool: its threads would be waited for when the process ends, and one may be waiting for a dead server.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(max(1, min(jobs, len(results))))]
    try:
        for thread in threads:
            thread.start()
        for done in as_completed(results.values()):
            error = done.exception()
            if isinstance(error, SoundstackError):
                if len(files) > 1:
                    logger.error("%s", error)  # said at once: the other files may take hours
                failures.append(error)
            elif error is not None:
                raise error
    except BaseException:  # Ctrl-C above all: end the running downloads, which can be resumed
        stop.set()
        end = time.monotonic() + GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        raise
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise DownloadError(
            f"{len(failures)} of {len(files)} files could not be had; the others are kept in {folder}: run "
            f"this again to fetch only what is missing. The first failure: {failures[0]}"
        )
    return tuple(results[file].result() for file in files)


def require_space(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        DownloadError: the disk of ``folder`` (which need not exist yet) has fewer than ``needed`` bytes free.
    """
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DownloadError(
            f"The disk of {folder} has {human(free)} free and {human(needed)} are needed: "
            "free some space, or choose a folder on another disk."
        )


def human(count: int) -> str:
    """A number of bytes for people: ``1.07GB``."""
    return tqdm.format_sizeof(count, suffix="B")


class _Cut(Exception):
    """The answer broke off, or a passing error came instead: worth another attempt."""

    def __init__(self, reason: str, response: requests.Response | None = None) -> None:
        super().__init__(reason)
        self.response = response


@dataclass(frozen=True)
class _Origin:
    """Where the bytes of a part come from."""

    url: str = ""
    validator: str | None = None
    total: int | None = None


class _Part:
    """The bytes received so far, and their origin."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(target.name + ".part")
        self._record = target.with_name(target.name + ".part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def origin(self) -> _Origin:
        try:
            return _Origin(**json.loads(self._record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # none, or not ours: the part is then of unknown origin
            return _Origin()

    def begin(self, origin: _Origin) -> None:
        # Emptied before the record changes: bytes of one file must never stand beside the record of another.
        self.path.write_bytes(b"")
        self._record.write_text(json.dumps(vars(origin)), encoding="utf-8")

    def resume_at(self, file: RemoteFile) -> int:
        """The byte to go on from; 0 where what is there cannot be trusted to belong to ``file``."""
        origin = self.origin
        if origin.url != file.url or not (origin.validator or file.has_checksum):
            return 0
        return self.size

    def is_whole(self, file: RemoteFile) -> bool:
        return 0 < self.resume_at(file) == self.origin.total

    def move_to(self, target: Path) -> None:
        self.path.replace(target)
        self._record.unlink(missing_ok=True)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)


def _fetch(file: RemoteFile, target: Path, *, progress: bool, stop: threading.Event) -> Path:
    parts = urlsplit(file.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError(f"{file.url!r} cannot be fetched to {target}: only http and https addresses can.")
    try:
        # Before the lock, so that a file in a folder that is not writable is taken.
        if target.exists() and file.fault(target) is None:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(target.with_name(target.name + ".lock"), f"fetching {target}", ELSEWHERE):
            if target.exists():
                fault = file.fault(target)
                if fault is None:  # another process was faster
                    return target
                logger.warning("%s is not the published file (%s): it is fetched anew.", target, fault)
            part = _Part(target)
            _receive(file, target, part, progress=progress, stop=stop)
            fault = file.fault(part.path)
            if fault is not None:
                part.discard()
                raise DownloadError(
                    f"{file.url} did not give the published file for {target}: {fault}. It was removed; "
                    "run this again. If it persists, that address has another file than the published one."
                )
            part.move_to(target)
    except StoreError as error:
        raise DownloadError(f"{file.url} cannot be saved: {error}") from error
    except OSError as error:
        raise DownloadError(
            f"{file.url} cannot be saved as {target}: {error.strerror or error}. "
            "Choose a folder that is writable and has space; what was received is kept and will be resumed."
        ) from error
    return target


def _receive(file: RemoteFile, target: Path, part: _Part, *, progress: bool, stop: threading.Event) -> None:
    """Bring ``part`` to its whole length, over as many requests as it takes."""
    retry = RETRY
    furthest = part.resume_at(file)
    with requests.Session() as session:
        # Bytes as they are published: a checksum is of the file, not of what a server unpacks on the way.
        session.headers.update({"User-Agent": f"soundstack/{__version__}", "Accept-Encoding": "identity"})
        while not part.is_whole(file):
            _check(stop, target)
            try:
                _attempt(session, file, target, part, progress=progress, stop=stop)
                return
            except _Cut as cut:
                if part.size > furthest:
                    furthest = part.size
                    retry = RETRY
                try:
                    retry = retry.increment("GET", file.url, error=cut)
                except MaxRetryError:
                    raise DownloadError(_not_fetched(file, target, str(cut))) from cut
                logger.info("%s: %s; trying again.", file.url, cut)
                asked = retry.get_retry_after(cut.response.raw) if cut.response is not None else None
                _pause(stop, asked or retry.get_backoff_time())


def _pause(stop: threading.Event, seconds: float) -> None:
    stop.wait(seconds)


def _check(stop: threading.Event, target: Path) -> None:
    if stop.is_set():
        raise DownloadError(f"The download of {target.name} was stopped; run it again and it is resumed.")


def _not_fetched(file: RemoteFile, target: Path, why: str) -> str:
    return (
        f"{file.url} could not be fetched to {target}: {why}. Check the connection and run "
        "this again to go on from there, or fetch the file by other means and save it there."
    )


def _is_unknown_name(error: requests.RequestException) -> bool:
    refused = error.args[0] if error.args else None
    reason = getattr(refused, "reason", None)
    cause = getattr(reason, "__cause__", None)
    return (
        isinstance(reason, NameResolutionError)
        and isinstance(cause, socket.gaierror)
        and cause.errno != socket.EAI_AGAIN
    )


def _attempt(
    session: requests.Session,
    file: RemoteFile,
    target: Path,
    part: _Part,
    *,
    progress: bool,
    stop: threading.Event,
) -> None:
    """One request, whose answer is appended to the part or, if it is the whole file, begins the part anew."""
    start, origin = part.resume_at(file), part.origin
    headers = {}
    if start:
        headers["Range"] = f"bytes={start}-"
        if origin.validator:
            headers["If-Range"] = origin.validator
    with _answer(session, file, target, headers) as response:
        answered = _Origin(file.url, _validator(response.headers), _total(response))
        if response.status_code == 206:
            _check_continuation(response, part, start, origin, answered)
            answered = replace(answered, total=answered.total or origin.total)
        else:
            start = 0
        if None not in (answered.total, file.size) and answered.total != file.size:
            raise DownloadError(
                f"{file.url} offers {answered.total:,} bytes where {file.size:,} were published, so {target} "
                "was not fetched: the published file has changed, or the address leads elsewhere."
            )
        whole = answered.total if answered.total is not None else file.size
        if whole is not None:
            require_space(target.parent, whole - start)
        if start == 0:
            part.begin(answered)
        _append(response, part, start, whole, name=target.name, progress=progress, stop=stop)
    if whole is not None and part.size < whole:
        raise _Cut(f"the connection ended after {part.size:,} of {whole:,} bytes")
    if whole is not None and part.size > whole:
        part.discard()
        raise DownloadError(
            f"{file.url} sent more than the {whole:,} bytes it should have, so nothing of {target} was kept: "
            "the published file has changed, or the address leads elsewhere."
        )


def _answer(session: requests.Session, file: RemoteFile, target: Path, headers: Mapping[str, str]) -> requests.Response:
    """The server's answer to one request, its body not yet read: status 200, or 206 for a range."""
    try:
        response = session.get(file.url, headers=headers, stream=True, timeout=TIMEOUT)
    except (requests.ConnectionError, requests.Timeout) as error:
        if _is_unknown_name(error):  # no network, or no such host: another attempt would not change that
            raise DownloadError(
                _not_fetched(file, target, f"there is no {urlsplit(file.url).netloc} to be found")
            ) from error
        raise _Cut(f"no answer from {urlsplit(file.url).netloc} ({_reason(error)})") from error
    except requests.RequestException as error:
        raise DownloadError(f"{file.url} cannot be fetched to {target}: {error}. Check the address.") from error
    status = response.status_code
    if status == 200 or (status == 206 and "Range" in headers):
        return response
    response.close()
    answer = f"the server answered {status} {response.reason or ''}".rstrip()
    if status == 416:
        _Part(target).discard()
        raise _Cut(f"{answer} to the wish to resume, so it is fetched from the beginning", response)
    if RETRY.is_retry("GET", status, has_retry_after="Retry-After" in response.headers):
        raise _Cut(answer, response)
    raise DownloadError(
        f"{file.url} could not be fetched to {target}: {answer}. "
        "Check the address, or fetch the file by other means and save it there."
    )


def _check_continuation(
    response: requests.Response, part: _Part, start: int, origin: _Origin, answered: _Origin
) -> None:
    """Refuse a partial answer that does not continue what is there: another place, or another file."""
    span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    same_place = span is not None and int(span[1]) == start
    same_file = all(
        before is None or now is None or before == now
        for before, now in ((origin.total, answered.total), (origin.validator, answered.validator))
    )
    if not (same_place and same_file):
        part.discard()
        raise _Cut("the file changed on the server, so it is fetched from the beginning")


def _append(
    response: requests.Response,
    part: _Part,
    start: int,
    whole: int | None,
    *,
    name: str,
    progress: bool,
    stop: threading.Event,
) -> None:
    bar = tqdm(
        total=whole,
        initial=start,
        unit="B",
        unit_scale=True,
        desc=name,
        leave=False,
        disable=None if progress else True,  # None: drawn on a terminal only
    )
    received = start
    with bar, part.path.open("ab") as stream:
        try:
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                stream.write(chunk)
                received += len(chunk)
                bar.update(len(chunk))
                if whole is not None and received > whole:
                    break
                _check(stop, part.path)
        except HTTPError as error:
            raise _Cut(f"the connection broke after {received:,} bytes ({_reason(error)})") from error
        finally:
            stream.flush()
            os.fsync(stream.fileno())


def _validator(headers: Mapping[str, str]) -> str | None:
    """What ``If-Range`` may carry: a strong ETag, or the date where there is none (RFC 9110, 13.1.5)."""
    etag = headers.get("ETag")
    if etag is None:
        return headers.get("Last-Modified")
    return None if etag.startswith("W/") else etag


def _total(response: requests.Response) -> int | None:
    """The size of the whole file in bytes, where the server tells it."""
    if response.status_code == 206:
        span = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
        return int(span[1]) if span else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _lacking(file: RemoteFile, folder: Path) -> int:
    """How many bytes are still to come for ``file``, as far as its size is known."""
    if file.size is None or (folder / file.name).exists():
        return 0
    return max(0, file.size - _Part(folder / file.name).resume_at(file))


def _reason(error: BaseException) -> str:
    """The innermost cause of a network error: its wrappers repeat the address."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
