"""The pre-trained networks: which there are, what each is fed and gives, and where its weights come from.

A network is one file in this folder. It holds a :class:`Network`, registered by the decorator :func:`network`, and all
that belongs to it: the modules, the front end, the way from the published checkpoint to them. No other file names it.

Command lines know :data:`NETWORKS` without loading torch: what the decorators are given is read from the files' text,
and a file is run only when its network is made (:func:`soundstack.networks.build.build`).

The paper (section 3.3) uses all of them but EfficientNet-Lite0 and BirdNET, which are here because their weights come
with ``pip`` and so need no download site. Numbers in square brackets in the citations are the paper's own.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from soundstack.utils.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

PICTURE_SIZE = 224
"""Width and height in pixels of the pictures that the image networks are fed."""


@dataclass(frozen=True)
class NetworkSpec:
    """What a network is fed and what it gives.

    Attributes:
        name: as on the command line.
        module: the Python module that makes it, ``soundstack.networks.<file>``.
        input: ``"picture"``: uint8 (N, 3, 224, 224); ``"waveform"``: float32 (N, samples), mono, -1..1.
        pretraining: what the published weights were trained on.
        dim: number of features a clip.
        layer: the layer whose activations are the features.
        url: of the published file of weights; ``package://`` and a path where an installed Python package has it.
        licence: of the weights.
        citation: of the network.
        sample_rate: the rate in Hz at which the waveform must come; ``None``: the clip's own (pictures).
        sha256: of the weights, or its first 8 digits or more (torchvision puts 8 into its files' names).
        md5: of the weights.
        size: of the weights in bytes. ``None`` for these three: the publisher states none.
        random: whether it may also have random weights; not where the file is all that is known of the network.
        install: the packages with versions that it needs, as pip takes them, besides this project's environment.
    """

    name: str
    module: str
    input: Literal["picture", "waveform"]
    pretraining: Literal["imagenet", "audioset", "birdsong"]
    dim: int
    layer: str
    url: str
    licence: str
    citation: str
    sample_rate: int | None = None
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    random: bool = True
    install: str = ""

    @property
    def file(self) -> str:
        """Name of the file of weights."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name

    @property
    def non_commercial(self) -> bool:
        """Whether the licence of the weights forbids commercial use."""
        return re.search(r"\bNC\b|non-?commercial", self.licence, re.IGNORECASE) is not None

    @property
    def how_to_install(self) -> str:
        """What a user does to have the packages that this network needs; empty where it needs none."""
        return f"pip install {self.install}, or take the # off their lines in conda.yaml" if self.install else ""

    @property
    def family(self) -> str:
        """``"deepspectrum"``: image networks on pictures of spectrograms; networks of waveforms: their pre-training."""
        return "deepspectrum" if self.input == "picture" else self.pretraining

    @property
    def pretrainings(self) -> tuple[str, ...]:
        """The published weights first, then ``"none"``, random weights, if it may have them."""
        return (self.pretraining, "none") if self.random else (self.pretraining,)


class Network:
    """How a network is made, and what of it gives the features. A family says what differs from this.

    Args:
        spec: which network of the family.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec

    def create(self) -> nn.Module:
        """The whole network as published, with its published random initialisation, from torch's generator."""
        raise NotImplementedError

    def adapt(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """The published state dict with exactly the names that :meth:`create`'s modules have.

        Args:
            state: name to tensor, as published.
            source: where the state is from, for messages.

        Raises:
            WeightsError: the checkpoint is of another network, in a way that names and shapes do not tell.
        """
        del source
        return dict(state)

    def features(self, whole: nn.Module) -> nn.Module:
        """What is left of the whole network: raw input (see :class:`NetworkSpec`) to features float32 (N, dim).

        What its method ``embed`` does, if it has one, is done by OpenVINO on a CPU: tensors (N, ...) to features.
        """
        return whole


_FAMILIES: dict[str, type[Network]] = {}

Family = TypeVar("Family", bound=type[Network])


def network(variants: Mapping[str, Mapping[str, Any]], **shared: Any) -> Callable[[Family], Family]:
    """Register a :class:`Network` under the names of ``variants``.

    What a :class:`NetworkSpec` needs is given for each variant, or for all of them in ``shared``. It must be written
    out, without variables: it is read from the file's text (:func:`_registered`).
    """
    del shared

    def register(family: Family) -> Family:
        _FAMILIES.update(dict.fromkeys(variants, family))
        return family

    return register


def network_spec(name: str, pretraining: str | None = None) -> NetworkSpec:
    """Look up a network, and check that it has the weights asked for.

    Raises:
        ConfigError: no network of this name, or none with such weights.
    """
    if name not in NETWORKS:
        raise ConfigError(f"network: {name!r} is not known; choose one of {', '.join(NETWORKS)}.")
    spec = NETWORKS[name]
    if pretraining is not None and pretraining not in spec.pretrainings:
        raise ConfigError(
            f"pretraining: {name} has no {pretraining!r} weights; choose {' or '.join(spec.pretrainings)}."
        )
    return spec


def load(name: str) -> Network:
    """Run a network's file, and return what makes the network.

    Raises:
        ConfigError: no network of this name.
    """
    spec = network_spec(name)
    import_module(spec.module)
    return _FAMILIES[name](spec)


def _registered(file: Path) -> Iterator[NetworkSpec]:
    """The networks of a file, by the decorators in its text.

    Raises:
        ValueError: a decorator is given something that is not written out.
    """
    text = file.read_text(encoding="utf-8")
    if "\n@network(" not in text:  # most files hold no network, and need no parsing
        return
    for node in ast.parse(text).body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if not isinstance(call, ast.Call) or ast.unparse(call.func) != "network":
                continue
            try:
                shared: dict[str, Any] = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
                for name, own in ast.literal_eval(call.args[0]).items():
                    yield NetworkSpec(name=name, module=f"{__package__}.{file.stem}", **own, **shared)
            except (ValueError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(
                    f"{file}, line {call.lineno}: give @network what a NetworkSpec needs, written out without "
                    f"variables: it is read without running the file ({error})."
                ) from None


NETWORKS: dict[str, NetworkSpec] = {
    spec.name: spec for file in sorted(Path(__file__).parent.glob("*.py")) for spec in _registered(file)
}
"""Every network by its name."""
