"""The gate of the served model: what reaches it over HTTP, and that MLflow's own server really has it."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from starlette.exceptions import HTTPException
from starlette.requests import Request

from soundstack.audio.limits import RequestLimits
from soundstack.serving import mlflow_hook, request_gate
from soundstack.serving.request_gate import RequestGate, read_request
from waiting import PATIENCE

JSON = {"content-type": "application/json"}


class Echo:
    """A model that answers what it was asked."""

    limits = RequestLimits(max_request_bytes=3000, max_clips=4)
    problem: Exception | None = None

    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        self.wait = wait
        self.at_work = self.most = 0
        self._lock = threading.Lock()

    def recognise(self, rows: list[Any], params: Mapping[str, Any], *, deadline: float) -> list[dict[str, Any]]:
        if self.problem:
            raise self.problem
        with self._lock:
            self.at_work += 1
            self.most = max(self.most, self.at_work)
        self.wait()
        with self._lock:
            self.at_work -= 1
        return [{"row": row, "params": dict(params)} for row in rows]


def request(*chunks: bytes, headers: Mapping[str, str] = JSON, pause: float = 0.0) -> Request:
    waiting = list(chunks)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause)
        chunk = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": raw}, receive)


def post(*requests: Request, model: Any = None, timeout: float = 60.0) -> list[tuple[int, dict[str, Any]]]:
    """Let requests come at once to one gate; a status and an answer each."""
    gate = RequestGate(model or Echo(), timeout)

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*[gate.answer(one) for one in requests])

    answers = asyncio.run(all_of_them())
    assert gate._held == 0
    return [(answer.status_code, json.loads(answer.body)) for answer in answers]


def body(*rows: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(rows), **more}).encode()


# forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        {"dataframe_records": [{"audio": "a"}, {"audio": None}]},
        {"dataframe_split": {"columns": ["audio"], "data": [["a"], [None]]}},
        {"dataframe_split": {"index": [7, 8], "columns": ["audio"], "data": [["a"], [None]]}},
        {"inputs": ["a", None]},
        {"inputs": {"audio": ["a", None]}},
        {"inputs": [{"audio": "a"}, {"audio": None}]},
        {"instances": ["a", None]},
        {"instances": [{"audio": "a"}, {"audio": None}]},
    ],
)
def test_every_form_of_mlflow_holds_the_same_rows(form: dict[str, Any]) -> None:
    assert read_request(json.dumps(form).encode(), 100) == (["a", None], {})
    assert read_request(json.dumps(form | {"params": {"top_k": 1}}).encode(), 100)[1] == {"top_k": 1}


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "not valid JSON"),
        (b"audio\nabc", "not valid JSON"),
        (b'{"inputs": ["a"', "not valid JSON"),
        (b'{"inputs": ["\xff"]}', "not valid JSON"),
        (b'{"inputs": [' + b"9" * 5000 + b"]}", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'"/etc/passwd"', "not a JSON object"),
        (b"{}", "exactly one of"),
        (b'{"inputs": ["a"], "instances": ["a"]}', "exactly one of"),
        (b'{"inputs": ["a"], "parameters": {}}', "exactly one of"),
        (b'{"messages": [{"role": "user"}]}', "exactly one of"),
        (b'{"inputs": ["a"], "params": [1]}', "params must be"),
        (b'{"dataframe_records": {"audio": ["a"]}}', "must be a list of rows"),
        (b'{"dataframe_records": [{"audio": "a"}, {"sound": "a"}]}', "row 1 does not hold exactly one value"),
        (b'{"dataframe_records": [{"audio": "a", "name": "b"}]}', "row 0 does not hold exactly one value"),
        (b'{"dataframe_records": ["a"]}', "row 0 does not hold exactly one value"),
        (b'{"dataframe_split": [["a"]]}', "dataframe_split must be"),
        (b'{"dataframe_split": {"columns": ["sound"], "data": [["a"]]}}', "dataframe_split must be"),
        (b'{"dataframe_split": {"columns": ["audio"], "data": [["a"], ["a", "b"]]}}', "row 1 does not"),
        (b'{"inputs": {"sound": ["a"]}}', "one column, audio"),
        (b'{"inputs": "a"}', "must be a list of rows"),
    ],
)
def test_what_is_no_such_form_is_refused_with_the_reason(sent: bytes, reason: str) -> None:
    with pytest.raises(HTTPException, match=reason) as caught:
        read_request(sent, 100)
    assert caught.value.status_code == 400


@pytest.mark.parametrize("depth", [1200, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"inputs":', "}")])
def test_deep_json_is_refused(depth: int, opening: str, closing: str) -> None:
    sent = (opening * depth + "1" + closing * depth).encode()
    for most in (depth - 1, depth):
        with pytest.raises(HTTPException, match=r"nested too deeply|more JSON values"):
            read_request(sent, most)


def test_json_of_many_small_values_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("parsed"))
    for sent in (b"[]," * 500, b"{}," * 500, b"1," * 500):
        with pytest.raises(HTTPException, match="more JSON values"):
            read_request(b'{"inputs":[' + sent + b"1]}", 400)


_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda parts: st.one_of(
        st.lists(parts, max_size=3),
        st.dictionaries(
            st.one_of(st.text(max_size=4), st.sampled_from(["audio", "columns", "data", "inputs", "params"])),
            parts,
            max_size=3,
        ),
    ),
    max_leaves=8,
)
_FORMS = st.sampled_from(["dataframe_records", "dataframe_split", "inputs", "instances", "params", "prompt"])


@given(st.one_of(st.dictionaries(_FORMS, _VALUES, max_size=3), _VALUES))
def test_any_json_is_rows_or_refused(document: Any) -> None:
    try:
        rows, params = read_request(json.dumps(document).encode(), 1000)
    except HTTPException as error:
        assert error.status_code == 400
        assert "\n" not in str(error)
    else:
        assert isinstance(rows, list)
        assert isinstance(params, dict)


@given(st.binary(max_size=60))
def test_any_bytes_are_rows_or_refused(sent: bytes) -> None:
    with pytest.raises(HTTPException):
        read_request(sent, 1000)


# the gate --------------------------------------------------------------------------------------------------------


def test_a_request_in_pieces_is_answered() -> None:
    whole = body("a", None, params={"top_k": 2})
    ((status, answer),) = post(request(whole[:5], whole[5:9], whole[9:]))
    assert status == 200
    assert answer == {"predictions": [{"row": row, "params": {"top_k": 2}} for row in ("a", None)]}


@pytest.mark.parametrize(
    "kind",
    ["", "text/csv", "application/vnd.apache.parquet", "application/json; charset=latin-1", "application/json; a=b"],
)
def test_only_json_in_utf_8_is_taken(kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    ((status, answer),) = post(request(body("a"), headers=headers))
    assert status == 415
    assert "application/json" in answer["message"]
    assert post(request(body("a"), headers={"content-type": "Application/JSON; charset=UTF-8"}))[0][0] == 200


def test_a_body_that_declares_too_much_is_not_read() -> None:
    too_large = request(body("a"), headers=JSON | {"content-length": "10" * 30})
    too_large._receive = lambda: pytest.fail("read")  # type: ignore[assignment]
    ((status, answer),) = post(too_large)
    assert status == 413
    assert "at most" in answer["message"]


def test_a_body_that_is_too_large_without_saying_so_is_read_no_further() -> None:
    left = [b"x" * 50_000 for _ in range(100)]
    endless = request(*left)
    ((status, _),) = post(endless)
    assert status == 413


def test_a_body_that_comes_too_slowly_is_given_up_before_the_server_does() -> None:
    ((status, _),) = post(request(*[b"x"] * 50, pause=0.05), timeout=0.2)
    assert status == 408


def test_a_client_that_leaves_frees_what_it_held() -> None:
    messages = iter([{"type": "http.request", "body": b"x" * 1000, "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    left = request()
    left._receive = receive
    assert post(left)[0][0] == 400


def test_only_so_many_requests_are_worked_on_at_a_time_and_who_waits_too_long_is_told() -> None:
    together = threading.Barrier(request_gate.AT_WORK, timeout=PATIENCE)
    model = Echo(together.wait)
    answers = post(*[request(body("a")) for _ in range(3 * request_gate.AT_WORK)], model=model, timeout=2 * PATIENCE)
    assert [status for status, _ in answers] == [200] * len(answers)
    assert model.most == request_gate.AT_WORK
    told = threading.Event()
    gate = RequestGate(Echo(lambda: told.wait(PATIENCE)), timeout=4.0)

    async def busy() -> list[int]:
        answers = [asyncio.create_task(gate.answer(request(body("a")))) for _ in range(request_gate.AT_WORK + 3)]
        while sum(answer.done() for answer in answers) < 3:
            await asyncio.sleep(0.01)
        told.set()
        return [answer.status_code for answer in await asyncio.gather(*answers)]

    assert asyncio.run(busy()) == [200] * request_gate.AT_WORK + [429] * 3


def test_bodies_that_wait_in_memory_are_limited_together() -> None:
    size = RequestGate(Echo(), 60).max_body
    slow = [request(*[b"x" * (size // 4)] * 4, pause=0.05) for _ in range(request_gate.WAITING + 3)]
    statuses = [status for status, _ in post(*slow)]
    assert statuses.count(429) == 3
    assert statuses.count(400) == request_gate.WAITING


def test_a_refusal_of_the_model_comes_in_mlflows_form_and_a_failure_tells_nothing() -> None:
    model = Echo()
    model.problem = MlflowException("row 1: the clip is null.", error_code=INVALID_PARAMETER_VALUE)
    ((status, answer),) = post(request(body("a")), model=model)
    assert (status, answer["error_code"], answer["message"]) == (
        400,
        "INVALID_PARAMETER_VALUE",
        "row 1: the clip is null.",
    )
    model.problem = RuntimeError("something secret")
    ((status, answer),) = post(request(body("a")), model=model)
    assert status == 500
    assert "secret" not in answer["message"]
    model.problem = MemoryError()
    assert post(request(body("a")), model=model)[0][0] == 413


# inside MLflow ---------------------------------------------------------------------------------------------------


def test_nothing_is_replaced_where_no_server_loads_the_model() -> None:
    from mlflow.pyfunc import scoring_server as theirs

    before = getattr(theirs, mlflow_hook.DECORATOR)
    mlflow_hook.install(Echo())
    assert getattr(theirs, mlflow_hook.DECORATOR) is before


@pytest.fixture
def importing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow's server, as it is found when `mlflow models serve` imports it anew."""
    from mlflow.pyfunc import scoring_server as theirs

    monkeypatch.setenv(theirs._SERVER_MODEL_PATH, "somewhere")
    monkeypatch.setattr(theirs, mlflow_hook.DECORATOR, getattr(theirs, mlflow_hook.DECORATOR))
    for name in [name for name in sys.modules if name == f"{mlflow_hook.SERVER}.app"]:
        monkeypatch.delitem(sys.modules, name)
    yield theirs
    sys.modules.pop(f"{mlflow_hook.SERVER}.app", None)


