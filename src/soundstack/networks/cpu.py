"""Networks on a CPU by OpenVINO, several times faster than torch, in float32 or bfloat16.

What a network does behind its front end, its method ``embed``, is compiled. Every input of a batch is a request of its
own, so that features are equal to the last bit whatever the batch.
"""

from __future__ import annotations

import copy
import logging
import sys
import threading
import warnings
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from soundstack.utils import project
from soundstack.utils.errors import ConfigError

# Without this package, OpenVINO takes a stub that does nothing. With it, each import would send the maker a message,
# and write to the user's home.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402

THREADS = 4
"""Threads that work on one input: of more, a small network makes little use."""


_core = cache(openvino.Core)


@cache
def computes_bfloat16() -> bool:
    """Whether this machine's processor has instructions for products of bfloat16."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def on_cpu(network: nn.Module, precision: str) -> nn.Module:
    """Return a copy of a network, which shares its weights, whose ``embed`` is done by OpenVINO; itself if it has none.

    ``precision`` is ``float32`` or ``bfloat16``; of a processor without bfloat16 the latter is float32, too.
    """
    if not hasattr(network, "embed"):
        return network
    faster: Any = copy.copy(network)
    faster.embed = _Embed(network, bfloat16=precision == "bfloat16" and computes_bfloat16())
    return faster


class _Method(nn.Module):
    """The method ``embed`` of a network as a module, which can be traced."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        features: Tensor = self.network.embed(*inputs)
        return features


class _Embed:
    """What a network's ``embed`` does, compiled for the shapes of the inputs when they first come."""

    def __init__(self, network: nn.Module, *, bfloat16: bool) -> None:
        self._network = _Method(network).eval()
        self._hint = "bf16" if bfloat16 else "f32"
        self._shapes: tuple[Any, ...] = ()
        self._compiled: Any = None
        self._compiling = threading.Lock()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return what ``embed`` makes of inputs (N, ...), (N, ...) as well."""
        arrays = [x.contiguous().numpy() for x in inputs]
        with self._compiling:
            if (shapes := tuple((tuple(x.shape[1:]), x.dtype) for x in inputs)) != self._shapes:
                self._compiled, self._shapes = self._compile(*[x[:1] for x in inputs]), shapes  # clips have one length
            compiled, streams = self._compiled
        count = len(arrays[0])
        features = np.empty((count, *list(compiled.output(0).shape)[1:]), np.float32)
        requests = [compiled.create_infer_request() for _ in range(min(streams, count))]
        for row in range(count + len(requests)):  # each request takes the next input once its last one is done
            request = requests[row % len(requests)]
            if (done := row - len(requests)) >= 0:
                request.wait()
                features[done] = request.get_output_tensor().data[0]
            if row < count:
                request.start_async([array[row : row + 1] for array in arrays])
        return torch.from_numpy(features)

    def _compile(self, *inputs: Tensor) -> tuple[Any, int]:
        """A network compiled for inputs of these shapes, (1, ...), and how many it works on at the same time.

        Raises:
            ConfigError: OpenVINO cannot run it.
        """
        level = logging.root.level
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: the shapes are fixed
            traced: Any = torch.jit.trace(self._network, tuple(x.clone() for x in inputs), check_trace=False)
            try:
                model = openvino.convert_model(traced, input=[x.shape for x in inputs])
            except Exception as error:  # of several kinds; none for the networks of this package
                logging.root.setLevel(level)  # which OpenVINO changes and, when it fails, does not restore
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise ConfigError(
                    f"shortcuts: OpenVINO cannot run this network ({first}); give shortcuts=no."
                ) from error
        threads = min(project.cores(), torch.get_num_threads())
        streams = -(-threads // THREADS)
        options = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # other processes have a right to the same cores
        }
        return _core().compile_model(model, "CPU", options), streams
