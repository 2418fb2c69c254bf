"""The search for the CRNN's learning rate and batch size, on folds that the learning rate alone makes good or bad."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from soundstack.config.steps import CrnnConfig
from soundstack.crnn import search as crnn_tuning
from soundstack.crnn import system as crnn
from soundstack.training import cross_validation


class Run:
    """An open run that remembers what it is told."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        self.told = []

    def metrics(self, values, step=0):
        self.told.append((values, step))


@pytest.fixture
def tune(monkeypatch, tmp_path):
    """Tune for so many trials: the best spec, the table of trials, the trials' runs and how they ended, and the run."""
    folds = ("1", "2", "3")

    def train_folds(data_set, spectrograms, spec, config, device, *, progress, on_fold):
        for fold in folds:
            progress(spec.epochs)
            on_fold(fold, spec)

    def macro_f1(data_set, fold, spec):
        return max(0.0, 1 - abs(np.log10(spec.learning_rate) + 3.1)) - 0.01 * int(fold)

    def run(trials, seed=0, **options):
        opened, main = [], Run("demo-crnn", tmp_path)

        @contextmanager
        def open_trial(name, params, pruned):
            of_trial = Run(name, tmp_path)
            of_trial.end = "finished"
            opened.append((of_trial, params))
            try:
                yield of_trial
            except pruned:
                of_trial.end = "pruned"
                raise

        main.trial = open_trial
        data_set = SimpleNamespace(clip_table=SimpleNamespace(folds=folds))
        config = CrnnConfig(dataset="demo", trials=trials, seed=seed, **options)
        best = crnn_tuning.tune(data_set, None, config, torch.device("cpu"), main)
        return best, pd.read_csv(tmp_path / "tuning" / "trials.csv"), opened, main

    monkeypatch.setattr(crnn, "train_folds", train_folds)
    monkeypatch.setattr(cross_validation, "held_out_macro_f1", macro_f1)
    return run


COLUMNS = ["number", "value", "params_learning_rate", "params_batch_size", "state"]


def test_the_first_trial_is_the_preset_and_the_best_one_is_returned(tune):
    best, trials, _, main = tune(8)
    preset = crnn.training_spec(CrnnConfig(dataset="demo"))
    assert trials.params_learning_rate[0] == preset.learning_rate
    assert trials.params_batch_size[0] == preset.batch_size
    finished = trials[trials.state == "COMPLETE"]
    assert best.learning_rate == finished.params_learning_rate[finished.value.idxmax()]
    assert ({"best_trial": finished.value.idxmax(), "best_trial_macro_f1": finished.value.max()}, 0) in main.told
    told = {step: values["trial_macro_f1"] for values, step in main.told if "trial_macro_f1" in values}
    assert told == dict(zip(finished.number, finished.value, strict=True))


def test_a_trial_that_falls_behind_is_pruned_after_a_fold(tune):
    _, trials, opened, _ = tune(12)
    assert [run.name for run, _ in opened] == [f"demo-crnn-trial-{number}" for number in range(12)]
    assert set(trials.state) == {"COMPLETE", "PRUNED"}
    for (run, params), state in zip(opened, trials.state, strict=True):
        scores = [values["fold_macro_f1"] for values, _ in run.told if "fold_macro_f1" in values]
        assert set(params) == {"learning_rate", "batch_size"}
        assert run.end == {"COMPLETE": "finished", "PRUNED": "pruned"}[state]
        assert (len(scores) == 3) == (run.end == "finished") == ({"devel_macro_f1": np.mean(scores)} == run.told[-1][0])


def test_more_trials_go_on_from_fewer_and_another_seed_tries_others(tune):
    fewer, more, other = (tune(*asked)[1][COLUMNS] for asked in ((6,), (12,), (6, 1)))
    pd.testing.assert_frame_equal(fewer, more[:6])
    assert not fewer.params_learning_rate[1:].equals(other.params_learning_rate[1:])


def test_the_trials_of_a_batch_know_of_those_before_it_alone(tune, monkeypatch):
    """Whatever comes of one, the others of its batch are the same; those of later batches are not."""
    _, plain, opened, _ = tune(16, parallel_trials=4)
    assert [run.name for run, _ in opened] == [f"demo-crnn-trial-{number}" for number in range(16)]
    assert set(plain.state) == {"COMPLETE", "PRUNED"}
    macro_f1 = cross_validation.held_out_macro_f1
    changed = plain.params_learning_rate[8]  # the first of the third batch
    monkeypatch.setattr(
        cross_validation,
        "held_out_macro_f1",
        lambda data_set, fold, spec: 1.0 if spec.learning_rate == changed else macro_f1(data_set, fold, spec),
    )
    other = tune(16, parallel_trials=4)[1]
    assert (plain.value[8], other.value[8]) != (1.0, plain.value[8])
    rest = [number for number in range(12) if number != 8]
    pd.testing.assert_frame_equal(plain[COLUMNS].loc[rest], other[COLUMNS].loc[rest])
    assert not plain[COLUMNS][12:].equals(other[COLUMNS][12:])


def test_another_number_of_trials_at_a_time_is_another_search_and_more_go_on_from_fewer(tune):
    one, four = tune(12)[1], tune(12, parallel_trials=4)[1]
    assert not one[COLUMNS].equals(four[COLUMNS])
    for fewer in (5, 8):
        pd.testing.assert_frame_equal(tune(fewer, parallel_trials=4)[1][COLUMNS], four[COLUMNS][:fewer])
