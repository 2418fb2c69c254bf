"""The benchmarks: each can be started, the plain pieces are the project's equals, and the page is what was measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from soundstack.config.steps import FuseConfig
from soundstack.crnn.network import FOUR_BLOCKS, Crnn
from soundstack.crnn.training import TrainingSpec
from soundstack.svm.cost_search import SearchSpec, search_cost
from soundstack.svm.linear_svm import PathProblem

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # some scripts set these two; other tests must not notice
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")


def load(name: str) -> ModuleType:
    """A script as a module of another name: some have that of an entry point."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_does_and_how_it_is_called(name: str) -> None:
    script = load(name)
    assert f"python benchmarks/{name}.py" in (script.__doc__ or "")


def test_a_quick_round_knows_every_script() -> None:
    run = load("run")
    assert set(run.QUICK) == set(SCRIPTS) - {"run"}


def test_the_page_is_that_of_the_results() -> None:
    run = load("run")
    known = json.loads(run.RESULTS.read_text())
    assert (run.DOCS / "performance.md").read_text() == run.written(known)
    pictures = {result["picture"] for result in known.values() if result.get("picture")}
    assert all((run.DOCS / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("score", [0, 1])
@pytest.mark.parametrize(
    ("shape", "right"),
    [((50, 50, 1, 0.0), 0.98), ((50, 8, 4, 0.3), 0.95), ((400, 8, 1, 0.5), 0.5), ((400, 10, 4, 0.3), 0.99)],
)
def test_intervals_hold_the_true_score(shape: tuple[int, int, int, float], right: float, score: int) -> None:
    # Of 200 intervals at 92 %, 184 hold it, with a deviation of 3.8: three deviations off is 172. Of those of the
    # bootstrap by group, 130 do in the first case and fewer in the last.
    confidence = load("confidence")
    found = confidence.coverage(confidence.Cell(*shape, accuracy=right), repeats=200, seed=1)
    assert found["now"][score] >= 172 / 200
    assert found["width"] > 0.005


@pytest.mark.parametrize("score", [0, 1])
@pytest.mark.parametrize("shape", [(100, 5, 1, 0.3), (400, 10, 1, 0.3), (400, 20, 4, 0.3), (100, 100, 1, 0.0)])
def test_equal_systems_are_seldom_called_different(shape: tuple[int, int, int, float], score: int) -> None:
    # Of 200 pairs at 7 %, 14 are, with a deviation of 3.6: three deviations off is 25. By clips, 50 to 120 would be.
    confidence = load("confidence")
    found = confidence.false_alarms(confidence.Cell(*shape), repeats=200, seed=1, n_swaps=200)
    assert found["now"][score] <= 25 / 200


def _clips(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y = np.arange(100) % 5
    x = rng.normal(size=(100, 12)) + np.eye(5)[y] @ rng.normal(size=(5, 12))
    return x.astype(np.float32), y, np.array(["1", "2", "3", "4", "test"])[np.arange(100) // 5 % 5]


def test_the_pipeline_s_plain_svm_finds_what_the_project_s_finds() -> None:
    x, y, folds = _clips(np.random.default_rng(0))
    plain = load("pipeline")._svm(x, y, folds)
    devel, spec = folds != "test", SearchSpec.of(FuseConfig())
    problem = PathProblem(x[devel], y[devel], folds[devel], n_classes=5)
    found = search_cost(problem.out_of_fold_decisions, y[devel], folds[devel], 5, spec)
    np.testing.assert_allclose(plain[devel], found.decisions, atol=2e-3)
    np.testing.assert_allclose(plain[~devel], problem.refit(found.chosen).decision(x[~devel]), atol=2e-3)


def test_the_pipeline_s_plain_crnn_scores_every_clip_by_models_that_did_not_see_it() -> None:
    pipeline = load("pipeline")
    _, y, folds = _clips(np.random.default_rng(0))
    mels = np.random.default_rng(1).normal(size=(100, 16, 128)).astype(np.float32)
    spec = TrainingSpec("four_blocks", learning_rate=0.001, batch_size=16, epochs=1)
    scores = pipeline._crnn(mels, y, folds, 5, spec)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    of_test = folds == "test"
    changed = np.where(of_test, (y + 1) % 5, y)  # what is true of the test clips must not matter
    np.testing.assert_array_equal(pipeline._crnn(mels, changed, folds, 5, spec), scores)


def test_half_of_the_classes_keep_two_development_clips_of_two_folds_and_the_test_part_stays() -> None:
    script = load("unequal")
    _, y, folds = _clips(np.random.default_rng(0))
    for seed in range(5):
        kept = script.unequal(y, folds, seed)
        assert kept[folds == "test"].all()
        of_class = [folds[kept & (y == k) & (folds != "test")] for k in range(5)]
        assert sorted(map(len, of_class)) == [2, 2, 16, 16, 16]
        assert all(len(set(each)) == 2 for each in of_class if len(each) == 2)


def test_the_plain_crnn_has_the_project_s_layers() -> None:
    plain = load("_plain").Crnn(FOUR_BLOCKS, [block.pool for block in FOUR_BLOCKS], 128, 10)
    ours = Crnn("four_blocks", 128, 10)
    assert [tuple(p.shape) for p in plain.parameters()] == [tuple(p.shape) for p in ours.parameters()]
