"""Deep features of clips: waveform -> picture (image networks only) -> pre-trained network -> one vector a clip.

The same object makes the features that SVMs are trained on and those of a served model (paper section 3.3).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from soundstack.audio.decode import AudioSpec, Samples
from soundstack.networks import cpu
from soundstack.networks.build import build, restore
from soundstack.networks.registry import NetworkSpec, Settings, network_spec
from soundstack.spectrograms.picture import DeepSpectrumPicture
from soundstack.utils import deadlines
from soundstack.utils.devices import moved
from soundstack.utils.markdown import escape

BATCH = 16
"""Inputs at once."""
_FILE = "network.safetensors"


@dataclass(frozen=True)
class EmbeddingSpec:
    """Everything that changes a feature vector, be it in the last digit.

    ``seed`` is that of random weights, 0 for published ones. ``shortcuts`` lets OpenVINO run the network on a CPU
    (:mod:`soundstack.networks.cpu`). ``precision`` is that of the network, behind its front end. ``settings`` are
    those of an open network, empty for a listed one.
    """

    network: str
    pretraining: str
    audio: AudioSpec
    colour_map: str = "magma"
    window: float | None = None
    precision: str = "float32"
    shortcuts: bool = True
    seed: int = 0
    settings: Settings = field(default_factory=dict)

    @property
    def described(self) -> NetworkSpec:
        """What the network is fed and gives."""
        return network_spec(self.network, settings=self.settings)

    @property
    def fed(self) -> str:
        """What the network is fed, in words."""
        return "pictures of spectrograms" if self.described.input == "picture" else "the waveform"

    @property
    def origin(self) -> str:
        """Where its weights are from, as Markdown; of an open network with its architecture and revision."""
        if not self.described.is_open:
            return "random weights" if self.pretraining == "none" else f"pre-trained on {self.pretraining}"
        weights = "random weights" if self.pretraining == "none" else "pre-trained"
        of = [self.settings.get("architecture"), f"revision {self.settings.get('revision') or 'not stated'}"]
        return f"{', '.join(escape(str(each)) for each in of if each)}, {weights}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values, without those that do not matter for this network."""
        values = asdict(self)
        if self.described.input == "waveform":
            del values["colour_map"], values["window"]
        if not self.settings:
            del values["settings"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EmbeddingSpec:
        """Undo :meth:`to_json`."""
        return cls(**{**values, "audio": AudioSpec(**values["audio"])})


def by_openvino(device: torch.device, shortcuts: bool) -> bool:
    """Whether OpenVINO runs a network, not torch."""
    return device.type == "cpu" and shortcuts


class Embedder:
    """Waveforms (B, samples) at the spec's rate to features (B, dim), float32.

    ``network`` is the network as built or restored, the one that is saved; features may come from a faster form of it.
    ``picture`` draws what image networks are fed; others have none.
    """

    def __init__(self, spec: EmbeddingSpec, network: nn.Module, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self.picture: DeepSpectrumPicture | None = None
        if (fed := spec.described).input == "picture":
            self.picture = DeepSpectrumPicture(
                spec.audio.sample_rate, spec.colour_map, spec.window, fed.picture_size, fed.interpolation
            )
        # Channels-last is the layout that the convolution kernels want, on CPUs and on GPUs.
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._by_torch = not by_openvino(device, spec.shortcuts)
        self._forward = self.faster(self.network)

    @classmethod
    def build(cls, spec: EmbeddingSpec, device: torch.device, weights_dir: Path | str | None = None) -> Embedder:
        """Build the network with its published or random weights.

        Raises:
            WeightsError: Published weights are missing and cannot be fetched, or are not the published ones.
        """
        network = build(spec.network, spec.pretraining, seed=spec.seed, weights_dir=weights_dir, settings=spec.settings)
        return cls(spec, network, device)

    def faster(self, part: nn.Module) -> nn.Module:
        """The network or a part of it as it is run here: on a CPU by OpenVINO, in the spec's precision."""
        return part if self._by_torch else cpu.on_cpu(part, self.spec.precision)

    def save(self, folder: Path) -> None:
        """Write the network's weights into a folder."""
        weights = {name: value.cpu().contiguous() for name, value in self.network.state_dict().items()}
        save_file(weights, folder / _FILE)

    @classmethod
    def load(cls, spec: EmbeddingSpec, folder: Path, device: torch.device) -> Embedder:
        """Build the network from the weights that :meth:`save` wrote; nothing is fetched."""
        return cls.restore(spec, load_file(folder / _FILE), device)

    @classmethod
    def restore(cls, spec: EmbeddingSpec, weights: dict[str, Tensor], device: torch.device) -> Embedder:
        """Build the network from the weights a saved model carries; nothing is fetched."""
        return cls(spec, restore(spec.network, weights, settings=spec.settings), device)

    def __call__(self, waves: Samples) -> NDArray[np.float32]:
        """Return features (B, dim) of waveforms (B, samples)."""
        return self.features(self.inputs(waves))

    def inputs(self, waves: Samples) -> NDArray[Any]:
        """Return what the network is fed: pictures uint8 (B, 3, size, size), or the waveforms (B, samples)."""
        return self.picture.batch(waves) if self.picture else waves

    def features(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return features (B, dim) of the network's inputs (B, ...)."""
        return self.through(self._forward, inputs).numpy()

    def through(self, part: nn.Module, inputs: NDArray[Any]) -> Tensor:
        """Return what :meth:`faster` gave makes of inputs (N, ...), batch by batch: float32, on the CPU."""
        mixed = self._by_torch and self.spec.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            # On a GPU nothing waits between batches: copies go there from pinned memory, features return at the end.
            features = []
            for batch in torch.from_numpy(np.ascontiguousarray(inputs)).split(BATCH):
                deadlines.check()
                features.append(part(moved(batch, self.device)))
            return torch.cat(features).float().cpu()
