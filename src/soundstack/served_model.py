"""The file that MLflow runs to make the served model ("models from code"): nothing of it is pickled."""

import os
import sys

from mlflow.models import set_model

# Before torch is loaded: waiting threads sleep instead of spinning, as in training (see entrypoints/_project.py).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# This code lies in the model's folder, where serving it must not write compiled files.
_writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
try:
    from soundstack.serving import SoundModel
finally:
    sys.dont_write_bytecode = _writes

set_model(SoundModel())
