"""The CRNN and its training: what the held-out fold may not touch, and that a killed run ends like a whole one."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from soundstack.crnn import training
from soundstack.crnn.network import LAYOUTS, Crnn
from soundstack.crnn.training import CrnnJob, TrainingSpec, input_scaling
from soundstack.training import checkpoints
from soundstack.training.fold import derived_seed, train_fold
from soundstack.utils.errors import StoreError
from waiting import PATIENCE

CPU = torch.device("cpu")
CLASSES, FRAMES, BANDS = 3, 6, 16
SPEC = TrainingSpec(layout="four_blocks", learning_rate=0.002, batch_size=5, epochs=4, seed=1)
TRAIN, HELD_OUT = torch.arange(0, 12), torch.arange(12, 18)


@pytest.fixture(autouse=True)
def one_thread():
    """The networks here are tiny: threads would cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def problem(seed=0):
    """18 noisy spectrograms of three classes, each with its own loud bands; rows 18 to 20 are of no fold."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(21) % CLASSES
    inputs = -40 + 8 * torch.randn((21, FRAMES, BANDS), generator=generator)
    for row, target in enumerate(targets.tolist()):
        inputs[row, :, 5 * target : 5 * target + 5] += 25
    return inputs, targets


def train(inputs, targets, spec=SPEC, fold="2", checkpoint=None, **options):
    return train_fold(CrnnJob(inputs, targets, TRAIN, HELD_OUT, spec, CLASSES, fold, CPU, checkpoint), **options)


def assert_equal(one, other):
    """Weights, scaling, history and scores are equal to the last bit."""
    assert one.weights.keys() == other.weights.keys()
    for name, tensor in one.weights.items():
        assert torch.equal(tensor, other.weights[name]), name
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.deviation, other.deviation)
    assert one.history == other.history
    np.testing.assert_array_equal(one.scores, other.scores)


def differ(one, other):
    return any(not torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())


# the held-out fold -----------------------------------------------------------------------------------------------


def test_held_out_rows_and_rows_of_no_fold_never_touch_weights_or_scaling():
    inputs, targets = problem()
    honest = train(inputs, targets)
    foreign, other_targets = inputs.clone(), targets.clone()
    foreign[12:] = 1e3 * torch.randn(foreign[12:].shape)
    other_targets[12:] = (other_targets[12:] + 1) % CLASSES
    tampered = train(foreign, other_targets)
    assert not differ(honest, tampered)
    assert torch.equal(honest.mean, tampered.mean)
    assert torch.equal(honest.deviation, tampered.deviation)
    assert honest.history["train_loss"] == tampered.history["train_loss"]
    # ... while a training row does.
    foreign = inputs.clone()
    foreign[3] += 1
    assert differ(honest, train(foreign, targets))


def test_the_last_epochs_model_is_used_whatever_the_held_out_fold_says():
    inputs, targets = problem()
    epochs = train(inputs, targets).history
    for stop in (1, 2, 3):
        short = train(inputs, targets, replace(SPEC, epochs=stop))
        assert short.history == {name: values[:stop] for name, values in epochs.items()}


def test_scores_are_probabilities_of_the_held_out_rows_from_the_returned_weights():
    inputs, targets = problem()
    done = train(inputs, targets)
    assert done.scores.shape == (6, CLASSES)
    np.testing.assert_allclose(done.scores.sum(axis=1), 1, rtol=1e-6)
    model = Crnn(SPEC.layout, BANDS, CLASSES)
    model.load_state_dict(done.weights)
    model.eval()
    with torch.inference_mode():
        again = model((inputs[HELD_OUT] - done.mean) / done.deviation).softmax(dim=1)
    np.testing.assert_allclose(done.scores, again.numpy(), atol=1e-6)
    assert done.history["devel_accuracy"][-1] == pytest.approx((again.argmax(1) == targets[HELD_OUT]).float().mean())


@pytest.mark.parametrize(("standardise", "shape"), [("scalar", ()), ("band", (BANDS,))])
def test_inputs_are_scaled_by_the_training_rows_mean_and_deviation(standardise, shape):
    inputs, targets = problem()
    done = train(inputs, targets, replace(SPEC, standardise=standardise, epochs=1))
    assert done.mean.shape == done.deviation.shape == shape
    scaled = (inputs[TRAIN] - done.mean) / done.deviation
    axes = (0, 1) if shape else (0, 1, 2)
    torch.testing.assert_close(scaled.mean(dim=axes), torch.zeros(shape), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(dim=axes, correction=0), torch.ones(shape), atol=1e-5, rtol=0)


def test_constant_inputs_are_not_divided_by_zero():
    mean, deviation = input_scaling(torch.full((4, FRAMES, BANDS), -80.0), torch.arange(4), "band")
    assert (mean == -80).all()
    assert (deviation > 0).all()


@pytest.mark.parametrize("standardise", ["scalar", "band"])
def test_spectrograms_in_a_mapped_file_train_as_those_in_memory_do(standardise, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_PART", 4)  # several parts, and a last one that is not full
    inputs, targets = problem()
    spec = replace(SPEC, standardise=standardise, epochs=2)
    np.save(tmp_path / "all.npy", inputs.numpy())
    assert_equal(train(inputs, targets, spec), train(tmp_path / "all.npy", targets, spec))


# seeds -----------------------------------------------------------------------------------------------------------


def test_the_seed_fixes_the_run_and_another_seed_or_fold_gives_another():
    inputs, targets = problem()
    first = train(inputs, targets)
    torch.manual_seed(12345)  # what the caller did before must not matter
    assert_equal(first, train(inputs, targets))
    assert differ(first, train(inputs, targets, replace(SPEC, seed=2)))
    other = train(inputs, targets, fold="3")
    assert differ(first, other)


def test_derived_seeds_differ_and_fit_torch():
    seeds = {derived_seed(0, fold, epoch) for fold in ("1", "2") for epoch in (*range(100), "weights")}
    assert len(seeds) == 202
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(0, "1", 2) == derived_seed(0, "1", 2)


# checkpoints -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What a killed process does to the loop: it ends, whatever it was doing."""


