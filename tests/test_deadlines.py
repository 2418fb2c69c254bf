"""Who waits for an answer no longer is given up between the parts of a computation, however slow each of them is."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from torch import Tensor

from soundstack.audio.limits import RequestLimits
from soundstack.deepspectrum.embedding import BATCH, Embedder
from soundstack.fusion.recogniser import FusionRecogniser
from soundstack.networks import openl3
from soundstack.recognisers.timelines import SECONDS, read, timelines
from soundstack.serving.model import SoundModel
from soundstack.utils import deadlines
from soundstack.utils.errors import AudioError
from svm_making import fit_svm
from test_recognisers import LABELS, crnn
from test_serving import encoded


class Clock:
    """A clock that moves when something is computed, and by nothing else; each computation takes five seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.calls = 0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def work(self) -> None:
        self.now += 5
        self.calls += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_without_a_deadline_nothing_is_late(clock: Clock) -> None:
    deadlines.check()
    with deadlines.until(math.inf):
        clock.work()
        deadlines.check()


def test_a_deadline_ends_with_its_block(clock: Clock) -> None:
    with pytest.raises(deadlines.LateError), deadlines.until(clock.now + 3):
        clock.work()
        deadlines.check()
    deadlines.check()


def test_openl3_looks_at_the_clock_before_every_few_of_a_clips_windows(clock: Clock) -> None:
    def embed(windows: Tensor) -> Tensor:
        clock.work()
        assert len(windows) <= openl3.WINDOWS_AT_ONCE
        return torch.zeros(len(windows), 2)

    with pytest.raises(deadlines.LateError), deadlines.until(clock.now + 12):
        openl3.OpenL3.by_windows(torch.zeros(1, 10 * openl3.SAMPLE_RATE), embed)  # six batches, half a minute
    assert clock.calls == 3


def test_a_network_looks_at_the_clock_before_every_batch(clock: Clock) -> None:
    def forward(batch: Tensor) -> Tensor:
        clock.work()
        return batch

    embedder = object.__new__(Embedder)
    embedder.spec = SimpleNamespace(precision="float32")  # type: ignore[assignment]
    embedder.device = torch.device("cpu")
    embedder._forward = forward
    embedder._by_torch = True
    inputs = np.arange(4 * BATCH, dtype=np.float32)[:, None]
    with pytest.raises(deadlines.LateError), deadlines.until(clock.now + 7):
        embedder.features(inputs)
    assert clock.calls == 2
    assert np.array_equal(embedder.features(inputs), inputs)


def test_a_fusion_that_is_late_is_not_computed_to_its_end_for_nobody(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"one": crnn(), "other": crnn()}
    for member in members.values():

        def slow(examples: Any, features: Any = member.features) -> Any:
            clock.work()
            return features(examples)

        monkeypatch.setattr(member, "features", slow)
    model = SoundModel()
    stacked = fit_svm(np.random.default_rng(0).standard_normal((12, 6)), np.arange(12) % 3, 1e-2, n_classes=3)
    fusion = FusionRecogniser(labels=LABELS, members=members, svm=stacked)
    model.use(fusion, RequestLimits())
    with pytest.raises(MlflowException, match="cannot be recognised in time") as late:
        model.recognise([encoded()], {}, deadline=clock.now + 3)
    assert late.value.get_http_status_code() == 429
    assert clock.calls == 1
    (answer,) = model.recognise([encoded()], {}, deadline=clock.now + 60)  # and the model can be asked again
    assert answer["label"] in LABELS


@pytest.mark.parametrize(("seconds", "at_once"), [(1.0, 32), (5.0, 32), (60.0, 2), (600.0, 1)])
def test_the_longer_windows_are_the_fewer_are_scored_between_two_looks_at_the_clock(
    seconds: float, at_once: int
) -> None:
    rate, sizes = 10, []

    def score(windows: Any) -> Any:
        sizes.append(len(windows))
        return np.zeros((len(windows), 2)), None

    recogniser: Any = SimpleNamespace(seconds=seconds, shared_audio=None, probabilities=lambda scores: scores + 0.5)
    clip = encoded(seconds=40 * seconds, rate=rate)
    ((_, timeline),) = timelines(read(0, clip, recogniser), recogniser, score)
    assert not isinstance(timeline, AudioError)
    assert len(timeline.starts) == sum(sizes) == 79
    assert max(sizes) == at_once
    assert at_once == 1 or at_once * seconds <= SECONDS
