"""The file that MLflow runs to make the served model ("models from code"): nothing of it is pickled."""

from mlflow.models import set_model

from soundstack.serving import SoundModel

set_model(SoundModel())