def kill_after(epochs):
    done = []

    def progress(count):
        done.extend(range(count))
        if len(done) == epochs:
            raise Killed

    return progress


@pytest.fixture(params=["file", "store"])
def checkpoint(request, tmp_path, monkeypatch):
    """A place of a fold's own, here or in a store that is given each state, however short an epoch is."""
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    path = tmp_path / "training" / "fold-2.pt"
    return path if request.param == "file" else f"file://{path}"


def file_of(checkpoint):
    return Path(str(checkpoint).removeprefix("file://"))


def epochs_in(checkpoint):
    return len(torch.load(file_of(checkpoint), weights_only=True)["history"]["train_loss"])


@pytest.mark.parametrize("finished_epochs", [1, 3])
def test_a_fold_killed_in_the_middle_ends_exactly_as_an_uninterrupted_one(checkpoint, monkeypatch, finished_epochs):
    inputs, targets = problem()
    whole = train(inputs, targets)
    with pytest.raises(Killed):
        train(inputs, targets, checkpoint=checkpoint, progress=kill_after(finished_epochs))
    assert epochs_in(checkpoint) == finished_epochs
    updates = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: (updates.append(1), step(self))[1])
    seen = []
    resumed = train(inputs, targets, checkpoint=checkpoint, progress=seen.append)
    assert_equal(whole, resumed)
    assert seen == [finished_epochs, *[1] * (4 - finished_epochs)]
    assert len(updates) == 3 * (4 - finished_epochs)


