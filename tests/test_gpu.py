"""What a GPU computes against the processor; skipped where there is none."""

import numpy as np
import pytest
import torch

from soundstack.audio.decode import AudioSpec
from soundstack.crnn.training import CrnnJob, TrainingSpec
from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec
from soundstack.finetune.network import LowerLayers
from soundstack.finetune.training import FinetuneJob, FinetuneSpec
from soundstack.networks.registry import NETWORKS
from soundstack.svm.linear_svm import PathProblem
from soundstack.training.fold import train_fold
from soundstack.utils import devices

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here that torch can use")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def gpu():
    return devices.choose("cuda")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name", sorted(name for name, spec in NETWORKS.items() if spec.random and name != "openl3_mel256_env_6144")
)
def test_features_point_the_same_way(name, precision, gpu):
    rate = NETWORKS[name].sample_rate
    audio = AudioSpec(rate or 16_000, 1.0)
    waves = (0.1 * np.random.default_rng(0).standard_normal((2, audio.samples))).astype(np.float32)
    pretraining = "imagenet" if name == "efficientnet_lite0" else "none"
    spec = EmbeddingSpec(name, pretraining, audio, seed=0)
    expected = Embedder.build(spec, CPU)(waves).astype(np.float64)
    found = Embedder.build(EmbeddingSpec(name, pretraining, audio, precision=precision, seed=0), gpu)(waves)
    cosine = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > (0.9999 if precision == "float32" else 0.99)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_fold_learns_and_a_second_run_learns_the_same(precision, mapped, gpu, tmp_path):
    targets = torch.arange(32) % 2
    inputs = torch.randn(32, 32, 128, generator=torch.Generator().manual_seed(0)) + 2 * targets[:, None, None]
    spec = TrainingSpec("four_blocks", 1e-3, 8, 4, precision=precision)
    given = inputs
    if mapped:
        given = tmp_path / "inputs.npy"
        np.save(given, inputs.numpy())
    job = CrnnJob(given, targets, torch.arange(24), torch.arange(24, 32), spec, 2, "1", gpu)
    first, second = train_fold(job), train_fold(job)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.history["train_loss"][-1] < first.history["train_loss"][0] / 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fine_tuning_learns_and_a_second_run_learns_the_same(precision, gpu):
    embedding = EmbeddingSpec("efficientnet_lite0", "imagenet", AudioSpec(16_000, 1.0), precision=precision)
    spec = FinetuneSpec(embedding, 0.2, 1e-3, 0.9, 8, 4, 0.01, 0.1, 0.3)
    given = LowerLayers(Embedder.build(embedding, gpu), spec.depth)(np.zeros((1, 3, 224, 224), np.uint8))
    targets = torch.arange(32) % 2
    noise = torch.randn(32, 2, *given.shape[1:], generator=torch.Generator().manual_seed(0))
    views = (noise + 2 * targets.view(-1, 1, 1, 1, 1)).half()
    job = FinetuneJob(views, targets, torch.arange(24), torch.arange(24, 32), spec, 2, "1", gpu)
    first, second = train_fold(job), train_fold(job)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert (first.scores.argmax(1) == targets[24:].numpy()).all()


@pytest.mark.parametrize(("n", "d"), [(700, 1500), (1500, 700)])
def test_the_svm_path_is_that_of_the_processor(n, d, gpu):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 5
    x = rng.normal(size=(n, d)) + rng.normal(size=(5, d))[y]
    folds = np.arange(n) % 3
    there, here = (PathProblem(x, y, folds, n_classes=5, device=device) for device in (gpu, None))
    np.testing.assert_allclose(
        there.out_of_fold_decisions([1e-6, 1e-3, 1.0]), here.out_of_fold_decisions([1e-6, 1e-3, 1.0]), atol=5e-4
    )
    np.testing.assert_array_equal(there.out_of_fold_decisions([1e-3]), there.out_of_fold_decisions([1e-3]))
    assert torch.cuda.memory_allocated(gpu) > 0
