"""A small web server on loopback that can misbehave on purpose, for the tests of all that is downloaded."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass
class Served:
    """One file of the server and how it is given."""

    content: bytes
    etag: str | None = '"v1"'
    modified: str | None = None
    ranges: bool = True
    """Whether ``Range`` is understood; a server that does not always sends the whole file."""
    honours_if_range: bool = True
    chunked: bool = False
    """Sent without a ``Content-Length``."""
    until_close: bool = False
    """Sent without any length, up to the end of the connection, as old servers do."""
    repeat: int = 1
    """Chunked contents are sent so many times over: a file that seems to have no end."""
    ignores_start: bool = False
    """A range is answered with the whole file as if it were the range."""
    delay: float = 0.0
    """Seconds before the body comes, and before each repetition, in which others can be faster."""
    cuts: list[int] = field(default_factory=list)
    """The next answers end after so many bytes of their body, one number an answer."""
    always_cut: int | None = None
    statuses: list[int] = field(default_factory=list)
    """The next answers are these errors."""
    retry_after: str | None = None
    redirect: str | None = None
    hold: threading.Event | None = None
    """Until it is set the server is silent from ``hold_at`` on: before the ``headers``, or half-way in the ``body``."""
    hold_at: str = "headers"
    declared_length: int | None = None
    """A ``Content-Length`` that is not true."""


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    path: str
    range: str | None
    if_range: str | None


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what some tests are about; everything else is told."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class LocalServer:
    """Serves ``files`` (path without the leading slash -> :class:`Served`) while the ``with`` block runs."""

    def __init__(self, files: dict[str, Served | bytes] | None = None) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[Request] = []
        self.busiest = 0
        """The highest number of requests that were under way at once."""
        self.sent = 0
        """Bytes of bodies that were sent in all."""
        self._running = 0
        self._lock = threading.Lock()
        self.asked = threading.Event()
        """Set as soon as there was a request."""
        for path, file in (files or {}).items():
            self.add(path, file)
        self._server = _QuietServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def add(self, path: str, file: Served | bytes) -> Served:
        served = file if isinstance(file, Served) else Served(file)
        self.files[path] = served
        return served

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def url_of(self, path: str) -> str:
        return f"{self.url}/{path}"

    @property
    def counts(self) -> Counter[str]:
        """How often each path was asked for."""
        return Counter(request.path for request in self.requests)

    def count_sent(self, sent: int) -> None:
        with self._lock:
            self.sent += sent

    def enter(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)
            self._running += 1
            self.busiest = max(self.busiest, self._running)
        self.asked.set()

    def leave(self) -> None:
        with self._lock:
            self._running -= 1

    def __enter__(self) -> LocalServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(server: LocalServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Tests need no log of requests on standard error: ``server.requests`` has them."""

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            server.enter(Request(path, self.headers.get("Range"), self.headers.get("If-Range")))
            try:
                self._give(path)
            finally:
                server.leave()

        def _give(self, path: str) -> None:
            file = server.files.get(path)
            if file is None:
                self._refuse(404)
                return
            if file.hold is not None and file.hold_at == "headers":
                file.hold.wait()
            if file.statuses:
                self._refuse(file.statuses.pop(0), file.retry_after)
                return
            if file.redirect is not None:
                self.send_response(302)
                self.send_header("Location", file.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = self._start(file)
            if start is not None and start >= len(file.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(file.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._send(file, file.content[0 if file.ignores_start else start or 0 :], start)

        def _start(self, file: Served) -> int | None:
            wish = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if wish is None or not file.ranges:
                return None
            condition = self.headers.get("If-Range")
            if file.honours_if_range and condition is not None and condition not in (file.etag, file.modified):
                return None
            return int(wish[1])

        def _send(self, file: Served, body: bytes, start: int | None) -> None:
            self.send_response(200 if start is None else 206)
            if start is not None:
                total = len(file.content)
                first = 0 if file.ignores_start else start
                self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
            if file.etag is not None:
                self.send_header("ETag", file.etag)
            if file.modified is not None:
                self.send_header("Last-Modified", file.modified)
            if file.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif not file.until_close:
                self.send_header("Content-Length", str(file.declared_length or len(body)))
            self.end_headers()
            cut = file.cuts.pop(0) if file.cuts else file.always_cut
            sent = body if cut is None else body[:cut]
            if file.hold is not None:
                half = len(sent) // 2
                self.wfile.write(sent[:half])
                file.hold.wait()
                sent = sent[half:]
            for _ in range(file.repeat):
                time.sleep(file.delay)
                self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent) if file.chunked and sent else sent)
                server.count_sent(len(sent))
            if cut is not None and cut < len(body):
                self.close_connection = True
            elif file.chunked:
                self.wfile.write(b"0\r\n\r\n")
            elif file.until_close or file.declared_length is not None:
                self.close_connection = True

        def _refuse(self, status: int, retry_after: str | None = None) -> None:
            self.send_response(status)
            if retry_after is not None:
                self.send_header("Retry-After", retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler
