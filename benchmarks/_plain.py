"""The paper's pieces as one writes them with the usual libraries: what the benchmarks compare the project with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from _common import ROOT  # isort: skip  # noqa: F401  (first: makes src and tests importable)

import librosa
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import f1_score
from sklearn.svm import LinearSVC
from torch import Tensor, nn

from soundstack.audio.decode import AudioSpec
from soundstack.crnn.network import DROPOUT, HIDDEN, Block
from soundstack.spectrograms.log_mel import SpectrogramSpec
from toolkit_figure import draw_figure


def waveform(path: Path, audio: AudioSpec) -> NDArray[np.float32]:
    """The clip (samples,), mono, by librosa, zero-padded or cropped to the data set's length."""
    wave, _ = librosa.load(path, sr=None)
    padded: NDArray[np.float32] = librosa.util.fix_length(wave, size=audio.samples)
    return padded


def log_mel(path: Path, spec: SpectrogramSpec, audio: AudioSpec) -> NDArray[np.float32]:
    """The clip's spectrogram (frames, bands) in dB under its maximum, as librosa's documentation shows it."""
    power = librosa.feature.melspectrogram(
        y=waveform(path, audio),
        sr=spec.sample_rate,
        n_fft=spec.window,
        hop_length=spec.hop,
        n_mels=spec.bands,
        pad_mode="reflect",
    )
    decibel: NDArray[np.float32] = librosa.power_to_db(power, ref=np.max, amin=1e-30, top_db=-spec.clip_db).T
    return decibel


def picture(db: NDArray[np.float32], rate: int, hop: int) -> tuple[NDArray[np.uint8], Image.Image]:
    """The DEEP SPECTRUM toolkit's figure of a spectrogram (128, frames), and its 224 x 224 pixels."""
    figure = draw_figure(db, sample_rate=rate, hop=hop)
    return figure, Image.fromarray(figure).resize((224, 224), Image.Resampling.BICUBIC)


def features(network: nn.Module, inputs: Tensor) -> NDArray[np.float32]:
    """Features (N, dim) of pictures uint8 (N, 3, 224, 224) or waveforms: float32, NCHW, one clip at a time."""
    with torch.inference_mode():
        return np.concatenate([network(one.contiguous()).numpy() for one in inputs.split(1)])


def linear_svc(
    train: NDArray[Any], y: NDArray[Any], cost: float, weights: NDArray[np.float64] | None = None
) -> LinearSVC:
    """The SVM of the paper on standardised features, with weights (N,) of its clips if there are any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LinearSVC(C=cost, dual=True, random_state=0).fit(train, y, sample_weight=weights)


def best_cost(tried: NDArray[Any], y: NDArray[Any], held_out: list[NDArray[Any]]) -> tuple[int, float]:
    """Which of the ascending costs' decision values (C, N, K) have the best macro-F1, mean over folds, and what it is.

    Of equals the smallest, as in training.
    """
    scores = [
        np.mean([f1_score(y[rows], decisions[rows].argmax(axis=1), average="macro") for rows in held_out])
        for decisions in tried
    ]
    best = int(np.argmax(np.array(scores) >= max(scores) - 1e-12))
    return best, float(scores[best])


class Crnn(nn.Module):
    """Section 3.2 of the paper, line by line, with the pooling (frames, bands) of each block given."""

    def __init__(self, blocks: tuple[Block, ...], pools: list[tuple[int, int]], bands: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width, previous = bands, 1
        for block, pool in zip(blocks, pools, strict=True):
            layers += [
                nn.Conv2d(previous, block.channels, block.kernel, padding="same"),
                nn.BatchNorm2d(block.channels, eps=1e-3, momentum=0.01),
                nn.ELU(),
                nn.MaxPool2d(pool, ceil_mode=True),
                nn.Dropout(DROPOUT),
            ]
            width, previous = -(-width // pool[1]), block.channels
        self.blocks = nn.Sequential(*layers)
        self.gru = nn.GRU(previous * width, HIDDEN, num_layers=2, batch_first=True)
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(HIDDEN, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of standardised spectrograms (B, frames, bands)."""
        x = self.blocks(x.unsqueeze(1)).permute(0, 2, 1, 3).flatten(2)  # (B, T', C * F')
        states, _ = self.gru(x)
        logits: Tensor = self.head(self.dropout(states[:, -1]))
        return logits


def training_step(model: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """One update."""
    loss = nn.functional.cross_entropy(model(x), y)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
