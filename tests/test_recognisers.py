"""Recognisers: what is saved is what is loaded, and one clip scores the same whatever else is in the batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from soundstack.audio.decode import AudioSpec
from soundstack.crnn.network import Crnn
from soundstack.crnn.recogniser import CrnnRecogniser
from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec
from soundstack.deepspectrum.recogniser import SvmRecogniser
from soundstack.fusion.recogniser import FusionRecogniser
from soundstack.recognisers import base as recognisers
from soundstack.recognisers.base import Decoded, Recogniser
from soundstack.spectrograms.log_mel import SpectrogramSpec
from soundstack.training.fold import FoldModel
from soundstack.utils.errors import StoreError
from svm_making import fit_svm

RATE = 8000
LABELS = ("a", "b", "c")


def clips(count: int = 3, channels: int = 1) -> list[Decoded]:
    """Noise of different lengths and rates."""
    rng = np.random.default_rng(5)
    return [
        ((0.1 * rng.standard_normal((4000 + 3000 * number, channels))).astype(np.float32), RATE * (1 + number % 2))
        for number in range(count)
    ]


def crnn(channels: str = "mean") -> CrnnRecogniser:
    folds = []
    for seed in range(2):
        torch.manual_seed(seed)
        weights = {name: tensor.clone() for name, tensor in Crnn("four_blocks", 128, 3).state_dict().items()}
        folds.append(FoldModel(torch.tensor(-40.0), torch.tensor(15.0), weights))
    audio = AudioSpec(RATE, 1.0, channels)  # type: ignore[arg-type]
    return CrnnRecogniser(
        labels=LABELS,
        inverse_temperature=1.7,
        audio=audio,
        spectrogram=SpectrogramSpec(RATE),
        layout="four_blocks",
        folds=folds,
    )


@pytest.fixture(scope="module")
def svm() -> SvmRecogniser:
    spec = EmbeddingSpec("efficientnet_lite0", "none", AudioSpec(RATE, 1.0), seed=3)
    embedder = Embedder.build(spec, torch.device("cpu"))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 1280)).astype(np.float32)
    return SvmRecogniser(
        labels=LABELS,
        inverse_temperature=0.4,
        audio=spec.audio,
        embedder=embedder,
        svms=[fit_svm(x, np.arange(12) % 3, 1e-3, n_classes=3)],
    )


@pytest.fixture(scope="module")
def fusion(svm: SvmRecogniser) -> FusionRecogniser:
    x = np.random.default_rng(1).standard_normal((12, 6))
    stacked = fit_svm(x, np.arange(12) % 3, 1e-2, n_classes=3)
    return FusionRecogniser(
        labels=LABELS,
        inverse_temperature=2.0,
        members={"crnn": crnn(), "svm": svm},
        svm=stacked,
        log_probabilities=True,
    )


def test_a_recogniser_says_what_it_is(svm: SvmRecogniser, fusion: FusionRecogniser) -> None:
    ours, networks = fusion.systems
    assert ours.text.startswith("A convolutional recurrent network (CRNN, four\\_blocks) on log-mel spectrograms")
    assert "the mean of 2 fold models" in ours.text
    assert (ours.network, ours.pretraining) == ("", "none")
    assert svm.systems == (networks,)
    assert networks.text == (
        "Deep features and a linear SVM: efficientnet\\_lite0 on pictures of spectrograms, random weights; 1280 "
        "features from global average pool (Amiriparian et al. 2020, section 3.3)."
    )
    assert (networks.network, networks.pretraining) == ("efficientnet_lite0", "none")


@pytest.mark.parametrize("kind", ["crnn", "svm", "fusion"])
def test_a_saved_recogniser_scores_as_before(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    before: Recogniser = crnn() if kind == "crnn" else request.getfixturevalue(kind)
    before.save(tmp_path / "model")
    after = recognisers.load(tmp_path / "model")
    assert (after.labels, after.inverse_temperature, after.kind) == (
        before.labels,
        before.inverse_temperature,
        before.kind,
    )
    np.testing.assert_array_equal(after.scores(clips()), before.scores(clips()))


def test_no_file_of_a_model_is_a_pickle(fusion: FusionRecogniser, tmp_path: Path) -> None:
    fusion.save(tmp_path / "model")
    files = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert files == {".json", ".safetensors"}


def test_a_clip_scores_the_same_alone_and_in_a_batch(fusion: FusionRecogniser) -> None:
    together = fusion.scores(clips())
    alone = np.concatenate([fusion.scores([clip]) for clip in clips()])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_channels_as_examples_are_averaged_per_clip() -> None:
    recogniser = crnn("each")
    left, right = clips(1)[0], clips(2)[1]
    length = min(len(left[0]), len(right[0]))
    stereo = (np.concatenate([left[0][:length], right[0][:length]], axis=1), RATE)
    expected = np.mean([recogniser.scores([(part[0][:length], RATE)])[0] for part in (left, right)], axis=0)
    np.testing.assert_allclose(recogniser.scores([stereo])[0], expected, atol=1e-6)


def test_probabilities_sum_to_one_and_keep_the_decision(fusion: FusionRecogniser) -> None:
    scores = fusion.scores(clips())
    probabilities = fusion.probabilities(scores)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == scores.argmax(axis=1)).all()


def test_a_folder_without_a_recogniser_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no recogniser"):
        recognisers.load(tmp_path)


def test_a_model_of_a_later_format_says_what_to_do(tmp_path: Path) -> None:
    crnn().save(tmp_path / "model")
    file = tmp_path / "model" / recognisers.FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    with pytest.raises(StoreError, match=r"format 99.*update soundstack"):
        recognisers.load(tmp_path / "model")
