"""Work that is saved stays saved: counts of operations, and ratios of processor time with wide margins.

What the ratios really are is the benchmarks' business; here a form that lost its speed is found.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import librosa
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from sklearn.svm import LinearSVC
from torch import nn

from counted_operations import Operations
from soundstack.config.steps import PAPER_COSTS, ExtractConfig
from soundstack.crnn.network import Crnn
from soundstack.crnn.training import CrnnJob, TrainingSpec
from soundstack.spectrograms.log_mel import LogMel, SpectrogramSpec
from soundstack.spectrograms.picture import DeepSpectrumPicture
from soundstack.svm.linear_svm import CLIP, PathProblem, Standardiser
from soundstack.svm.newton import NewtonPath
from soundstack.tracking import run as tracking
from soundstack.training.fold import train_fold
from test_svm import features
from toolkit_figure import draw_figure


def ratio(plain: Callable[[], Any], ours: Callable[[], Any]) -> float:
    """How many times less processor time ours takes: the best of three turns of each, after one that does not count."""
    taken: dict[Callable[[], Any], list[float]] = {plain: [], ours: []}
    for _ in range(4):
        for work, seconds in taken.items():
            started = time.process_time()
            work()
            seconds.append(time.process_time() - started)
    return min(taken[plain][1:]) / min(taken[ours][1:])


def test_all_costs_and_classes_of_a_fold_share_one_eigendecomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    decompose, step = Mock(wraps=np.linalg.eigh), Mock(wraps=NewtonPath._newton_step)
    monkeypatch.setattr("array_api_compat.numpy.linalg.eigh", decompose)
    monkeypatch.setattr(NewtonPath, "_newton_step", lambda self, *given: step(self, *given))
    x, y = features(160, 320, 5, spread=2.0)
    problem = PathProblem(x, y, np.arange(160) % 4, n_classes=5)
    problem.out_of_fold_decisions(PAPER_COSTS)
    problem.out_of_fold_decisions([0.02])
    assert decompose.call_count == 4
    assert step.call_count < 4 * 11 * 4  # folds, costs, steps of all classes together: half of it is usual


def test_the_svm_path_is_many_times_faster_than_linear_svc() -> None:
    x, y = features(160, 320, 5, spread=2.0)
    folds = np.arange(160) % 4

    def plain() -> None:
        for fold in range(4):
            scaled = Standardiser.fit(x[folds != fold], CLIP).transform(x[folds != fold])
            for cost in PAPER_COSTS[3:]:
                LinearSVC(C=cost, dual=True, random_state=0).fit(scaled, y[folds != fold])

    assert ratio(plain, lambda: PathProblem(x, y, folds, n_classes=5).out_of_fold_decisions(PAPER_COSTS[3:])) > 3


def test_a_picture_is_many_times_faster_than_the_figure() -> None:
    picture = DeepSpectrumPicture(16_000)
    db = picture.decibel(np.random.default_rng(0).standard_normal(80_000).astype(np.float32))
    assert ratio(lambda: draw_figure(db, sample_rate=16_000, hop=picture.hop), lambda: picture.resized(db)) > 10


def test_a_spectrogram_is_faster_than_librosas() -> None:
    spec = SpectrogramSpec(44_100)
    transform = LogMel(spec)
    waves = np.random.default_rng(0).standard_normal((1, 220_500)).astype(np.float32)

    def plain() -> None:
        power = librosa.feature.melspectrogram(
            y=waves[0], sr=spec.sample_rate, n_fft=spec.window, hop_length=spec.hop, n_mels=spec.bands
        )
        librosa.power_to_db(power, ref=np.max)

    assert ratio(plain, lambda: transform(waves)) > 2


@pytest.mark.parametrize("layout", ["three_blocks", "four_blocks"])
def test_elus_come_behind_the_pooling(layout: str) -> None:
    model, seen = Crnn(layout, 128, 3).eval(), Counter[type]()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ELU):
            module.register_forward_hook(lambda module, given, found: seen.update({type(module): found.numel()}))
    with torch.inference_mode():
        model(torch.randn(2, 32, 128))
    assert seen[nn.ELU] <= seen[nn.Conv2d] / 4


def test_between_the_steps_of_an_epoch_nobody_waits_for_a_number() -> None:
    """A GPU would have to finish first: what an epoch asks for must not grow with its steps."""
    inputs, targets = torch.randn(32, 8, 128), torch.arange(32) % 2

    def asked(batch_size: int) -> int:
        spec = TrainingSpec("four_blocks", 1e-3, batch_size, 1)
        with Operations() as operations:
            train_fold(
                CrnnJob(inputs, targets, torch.arange(24), torch.arange(24, 32), spec, 2, "1", torch.device("cpu"))
            )
        assert operations.counts["_fused_adam_"] == 24 // batch_size
        return operations.counts["_local_scalar_dense"]

    assert asked(2) == asked(12) > 0


def test_metrics_of_many_epochs_reach_the_store_together(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Mock(wraps=MlflowClient.log_batch)
    monkeypatch.setattr(MlflowClient, "log_batch", lambda self, *given, **named: sent(self, *given, **named))

    def calls(epochs: int) -> int:
        sent.reset_mock()
        with tracking.run("demo-crnn", ExtractConfig()) as run:
            for epoch in range(epochs):
                run.metrics({"train_loss": 1 / (epoch + 1), "devel_loss": 1.0}, step=epoch)
        return sent.call_count

    assert calls(2) == calls(200) < 8
