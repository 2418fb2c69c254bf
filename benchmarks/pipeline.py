"""The paper's pipeline from sound files to the fusion, stage by stage: as one would write it, and the project's.

    python benchmarks/pipeline.py                                               # demo
    python benchmarks/pipeline.py --dataset esc10 [--data_dir PATH] [--seeds 3] [--plot FILE]

Both train a CRNN, SVMs on features of two image networks (EfficientNet-Lite0 with its published weights, DenseNet121
with random ones), and their fusion; with the same folds, seeds, settings and choice of C. Before: librosa, matplotlib
figures, a ``DataLoader``, networks as published and one clip at a time, ``LinearSVC``. After: the project's steps with
an empty cache, without MLflow. Each in a process of its own, in turns, seed by seed. The two CRNNs are the same network
with the same pooling (a written one with 2x2 pooling would take longer); random weights of the CRNNs differ.

"Pictures" after: what the networks wait for, as clips are decoded and drawn beside their work. The project's fusion
also says what it would be without each member. The seconds are medians over seeds; scores (devel and test accuracy) are
means and deviations over seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _common import Rival, Step, take_turns  # isort: skip  (first: makes src importable)

import numpy as np

NETWORKS = (("efficientnet_lite0", "imagenet"), ("densenet121", "none"))
STAGES = ("spectrograms", "CRNN", "pictures", "networks", "SVMs", "fusion")
#: What a side finds for a seed: seconds by stage, and (devel, test) accuracy by system.
Found = tuple[dict[str, float], dict[str, tuple[float, float]]]


class Clock:
    """Adds up seconds by stage, and tells where the work is."""

    def __init__(self, side: str, seed: int) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._who = f"{side}, seed {seed}"

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        print(f"\r{self._who}: {stage}".ljust(60), end="", file=sys.stderr, flush=True)
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started


def settings(given: dict[str, Any], cache: str, seed: int) -> tuple[Any, Any, list[Any]]:
    """The data set, and the configurations of CRNN and networks."""
    from soundstack.config.steps import CrnnConfig, DeepSpectrumConfig
    from soundstack.datasets.open_data_set import open_data_set

    shared = {"dataset": given["dataset"], "data_dir": given["data_dir"], "cache_dir": cache, "seed": seed}
    crnn = CrnnConfig(**shared, epochs=given["epochs"] or "auto")
    networks = [DeepSpectrumConfig(**shared, network=name, pretraining=weights) for name, weights in NETWORKS]
    return open_data_set(crnn), crnn, networks


def before(given: dict[str, Any]) -> Step:
    """The pipeline of librosa, matplotlib, torch and scikit-learn as they come."""
    import torch

    import _plain
    from soundstack.crnn.system import training_spec
    from soundstack.networks.build import build
    from soundstack.spectrograms.extract import spectrogram_spec
    from soundstack.spectrograms.picture import DeepSpectrumPicture

    def work(seed: int) -> Found:
        clock = Clock("before", seed)
        with tempfile.TemporaryDirectory() as cache:
            data_set, config, networks = settings(given, cache, seed)
            paths, spec = [clip.path for clip in data_set.clips], spectrogram_spec(config, data_set.audio)
            folds, y = np.array([clip.fold for clip in data_set.clips]), data_set.clip_targets
            with clock("spectrograms"):
                mels = np.stack([_plain.log_mel(path, spec, data_set.audio) for path in paths])
            with clock("CRNN"):
                members = {"CRNN": _crnn(mels, y, folds, len(data_set.clip_table.labels), training_spec(config))}
            with clock("pictures"):
                draw = DeepSpectrumPicture(data_set.audio.sample_rate)
                spectra = (draw.decibel(_plain.waveform(path, data_set.audio)) for path in paths)
                drawn = np.stack([_plain.picture(db, data_set.audio.sample_rate, draw.hop)[1] for db in spectra])
                pictures = torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()
            for network in networks:
                with clock("networks"):
                    net = build(network.network, network.pretraining, seed=seed)
                    features = _plain.features(net, pictures)
                with clock("SVMs"):
                    members[f"{network.network}-{network.pretraining}"] = _svm(features, y, folds)
            with clock("fusion"):
                stacked = [
                    np.log(np.maximum(scores, 1e-12)) if name == "CRNN" else scores for name, scores in members.items()
                ]
                members["fusion"] = _svm(np.concatenate(stacked, axis=1), y, folds)
        return clock.seconds, {name: _accuracy(scores, y, folds) for name, scores in members.items()}

    return work


def _crnn(mels: Any, y: Any, folds: Any, classes: int, spec: Any) -> Any:
    """Probabilities of every clip (N, K): out-of-fold on devel, the fold models' mean on test."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    import _plain
    from soundstack.crnn.network import LAYOUTS
    from soundstack.crnn.training import DECAY

    blocks, probabilities = LAYOUTS[spec.layout], np.zeros((len(y), classes))
    development = sorted(set(folds) - {"test"})
    for fold in development:
        torch.manual_seed(spec.seed)
        train, other = (
            np.flatnonzero((folds != fold) & (folds != "test")),
            np.flatnonzero((folds == fold) | (folds == "test")),
        )
        x = torch.from_numpy((mels - mels[train].mean()) / mels[train].std())
        model = _plain.Crnn(blocks, [block.pool for block in blocks], mels.shape[2], classes)
        optimiser = torch.optim.Adam(model.parameters(), lr=spec.learning_rate, eps=1e-7)
        decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda update: 1 / (1 + DECAY * update))
        data = TensorDataset(x[train], torch.from_numpy(y[train]))
        loader = DataLoader(data, spec.batch_size, shuffle=True, num_workers=2, persistent_workers=True)
        for _ in range(spec.epochs):
            for batch in loader:
                _plain.training_step(model, optimiser, *batch)
                decay.step()
        model.eval()
        with torch.inference_mode():
            found = torch.cat([model(part).softmax(dim=1) for part in x[other].split(256)]).numpy()
        held_out = folds[other] == fold
        probabilities[other[held_out]] = found[held_out]
        probabilities[other[~held_out]] += found[~held_out] / len(development)
    return probabilities


