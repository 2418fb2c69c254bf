"""Nested cross-validation from features to the fusion: nothing that a fold is judged by has seen that fold."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

import crnn as crnn_step
from soundstack.config.steps import CrnnConfig, FuseConfig
from soundstack.evaluation.evaluation import Evaluation
from soundstack.evaluation.metrics import mean_scores
from soundstack.evaluation.score_table import ScoreTable
from soundstack.fusion import system as stacking
from soundstack.fusion.system import Member
from soundstack.svm.cost_search import SearchSpec, nested_decisions, search_cost
from soundstack.svm.linear_svm import PathProblem
from soundstack.tracking.registered_models import FoundModel
from soundstack.training import cross_validation
from soundstack.utils.errors import ConfigError, MemberError

CLIPS, CLASSES = 80, 4
FOLDS = np.array([str(1 + clip % 4) for clip in range(CLIPS)])
NAMES = tuple("abcd")


def table(scores: NDArray[Any], truth: NDArray[Any], folds: NDArray[Any] = FOLDS, kind: Any = "decision") -> ScoreTable:
    clips = tuple(f"{'t' if folds[0] == 'test' else 'd'}{number}" for number in range(len(folds)))
    return ScoreTable(clips, tuple(NAMES[k] for k in truth), tuple(folds.tolist()), scores, NAMES, kind)


def member(name: str, x: NDArray[Any], truth: NDArray[Any]) -> Member:
    """An SVM on the features x, cross-validated as a member of a fusion is."""
    problem = PathProblem(x, truth, FOLDS, n_classes=CLASSES)
    search = search_cost(problem.out_of_fold_decisions, truth, FOLDS, CLASSES, SearchSpec())
    nested = nested_decisions(lambda fold: x, truth, FOLDS, CLASSES, SearchSpec())
    test = table(problem.refit(search.chosen).decision(x), truth, np.repeat("test", CLIPS))
    tables = {fold: table(scores, truth) for fold, scores in nested.items()}
    return Member(name, "data", table(search.decisions, truth), test, tables)


def fused(features: list[NDArray[Any]], truth: NDArray[Any]) -> Evaluation:
    members = [member(f"m{number}", x, truth) for number, x in enumerate(features)]
    groups = {clip: clip for each in (members[0].devel, members[0].test) for clip in each.clips}
    return stacking.train(stacking.Fetched(members, "", groups, {}), FuseConfig(nested=True)).evaluation


def judged(evaluation: Evaluation) -> NDArray[Any]:
    scores = np.empty((CLIPS, CLASSES))
    for fold, part in evaluation.nested.items():
        scores[fold == FOLDS] = part.scores[fold == FOLDS]
    return scores


def signal(truth: NDArray[Any], seed: int) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    return random.standard_normal((CLASSES, 6))[truth] + 1.5 * random.standard_normal((CLIPS, 6))


def test_a_nested_fusion_never_sees_the_labels_of_the_fold_it_is_judged_on() -> None:
    truth = np.arange(CLIPS) // 4 % CLASSES
    features = [signal(truth, seed) for seed in (0, 1)]
    honest = fused(features, truth)
    held_out = FOLDS == "2"
    tampered = fused(features, np.where(held_out, (truth + 1) % CLASSES, truth))
    np.testing.assert_array_equal(judged(tampered)[held_out], judged(honest)[held_out])
    assert not np.array_equal(judged(tampered)[~held_out], judged(honest)[~held_out])
    assert not np.array_equal(tampered.devel.scores[held_out], honest.devel.scores[held_out])  # the plain score does


def test_the_nested_score_is_the_mean_over_the_folds_of_what_each_is_judged_with() -> None:
    truth = np.arange(CLIPS) // 4 % CLASSES
    evaluation = fused([signal(truth, seed) for seed in (0, 1)], truth)
    metrics = evaluation.metrics()
    expected = mean_scores(table(judged(evaluation), truth))
    assert (metrics["devel_nested_accuracy"], metrics["devel_nested_macro_f1"]) == pytest.approx(expected)
    assert metrics["devel_nested_accuracy_ci_low"] < expected[0] < metrics["devel_nested_accuracy_ci_high"]
    plain = Evaluation(evaluation.devel, evaluation.test, evaluation.groups, evaluation.inverse_temperature)
    assert not any("nested" in name for name in plain.metrics())


def test_a_crnns_nested_scores_come_from_the_models_that_saw_neither_of_two_folds() -> None:
    owner = np.array(["1", "2", "3", "1", "2", "3"])
    pairs = {}
    for number, name in enumerate(("1+2", "1+3", "2+3")):
        known = 100.0 * number + np.arange(6)
        pairs[name] = np.where(np.isin(owner, name.split("+")), known, 0)[:, None]
    nested = cross_validation._nested(owner, pairs)
    assert set(nested) == {"1", "2", "3"}
    # Fold 1 is judged by the mean of its two models; the others' clips by the one without them and without fold 1.
    np.testing.assert_array_equal(nested["1"][:, 0], [50 + 0, 1, 100 + 2, 50 + 3, 4, 100 + 5])
    np.testing.assert_array_equal(nested["2"][:, 0], [0, 100 + 1, 200 + 2, 3, 100 + 4, 200 + 5])
    np.testing.assert_array_equal(nested["3"][:, 0], [100 + 0, 200 + 1, 150 + 2, 100 + 3, 200 + 4, 150 + 5])


def test_tuned_settings_have_seen_every_fold_and_are_not_nested() -> None:
    with pytest.raises(ValueError, match=r"nested\n.*yes needs trials=1, since tuning has seen every fold"):
        CrnnConfig(nested=True, trials=2)


def registered(name: str, tables: Member, folder: Path) -> FoundModel:
    """A model run of these predictions in the store, as the steps log them."""
    tables.devel.to_parquet(folder / "predictions" / "devel.parquet")
    tables.test.to_parquet(folder / "predictions" / "test.parquet")
    for fold, each in tables.nested.items():
        each.to_parquet(folder / "predictions" / "nested" / f"{fold}.parquet")
    (folder / "data").mkdir()
    with (folder / "data" / "clips.csv").open("w", newline="") as file:
        rows = [
            (clip, fold, clip)
            for each in (tables.devel, tables.test)
            for clip, fold in zip(each.clips, each.folds, strict=True)
        ]
        csv.writer(file).writerows([("filename", "fold", "group"), *rows])
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(folder))
    return FoundModel(name, "3", run.info.run_id, {"data_fingerprint": "data"})


@pytest.mark.usefixtures("store")
def test_a_nested_fusion_names_the_member_that_was_trained_without(tmp_path: Path) -> None:
    truth = np.arange(CLIPS) // 4 % CLASSES
    whole = member("demo-a", signal(truth, 0), truth)
    plain = Member("demo-b", "data", whole.devel, whole.test)
    found = [registered("demo-a", whole, tmp_path / "a"), registered("demo-b", plain, tmp_path / "b")]
    assert stacking.fetch(found).members[0].nested == {}
    with pytest.raises(MemberError, match=r"^demo-b/3: .*train it so, or leave nested out\.$") as caught:
        stacking.fetch(found, nested=True)
    assert "\n" not in str(caught.value)
    fetched = stacking.fetch([found[0], found[0]], nested=True)
    np.testing.assert_array_equal(fetched.members[1].nested["3"].scores, whole.nested["3"].scores)


def test_a_crnn_with_nested_scores_logs_them_with_its_predictions(
    store: str, tiny_csv: Callable[..., Path], tmp_path: Path
) -> None:
    data = tiny_csv(tmp_path / "data", folds=3)
    given: dict[str, Any] = {"dataset": "csv", "data_dir": str(data), "cache_dir": str(tmp_path / "cache"), "epochs": 1}
    trained = crnn_step.run(CrnnConfig(**given, nested=True))
    client = MlflowClient()
    run = client.get_run(client.get_model_version(trained.name, trained.version).run_id)
    assert 0 <= run.data.metrics["devel_nested_accuracy"] <= 1
    folder = Path(client.download_artifacts(run.info.run_id, "predictions", str(tmp_path)))
    devel = ScoreTable.from_parquet(folder / "devel.parquet")
    for fold in devel.fold_names:
        nested = ScoreTable.from_parquet(folder / "nested" / f"{fold}.parquet")
        assert (nested.clips, nested.labels, nested.folds) == (devel.clips, devel.labels, devel.folds)
        assert not np.isclose(nested.scores, devel.scores).all(axis=1).any()  # other models, of fewer folds
    with pytest.raises(ConfigError, match="needs at least three development folds; this data set has 2"):
        crnn_step.run(CrnnConfig(**given | {"data_dir": str(tiny_csv(tmp_path / "two", folds=2))}, nested=True))
