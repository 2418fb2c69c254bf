"""Any image network of timm (PyTorch Image Models) on pictures of spectrograms, by its name there.

Size, mean, deviation and interpolation of the pictures are what timm itself states for the weights; the features are
those that its classifier would be given, pooled. Weights come from the repository of the Hugging Face hub that timm
names, or from a folder as ``timm.models.save_for_hf`` writes it (``config.json`` and ``model.safetensors``).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.models._hub import load_model_config_from_path
from torch import Tensor, nn

from soundstack.networks.hub import Source
from soundstack.networks.picture_network import PictureNetwork
from soundstack.networks.registry import OpenNetwork, encoders
from soundstack.utils.errors import ConfigError, WeightsError

#: What of timm's description of the weights does not make the network: where they are from, and its classes' names.
_ELSEWHERE = (
    "url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "label_names", "label_descriptions",
    "description",
)  # fmt: skip


@encoders(
    "timm",
    names=r"\w+(\.\w+)?",
    form="timm:NAME",
    input="picture",
    layer="the pool before the classifier",
    citation="Wightman, PyTorch Image Models, 2019",
)
class TimmEncoder(OpenNetwork):
    """The classifier is dropped."""

    def look_up(
        self, layer: int | None, weights_dir: Path | str | None, *, random: bool, allow_download: bool = True
    ) -> dict[str, Any]:
        """See :class:`OpenNetwork`. Of a name with random weights nothing is fetched: timm knows it."""
        if layer is not None:
            raise ConfigError(f"layer: {self.spec.name} gives its pooled features alone; leave layer out.")
        source = self._source()
        architecture, arguments, known = self._described(source)
        channels, height, width = known["input_size"]
        if channels != 3 or height != width:
            raise ConfigError(
                f"network: {self.spec.name} takes pictures of {channels} x {height} x {width}; only square ones in "
                "three colours are made here."
            )
        revision = ""
        if not random:
            revision = source.find_or_fetch(weights_dir, whole=True, allow_download=allow_download).revision
        resampling = known.get("interpolation", "bicubic")
        page = source.url
        return {
            "architecture": architecture,
            "arguments": arguments,
            "revision": revision,
            "licence": known.get("license") or (f"not stated: see {page}" if page else "not stated"),
            "url": page,
            "picture_size": height,
            "interpolation": resampling if resampling.upper() in Image.Resampling.__members__ else "bicubic",
            "pretrained_cfg": {name: value for name, value in known.items() if name not in _ELSEWHERE},
        }

    def find_or_fetch(self, weights_dir: Path | str | None, *, allow_download: bool = True) -> Path:
        """See :class:`OpenNetwork`."""
        return self._source().find_or_fetch(weights_dir, whole=True, allow_download=allow_download).folder

    def identity(self, weights_dir: Path | str | None, *, random: bool, allow_download: bool = True) -> str:
        """See :class:`OpenNetwork`. What makes a network of a name is timm's code, whose version is kept elsewhere."""
        source = self._source()
        if random and source.folder is None:
            return "timm"
        return source.identity(weights_dir, whole=not random, allow_download=allow_download)

    def create(self) -> nn.Module:
        """See :class:`Network`: with its classifier, from the settings."""
        return self._made()

    def published(self, weights_dir: Path | str | None, *, allow_download: bool = True) -> nn.Module:
        """See :class:`OpenNetwork`. The file passes timm's own filter for this architecture, then loads strictly."""
        source = self._source()
        paths = source.weight_files(self.find_or_fetch(weights_dir, allow_download=allow_download))
        assert paths is not None  # or they would not have been found
        if len(paths) > 1:
            raise WeightsError(f"{self.spec.name} is in {len(paths)} files of weights, which timm does not read.")
        try:
            return self._made(pretrained=True, pretrained_cfg={"file": str(paths[0]), "custom_load": False})
        except Exception as error:  # of many kinds, and long
            raise WeightsError(f"{paths[0]} is not of {self.spec.name}: {_short(error)}") from error

    def _made(self, pretrained: bool = False, pretrained_cfg: Mapping[str, Any] | None = None) -> nn.Module:
        known = self.settings
        whole: nn.Module = timm.create_model(
            known["architecture"],
            pretrained=pretrained,
            pretrained_cfg={**known["pretrained_cfg"], **(pretrained_cfg or {})},
            **known["arguments"],
        )
        return whole

    def features(self, whole: Any) -> PictureNetwork:
        """See :class:`Network`."""
        whole.reset_classifier(0)
        known = self.settings["pretrained_cfg"]
        mean, deviation = (tuple(255 * each for each in known[name]) for name in ("mean", "std"))
        return PictureNetwork(_Pooled(whole), mean, deviation, size=self.settings["picture_size"])

    def try_out(self, net: nn.Module) -> None:
        """See :class:`OpenNetwork`."""
        size = self.settings["picture_size"]
        try:
            with torch.inference_mode():
                shape = tuple(net(torch.zeros(1, 3, size, size, dtype=torch.uint8)).shape)
        except Exception as error:
            raise WeightsError(f"{self.spec.name} cannot be used: {_short(error)}") from error
        if len(shape) != 2:
            raise WeightsError(f"{self.spec.name} gives no pooled features, but {shape} a picture.")

    def _described(self, source: Source) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Architecture, arguments, and timm's description of the weights."""
        if source.folder is not None:
            folder = replace(source, needed=("config.json",)).find_or_fetch(None, whole=False).folder
            try:
                described, architecture, arguments = load_model_config_from_path(folder)
                known = timm.models.PretrainedCfg(**described).to_dict()
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise WeightsError(f"{folder / 'config.json'} is not one of timm ({error}).") from error
            if not timm.is_model(architecture):
                raise WeightsError(f"{self.spec.name}: timm {timm.__version__} has no {architecture!r}.")
            return architecture, arguments, known
        name = self.spec.name.partition(":")[2]
        described = timm.models.get_pretrained_cfg(name)
        assert described is not None  # or _source had refused it
        return name.partition(".")[0], {}, described.to_dict()

    def _source(self) -> Source:
        """Where the weights are.

        Raises:
            ConfigError: timm knows no network of this name, or no weights of it on the hub.
        """
        source = Source.of(self.spec.name)
        if source.folder is not None:
            return source
        name = self.spec.name.partition(":")[2]
        try:
            known = timm.models.get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError:  # of the architecture or of its weights
            known = None
        if known is None:
            raise ConfigError(f"network: timm {timm.__version__} has no {name!r}{_nearest(name)}")
        if not known.hf_hub_id:
            raise ConfigError(f"network: timm has no weights of {name!r} on the Hugging Face hub{_nearest(name)}")
        file = Path(known.hf_hub_filename or "model.safetensors")
        if file.suffix != ".safetensors":
            file = file.with_suffix(".safetensors")
        return replace(source, repository=known.hf_hub_id, revision="main", weights=file.name, needed=())


class _Pooled(nn.Module):
    """Picture by picture on a CPU: a matrix product's last digit depends on how many rows it has."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:  # (N, 3, size, size) -> (N, dim)
        return self.net(x) if x.is_cuda else torch.cat([self.net(each) for each in x.split(1)])


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _nearest(name: str) -> str:
    """The end of a sentence about a name: names that a user may have meant."""
    base, _, _ = name.partition(".")
    known = timm.list_models()
    close = [base] if base in known else difflib.get_close_matches(base, known, n=3)
    names = [full for each in close for full in timm.list_models(f"{each}.*", pretrained=True)]
    best = difflib.get_close_matches(name, names, n=5, cutoff=0.0)
    return f"; did you mean {', '.join(f'timm:{each}' for each in best)}?" if best else "."