def _svm(features: Any, y: Any, folds: Any) -> Any:
    """Decision values of every clip (N, K): out-of-fold on devel at the best C, the refitted SVM's on test."""
    import _plain
    from soundstack.config.steps import PAPER_COSTS
    from soundstack.svm.linear_svm import Standardiser

    test = folds == "test"
    held_out = [folds == fold for fold in sorted(set(folds) - {"test"})]
    tried = np.zeros((len(PAPER_COSTS), len(y), y.max() + 1))

    def decide(train: Any, rows: Any, costs: dict[int, float]) -> None:
        scale = Standardiser.fit(features[train])
        x, other = scale.transform(features[train]), scale.transform(features[rows])
        for number, cost in costs.items():
            tried[number, rows] = _plain.linear_svc(x, y[train], cost).decision_function(other)

    for rows in held_out:
        decide(~rows & ~test, rows, dict(enumerate(PAPER_COSTS)))
    best, _ = _plain.best_cost(tried, y, held_out)
    decide(~test, test, {best: PAPER_COSTS[best]})
    return tried[best]


def _accuracy(scores: Any, y: Any, folds: Any) -> tuple[float, float]:
    right = scores.argmax(axis=1) == y
    devel = [right[folds == fold].mean() for fold in sorted(set(folds) - {"test"})]
    return float(np.mean(devel)), float(right[folds == "test"].mean())


