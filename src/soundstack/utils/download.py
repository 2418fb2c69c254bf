"""Files fetched over HTTP: resumable, verified, and either whole or not there.

What is on disk while and after ``x.zip`` is fetched:

- ``x.zip`` exists only when every byte has come and its checksum and size are the published ones: it is moved
  into place by ``os.replace``, so a file that exists is complete.
- ``x.zip.part`` holds the bytes received so far and ``x.zip.part.json`` where they come from: the URL, the whole size
  and the server's validator (ETag or date). A cut or killed download goes on from there, with ``If-Range``, so that a
  file which changed on the server is fetched anew and never spliced. Without a validator it goes on only if a checksum
  is known that would tell. A server that knows no ranges makes it start over.
- ``x.zip.lock`` keeps two processes from fetching the same file: the second waits and takes what the first fetched.

A file with a wrong checksum is refused, named and removed. Cut connections and passing server errors are
tried again with growing pauses; as long as an attempt brings new bytes, the count of attempts starts anew.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.util import Retry

from soundstack import __version__
from soundstack.utils.errors import DownloadError, SoundstackError, StoreError
from soundstack.utils.locks import exclusive
from soundstack.utils.progress import bytes_bar
from soundstack.utils.remote_file import ELSEWHERE, RemoteFile, require_space

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

_CHUNK = 1 << 18


def fetch(
    files: Iterable[RemoteFile],
    folder: Path,
    jobs: int = 4,
    *,
    needed: int = 0,
    then: Callable[[RemoteFile, Path], None] | None = None,
) -> tuple[Path, ...]:
    """Fetch files into ``folder``, going on where an earlier attempt stopped; return their paths in order.

    A file that is there already is taken if it has the published checksum and size, and fetched anew if it
    has not. One file that fails does not stop the others: what can be had is fetched, then the failure is raised.
    ``jobs`` connections are open at a time, the disk must have ``needed`` bytes free before anything is fetched, and
    ``then`` is called with every file once it is there, in the thread that fetched it (to unpack it, say).

    Raises:
        DownloadError: too little disk space, or a file that could not be fetched: the server cannot be reached or
            refuses, the disk is full or not writable, or it is not the published file (then nothing of it is kept).
    """
    files = tuple(files)
    require_space(folder, needed)
    stop = threading.Event()
    turns = threading.Semaphore(max(1, jobs))
    results: list[Future[Path]] = [Future() for _ in files]

    def work(file: RemoteFile, result: Future[Path]) -> None:
        with turns:
            try:
                path = _Download(file, folder / file.name, stop).run()
                if then is not None:
                    _go_on(stop, file.name)
                    then(file, path)
                result.set_result(path)
            except BaseException as error:  # raised where the caller sees it
                result.set_exception(error)

    # Not a pool: its threads would be waited for when the process ends, and one may be waiting for a dead server.
    threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in zip(files, results, strict=True)]
    failures: list[SoundstackError] = []
    try:
        for thread in threads:
            thread.start()
        for failure in filter(None, (done.exception() for done in as_completed(results))):
            if not isinstance(failure, SoundstackError):
                raise failure
            if len(files) > 1:
                logger.error("%s", failure)  # said at once: the other files may take hours
            failures.append(failure)
    except BaseException:  # Ctrl-C above all: end the running downloads, which can be resumed
        stop.set()
        end = time.monotonic() + GRACE_SECONDS
        for thread in filter(threading.Thread.is_alive, threads):
            thread.join(max(0.0, end - time.monotonic()))
        raise
    if failures:
        raise _of_all(failures, len(files), folder)
    return tuple(result.result() for result in results)


def _of_all(failures: list[SoundstackError], files: int, folder: Path) -> SoundstackError:
    """One error for those of so many files."""
    if len(failures) == 1:
        return failures[0]
    return DownloadError(
        f"{len(failures)} of {files} files could not be had; the others are kept in {folder}: run "
        f"this again to fetch only what is missing. The first failure: {failures[0]}"
    )


def _go_on(stop: threading.Event, name: str) -> None:
    if stop.is_set():
        raise DownloadError(f"The download of {name} was stopped; run it again and it is resumed.")


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


class _Download:
    """One file on its way to its place; the module's text says what is on the disk meanwhile."""

    def __init__(self, file: RemoteFile, target: Path, stop: threading.Event) -> None:
        self.file, self.target, self.stop = file, target, stop
        self.part = target.with_name(target.name + ".part")
        self.record = target.with_name(target.name + ".part.json")

    def run(self) -> Path:
        """Fetch the file, unless the right one is there."""
        file, target = self.file, self.target
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
                    if (fault := file.fault(target)) is None:  # another process was faster
                        return target
                    logger.warning("%s is not the published file (%s): it is fetched anew.", target, fault)
                self._receive()
                if fault := file.fault(self.part):
                    self._discard()
                    raise DownloadError(
                        f"{file.url} did not give the published file for {target}: {fault}. It was removed; "
                        "run this again. If it persists, that address has another file than the published one."
                    )
                self.part.replace(target)
                self.record.unlink(missing_ok=True)
        except StoreError as error:
            raise DownloadError(f"{file.url} cannot be saved: {error}") from error
        except OSError as error:
            raise DownloadError(
                f"{file.url} cannot be saved as {target}: {error.strerror or error}. "
                "Choose a folder that is writable and has space; what was received is kept and will be resumed."
            ) from error
        return target

    @property
    def size(self) -> int:
        """The bytes received so far."""
        return self.part.stat().st_size if self.part.exists() else 0

    def _known_origin(self) -> _Origin | None:
        """Where the bytes received so far are from, if they can be trusted to belong to the file."""
        try:
            origin = _Origin(**json.loads(self.record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # none, or not ours
            return None
        return origin if origin.url == self.file.url and (origin.validator or self.file.checksums) else None

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)

    def _receive(self) -> None:
        """Bring the part to its whole length, over as many requests as it takes."""
        retry, furthest = RETRY, 0
        with requests.Session() as session:
            # Bytes as they are published: a checksum is of the file, not of what a server unpacks on the way.
            session.headers.update({"User-Agent": f"soundstack/{__version__}", "Accept-Encoding": "identity"})
            while True:
                _go_on(self.stop, self.target.name)
                origin = self._known_origin()
                start = self.size if origin else 0
                if origin and 0 < start == origin.total:
                    return
                try:
                    self._attempt(session, start, origin or _Origin())
                    return
                except _Cut as cut:
                    if self.size > furthest:
                        furthest, retry = self.size, RETRY
                    try:
                        retry = retry.increment("GET", self.file.url, error=cut)
                    except MaxRetryError:
                        raise self._not_fetched(str(cut)) from cut
                    logger.info("%s: %s; trying again.", self.file.url, cut)
                    asked = retry.get_retry_after(cut.response.raw) if cut.response is not None else None
                    self.stop.wait(asked or retry.get_backoff_time())

    def _attempt(self, session: requests.Session, start: int, origin: _Origin) -> None:
        """One request, whose answer is appended to the part or, if it is the whole file, begins the part anew."""
        condition = {"If-Range": origin.validator} if origin.validator else {}
        with self._answer(session, {"Range": f"bytes={start}-"} | condition if start else {}) as response:
            answered = _described(self.file.url, response)
            if response.status_code == 200:
                start = 0
            elif not _continues(response, answered, start, origin):
                self._discard()
                raise _Cut("the file changed on the server, so it is fetched from the beginning")
            else:
                answered = replace(answered, total=answered.total or origin.total)
            if None not in (answered.total, self.file.size) and answered.total != self.file.size:
                raise DownloadError(
                    f"{self.file.url} offers {answered.total:,} bytes where {self.file.size:,} were published, so "
                    f"{self.target} was not fetched: the published file has changed, or the address leads elsewhere."
                )
            whole = answered.total if answered.total is not None else self.file.size
            if whole is not None:
                require_space(self.target.parent, whole - start)
            if start == 0:  # emptied before the record changes: bytes of one file never stand beside another's record
                self.part.write_bytes(b"")
                self.record.write_text(json.dumps(asdict(answered)), encoding="utf-8")
            self._append(response, whole)
        if whole is not None and self.size < whole:
            raise _Cut(f"the connection ended after {self.size:,} of {whole:,} bytes")
        if whole is not None and self.size > whole:
            self._discard()
            raise DownloadError(
                f"{self.file.url} sent more than the {whole:,} bytes it should have, so nothing of {self.target} was "
                "kept: the published file has changed, or the address leads elsewhere."
            )

    def _answer(self, session: requests.Session, headers: Mapping[str, str]) -> requests.Response:
        """The server's answer to one request, its body not yet read: status 200, or 206 for a range."""
        url, host = self.file.url, urlsplit(self.file.url).netloc
        try:
            response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
        except (requests.ConnectionError, requests.Timeout) as error:
            cause = _innermost(error)
            unknown = isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN
            if unknown and not isinstance(error, requests.exceptions.ProxyError):  # asking again would not change that
                raise self._not_fetched(f"there is no {host} to be found") from error
            raise _Cut(f"no answer from {host} ({_reason(cause)})") from error
        except requests.RequestException as error:
            raise DownloadError(f"{url} cannot be fetched to {self.target}: {error}. Check the address.") from error
        status = response.status_code
        if status == 200 or (status == 206 and "Range" in headers):
            return response
        response.close()
        answer = f"the server answered {status} {response.reason or ''}".rstrip()
        if status == 416:
            self._discard()
            raise _Cut(f"{answer} to the wish to resume, so it is fetched from the beginning", response)
        if RETRY.is_retry("GET", status, has_retry_after="Retry-After" in response.headers):
            raise _Cut(answer, response)
        raise DownloadError(
            f"{url} could not be fetched to {self.target}: {answer}. "
            "Check the address, or fetch the file by other means and save it there."
        )

    def _append(self, response: requests.Response, whole: int | None) -> None:
        """Write the body behind what is there, at most a chunk more than the whole."""
        with self.part.open("ab") as stream:
            received = stream.tell()
            try:
                with bytes_bar(self.target.name, whole, received) as bar:
                    for chunk in response.raw.stream(_CHUNK, decode_content=False):
                        received += stream.write(chunk)
                        bar.update(len(chunk))
                        if whole is not None and received > whole:
                            break
                        _go_on(self.stop, self.target.name)
            except HTTPError as error:
                raise _Cut(f"the connection broke after {received:,} bytes ({_reason(_innermost(error))})") from error
            finally:
                stream.flush()
                os.fsync(stream.fileno())

    def _not_fetched(self, why: str) -> DownloadError:
        return DownloadError(
            f"{self.file.url} could not be fetched to {self.target}: {why}. Check the connection and run "
            "this again to go on from there, or fetch the file by other means and save it there."
        )


def _described(url: str, response: requests.Response) -> _Origin:
    """What a server tells of the whole file."""
    etag = response.headers.get("ETag")
    # What If-Range may carry: a strong ETag, or the date where there is none (RFC 9110, 13.1.5).
    validator = response.headers.get("Last-Modified") if etag is None else None if etag.startswith("W/") else etag
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        total = response.headers.get("Content-Length", "")
    return _Origin(url, validator, int(total) if total.isdecimal() else None)


def _continues(response: requests.Response, answered: _Origin, start: int, origin: _Origin) -> bool:
    """Whether a partial answer continues what is there: from its end on, and of the same version of the file."""
    pairs = ((origin.total, answered.total), (origin.validator, answered.validator))
    same_file = all(None in pair or pair[0] == pair[1] for pair in pairs)
    return same_file and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


def _innermost(error: BaseException) -> BaseException:
    """The cause of a network error behind its wrappers, which repeat the address."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
