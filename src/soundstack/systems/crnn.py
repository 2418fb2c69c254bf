"""The CRNN system (paper section 3.2): cross-validated on the development folds, fold models averaged on test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from soundstack.calibration import fit_sharpness
from soundstack.code_versions import code_version
from soundstack.config import CrnnConfig, cores, fingerprint
from soundstack.datasets.corpus import Corpus
from soundstack.features import clip_means
from soundstack.presets import PRESETS
from soundstack.recognisers import CrnnRecogniser
from soundstack.results import Evaluation
from soundstack.systems.common import evaluate
from soundstack.systems.spectrograms import Spectrograms
from soundstack.training import FoldJob, FoldModel, TrainingSpec, train_fold
from soundstack.workers import OnEpoch, train_side_by_side

#: What decides, with all that it imports, what a trained fold is: a change trains anew.
CODE = ("spectrogram", "training")

#: Examples to be trained on, epochs counted, from which on starting processes (some seconds) pays.
WORTH_WORKERS = 10_000

_PART = 4096


@dataclass(frozen=True)
class TrainedCrnn:
    """A cross-validated CRNN: the recogniser, its evaluation, and the folds with their learning curves."""

    recogniser: CrnnRecogniser
    evaluation: Evaluation
    folds: dict[str, FoldModel]


def training_spec(config: CrnnConfig) -> TrainingSpec:
    """Resolve ``auto`` by the data set's preset."""
    preset = PRESETS[config.dataset]
    return TrainingSpec(
        layout=preset.layout if config.layout == "auto" else config.layout,
        learning_rate=preset.learning_rate if config.learning_rate == "auto" else config.learning_rate,
        batch_size=preset.batch_size if config.batch_size == "auto" else config.batch_size,
        epochs=preset.epochs if config.epochs == "auto" else config.epochs,
        standardise=config.standardise,
        precision=config.precision,
        seed=config.seed,
    )


def train_folds(
    corpus: Corpus,
    spectrograms: Spectrograms,
    spec: TrainingSpec,
    config: CrnnConfig,
    device: torch.device,
    *,
    on_epoch: OnEpoch = lambda fold, epoch, values: None,
    on_fold: Callable[[str, FoldModel], object] = lambda fold, model: None,
) -> dict[str, FoldModel]:
    """Train one model a development fold, each on the other folds only.

    ``on_fold`` may raise to stop early (pruning). Finished folds and epochs are kept in the cache.
    """
    mapped = getattr(spectrograms.values, "filename", None)  # too many for the memory: workers map the file themselves
    inputs = Path(mapped) if mapped else torch.from_numpy(spectrograms.values)
    folds, targets = example_folds(corpus), torch.from_numpy(example_targets(corpus))
    key = fingerprint(
        {
            "training": spec.to_json(),
            "spectrogram": spectrograms.spec.to_json(),
            "audio": corpus.audio.to_json(),
            "data": corpus.fingerprint,
            "device": device.type,
            "code": code_version(*CODE),
        }
    )
    jobs = {
        fold: FoldJob(
            inputs,
            targets,
            train=torch.from_numpy(np.flatnonzero((folds != fold) & (folds != "test"))),
            held_out=torch.from_numpy(np.flatnonzero(folds == fold)),
            spec=spec,
            classes=len(corpus.dataset.labels),
            fold=fold,
            device=device,
            checkpoint=config.cache_path / "training" / key / f"fold-{fold}.pt",
        )
        for fold in corpus.dataset.folds
    }
    work = sum(len(job.train) for job in jobs.values()) * spec.epochs
    if device.type == "cpu" and work > WORTH_WORKERS and cores() > 1:
        return train_side_by_side(jobs, on_epoch, on_fold)
    trained: dict[str, FoldModel] = {}
    for fold, job in jobs.items():

        def report(epoch: int, values: dict[str, float], fold: str = fold) -> None:
            on_epoch(fold, epoch, values)

        trained[fold] = train_fold(job, report)
        on_fold(fold, trained[fold])
    return trained