def after(given: dict[str, Any]) -> Step:
    """The project's steps."""
    from soundstack.config.steps import FuseConfig
    from soundstack.crnn import system as crnn
    from soundstack.deepspectrum import system as deepspectrum
    from soundstack.deepspectrum.extract import extraction as deep_features
    from soundstack.evaluation.metrics import mean_scores
    from soundstack.fusion import system as stacking
    from soundstack.fusion.system import Member, aligned
    from soundstack.spectrograms.extract import extraction
    from soundstack.utils import devices

    device = devices.choose("cpu")

    def work(seed: int) -> Found:
        clock = Clock("after", seed)
        with tempfile.TemporaryDirectory() as cache:
            data_set, config, networks = settings(given, cache, seed)
            with clock("spectrograms"):
                spectrograms = extraction(config).finish(data_set)
            with clock("CRNN"):
                spec = crnn.training_spec(config)
                folds = crnn.train_folds(data_set, spectrograms, spec, config, device)
                evaluations = {"CRNN": crnn.finish(data_set, spectrograms, spec, folds, device).evaluation}
            for network in networks:
                before = clock.seconds["networks"]
                with clock("networks"):
                    features = deep_features(network, device).finish(data_set)
                parts = features.report.seconds  # the rest is for pictures, drawn beside the network's work
                waited = clock.seconds["networks"] - before - parts["forward"] - parts["store"]
                clock.seconds["networks"] -= waited
                clock.seconds["pictures"] += waited
                with clock("SVMs"):
                    name = f"{network.network}-{network.pretraining}"
                    evaluations[name] = deepspectrum.train(data_set, features, network, device).evaluation
            with clock("fusion"):
                members = [Member(name, "", found.devel, found.test) for name, found in evaluations.items()]
                fetched = stacking.Fetched(aligned(members), "", dict(evaluations["CRNN"].groups), {})
                evaluations["fusion"] = stacking.train(fetched, FuseConfig(seed=seed)).evaluation
        scores = {name: (mean_scores(of.devel)[0], mean_scores(of.test)[0]) for name, of in evaluations.items()}
        return clock.seconds, scores

    return work


def report(sides: dict[str, list[Found]], emit: Callable[[str], object] = print) -> None:
    """Print seconds by stage, then scores by system."""
    seconds = medians(sides)
    emit(f"{'seconds':30}{'before':>24}{'after':>26}{'faster':>10}")
    for stage in (*STAGES, "in all"):
        one, other = (sum(of.values()) if stage == "in all" else of[stage] for of in seconds.values())
        emit(f"{stage:30}{one:24.1f}{other:26.1f}{one / max(other, 1e-3):9.1f}x")
    emit(f"{'devel / test accuracy, %':30}{'before':>24}{'after':>26}")
    for name in sides["after"][0][1]:
        cells = []
        for found in sides.values():
            parts = np.array([scores[name] for _, scores in found]) * 100
            spread = parts.std(axis=0, ddof=1) if len(parts) > 1 else (0, 0)
            cells.append(
                " / ".join(f"{mean:.1f} ± {by:.1f}" for mean, by in zip(parts.mean(axis=0), spread, strict=True))
            )
        emit(f"{name:30}{cells[0]:>24}{cells[1]:>26}")


def medians(sides: dict[str, list[Found]]) -> dict[str, dict[str, float]]:
    """Seconds by side and stage, medians over seeds."""
    return {
        side: {stage: float(np.median([seconds[stage] for seconds, _ in found])) for stage in STAGES}
        for side, found in sides.items()
    }


def draw(sides: dict[str, list[Found]], path: Path) -> None:
    """Draw the seconds of both as bars of stages."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.4), layout="constrained")
    axes = figure.add_subplot()
    seconds = medians(sides)
    for number, stage in enumerate(STAGES):
        starts = [sum(of[earlier] for earlier in STAGES[:number]) for of in seconds.values()]
        axes.barh(list(seconds), [of[stage] for of in seconds.values()], left=starts, label=stage, color=f"C{number}")
    for at, of in enumerate(seconds.values()):
        axes.text(sum(of.values()), at, f" {sum(of.values()):.0f} s", va="center")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("seconds from sound files to the fusion, median over seeds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(STAGES), frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=["demo", "esc10", "esc50"], default="demo")
    parser.add_argument("--data_dir", help="folder of the data set, not for demo; default: SOUNDSTACK_ESC10, if set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="of the CRNN; 0: the paper's")
    parser.add_argument("--plot", type=Path, help="draw the seconds to this PNG file")
    options = parser.parse_args()
    folder = options.data_dir or (options.dataset != "demo" and os.environ.get("SOUNDSTACK_ESC10")) or "auto"
    given = {"dataset": options.dataset, "data_dir": folder, "epochs": options.epochs}
    with contextlib.ExitStack() as stack:
        contenders: dict[str, Step | Rival] = {
            name: stack.enter_context(Rival(side, given)) for name, side in (("before", before), ("after", after))
        }
        _, sides = take_turns(contenders, options.seeds, warm=0)
    print(file=sys.stderr)
    print()
    report(sides)
    if options.plot:
        draw(sides, options.plot)


if __name__ == "__main__":
    main()
