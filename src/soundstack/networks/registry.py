"""The pre-trained networks: which there are, what each is fed and gives, and where its weights come from.

A network is one file in this folder. It holds a :class:`Network`, registered by the decorator :func:`network`, and all
that belongs to it: the modules, the front end, the way from the published checkpoint to them. No other file names it.

Command lines know :data:`NETWORKS` without loading torch: what the decorators are given is read from the files' text,
and a file is run only when its network is made (:func:`soundstack.networks.build.build`).

The paper (section 3.3) uses all of them but EfficientNet-Lite0, which is here because its ImageNet weights come with
``pip`` and so need no download site. Numbers in square brackets in the citations are the paper's own.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from soundstack.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

PICTURE_SIZE = 224
"""Width and height in pixels of the pictures that the image networks are fed."""


@dataclass(frozen=True)
class WeightsFile:
    """A published file of weights.

    ``sha256`` may be a prefix (torchvision puts 8 digits of it into its file names); ``None`` means that the
    publisher states no checksum, or no size in bytes.
    """

    url: str
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """The file's name, as in the address."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that an installed Python package carries: ``path`` is relative to the package's folder."""

    package: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Variant:
    """One network of a family: its number of features a clip, and its published weights."""

    dim: int
    weights: WeightsFile | PackagedWeights


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
        weights: the published weights.
        licence: of the weights.
        citation: of the network.
        sample_rate: the rate in Hz at which the waveform must come; ``None``: the clip's own (pictures).
    """

    name: str
    module: str
    input: Literal["picture", "waveform"]
    pretraining: Literal["imagenet", "audioset"]
    dim: int
    layer: str
    weights: WeightsFile | PackagedWeights
    licence: str
    citation: str
    sample_rate: int | None = None

    @property
    def family(self) -> Literal["deepspectrum", "audioset"]:
        """``"deepspectrum"``: image networks on pictures of spectrograms; ``"audioset"``: networks of waveforms."""
        return "deepspectrum" if self.input == "picture" else "audioset"

    @property
    def pretrainings(self) -> tuple[str, str]:
        """The published weights first, then ``"none"``: random weights."""
        return self.pretraining, "none"


class Network:
    """How a network is made, and what of it gives the features. A family says what differs from this.

    Args:
        spec: which network of the family.

    Attributes:
        on_cpu: a class of :mod:`soundstack.networks.cpu` whose objects, made from what :meth:`features` returns, are a
            faster function of the same input on a CPU; ``None``: there is none.
    """

    on_cpu: ClassVar[type[Any] | None] = None

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
        """What is left of the whole network: raw input (see :class:`NetworkSpec`) to features float32 (N, dim)."""
        return whole


_FAMILIES: dict[str, type[Network]] = {}

Family = TypeVar("Family", bound=type[Network])


def network(
    variants: Mapping[str, Variant],
    *,
    input: Literal["picture", "waveform"],
    pretraining: Literal["imagenet", "audioset"],
    layer: str,
    licence: str,
    citation: str,
    sample_rate: int | None = None,
) -> Callable[[Family], Family]:
    """Register a :class:`Network` for the names of ``variants``; for the rest see :class:`NetworkSpec`.

    All arguments must be written out, without variables: they are read from the file's text as well.
    """

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
    if "@network(" not in text:  # most files hold no network, and need no parsing
        return
    for node in ast.parse(text).body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if not isinstance(call, ast.Call) or ast.unparse(call.func) != "network":
                continue
            try:
                shared: dict[str, Any] = {str(word.arg): _written(word.value) for word in call.keywords}
                for name, variant in _written(call.args[0]).items():
                    yield NetworkSpec(name=name, module=f"{__package__}.{file.stem}", **vars(variant), **shared)
            except (ValueError, TypeError, LookupError) as error:
                raise ValueError(
                    f"{file}, line {call.lineno}: give @network all that it needs, written out without variables, as "
                    f"it is read without running the file ({error})."
                ) from None


def _written(node: ast.expr | None) -> Any:
    """The value of an expression of literals, variants, and files of weights."""
    if isinstance(node, ast.Dict):
        return dict(zip(map(_written, node.keys), map(_written, node.values), strict=True))
    if isinstance(node, ast.Call):
        kinds: dict[str, Any] = {kind.__name__: kind for kind in (Variant, WeightsFile, PackagedWeights)}
        words = {str(word.arg): _written(word.value) for word in node.keywords}
        return kinds[ast.unparse(node.func)](*map(_written, node.args), **words)
    return ast.literal_eval(node) if node else None


NETWORKS: dict[str, NetworkSpec] = {
    spec.name: spec for file in sorted(Path(__file__).parent.glob("*.py")) for spec in _registered(file)
}
"""Every network by its name."""
