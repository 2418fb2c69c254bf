"""Fine-tuning: views stay with their clip, the held-out fold has no say, and what is saved is what was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import Tensor

import finetune as finetune_step
import small_networks
from soundstack.audio.decode import AudioSpec
from soundstack.config.finetune import FinetuneConfig
from soundstack.datasets.open_data_set import open_data_set
from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec
from soundstack.finetune import system as finetune
from soundstack.finetune.extract import ExtractedViews, extraction
from soundstack.finetune.training import FinetuneJob, FinetuneSpec, _Fold
from soundstack.finetune.views import Views, coloured_noise
from soundstack.networks.registry import load_open
from soundstack.recognisers import base as recognisers
from soundstack.serving import shipped
from soundstack.training import checkpoints, cross_validation
from soundstack.training.augment import altered, mixed
from soundstack.training.fold import FoldModel, train_fold
from soundstack.utils.errors import ConfigError

CPU, CLASSES, VIEWS = torch.device("cpu"), 3, 3
TRAIN, HELD_OUT = torch.arange(0, 18), torch.arange(18, 24)
WAVE = np.sin(np.arange(16_000) / 20).astype(np.float32)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSpec:
    """A small network of timm in a folder."""
    name = f"timm:{small_networks.save(tmp_path_factory.mktemp('network') / 'vit', 'test_vit')}"
    network = load_open(name)
    assert network is not None
    settings = json.loads(json.dumps(network.look_up(None, None, random=False)))
    return EmbeddingSpec(name, "pretrained", AudioSpec(16_000, 1.0), settings=settings)


@pytest.fixture
def spec(embedding: EmbeddingSpec) -> FinetuneSpec:
    return FinetuneSpec(embedding, 0.5, 1e-3, 0.9, 6, 3, 0.01, 0.1, 0.3)


@pytest.fixture(scope="module")
def problem(embedding: EmbeddingSpec) -> tuple[Tensor, Tensor]:
    """Views (24, VIEWS, 3, size, size), float16, of pictures whose colour tells the class (24,)."""
    generator = torch.Generator().manual_seed(0)
    size, targets = embedding.settings["picture_size"], torch.arange(24) % CLASSES
    views = 0.3 * torch.randn(24, VIEWS, 3, size, size, generator=generator)
    views[torch.arange(24), :, targets] += 1
    return views.half(), targets


def job(problem: tuple[Tensor, Tensor], spec: FinetuneSpec, **options: Any) -> FinetuneJob:
    inputs, targets = problem
    return FinetuneJob(inputs, targets, TRAIN, HELD_OUT, spec, CLASSES, "2", CPU, **options)


def assert_equal(one: FoldModel, other: FoldModel) -> None:
    assert one.weights.keys() == other.weights.keys()
    for name in one.weights:
        assert torch.equal(one.weights[name], other.weights[name]), name
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.deviation, other.deviation)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert one.history == other.history


def test_it_learns_and_only_the_upper_layers_change(problem, spec) -> None:
    before = _Fold(job(problem, spec), {}).model.learnt()
    model = train_fold(job(problem, replace(spec, epochs=6)))
    assert model.history["train_loss"][-1] < model.history["train_loss"][0]
    assert (model.scores.argmax(1) == problem[1][HELD_OUT].numpy()).mean() > 0.8
    changed = {name for name, value in model.weights.items() if not torch.equal(value, before[name])}
    assert any(name.startswith("upper.") for name in changed)
    assert any(name.startswith("upper.") and "patch_embed" in name for name in before.keys() - changed)


def test_the_held_out_fold_and_clips_of_no_fold_change_nothing(problem, spec) -> None:
    inputs, targets = problem
    whole = train_fold(job(problem, spec))
    other = inputs.clone(), targets.clone()
    other[0][HELD_OUT] = 5.0
    other[1][HELD_OUT] = 0
    tampered = train_fold(job(other, spec))
    for name, value in whole.weights.items():
        assert torch.equal(value, tampered.weights[name]), name
    assert not np.array_equal(whole.scores, tampered.scores)


def test_stopping_early_asks_training_clips_alone_and_no_group_is_on_both_sides(problem, spec) -> None:
    inputs, targets = problem
    groups = torch.arange(24) // 3
    patient = replace(spec, epochs=30, patience=2, learning_rate=3e-2)
    fold = _Fold(job(problem, patient, groups=groups), {})
    learnt, kept = set(fold._train.tolist()), set(fold._inner.tolist())
    assert learnt | kept == set(TRAIN.tolist())
    assert kept
    assert not {int(groups[row]) for row in learnt} & {int(groups[row]) for row in kept}
    model = train_fold(job(problem, patient, groups=groups))
    losses = model.history["inner_loss"]
    assert len(losses) < 30
    assert len(losses) - 1 - int(np.argmin(losses)) == 2
    other = inputs.clone(), targets.clone()
    other[0][HELD_OUT] = 5.0
    tampered = train_fold(job(other, patient, groups=groups))
    assert tampered.history["inner_loss"] == losses
    assert all(torch.equal(value, tampered.weights[name]) for name, value in model.weights.items())


def test_with_too_few_clips_to_keep_some_back_patience_is_refused(problem, spec) -> None:
    few = replace(job(problem, replace(spec, patience=2)), train=TRAIN[:6])
    with pytest.raises(ConfigError, match="patience: there are too few training clips"):
        train_fold(few)


def test_with_patience_the_weights_are_those_of_the_best_epoch(problem, spec) -> None:
    patient = replace(spec, epochs=30, patience=3, learning_rate=3e-2)
    model = train_fold(job(problem, patient))
    fold = _Fold(job(problem, patient), {})
    for _ in range(int(np.argmin(model.history["inner_loss"])) + 1):
        fold.learn()
    assert all(torch.equal(value, fold.model.learnt()[name]) for name, value in model.weights.items())


@pytest.mark.parametrize("patience", [0, 5])
def test_a_fold_killed_in_the_middle_ends_as_an_uninterrupted_one(problem, spec, tmp_path, patience) -> None:
    class Killed(Exception):
        pass

    def kill(count: int) -> None:
        raise Killed

    spec = replace(spec, patience=patience)
    whole = train_fold(job(problem, spec))
    kept = job(problem, spec, checkpoint=tmp_path / "fold-2.pt")
    with pytest.raises(Killed):
        train_fold(kept, kill)
    assert len(checkpoints.load(kept.checkpoint)["history"]["train_loss"]) == 1
    assert_equal(whole, train_fold(kept))
    assert train_fold(kept).reused


def test_a_gpu_that_is_too_small_is_told_in_one_line(problem, spec, monkeypatch) -> None:
    def full(*_: Any) -> FoldModel:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(cross_validation, "train_fold", full)
    with pytest.raises(ConfigError, match="memory is too small"):
        cross_validation.train_jobs([job(problem, spec)], lambda count: None, lambda fold, model: None)


def test_class_weights_weigh_the_classes(problem, spec) -> None:
    inputs, targets = problem
    unequal = targets.clone()
    unequal[TRAIN[:12]] = 0
    plain, balanced = (
        train_fold(job((inputs, unequal), replace(spec, class_weight=weight))) for weight in ("none", "balanced")
    )
    assert balanced.scores[:, 0].mean() < plain.scores[:, 0].mean()


def views(embedding: EmbeddingSpec, count: int = 4, strength: float = 1.0, seed: int = 0) -> Views:
    return Views(Embedder.build(embedding, CPU), count, strength, seed)


def test_views_depend_on_the_clip_and_the_seed_alone_and_the_first_is_the_clip(embedding) -> None:
    made = views(embedding)
    first = made(WAVE)
    made(WAVE[::-1].copy())
    np.testing.assert_array_equal(first, made(WAVE))
    np.testing.assert_array_equal(first[0], Embedder.build(embedding, CPU).inputs(WAVE[None])[0])
    assert len({view.tobytes() for view in first}) == len(first)
    other = views(embedding, seed=1)(WAVE)
    np.testing.assert_array_equal(first[0], other[0])
    assert not np.array_equal(first[1], other[1])
    np.testing.assert_array_equal(views(embedding, count=2)(WAVE), first[:2])


def test_silence_has_views_without_noise(embedding) -> None:
    made = views(embedding, count=8)(np.zeros(16_000, np.float32))
    assert (made == made[0]).all()


def test_noise_falls_with_frequency_as_its_slope_says() -> None:
    for slope in (0.0, 2.0):
        noise = coloured_noise(1 << 15, slope, np.random.default_rng(0))
        power = np.abs(np.fft.rfft(noise)) ** 2
        low, high = power[16:64].mean(), power[1024:4096].mean()
        assert noise.std() == pytest.approx(1, abs=1e-3)
        assert np.log2(low / high) == pytest.approx(6 * slope, abs=1.0)


def test_spectrograms_keep_their_values_but_for_masks() -> None:
    x = torch.arange(6 * 40 * 32, dtype=torch.float32).reshape(6, 40, 32).sqrt()
    changed = altered(x, 1.0)
    assert changed.shape == x.shape
    for before, after in zip(x, changed, strict=True):
        same = torch.isin(after.round(decimals=3), before.round(decimals=3))
        assert same.float().mean() > 0.5
        torch.testing.assert_close(after[~same], before.mean().expand((~same).sum()), atol=1e-2, rtol=0)


def test_mixing_stays_within_the_batch_and_keeps_at_least_half_of_a_row() -> None:
    inputs, targets = torch.eye(8), torch.eye(8)
    torch.testing.assert_close(mixed(inputs, targets, 0.0)[0], inputs)
    x, shares = mixed(inputs, targets, 1.0)
    torch.testing.assert_close(x, shares)
    torch.testing.assert_close(shares.sum(1), torch.ones(8))
    assert (shares.diagonal() >= 0.5).all()


# the real network, end to end ------------------------------------------------------------------------------------


def config(tmp_path: Path, table: Path, **options: Any) -> FinetuneConfig:
    given = {"dataset": "csv", "data_dir": str(table), "name": "tiny", "cache_dir": str(tmp_path / "cache")}
    return FinetuneConfig(**given | {"epochs": 2, "views": 2, "depth": 0.2, "ensemble": 2} | options)


@pytest.fixture
def trained(tmp_path: Path, tiny_csv: Callable[..., Path]) -> tuple[Any, ExtractedViews, finetune.TrainedNetwork]:
    settings = config(tmp_path, tiny_csv(tmp_path / "data"))
    begun = extraction(settings, CPU)
    data_set = open_data_set(settings, begun)
    made = begun.finish(data_set)
    spec = finetune.training_spec(settings, made.recipe.spec)
    models = finetune.train_folds(data_set, made, spec, settings, CPU)
    return data_set, made, finetune.finish(data_set, made, spec, models, settings)


def test_what_is_saved_scores_as_the_folds_do(trained, tmp_path) -> None:
    data_set, made, whole = trained
    whole.recogniser.save(tmp_path / "model")
    loaded = recognisers.load(tmp_path / "model")
    needed = " ".join(shipped.requirements(loaded.modules))
    assert not any(library in needed for library in ("optuna", "scikit-learn", "ray="))
    clean = made.values[:, 0]
    expected = whole.recogniser.score_features(clean)
    np.testing.assert_array_equal(loaded.score_features(clean), expected)
    for number, model in enumerate(whole.recogniser.folds):  # each of its own weights, not of the last one's
        alone = replace(whole.recogniser, folds=[model])
        rows = data_set.example_folds == data_set.clip_table.folds[number // 2]
        np.testing.assert_allclose(alone.score_features(clean)[rows], model.scores, atol=2e-3)
        assert not np.allclose(model.scores, whole.recogniser.folds[number - 1].scores)


def test_a_run_registers_a_model_that_fuses_and_another_run_reuses_its_folds(
    store: str, tmp_path: Path, tiny_csv: Callable[..., Path]
) -> None:
    table = tiny_csv(tmp_path / "data")
    first = finetune_step.run(config(tmp_path, table))
    assert first.name == "tiny-finetune-efficientnet_lite0-imagenet"
    client = MlflowClient()
    version = client.get_model_version(first.name, first.version)
    assert version.tags["family"] == "finetune"
    run = client.get_run(version.run_id)
    assert run.data.metrics["folds_reused"] == 0
    assert run.data.params["resolved_depth"] == "0.2"
    sound = (tmp_path / "data").rglob("*.wav")
    served = mlflow.pyfunc.load_model(f"models:/{first.name}/{first.version}")
    answer = served.predict(pd.DataFrame({"audio": [next(sound).read_bytes()]}))
    assert sum(answer[column][0] for column in answer if column.startswith("p_")) == pytest.approx(1)
    again = finetune_step.run(config(tmp_path, table))
    run = client.get_run(client.get_model_version(again.name, again.version).run_id)
    assert run.data.metrics["folds_reused"] == 4
    assert again.scores == first.scores


def test_tuning_begins_with_what_is_given_and_tries_depth_and_augmentation(
    store: str, tmp_path: Path, tiny_csv: Callable[..., Path]
) -> None:
    settings = config(tmp_path, tiny_csv(tmp_path / "data", folds=3), trials=2, epochs=1, depth=0.25)
    registered = finetune_step.run(settings)
    client = MlflowClient()
    run_id = client.get_model_version(registered.name, registered.version).run_id
    run = client.get_run(run_id)
    children = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    tried = {child.info.run_name: child.data.params for child in children}
    assert set(tried) == {f"{registered.name}-trial-{number}" for number in range(2)}
    first = tried[f"{registered.name}-trial-0"]
    assert (float(first["learning_rate"]), first["depth"], first["augment"]) == (3e-4, "0.25", "1.0")