def test_the_server_of_the_installed_mlflow_takes_the_gate(importing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Echo()

    def load(path: str) -> Any:
        mlflow_hook.install(model)
        schema = SimpleNamespace(get_input_schema=lambda: None)
        return SimpleNamespace(metadata=schema, predict=lambda *_: pytest.fail("MLflow's own endpoint"))

    monkeypatch.setattr(importing, "load_model_with_mlflow_config", load)
    app = importlib.import_module(f"{mlflow_hook.SERVER}.app").app
    assert model.most == 1, "it has recognised a clip before the server answers its health check"
    sent: list[dict[str, Any]] = []

    async def call() -> None:
        messages = [{"type": "http.request", "body": body("a", params={"unknown": 1}), "more_body": False}]

        async def receive() -> Any:
            return messages.pop() if messages else await asyncio.sleep(PATIENCE)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": "/invocations",
            "raw_path": b"/invocations",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"content-type", b"application/json")],
        }
        await app(scope, receive, send)

    asyncio.run(call())
    assert sent[0]["status"] == 200
    answer = json.loads(b"".join(message.get("body", b"") for message in sent))
    assert answer == {"predictions": [{"row": "a", "params": {"unknown": 1}}]}


def test_another_mlflow_keeps_its_own_endpoint_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, mlflow_hook.SERVER, SimpleNamespace())
    monkeypatch.setitem(sys.modules, f"{mlflow_hook.SERVER}.app", SimpleNamespace())
    mlflow_hook.install(Echo())
    assert "takes no endpoint of ours" in caplog.text
