"""A page in the browser to try a registered model: record or drop a sound, see, hear and correct what is recognised."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr, suppress
from typing import TYPE_CHECKING

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.tools import PageConfig

if TYPE_CHECKING:
    from soundstack.page.answers import Listener
    from soundstack.tracking.registered_models import FoundModel

PASSWORD = "SOUNDSTACK_PAGE_PASSWORD"


def run(config: PageConfig) -> None:
    """Find the model and show its page until Ctrl-C; the run that ``mlflow run`` made gets a name and the settings."""
    from soundstack.tracking import registered_models
    from soundstack.tracking import run as tracking

    with redirect_stderr(io.StringIO()):  # MLflow remarks on the served model's class when it is defined
        from soundstack.page import app

    model = registered_models.find_model(config.model)
    print(f"Model: {model.shown}{model.chosen and f', {model.chosen}'}", flush=True)
    folder, password = config.corrections_path(model.name), os.environ.get(PASSWORD, "")
    page = app.Page(_listener(config, model), _sentence(model), folder)
    # Started by hand there is no run, and none is made: nothing is computed that would have to be found again.
    begun = tracking.run(f"page-{model.name}", config) if "MLFLOW_RUN_ID" in os.environ else nullcontext()
    with begun as opened:
        if opened is not None:
            opened.settings(config, {"model": model.shown, "corrections_dir": str(folder)})
        here = config.on_this_machine_alone
        with app.served(page, config.host, config.port, password=password, only_here=here) as address:
            try:
                print(f"Page:  {address}  (record or drop a sound there; end it here with Ctrl-C)", flush=True)
                if not here:
                    who = f"who knows the password of {app.USER}" if password else "anybody who reaches it"
                    print(f"Note:  {who} can use the page and save sounds; nothing is encrypted.", flush=True)
                threading.Event().wait()
            except KeyboardInterrupt:
                for number in (signal.SIGINT, signal.SIGTERM):  # `mlflow run` passes one Ctrl-C on once more
                    signal.signal(number, signal.SIG_IGN)
                print(f"Stopped. What was corrected: {folder}")


def _sentence(model: FoundModel) -> Callable[[float], str]:
    """What says how far an answer can be trusted, by the development clips of the run that trained the model."""
    from soundstack.evaluation.score_table import ScoreTable
    from soundstack.page.answers import reliability
    from soundstack.utils.errors import DataError, MemberError

    devel = None
    if model.run_id:
        with suppress(MemberError, DataError):  # the run may be gone, the model is not
            devel = ScoreTable.from_parquet(model.artifact("predictions/devel_probability.parquet"))
    return reliability(devel)


def _listener(config: PageConfig, model: FoundModel) -> Listener:
    """The model, with its networks compiled by a first sound."""
    import numpy as np
    import soundfile

    from soundstack.audio.limits import RequestLimits
    from soundstack.page.answers import Listener
    from soundstack.recognisers.base import load
    from soundstack.utils import devices
    from soundstack.utils.errors import AudioError

    listener = Listener(
        model.shown, load(model.folder, devices.choose(config.device)), RequestLimits.load(model.folder)
    )
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(1_600), 16_000, format="WAV")
    with suppress(AudioError):  # its limits may be for clips of another kind
        listener.answer(silence.getvalue())
    return listener


if __name__ == "__main__":
    cli.run(PageConfig, run)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is ending already, and libraries take their time
