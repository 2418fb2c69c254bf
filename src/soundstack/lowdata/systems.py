"""Systems that learn from draws of clips, and score the test clips.

Features of a frozen network are made once for all draws, and an SVM on few of them is a matter of milliseconds. Other
systems are trained as a fold is: side by side, and kept in the cache after every epoch; of what is finished, the scores
alone are kept.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from soundstack.config.base import DataConfig
from soundstack.config.finetune import FinetuneConfig
from soundstack.config.lowdata import LowdataConfig
from soundstack.config.network import NetworkConfig
from soundstack.config.steps import MODEL_STEPS, CrnnConfig, DeepSpectrumConfig
from soundstack.config.suite import system_step
from soundstack.crnn import system as crnn
from soundstack.datasets.data_set import DataSet
from soundstack.deepspectrum import extract as deepspectrum
from soundstack.evaluation.score_table import Kind
from soundstack.features.extract import Extracted, Extraction
from soundstack.finetune import extract as views
from soundstack.finetune import system as finetune
from soundstack.lowdata.draws import Draw
from soundstack.networks import weights
from soundstack.networks.registry import network_spec
from soundstack.spectrograms import extract as spectrograms
from soundstack.svm.linear_svm import Standardiser, SvmPath
from soundstack.training import checkpoints
from soundstack.training.cross_validation import train_jobs
from soundstack.training.fold import FoldJob, FoldModel, Progress
from soundstack.utils.folds import TEST
from soundstack.utils.project import fingerprint

Scores = NDArray[np.float64]
#: Numbers of the examples to learn from, and of those to score.
Rows = tuple[Tensor, Tensor]
#: C of the SVMs: with a clip a class there is nothing to choose it by. Between 0.001 and 1 little depends on it.
COST = 0.01


@dataclass(frozen=True)
class System(ABC):
    """A system to be compared: its name, the settings of its own entry point, and where it computes."""

    name: str
    config: Any
    device: torch.device
    kind: ClassVar[Kind]

    @property
    def restriction(self) -> str:
        """What its use is restricted to by the licence of published weights; empty where it is not."""
        if getattr(self.config, "chosen_pretraining", "none") == "none":
            return ""
        spec = network_spec(self.config.network)
        return f"{self.name}: for non-commercial use only ({spec.licence})." if spec.non_commercial else ""

    @abstractmethod
    def extraction(self) -> Extraction[Any]:
        """The extraction of its features."""

    @abstractmethod
    def work(self, data_set: DataSet, features: Extracted[Any], draws: Sequence[Draw]) -> int:
        """How often progress is made."""

    @abstractmethod
    def scores(
        self, data_set: DataSet, features: Extracted[Any], draws: Sequence[Draw], progress: Progress
    ) -> list[Scores]:
        """Learn from each of the draws, and score the test examples (E, K).

        ``progress`` is called with the work done since the last call.
        """


class Frozen(System):
    """A linear SVM on the features of a frozen network."""

    kind = "decision"

    def extraction(self) -> Extraction[Any]:
        """See :class:`System`."""
        return deepspectrum.extraction(self.config, self.device)

    def work(self, data_set: DataSet, features: Extracted[Any], draws: Sequence[Draw]) -> int:
        """See :class:`System`: draws."""
        return len(draws)

    def scores(
        self, data_set: DataSet, features: Extracted[Any], draws: Sequence[Draw], progress: Progress
    ) -> list[Scores]:
        """See :class:`System`."""
        x, y, classes = features.values, data_set.example_targets, len(data_set.clip_table.labels)
        test = data_set.example_folds == TEST
        known: dict[bytes, Scores] = {}  # all clips are the same ones in every draw
        found = []
        for draw in draws:
            if (key := draw.clips.tobytes()) not in known:
                rows = draw.examples(data_set)
                scaling = Standardiser.fit(x[rows])
                learnt, judged = scaling.transform(x[rows]), scaling.transform(x[test])
                known[key] = SvmPath(learnt, y[rows], n_classes=classes, x_eval=judged).decisions(COST)
            found.append(known[key])
            progress(1)
        return found


class Trained(System):
    """A network that is trained on each draw, as on the training folds of a cross-validation."""

    kind = "probability"

    @abstractmethod
    def spec(self, features: Extracted[Any]) -> Any:
        """What fixes a training run on all clips."""

    @abstractmethod
    def key(self, data_set: DataSet, features: Extracted[Any], spec: Any) -> str:
        """Identify what training gives, but for the clips that are drawn."""

    @abstractmethod
    def job(
        self, data_set: DataSet, features: Extracted[Any], spec: Any, rows: Rows, fold: str, checkpoint: Path
    ) -> FoldJob:
        """What is trained on the first of the rows; the others are scored."""

    def work(self, data_set: DataSet, features: Extracted[Any], draws: Sequence[Draw]) -> int:
        """See :class:`System`: epochs."""
        return sum(job.spec.epochs for job in self.jobs(data_set, features, draws))

    def scores(
        self, data_set: DataSet, features: Extracted[Any], draws: Sequence[Draw], progress: Progress
    ) -> list[Scores]:
        """See :class:`System`."""
        jobs = {job.fold: job for job in self.jobs(data_set, features, draws)}

        def keep_scores(name: str, model: FoldModel) -> None:
            if model.weights and model.scores is not None:
                scaling = {"mean": model.mean, "deviation": model.deviation}
                checkpoints.save(
                    jobs[name].checkpoint, scaling | {"weights": {}, "scores": torch.from_numpy(model.scores)}
                )

        longest_first = sorted(jobs.values(), key=lambda job: -len(job.train) * job.spec.epochs)
        models = train_jobs(longest_first, progress, keep_scores)
        return [np.asarray(models[name].scores) for name in jobs]

    def jobs(self, data_set: DataSet, features: Extracted[Any], draws: Sequence[Draw]) -> list[FoldJob]:
        """What is to be trained for each draw."""
        spec, test = self.spec(features), torch.from_numpy(np.flatnonzero(data_set.example_folds == TEST))
        found = []
        for draw in draws:
            epochs = passes(spec.epochs, len(draw.clips), len(data_set.clip_table.devel))
            of_draw = replace(spec, epochs=epochs)
            clips = sorted(data_set.clips[place].id for place in draw.clips)
            key, name = self.key(data_set, features, of_draw), f"{draw.size}-{draw.number}"
            place = self.config.cache_path / "lowdata" / fingerprint([key, clips]) / f"{name}.pt"
            rows = torch.from_numpy(draw.examples(data_set)), test
            found.append(self.job(data_set, features, of_draw, rows, name, place))
        return found


class Crnn(Trained):
    """The CRNN, from scratch."""

    def extraction(self) -> Extraction[Any]:
        """See :class:`System`."""
        return spectrograms.extraction(self.config)

    def spec(self, features: Extracted[Any]) -> Any:
        """See :class:`Trained`."""
        return crnn.training_spec(self.config)

    def key(self, data_set: DataSet, features: Extracted[Any], spec: Any) -> str:
        """See :class:`Trained`."""
        return crnn.training_key(data_set, features, spec, self.config, self.device)

    def job(
        self, data_set: DataSet, features: Extracted[Any], spec: Any, rows: Rows, fold: str, checkpoint: Path
    ) -> FoldJob:
        """See :class:`Trained`."""
        return crnn.fold_job(data_set, features, spec, self.device, rows, fold, checkpoint)


class Finetuned(Trained):
    """A pre-trained network whose upper layers are trained further."""

    def extraction(self) -> Extraction[Any]:
        """See :class:`System`."""
        return views.extraction(self.config, self.device)

    def spec(self, features: Extracted[Any]) -> Any:
        """See :class:`Trained`."""
        return finetune.training_spec(self.config, features.recipe.spec)

    def key(self, data_set: DataSet, features: Extracted[Any], spec: Any) -> str:
        """See :class:`Trained`."""
        return finetune.training_key(data_set, features, spec, self.device)

    def job(
        self, data_set: DataSet, features: Extracted[Any], spec: Any, rows: Rows, fold: str, checkpoint: Path
    ) -> FoldJob:
        """See :class:`Trained`."""
        return finetune.fold_job(data_set, features, spec, self.device, rows, fold, checkpoint)


_KINDS: dict[type, Callable[..., System]] = {CrnnConfig: Crnn, DeepSpectrumConfig: Frozen, FinetuneConfig: Finetuned}


def system(name: str, config: LowdataConfig, device: torch.device) -> System:
    """A system by its name, with the data of the comparison and its own settings.

    Raises:
        WeightsError: Its published weights are missing and cannot be fetched.
    """
    step, own = system_step(name)
    model = MODEL_STEPS[step]
    given = {field: getattr(config, field) for field in DataConfig.model_fields} | own
    for field, value in (("epochs", config.epochs), ("weights_dir", config.weights_dir)):
        if field in model.model_fields and value != "auto":
            given[field] = value
    settings = model.model_validate(given)
    if isinstance(settings, NetworkConfig) and settings.chosen_pretraining != "none":
        weights.find_or_fetch(network_spec(settings.network, settings.chosen_pretraining), settings.weights_folder)
    return _KINDS[model](name, settings, device)


def passes(epochs: int, clips: int, every: int) -> int:
    """How often a draw of so many clips is passed, where all development clips are passed ``epochs`` times.

    Fewer clips are passed more often, and learnt from for a shorter time all the same: a tenth of them, three times as
    often, in a third of the time.
    """
    return math.ceil(epochs * math.sqrt(every / clips))
