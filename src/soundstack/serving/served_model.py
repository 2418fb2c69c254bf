"""The file that MLflow runs to make the served model ("models from code"): nothing of it is pickled.

Loading it writes nothing: neither compiled code into the model's folder, where this code lies, nor what matplotlib
lays down in the home directory when it is imported for its colour maps.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from mlflow.models import set_model
from mlflow.pyfunc import PythonModelContext


@contextmanager
def _writing_nothing() -> Iterator[None]:
    compiles = sys.dont_write_bytecode
    with TemporaryDirectory() as scratch:
        ours = os.environ.setdefault("MPLCONFIGDIR", scratch) == scratch
        sys.dont_write_bytecode = True
        try:
            yield
        finally:
            sys.dont_write_bytecode = compiles
            if ours:
                del os.environ["MPLCONFIGDIR"]


# Before torch is loaded: waiting threads sleep instead of spinning, as in training (see entrypoints/_project.py).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
with _writing_nothing():
    from soundstack.serving import mlflow_hook
    from soundstack.serving.model import SoundModel


class ServedModel(SoundModel):
    """Reads its recogniser, whose code is imported as it is met, without writing."""

    def load_context(self, context: PythonModelContext) -> None:
        """See :meth:`SoundModel.load_context`."""
        with _writing_nothing():
            super().load_context(context)
            mlflow_hook.install(self)


set_model(ServedModel())
