"""What a GPU makes of ESC-50's size: the networks, a CRNN's epoch and the SVM path, and how near that is to its floor.

    python benchmarks/gpu.py [--clips 2000] [--network resnet50 ...]
    python benchmarks/gpu.py --device cpu --clips 8 --network resnet50      # how it looks, where there is no GPU

Clips are 5 s of noise, decoded and drawn beforehand, which is a processor's work (``logmel.py``, ``picture.py``).
Networks take them slice by slice, as an extraction does; the CRNN trains one fold of five, in memory; the SVM path has
50 classes, 4,096 features, ten costs and four folds. The first round of each is not counted.

The floor is the time that the operations of all convolutions and matrix products would take at the speed of a large
matrix product of the same precision on the same card; that of the SVM path are the Gram matrices and their
eigendecompositions. "Equal": the smallest cosine to features from the processor in float32, and for the SVM path the
largest difference of a decision value.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from _common import cosine  # isort: skip  (first: makes src importable)

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import networks
import svm_path
from soundstack.audio.decode import AudioSpec
from soundstack.crnn.network import Crnn
from soundstack.crnn.training import CrnnJob, TrainingSpec
from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec
from soundstack.networks.registry import NETWORKS
from soundstack.svm.linear_svm import PathProblem, Standardiser
from soundstack.training.fold import train_fold
from soundstack.utils import devices
from soundstack.utils.slices import SLICE

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FRAMES, BANDS, CLASSES, BATCH, EPOCHS = 32, 128, 50, 16, 4
COMPARED = 4
"""Clips of which a network's features are compared with the processor's."""
Line = tuple[str, str, float, float, str]
"""What, precision, seconds, seconds of the floor, how equal."""


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds on the clock until the device has done the work."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def peaks(device: torch.device) -> dict[str, float]:
    """Operations a second of a large matrix product, by precision."""
    size = 8192 if device.type == "cuda" else 1024

    def peak(dtype: torch.dtype) -> float:
        one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        return 2 * size**3 / min(seconds_of(lambda: one @ other, device) for _ in range(5))

    return {name: peak(dtype) for name, dtype in PRECISIONS.items()}


def network(name: str, clips: int, device: torch.device, peak: dict[str, float]) -> Iterator[Line]:
    """Features of all clips by one network, in each precision."""
    rate = NETWORKS[name].sample_rate
    spec = EmbeddingSpec(name, "none", AudioSpec(rate or 16_000, networks.SECONDS))
    part = networks.inputs(name, min(SLICE, clips), 0)
    slices = [part[: min(SLICE, clips - first)] for first in range(0, clips, SLICE)]
    few = part[: networks.SLOW if name.startswith("openl3") else COMPARED]
    plain = Embedder(spec, networks.network(name), torch.device("cpu")).features(few)
    operations = clips * networks.operations(name) * 1e9
    for precision in PRECISIONS:
        embedder = Embedder(replace(spec, precision=precision), networks.network(name), device)
        embedder.features(part)
        seconds = seconds_of(lambda features=embedder.features: [features(one) for one in slices], device)  # type: ignore[misc]
        equal = f"{cosine(plain, embedder.features(few)):.6f}"
        yield f"features of {name}", precision, seconds, operations / peak[precision], equal


def crnn(precision: str, clips: int, device: torch.device, peak: float) -> Line:
    """An epoch of the CRNN on four fifths of the clips, with the scores of the others."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn((clips, FRAMES, BANDS), generator=generator), torch.arange(clips) % CLASSES
    spec = TrainingSpec("four_blocks", 1e-3, BATCH, EPOCHS, precision=precision)
    train, held_out = torch.arange(clips * 4 // 5), torch.arange(clips * 4 // 5, clips)
    ends: list[float] = []
    job = CrnnJob(inputs, targets, train, held_out, spec, CLASSES, "1", device)
    train_fold(job, lambda count: ends.append(time.perf_counter()))
    counter = FlopCounterMode(display=False)
    with counter:  # on the processor, where the GRUs are products that it sees
        Crnn("four_blocks", BANDS, CLASSES)(inputs[:BATCH]).sum().backward()
    operations = counter.get_total_flops() / BATCH * (len(train) + len(held_out) / 3)
    return "CRNN, an epoch", precision, float(np.median(np.diff(ends))), operations / peak, ""


def svms(clips: int, device: torch.device) -> Iterator[Line]:
    """The path of all folds, here and on the processor."""
    size = svm_path.Size(clips, 4096, CLASSES, 0.6)
    x, y = svm_path.deep_features(size, 0)
    folds = np.arange(clips) % svm_path.FOLDS

    def path(place: torch.device | None) -> np.ndarray:
        return PathProblem(x, y, folds, n_classes=CLASSES, device=place).out_of_fold_decisions(svm_path.COSTS)

    def bare(place: torch.device) -> None:
        for fold in range(svm_path.FOLDS):
            train = torch.from_numpy(Standardiser.fit(x[folds != fold]).transform(x[folds != fold])).to(place)
            torch.linalg.eigh(train @ train.T if len(train) <= train.shape[1] else train.T @ train)

    here = path(None)
    difference = float(np.abs(path(device) - here).max())
    bare(device)
    floor = seconds_of(lambda: bare(device), device)
    yield "SVM path", "float64", seconds_of(lambda: path(device), device), floor, f"{difference:.0e}"
    if device.type == "cuda":
        cpu = torch.device("cpu")
        yield (
            "SVM path by the processor",
            "float64",
            seconds_of(lambda: path(None), cpu),
            seconds_of(lambda: bare(cpu), cpu),
            "",
        )


def lines(names: list[str], clips: int, device: torch.device) -> Iterator[Line]:
    """Measure."""
    peak = peaks(device)
    for name in names:
        yield from network(name, clips, device, peak)
    for precision in PRECISIONS:
        yield crnn(precision, clips, device, peak[precision])
    yield from svms(clips, device)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000, help="default: 2000, as in ESC-50")
    parser.add_argument("--network", choices=networks.TARGETS, action="append", help="may be repeated; default: all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here that torch can use: nothing was measured.")
        return
    device = devices.choose(given.device)
    print(f"\n{'':46}{'':>10}{'seconds':>10}{'clips/s':>10}{'of floor':>10}   equal")
    for what, precision, seconds, floor, equal in lines(given.network or list(networks.TARGETS), given.clips, device):
        share = f"{floor / seconds:.0%}"
        print(f"{what:46}{precision:>10}{seconds:10.3g}{given.clips / seconds:10.0f}{share:>10}   {equal}", flush=True)


if __name__ == "__main__":
    main()