def test_a_finished_fold_is_reused_without_a_step_of_training(checkpoint, monkeypatch):
    inputs, targets = problem()
    done = train(inputs, targets, checkpoint=checkpoint)
    monkeypatch.setattr(torch.optim, "Adam", lambda *_, **__: pytest.fail("trained again"))
    seen = []
    again = train(inputs, targets, checkpoint=checkpoint, progress=seen.append)
    assert_equal(done, again)
    assert (done.reused, again.reused) == (False, True)
    assert seen == [SPEC.epochs]


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_checkpoint_is_trained_anew(checkpoint, damage):
    inputs, targets = problem()
    whole, path = train(inputs, targets, checkpoint=checkpoint), file_of(checkpoint)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"not a checkpoint"}[damage])
    again = train(inputs, targets, checkpoint=checkpoint)
    assert_equal(whole, again)
    assert not again.reused
    assert train(inputs, targets, checkpoint=checkpoint).reused


def test_a_checkpoint_that_would_run_code_is_not_opened(checkpoint, tmp_path):
    inputs, targets = problem()
    whole, path = train(inputs, targets, checkpoint=checkpoint), file_of(checkpoint)

    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"scores": Trap()}, path)
    assert_equal(whole, train(inputs, targets, checkpoint=checkpoint))
    assert not (tmp_path / "sprung").exists()


def test_states_are_put_into_a_store_some_seconds_apart_and_into_a_file_each_epoch(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    to_store, to_file, to_nothing = (checkpoints.pace(place) for place in ("s3://b/x.pt", tmp_path / "x.pt", None))
    kept = []
    for clock[0] in (1.0, 19.0, 21.0, 22.0, 40.0, 41.0):
        kept.append((to_store(), to_file(), to_nothing()))
    assert [store for store, _, _ in kept] == [False, False, True, False, False, True]
    assert {file for _, file, _ in kept} == {True}
    assert {nothing for _, _, nothing in kept} == {False}


def test_a_store_that_does_not_answer_is_told_and_is_no_missing_checkpoint(monkeypatch):
    def silent(place):
        raise StoreError(f"{place}: the store does not answer")

    monkeypatch.setattr(checkpoints.object_store, "read", silent)
    with pytest.raises(StoreError, match="does not answer"):
        train(*problem(), checkpoint="s3://bucket/fold-2.pt")


def test_killed_while_writing_a_checkpoint_keeps_the_one_before(checkpoint, monkeypatch):
    inputs, targets = problem()
    with pytest.raises(Killed):
        train(inputs, targets, checkpoint=checkpoint, progress=kill_after(2))

    def torn(state, file):
        file.write(b"half")
        raise Killed

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(Killed):
        train(inputs, targets, checkpoint=checkpoint)
    assert epochs_in(checkpoint) == 2


def test_checkpoints_leave_no_other_files(tmp_path, monkeypatch):
    train(*problem(), checkpoint=tmp_path / "new" / "fold-2.pt")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"fold-2.pt", "fold-2.lock"}


def test_a_checkpoint_that_cannot_be_written_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cache_dir") as caught:
        train(*problem(), replace(SPEC, epochs=1), checkpoint=tmp_path / "file" / "fold-2.pt")
    assert "\n" not in str(caught.value)


# the paper's optimiser -------------------------------------------------------------------------------------------


def test_the_learning_rate_decays_with_every_update_as_kerass_does():
    inputs, targets = problem()
    history = train(inputs, targets).history
    per_epoch = 3  # 12 rows in batches of 5
    expected = [0.002 / (1 + 0.002 * (per_epoch * epoch - 1)) for epoch in (1, 2, 3, 4)]
    assert history["learning_rate"] == pytest.approx(expected, rel=1e-12)


def test_adam_has_the_papers_moments(monkeypatch):
    seen = {}
    adam = torch.optim.Adam

    def spy(parameters, **options):
        seen.update(options)
        return adam(parameters, **options)

    monkeypatch.setattr(torch.optim, "Adam", spy)
    train(*problem(), replace(SPEC, epochs=1))
    assert seen == {"lr": 0.002, "betas": (0.9, 0.999), "eps": 1e-7, "fused": True}


def test_an_easy_problem_is_learnt():
    inputs, targets = problem()
    done = train(inputs, targets, replace(SPEC, epochs=25))
    assert done.history["train_loss"][-1] < 0.5 * done.history["train_loss"][0]
    assert done.history["devel_accuracy"][-1] == 1
    assert (done.scores.argmax(axis=1) == targets[HELD_OUT].numpy()).all()


