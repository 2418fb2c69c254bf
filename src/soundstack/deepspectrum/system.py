"""DEEP SPECTRUM and the AudioSet networks (paper section 3.3): deep features, linear SVM, C searched over the folds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from soundstack.config.steps import DeepSpectrumConfig
from soundstack.datasets.data_set import DataSet
from soundstack.deepspectrum.extract import Features
from soundstack.deepspectrum.recogniser import SvmRecogniser
from soundstack.evaluation.calibration import fit_inverse_temperature
from soundstack.evaluation.evaluation import Evaluation
from soundstack.recognisers.evaluate import evaluate, with_none
from soundstack.svm.cost_search import CostSearch, SearchSpec, nested_decisions, problem_of, search_cost


@dataclass(frozen=True)
class TrainedSvm:
    """A trained system: recogniser, evaluation, and the search for C."""

    recogniser: SvmRecogniser
    evaluation: Evaluation
    search: CostSearch


def train(data_set: DataSet, features: Features, config: DeepSpectrumConfig, device: torch.device) -> TrainedSvm:
    """Search C over the development folds, refit, calibrate on out-of-fold scores, and score the test clips."""
    folds, classes = data_set.example_folds, len(data_set.clip_table.labels)
    devel, devel_clips = folds != "test", len(data_set.clip_table.devel)
    spec = SearchSpec.of(config)
    x, y = features.values[devel], data_set.example_targets[devel]
    problem = problem_of(x, y, folds[devel], classes, spec, device)

    def by_clip(decisions: NDArray[np.float64]) -> NDArray[np.float64]:
        # Several examples of a clip (channels=each) are averaged before they are judged.
        scores = np.zeros((len(folds), classes))
        scores[devel] = decisions
        return data_set.clip_means(scores)[:devel_clips]

    truth = data_set.clip_targets[:devel_clips]
    search = search_cost(
        lambda costs: np.stack([by_clip(decisions) for decisions in problem.out_of_fold_decisions(costs)]),
        truth,
        np.array([clip.fold for clip in data_set.clip_table.devel]),
        classes,
        spec,
    )
    svms = problem.fold_models(search.chosen) if config.test_model == "folds" else [problem.refit(search.chosen)]
    recipe = features.recipe if features.recipe.device == device else replace(features.recipe, device=device)
    recogniser = SvmRecogniser(
        labels=data_set.clip_table.labels, audio=recipe.audio, embedder=recipe.embedder, svms=svms
    )
    recogniser.inverse_temperature = fit_inverse_temperature(search.decisions, truth, recogniser.kind)
    scores = np.zeros((len(folds), classes))
    scores[~devel] = recogniser.score_features(features.values[~devel])
    clip_scores = data_set.clip_means(scores)
    clip_scores[:devel_clips] = search.decisions
    nested = {}
    if config.nested:
        refit = config.test_model == "refit"
        by_fold = nested_decisions(lambda fold: x, y, folds[devel], classes, spec, refit=refit, device=device)
        nested = {fold: by_clip(decisions) for fold, decisions in by_fold.items()}
    evaluation = evaluate(data_set, clip_scores, recogniser, nested)
    if config.none_rate != "off":
        evaluation = with_none(data_set, evaluation, recogniser, features.values, config.none_rate)
    return TrainedSvm(recogniser, evaluation, search)