def finish(
    corpus: Corpus,
    spectrograms: Spectrograms,
    spec: TrainingSpec,
    folds: dict[str, FoldModel],
    device: torch.device,
) -> TrainedCrnn:
    """Assemble the recogniser of trained folds, calibrate it on out-of-fold scores, and score the test clips."""
    recogniser = CrnnRecogniser(
        labels=corpus.dataset.labels,
        audio=corpus.audio,
        spectrogram=spectrograms.spec,
        layout=spec.layout,
        folds=list(folds.values()),
        device=device,
    )
    owner = example_folds(corpus)
    scores = np.zeros((len(owner), len(corpus.dataset.labels)))
    for fold, model in folds.items():
        assert model.scores is not None
        scores[owner == fold] = model.scores
    test = np.flatnonzero(owner == "test")
    for start in range(0, len(test), _PART):  # in parts: the spectrograms may be larger than the memory
        rows = test[start : start + _PART]
        scores[rows] = recogniser.score_features(spectrograms.values[rows])
    clip_scores = clip_means(corpus, scores)
    devel = len(corpus.dataset.devel)
    truth = clip_targets(corpus)
    recogniser.sharpness = fit_sharpness(clip_scores[:devel], truth[:devel], recogniser.kind)
    return TrainedCrnn(recogniser, evaluate(corpus, clip_scores, recogniser), folds)


def held_out_macro_f1(corpus: Corpus, fold: str, model: FoldModel) -> float:
    """Macro-F1 of a fold model on its held-out clips."""
    from soundstack.evaluation.metrics import confusion_matrix, macro_f1

    owner = np.array([example.clip for example in corpus.examples])
    rows = example_folds(corpus) == fold
    assert model.scores is not None
    clips, inverse = np.unique(owner[rows], return_inverse=True)
    sums = np.zeros((len(clips), model.scores.shape[1]))
    np.add.at(sums, inverse, model.scores)
    classes = len(corpus.dataset.labels)
    return float(macro_f1(confusion_matrix(clip_targets(corpus)[clips], sums.argmax(axis=1), classes)))


def clip_targets(corpus: Corpus) -> NDArray[np.intp]:
    """Class index of each clip (N,)."""
    index = {label: number for number, label in enumerate(corpus.dataset.labels)}
    return np.array([index[clip.label] for clip in corpus.clips], dtype=np.intp)


def example_targets(corpus: Corpus) -> NDArray[np.int64]:
    """Class index of each example (E,)."""
    targets = clip_targets(corpus)
    return np.array([targets[example.clip] for example in corpus.examples], dtype=np.int64)


def example_folds(corpus: Corpus) -> NDArray[np.str_]:
    """Fold of each example (E,)."""
    return np.array([corpus.clips[example.clip].fold for example in corpus.examples])


def histories(folds: dict[str, FoldModel]) -> list[dict[str, list[float]]]:
    """Learning curves by fold, for the plot."""
    return [
        {"epoch": [float(epoch + 1) for epoch in range(len(model.history["train_loss"]))], **model.history}
        for model in folds.values()
    ]


def curves(folds: dict[str, FoldModel]) -> Iterator[tuple[int, dict[str, float]]]:
    """Learning curves as metrics: (epoch, values), each fold's and their mean."""
    for epoch in range(min(len(model.history["train_loss"]) for model in folds.values())):
        values: dict[str, float] = {}
        for name in next(iter(folds.values())).history:
            by_fold = {fold: model.history[name][epoch] for fold, model in folds.items()}
            values[f"curve/{name}"] = float(np.mean(list(by_fold.values())))
            if name != "learning_rate":
                values |= {f"curve/fold_{fold}_{name}": value for fold, value in by_fold.items()}
        yield epoch + 1, values