# the network -----------------------------------------------------------------------------------------------------


def shape_after_blocks(layout, frames, bands=128):
    model = Crnn(layout, bands, 10).eval()
    with torch.inference_mode():
        x = torch.zeros(1, 1, frames, bands)
        for block in model.blocks:
            x = block(x)
        assert model(torch.zeros(2, frames, bands)).shape == (2, 10)
    return tuple(x.shape[1:])


@pytest.mark.parametrize("frames", [25, 30, 31, 32, 61, 63])
def test_the_blocks_pool_bands_away_and_keep_time(frames):
    # Three blocks halve the frames three times, four blocks twice; an odd last frame is kept.
    channels, steps, bands = shape_after_blocks("three_blocks", frames)
    assert (channels, bands) == (128, 1)
    assert steps == -(-frames // 8)
    channels, steps, bands = shape_after_blocks("four_blocks", frames)
    assert (channels, bands) == (256, 1)
    assert steps == -(-frames // 4)


def test_three_blocks_are_the_papers_and_pool_128_bands_to_exactly_one():
    blocks = LAYOUTS["three_blocks"]
    assert [block.kernel for block in blocks] == [5, 4, 3]
    assert [block.channels for block in blocks] == [64, 128, 128]
    bands = 128
    for block in blocks:
        assert bands % block.pool[1] == 0
        bands //= block.pool[1]
    assert bands == 1


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_pooling_before_the_elu_equals_pooling_after_it(layout):
    model = Crnn(layout, 128, 10).eval()
    x = torch.randn(2, 1, 31, 128)
    with torch.inference_mode():
        for block in model.blocks:
            convolution, norm, pool, elu, dropout = block
            assert isinstance(pool, nn.MaxPool2d)
            assert isinstance(elu, nn.ELU)
            as_written = dropout(pool(elu(norm(convolution(x)))))
            x = block(x)
            assert torch.equal(x, as_written)
            assert (x < 0).any()


def test_batch_norm_dropout_and_recurrent_layers_are_the_papers():
    model = Crnn("four_blocks", 128, 10)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [(norm.eps, norm.momentum) for norm in norms] == [(1e-3, 0.01)] * 4
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.3}
    assert (model.gru.num_layers, model.gru.hidden_size, model.gru.bidirectional) == (2, 256, False)
    assert [block[0].kernel_size for block in model.blocks] == [(3, 3)] * 4


def test_the_logits_come_from_the_last_state_in_time():
    model = Crnn("four_blocks", 128, 10).eval()
    seen = {}
    model.gru.register_forward_hook(lambda module, inputs, output: seen.update(states=output[0]))
    with torch.inference_mode():
        logits = model(torch.randn(3, 32, 128))
        torch.testing.assert_close(logits, model.head(seen["states"][:, -1]))


def test_rows_of_a_batch_do_not_influence_each_other_at_prediction():
    model = Crnn("four_blocks", BANDS, CLASSES)
    inputs = torch.randn(7, FRAMES, BANDS)
    together = training.predict(model, inputs)
    apart = torch.cat([training.predict(model, row[None]) for row in inputs])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    torch.testing.assert_close(training.predict(model, inputs, batch_size=2), together, atol=1e-5, rtol=0)


def test_folds_side_by_side_equal_folds_one_after_the_other(tmp_path):
    """Two processes with one thread each, against this process with one thread."""
    from soundstack.training.workers import train_side_by_side

    inputs, targets = torch.randn(24, 12, 128), torch.arange(24) % 3
    jobs = [
        CrnnJob(
            inputs,
            targets,
            train=torch.from_numpy(np.flatnonzero(np.arange(24) % 2 != row)),
            held_out=torch.from_numpy(np.flatnonzero(np.arange(24) % 2 == row)),
            spec=TrainingSpec("four_blocks", 1e-3, 8, 2),
            classes=3,
            fold=fold,
            device=CPU,
            checkpoint=tmp_path / f"fold-{fold}.pt",
        )
        for row, fold in enumerate(("1", "2"))
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        alone = {job.fold: train_fold(replace(job, checkpoint=None)) for job in jobs}
    finally:
        torch.set_num_threads(threads)
    told, finished = [], []
    together = train_side_by_side(jobs, told.append, lambda fold, model: finished.append(fold))
    assert list(together) == finished == ["1", "2"]
    assert sum(told) == 2 * 2
    for fold, model in together.items():
        assert len(model.history["train_loss"]) == 2
        np.testing.assert_allclose(model.scores, alone[fold].scores, atol=1e-5)
    told.clear()
    again = train_side_by_side(jobs, told.append, lambda fold, model: None)
    assert all(model.reused for model in again.values())
    assert sum(told) == 2 * 2


def test_a_pruned_search_stops_the_other_workers(tmp_path):
    from soundstack.training.workers import train_side_by_side

    def job(fold, epochs):
        rows = torch.arange(16)
        spec = TrainingSpec("four_blocks", 1e-3, 8, epochs)
        return CrnnJob(torch.randn(16, 12, 128), rows % 2, rows[:8], rows[8:], spec, classes=2, fold=fold, device=CPU)

    class Pruned(Exception):
        pass

    def stop(fold, model):
        raise Pruned(fold)

    with pytest.raises(Pruned, match="1"):
        train_side_by_side([job("1", 1), job("2", 10_000)], lambda count: None, stop)


def test_workers_end_with_their_parent_however_it_ends(tmp_path):
    """The parent is killed while both train for hours."""
    script = """
import os, sys, torch
from soundstack.crnn import training; from soundstack.training import workers

def jobs():
    spec, cpu = training.TrainingSpec("four_blocks", 1e-3, 8, 10**9), torch.device("cpu")
    inputs, rows = torch.randn(16, 12, 128), torch.arange(16)
    for fold in "12":
        yield training.CrnnJob(inputs, rows % 2, rows[:8], rows[8:], spec, 2, fold, cpu)

if __name__ == "__main__":
    workers.train_side_by_side(list(jobs()), lambda count: print("under way", flush=True) if count else None, print)
"""
    (tmp_path / "parent.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(Path(training.__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], env=environment, stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"under way\n"
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) >= 2
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    assert alive == []


# speed that costs nothing -----------------------------------------------------------------------------------------


def test_convolutions_work_channels_last_from_the_first_step_to_the_last():
    model = Crnn("four_blocks", 128, CLASSES)
    layouts = []
    for block in model.blocks:
        block[0].register_forward_hook(
            lambda module, given, found: layouts.append(found.is_contiguous(memory_format=torch.channels_last))
        )
        assert block[0].weight.is_contiguous(memory_format=torch.channels_last)
    model(torch.randn(4, 32, 128))
    assert layouts == [True] * len(model.blocks)


def test_bfloat16_is_for_training_steps_only_and_logits_stay_float32():
    torch.manual_seed(0)
    mixed, plain = Crnn("four_blocks", 128, CLASSES, "bfloat16"), Crnn("four_blocks", 128, CLASSES)
    spectrograms = torch.randn(4, 32, 128)
    seen = []
    mixed.blocks[0][0].register_forward_hook(lambda module, given, found: seen.append(found.dtype))
    assert mixed(spectrograms).dtype == torch.float32
    plain.load_state_dict(mixed.state_dict())
    with torch.inference_mode():
        assert torch.equal(mixed.eval()(spectrograms), plain.eval()(spectrograms))
    assert seen == [torch.bfloat16, torch.float32]


def test_a_fold_learns_in_bfloat16_too():
    inputs, targets = problem()
    trained = train(inputs, targets, replace(SPEC, precision="bfloat16", epochs=12))
    assert all(tensor.dtype != torch.bfloat16 for tensor in trained.weights.values())
    assert trained.history["train_loss"][-1] < 0.6 * trained.history["train_loss"][0]
