"""How MLflow's scoring server comes to answer requests through our gate: all that leans on MLflow's inside is here.

``mlflow models serve`` imports ``mlflow.pyfunc.scoring_server.app``, which loads the model and then makes its endpoint
with a decorator; MLflow (3.17) documents no way to give it another. So when the model is loaded by that import, and
only then, the decorator is replaced by one that puts our endpoint in the place of MLflow's. Where a later MLflow has
no such decorator, nothing is replaced and a warning is logged; the model's own checks of clips and parameters hold
either way. While it is loaded, the model also recognises a clip, since compiling its networks takes seconds: a server
that answers its health check answers clips at once. A test runs the import of the installed MLflow and fails when this
no longer fits.
"""

from __future__ import annotations

import io
import logging
import math
import sys
import wave
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps

from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from starlette.requests import Request
from starlette.responses import Response

from soundstack.serving.model import SoundModel
from soundstack.serving.request_gate import RequestGate

SERVER = "mlflow.pyfunc.scoring_server"
DECORATOR = "_async_catch_mlflow_exception"
_log = logging.getLogger(__name__)


def install(model: SoundModel) -> None:
    """Let our gate answer for a model, if it is MLflow's scoring server that loads it."""
    if f"{SERVER}.app" not in sys.modules:
        return
    with suppress(MlflowException):  # its limits may be for clips of another kind
        model.recognise([_silence()], {}, deadline=math.inf)
    server = sys.modules[SERVER]
    if not hasattr(server, DECORATOR):
        _log.warning("This MLflow takes no endpoint of ours: requests are read, and their bodies not limited, by it.")
        return
    gate = RequestGate(model, MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())

    def replace(endpoint: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
        @wraps(endpoint)  # FastAPI reads the signature
        async def answer(request: Request) -> Response:
            return await gate.answer(request)

        return answer

    setattr(server, DECORATOR, replace)


def _silence() -> bytes:
    """A WAV file of a tenth of a second of silence."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16_000, 0, "NONE", ""))
        writer.writeframes(bytes(3_200))
    return file.getvalue()
