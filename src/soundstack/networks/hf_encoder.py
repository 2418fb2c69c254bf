"""Any audio encoder of the Hugging Face hub that ``transformers`` itself knows, on waveforms.

The waveform goes, at the rate that the model's own feature extractor states, through that extractor and the model
(``AutoFeatureExtractor`` and ``AutoModel``). The features are the mean over time of the last hidden state, or of
another layer. Of encoder-decoders and of models with two towers (Whisper, CLAP) the audio encoder alone is kept. What
an extractor adds behind a clip and says so by its mask (Whisper's 30 s) does not count in the mean. A clip longer than
the extractor takes is cut into windows, the last one ending with the clip, and their means are averaged: so CLAP's
random crops are never drawn. Attention is computed step by step ("eager"), which is the same arithmetic on every
machine, and each clip by itself, so that features do not depend on what else is in a batch. Code that comes with a
model is never run.
"""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedModel, SequenceFeatureExtractor

from soundstack.networks.hub import Source
from soundstack.networks.registry import OpenNetwork, encoders
from soundstack.utils import deadlines
from soundstack.utils.errors import ConfigError, WeightsError

#: Seconds that a model is given at once where its extractor takes clips of any length: attention grows with the square.
LONGEST_WINDOW = 30
#: Shorter clips are padded with silence to this many seconds, the least that all extractors and convolutions take.
SHORTEST = 0.1
_TOWERS = ("audio_model", "audio_tower", "audio_encoder", "speech_encoder")
_ATTENTION = "eager"

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@encoders(
    "hf",
    names=r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?",
    form="hf:ORG/NAME",
    input="waveform",
    layer="the last hidden state, mean over time",
    has_layers=True,
    citation="Wolf et al., Transformers: state-of-the-art natural language processing, 2020; the model's own authors",
)
class HfEncoder(OpenNetwork):
    """The audio encoder, and the extractor before it."""

    def look_up(
        self, layer: int | None, weights_dir: Path | str | None, *, random: bool, allow_download: bool = True
    ) -> dict[str, Any]:
        """See :class:`OpenNetwork`; the files of weights are not touched."""
        source = Source.of(self.spec.name)
        files = source.find_or_fetch(weights_dir, whole=False, allow_download=allow_download)
        try:
            config = AutoConfig.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
            extractor = AutoFeatureExtractor.from_pretrained(
                files.folder, trust_remote_code=False, local_files_only=True
            )
            if not isinstance(extractor, SequenceFeatureExtractor):
                raise ValueError(f"its {type(extractor).__name__} is not one of sound")
            with torch.device("meta"):
                model = _encoder(AutoModel.from_config(config, attn_implementation=_ATTENTION, trust_remote_code=False))
        except Exception as error:  # of many kinds
            raise WeightsError(self._unusable(error)) from error
        if hasattr(extractor, "dither"):
            extractor.dither = 0.0  # it is random
        described = json.loads(config.to_json_string(use_diff=False))
        for unimportant in ("_name_or_path", "transformers_version", "architectures", "dtype", "auto_map"):
            described.pop(unimportant, None)
        return {
            "architecture": type(model).__name__,
            "revision": files.revision,
            "licence": source.licence(files),
            "url": source.url,
            "sample_rate": int(extractor.sampling_rate),
            "layer": f"{'the last hidden state' if layer is None else f'hidden state {layer}'}, mean over time",
            "hidden_state": layer,
            "config": described,
            "extractor": json.loads(extractor.to_json_string()),
        }

    def find_or_fetch(self, weights_dir: Path | str | None, *, allow_download: bool = True) -> Path:
        """See :class:`OpenNetwork`."""
        source = Source.of(self.spec.name)
        return source.find_or_fetch(weights_dir, whole=True, allow_download=allow_download).folder

    def identity(self, weights_dir: Path | str | None, *, random: bool, allow_download: bool = True) -> str:
        """See :class:`OpenNetwork`."""
        return Source.of(self.spec.name).identity(weights_dir, whole=not random, allow_download=allow_download)

    def create(self) -> PreTrainedModel:
        """See :class:`Network`: the encoder alone, of the settings, by the library's own initialisation."""
        config = AutoConfig.for_model(**self.settings["config"])
        with torch.device("meta"):  # the decoder or the other tower, too, and may be large
            part = _encoder(AutoModel.from_config(config, attn_implementation=_ATTENTION, dtype=torch.float32))
        model: PreTrainedModel = type(part)(part.config)
        return model

    def published(self, weights_dir: Path | str | None, *, allow_download: bool = True) -> PreTrainedModel:
        """See :class:`OpenNetwork`. Weights that the files lack become NaN; :meth:`try_out` finds if it matters."""
        folder = self.find_or_fetch(weights_dir, allow_download=allow_download)
        try:
            whole, found = AutoModel.from_pretrained(
                folder,
                config=AutoConfig.for_model(**self.settings["config"]),
                attn_implementation=_ATTENTION,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:  # of many kinds
            raise WeightsError(self._unusable(error)) from error
        known = dict(whole.named_parameters()) | dict(whole.named_buffers())
        for name in found["missing_keys"]:
            if name in known and known[name].is_floating_point():
                nn.init.constant_(known[name], math.nan)
        return _encoder(whole)

    def features(self, whole: Any) -> AudioEncoder:
        """See :class:`Network`."""
        described = dict(self.settings["extractor"])
        name = described.get("feature_extractor_type")
        kind = getattr(transformers, str(name), None)
        if not (isinstance(kind, type) and issubclass(kind, SequenceFeatureExtractor)):
            raise WeightsError(f"{self.spec.name}: transformers {transformers.__version__} has no {name}.")
        return AudioEncoder(whole, kind.from_dict(described), self.settings["hidden_state"])

    def try_out(self, net: nn.Module) -> None:
        """See :class:`OpenNetwork`."""
        noise = np.random.default_rng(0).standard_normal(self.settings["sample_rate"], dtype=np.float32)
        try:
            with torch.inference_mode():
                features = net(0.1 * torch.from_numpy(noise)[None])
        except _NoSuchLayer as error:
            raise ConfigError(f"layer: {self.spec.name} {error}") from None
        except Exception as error:  # of many kinds: it takes other things than sound, or gives no hidden states
            raise WeightsError(self._unusable(error)) from error
        if features.isnan().any():
            raise WeightsError(f"{self.spec.name}: its files lack weights of the encoder; they are of another model.")
        for tensor in (*net.parameters(), *net.buffers()):  # lacking and not needed
            if tensor.is_floating_point():
                tensor.nan_to_num_(nan=0.0)

    def _unusable(self, error: Exception) -> str:
        reason = " ".join(str(error).split())
        if "trust_remote_code" in reason:
            reason = "it brings code of its own, which is never run; choose a model that the library itself has"
        return (
            f"{self.spec.name} cannot be used by transformers {transformers.__version__} "
            f"(AutoModel and AutoFeatureExtractor): {reason[:200] or type(error).__name__}."
        )


class _NoSuchLayer(Exception):
    pass


class AudioEncoder(nn.Module):
    """Waveforms to features, by a model and the extractor that belongs to it.

    Args:
        model: an audio encoder.
        extractor: its feature extractor.
        layer: which hidden state, from 0 on or from the end; ``None``: what leaves the model.
    """

    def __init__(self, model: PreTrainedModel, extractor: Any, layer: int | None) -> None:
        super().__init__()
        self.model = model
        self.extractor = extractor
        self.layer = layer
        self.window = _window(extractor)
        masks = "return_attention_mask" in inspect.signature(type(extractor).__call__).parameters
        self._asked = {"return_attention_mask": True} if masks else {}
        takes = set(inspect.signature(model.forward).parameters)
        if not getattr(extractor, "return_attention_mask", True):  # some models are worse with it
            takes = {name for name in takes if not name.endswith("mask")}
        made = self._extracted(np.zeros(extractor.sampling_rate, np.float32), torch.device("cpu"))
        self._given = [name for name in made if name in takes]

    def forward(self, waveforms: Tensor) -> Tensor:
        """Waveforms float32 (N, samples), mono, -1..1, at the extractor's rate -> features float32 (N, dim)."""
        return torch.stack([self._clip(waveform) for waveform in waveforms])

    def _clip(self, waveform: Tensor) -> Tensor:
        """A waveform (samples,) -> features (dim,), the mean of its windows'."""
        deadlines.check()
        lacking = math.ceil(SHORTEST * self.extractor.sampling_rate) - len(waveform)
        samples = F.pad(waveform, (0, max(0, lacking))).cpu().numpy()
        starts = window_starts(len(samples), self.window)
        means = [self._mean(samples[start : start + self.window], waveform.device) for start in starts]
        return torch.stack(means).mean(dim=0)

    def _mean(self, window: NDArray[np.float32], device: torch.device) -> Tensor:
        """The mean over time of a window's hidden states, (dim,)."""
        made = self._extracted(window, device)
        mask = next((made[name] for name in made if name.endswith("mask")), None)
        states = self.embed(*[made[name].to(device) for name in self._given]).float()
        if states.ndim == 4:  # (1, dim, bands, frames): a network of convolutions or of shifted windows
            return states.mean(dim=(2, 3))[0]
        frames = states.shape[1]
        counted = frames if mask is None else max(1, math.ceil(frames * float(mask.float().mean()) - 1e-6))
        return states[0, :counted].mean(dim=0)

    def _extracted(self, window: NDArray[np.float32], device: torch.device) -> Any:
        """What the extractor makes of a window (samples,): tensors by their names."""
        with torch.autocast(device.type, enabled=False):  # bfloat16 is too coarse for a spectrogram
            return self.extractor(
                window, sampling_rate=self.extractor.sampling_rate, return_tensors="pt", **self._asked
            )

    def embed(self, *inputs: Tensor) -> Tensor:
        """What the extractor has made (1, ...), in its order -> hidden states (1, frames, dim) or (1, dim, ...)."""
        given = dict(zip(self._given, inputs, strict=True))
        outputs = self.model(**given, output_hidden_states=self.layer is not None, return_dict=True)
        if self.layer is None:
            last: Tensor = outputs.last_hidden_state
            return last
        states = outputs.hidden_states
        if not -len(states) <= self.layer < len(states):
            raise _NoSuchLayer(f"has hidden states 0 to {len(states) - 1} (or -1 to -{len(states)}), not {self.layer}.")
        chosen: Tensor = states[self.layer]
        return chosen


def window_starts(samples: int, window: int) -> list[int]:
    """Where as few windows as cover a clip begin, evenly spread; the last one ends with the clip."""
    count = -(-samples // window)
    return [round(float(start)) for start in np.linspace(0, max(0, samples - window), count)]


def _encoder(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a model that hears."""
    for name in _TOWERS:
        if isinstance(tower := getattr(model, name, None), PreTrainedModel):
            return tower
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model
    return encoder


def _window(extractor: Any) -> int:
    """The most samples that an extractor takes at once without cutting them."""
    rate = extractor.sampling_rate
    for name in ("n_samples", "nb_max_samples"):  # Whisper's kind, CLAP's kind
        if samples := getattr(extractor, name, None):
            return int(samples)
    frames = getattr(extractor, "max_length", None)
    if isinstance(frames, int) and hasattr(extractor, "num_mel_bins"):  # AST's kind: Kaldi's frames, 25 ms every 10 ms
        return int(0.025 * rate) + (frames - 1) * int(0.01 * rate)
    return int(LONGEST_WINDOW * rate)
