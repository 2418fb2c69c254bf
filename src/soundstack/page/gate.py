"""What stands before Gradio: the page's own requests pass, in bounds, and nothing else does.

Gradio (6.31) has routes that the page does not use (a proxy, a fetch of any public address, run histories ...), lets a
client name a file by its path or address in any value, and does not bound what is uploaded together. So requests are
held against a list of what the page needs; files are those that were uploaded or made for the page, in a folder of its
own; and the bodies of its calls are read here, in which a file elsewhere or an address is refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Uploads that may lie in the page's folder at a time, in units of the largest one; old ones are deleted.
KEPT = 16
#: Bytes of a request other than an upload.
CALL_BYTES = 1 << 18
_FORM_BYTES = 1 << 14  # of an upload, around the file
_FILE = "/gradio_api/file="
_UPLOAD, _CALL = "/gradio_api/upload", "/gradio_api/queue/join"
_READ = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|logout)|/(assets|static|svelte)/[\w./@+-]+"
    r"|/gradio_api/(startup-events|queue/data|upload_progress|heartbeat/\w+)"
)
_WRITTEN = {_UPLOAD, _CALL, "/gradio_api/cancel", "/gradio_api/reset", "/login"}
#: What a browser may load for the page: nothing from another host.
_HEADERS = {
    "content-security-policy": "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'; "
    "form-action 'self'; base-uri 'self'; object-src 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Gate:
    """An ASGI application around Gradio's.

    Args:
        folder: where Gradio keeps what is uploaded and made; files in it are all that is ever read for a client
        max_bytes: of an upload
        hosts: names by which the page may be asked for; empty: any. On this machine alone, another name is that of a
            web site that wants to reach the page through its visitor's browser.
    """

    def __init__(self, app: ASGIApp, *, folder: Path, max_bytes: int, hosts: frozenset[str] = frozenset()) -> None:
        self.app, self.folder, self.max_bytes, self.hosts = app, folder.resolve(), max_bytes, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        refusal = self._refused(request)
        if refusal is None and request.url.path == _CALL:
            content = await request.body()
            refusal = self._call_refused(content)
            receive = _again(content, receive)
        await (refusal or self.app)(scope, receive, _with_headers(send))

    def _refused(self, request: Request) -> Response | None:
        path, method = request.scope["path"], request.method
        host = request.headers.get("host", "")
        if self.hosts and (urlsplit(f"//{host}").hostname or "") not in self.hosts:
            return PlainTextResponse("This page is asked for by another name.", 403)
        if (origin := request.headers.get("origin")) and urlsplit(origin).netloc != host:
            return PlainTextResponse("Only the page itself may ask.", 403)
        if method in ("GET", "HEAD"):
            if path.startswith(_FILE):
                allowed = self._is_ours(path.removeprefix(_FILE))
            else:
                allowed = bool(_READ.fullmatch(path)) and ".." not in path
            return None if allowed else PlainTextResponse("There is no such page.", 404)
        if method != "POST" or path not in _WRITTEN:
            return PlainTextResponse("There is no such page.", 404)
        return self._too_much(path, request.headers.get("content-length", ""))

    def _too_much(self, path: str, declared: str) -> Response | None:
        if not declared.isdecimal():
            return PlainTextResponse("Say the length of what you send.", 411)
        most = self.max_bytes + _FORM_BYTES if path == _UPLOAD else CALL_BYTES
        if int(declared[:20]) > most:
            return PlainTextResponse(f"At most {most:,} bytes are taken.", 413)
        if path == _UPLOAD and self._kept() + int(declared) > KEPT * self.max_bytes:
            return PlainTextResponse("The page is busy; try again later.", 503)
        return None

    def _call_refused(self, content: bytes) -> Response | None:
        try:
            named = list(_files(json.loads(content)))
        except (ValueError, RecursionError):
            return PlainTextResponse("This is not JSON.", 400)
        if all(isinstance(name, str) and self._is_ours(name) for name in named):
            return None
        return PlainTextResponse("Only what was uploaded to the page can be named.", 403)

    def _is_ours(self, name: str) -> bool:
        try:
            path = Path(name).resolve()
            return Path(name).is_absolute() and path.is_relative_to(self.folder) and path.is_file()
        except (OSError, ValueError, RuntimeError):
            return False

    def _kept(self) -> int:
        size = 0
        for parent, _, names in os.walk(self.folder):
            for name in names:
                try:
                    size += os.stat(f"{parent}/{name}").st_size  # noqa: PTH116
                except OSError:  # deleted meanwhile
                    continue
        return size


def _files(value: Any) -> Iterator[Any]:
    """The files that a JSON value names, by the key that Gradio knows them by."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if key == "path":
                yield inside
            yield from _files(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _files(inside)


def _again(content: bytes, receive: Receive) -> Receive:
    """What gives a body that was read once more, and then what comes."""
    waiting: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def given() -> Message:
        return waiting.pop() if waiting else await receive()

    return given


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sent
