"""The gate of the served model: what happens to an HTTP request before the model sees it.

MLflow (3.17) reads and parses requests itself. It takes bodies of any size into memory; deep JSON, absurdly long
numbers and a missing content type are answered with 500; unknown parameters are dropped; a row that is null or not
base64 is refused without its number; and its refusals begin with a print of what was sent. So requests are read here
instead, in the same forms and with the same answers but for the refusals; :mod:`soundstack.serving.mlflow_hook` sees
to it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from http import HTTPStatus
from typing import Any

from mlflow.exceptions import MlflowException
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from soundstack.serving.model import FORM, SoundModel

#: Requests that are worked on at a time: one is decoded while another is scored.
AT_WORK = 2
#: Bodies that wait in memory, in units of the largest one that is allowed.
WAITING = 4
_FORMATS = ("dataframe_records", "dataframe_split", "instances", "inputs")
_log = logging.getLogger(__name__)


class RequestGate:
    """Answers HTTP requests: reads them within limits, and lets a bounded number of them to the model.

    After ``timeout`` seconds the server itself would answer 504; half of them is for waiting and working, so that a
    refusal of ours comes before.
    """

    def __init__(self, model: SoundModel, timeout: float) -> None:
        self.model = model
        self.patience = timeout / 2
        limits = model.limits
        #: Base64 takes a third more; rows of short clips have more braces than sound.
        self.max_body = limits.max_request_bytes * 4 // 3 + 64 * limits.max_clips + (1 << 16)
        self.max_values = 16 * limits.max_clips + 1024
        self._held = 0
        self._slots = asyncio.Semaphore(AT_WORK)

    async def answer(self, request: Request) -> Response:
        """Answer one request; what is wrong with it is 4xx, and never an echo of it."""
        deadline = time.monotonic() + self.patience
        body = bytearray()
        try:
            kind, *parameters = [part.strip().lower() for part in request.headers.get("content-type", "").split(";")]
            if kind != "application/json" or not set(parameters) <= {"", "charset=utf-8", 'charset="utf-8"'}:
                what = f"Send JSON, as application/json in UTF-8: {FORM}."
                raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, what)
            await self._read(request, body, deadline)
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._slots.acquire()
            try:
                content = await asyncio.to_thread(self._predictions, body, deadline)
            finally:
                self._slots.release()
            return Response(content, media_type="application/json")
        except HTTPException as refusal:
            return _refusal(refusal.status_code, refusal.detail)
        except MlflowException as error:
            return Response(error.serialize_as_json(), error.get_http_status_code(), media_type="application/json")
        except TimeoutError:
            return _refusal(HTTPStatus.TOO_MANY_REQUESTS, "The server is busy; try again later.")
        except ClientDisconnect:
            return _refusal(HTTPStatus.BAD_REQUEST, "The client left.")
        except MemoryError:
            return _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The request does not fit into memory; send less.")
        except Exception:
            _log.exception("A request could not be answered")
            return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "The model failed; its server's log says how.")
        finally:
            self._held -= len(body)

    async def _read(self, request: Request, body: bytearray, deadline: float) -> None:
        """Read the body, counting what all requests hold."""
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self.max_body:
            raise self._too_large()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > self.max_body:
                        raise self._too_large()
                    if self._held + len(chunk) > WAITING * self.max_body:
                        raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, "The server is busy; try again later.")
                    body += chunk
                    self._held += len(chunk)
        except TimeoutError:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, "The request came too slowly; try again.") from None

    def _too_large(self) -> HTTPException:
        return HTTPException(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The request is too large; at most {self.max_body:,} bytes are taken."
        )

    def _predictions(self, body: bytearray, deadline: float) -> str:
        rows, params = read_request(body, self.max_values)
        return json.dumps({"predictions": self.model.recognise(rows, params, deadline=deadline)}, allow_nan=False)


def read_request(body: bytes | bytearray, max_values: int) -> tuple[list[Any], dict[str, Any]]:
    """Parse a request in one of MLflow's four JSON forms: the column ``audio``, whatever it holds, and the parameters.

    JSON of more than ``max_values`` values is refused: a byte of it can become a hundred of Python's.

    Raises:
        HTTPException: The body is not JSON, or not of such a form.
    """
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > max_values:
        raise _bad("The request holds more JSON values than clips and parameters need.")
    try:
        document = json.loads(body)
    except RecursionError:
        raise _bad("The request is JSON nested too deeply.") from None
    except ValueError as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise _bad(f"The request is not valid JSON{where}. Send {FORM}.") from None
    if not isinstance(document, dict):
        raise _bad(f"The request is not a JSON object. Send {FORM}.")
    given = [name for name in _FORMATS if name in document]
    if len(given) != 1 or not document.keys() <= {*given, "params"}:
        raise _bad(f"Beside params, the request must hold exactly one of {', '.join(_FORMATS)}. Send {FORM}.")
    params = document.get("params")
    if not isinstance(params, dict | None):
        raise _bad("params must be a JSON object.")
    return _audio_column(given[0], document[given[0]]), params or {}


def _audio_column(form: str, content: Any) -> list[Any]:
    if form == "dataframe_split":
        columns, rows = (content.get("columns"), content.get("data")) if isinstance(content, dict) else (None, None)
        if columns != ["audio"] or not isinstance(rows, list):
            raise _bad('dataframe_split must be {"columns": ["audio"], "data": [["<base64>"]]}.')
        if wrong := [number for number, row in enumerate(rows) if not isinstance(row, list) or len(row) != 1]:
            raise _bad(f"dataframe_split: row {wrong[0]} does not hold exactly one value, the audio.")
        return [row[0] for row in rows]
    if form == "inputs" and isinstance(content, dict):
        if content.keys() != {"audio"}:
            raise _bad("inputs must hold exactly one column, audio.")
        content = content["audio"]
        return content if isinstance(content, list) else [content]
    if not isinstance(content, list):
        raise _bad(f"{form} must be a list of rows. Send {FORM}.")
    if form != "dataframe_records" and not any(isinstance(row, dict) for row in content):
        return content
    if wrong := [n for n, row in enumerate(content) if not isinstance(row, dict) or row.keys() != {"audio"}]:
        raise _bad(f"{form}: row {wrong[0]} does not hold exactly one value, named audio. Send {FORM}.")
    return [row["audio"] for row in content]


def _bad(message: str) -> HTTPException:
    return HTTPException(HTTPStatus.BAD_REQUEST, message)


def _refusal(status: int, message: str) -> Response:
    code = {400: "INVALID_PARAMETER_VALUE", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL_ERROR"}.get(status, "BAD_REQUEST")
    return Response(json.dumps({"error_code": code, "message": message}), status, media_type="application/json")
