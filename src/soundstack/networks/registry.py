"""The pre-trained networks: which there are, what each is fed and gives, and where its weights come from.

A network is one file in this folder. It holds a :class:`Network`, registered by the decorator :func:`network`, and all
that belongs to it: the modules, the front end, the way from the published checkpoint to them. No other file names it.

Command lines know :data:`NETWORKS` without loading torch: what the decorators are given is read from the files' text,
and a file is run only when its network is made (:func:`soundstack.networks.build.build`).

A file may also hold an open family: an :class:`OpenNetwork` under the decorator :func:`encoders`, whose networks are
called ``<scheme>:<name>`` (:data:`SCHEMES`). What only a network's own files tell (rate, size of pictures, licence ...)
are its *settings*, which are looked up once and kept with its features and with the served model.

The paper (section 3.3) uses all of them but EfficientNet-Lite0 and BirdNET, which are here because their weights come
with ``pip`` and so need no download site. Numbers in square brackets in the citations are the paper's own.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from soundstack.utils.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

PICTURE_SIZE = 224
"""Width and height in pixels of the pictures that the listed image networks are fed."""

#: What is known of an open network from its own files, as JSON has it. What is called like a field of
#: :class:`NetworkSpec` is one; ``architecture`` and ``revision`` go to the model card; the rest is the family's own.
Settings = Mapping[str, Any]
#: Fields of :class:`NetworkSpec` that the settings of an open network give.
_SET = ("sample_rate", "picture_size", "interpolation", "layer", "licence", "url")
_FOLDER = re.compile(r"~|\.{0,2}[/\\]|\.{1,2}$|[A-Za-z]:[/\\]")
_LONGEST_SLUG = 100


@dataclass(frozen=True)
class NetworkSpec:
    """What a network is fed and what it gives.

    Attributes:
        name: as on the command line.
        module: the Python module that makes it, ``soundstack.networks.<file>``.
        input: ``"picture"``: uint8 (N, 3, size, size); ``"waveform"``: float32 (N, samples), mono, -1..1.
        pretraining: what the published weights were trained on; of open networks ``"pretrained"``.
        dim: number of features a clip; 0: known from the network itself (open ones).
        layer: the layer whose activations are the features.
        url: of the published file of weights; ``package://`` and a path where an installed Python package has it.
        licence: of the weights.
        citation: of the network.
        sample_rate: the rate in Hz at which the waveform must come; ``None``: the clip's own (pictures).
        sha256: of the weights, or its first 8 digits or more (torchvision puts 8 into its files' names).
        md5: of the weights.
        size: of the weights in bytes. ``None`` for these three: the publisher states none.
        picture_size, interpolation: width and height of the pictures in pixels; Pillow's filter that resizes them.
        has_layers: whether another hidden layer may be asked for.
        random: whether it may also have random weights; not where the file is all that is known of the network.
        install: the packages with versions that it needs, as pip takes them, besides this project's environment.
        bfloat16: whether it may compute so; not where its own file says how it computes.
    """

    name: str
    module: str
    input: Literal["picture", "waveform"]
    pretraining: Literal["imagenet", "audioset", "birdsong", "pretrained"]
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
    bfloat16: bool = True
    picture_size: int = PICTURE_SIZE
    interpolation: str = "bicubic"
    has_layers: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it is one of an open family, and so has settings."""
        return ":" in self.name

    @property
    def slug(self) -> str:
        """What files, models and metrics are called after the network: its name, as all of them may be spelt.

        >>> network_spec("hf:MIT/ast-finetuned-audioset-10-10-0.4593").slug
        'hf_MIT_ast-finetuned-audioset-10-10-0.4593'
        """
        return slug(self.name)

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
        """``"deepspectrum"``: image networks on pictures; networks of waveforms: their pre-training, if it is known."""
        if self.input == "picture":
            return "deepspectrum"
        return "audio_encoder" if self.is_open else self.pretraining

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


class OpenNetwork(Network):
    """A network that only its own files describe: one of an open family.

    Args:
        spec: its name and what its family says of it.
        settings: what its files say, as :meth:`look_up` returns it; only :meth:`create` and what follows need it.
    """

    def __init__(self, spec: NetworkSpec, settings: Settings | None = None) -> None:
        super().__init__(spec)
        self.settings = settings or {}

    def look_up(
        self, layer: int | None, weights_dir: Path | str | None, *, random: bool, allow_download: bool = True
    ) -> dict[str, Any]:
        """The settings, from the network's files, which are fetched if need be.

        Args:
            layer: the hidden layer that gives the features; ``None``: the last one.
            weights_dir: looked into first, and fetched into; ``None``: the hub's usual cache.
            random: its weights will be random ones, so that the published ones need not be there.
            allow_download: fetch files that are not there.

        Raises:
            ConfigError: there is no such network or layer.
            WeightsError: the files cannot be had, or cannot be used.
        """
        raise NotImplementedError

    def find_or_fetch(self, weights_dir: Path | str | None, *, allow_download: bool = True) -> Path:
        """The folder of its files, weights included, which are fetched if need be; errors as :meth:`look_up`'s."""
        raise NotImplementedError

    def identity(self, weights_dir: Path | str | None, *, random: bool, allow_download: bool = True) -> str:
        """Tell its files from others by their contents, with ``random`` weights without theirs; errors as above."""
        raise NotImplementedError

    def published(self, weights_dir: Path | str | None, *, allow_download: bool = True) -> nn.Module:
        """What :meth:`create` makes, with the published weights.

        Raises:
            WeightsError: they cannot be had, or are of another network.
        """
        raise NotImplementedError

    def try_out(self, net: nn.Module) -> None:
        """Check what :meth:`features` made of a network before anything is made with it.

        Raises:
            ConfigError, WeightsError: it does not give features.
        """


_FAMILIES: dict[str, type[Network]] = {}
_OPEN_FAMILIES: dict[str, type[OpenNetwork]] = {}

Family = TypeVar("Family", bound=type[Network])
OpenFamily = TypeVar("OpenFamily", bound=type[OpenNetwork])


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


def encoders(scheme: str, *, names: str, form: str, **shared: Any) -> Callable[[OpenFamily], OpenFamily]:
    """Register an :class:`OpenNetwork` for all networks called ``<scheme>:<name>``.

    Args:
        scheme: before the colon.
        names: a regular expression of what stands behind it; a folder may stand there, too.
        form: of the names, for messages.
        shared: what a :class:`NetworkSpec` needs, as in :func:`network`.
    """
    del names, form, shared

    def register(family: OpenFamily) -> OpenFamily:
        _OPEN_FAMILIES[scheme] = family
        return family

    return register


@dataclass(frozen=True)
class Scheme:
    """What the decorator :func:`encoders` of an open family says."""

    name: str
    module: str
    names: str
    form: str
    shared: Mapping[str, Any]

    def spec(self, name: str) -> NetworkSpec:
        """The network of this name, without what only its files tell."""
        unknown: dict[str, Any] = {"pretraining": "pretrained", "dim": 0, "url": "", "licence": "not stated"}
        return NetworkSpec(name=name, module=self.module, **(unknown | dict(self.shared)))


def folder_of(name: str) -> Path | None:
    """The folder that an open network's name gives (``hf:/path``, ``timm:./path``); ``None``: it gives none."""
    scheme, _, rest = name.partition(":")
    return Path(rest) if scheme in SCHEMES and _FOLDER.match(rest) else None


def slug(name: str) -> str:
    """See :attr:`NetworkSpec.slug`. A folder is called by its own name, and what is long or foreign gets a digest.

    Names of other systems stay as they are; of a pattern, what a name cannot have is replaced alone.
    """
    scheme, _, rest = name.partition(":")
    if scheme not in SCHEMES:
        return name
    if set(name) & set("*?["):
        return re.sub(r"[:/@]+", "_", name)
    folder = folder_of(name)
    word = f"{scheme}_{rest if folder is None else folder.name}"
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", word).strip("_.-")
    if len(plain) <= _LONGEST_SLUG and word.isascii():
        return plain
    digest = hashlib.sha256(word.encode("utf-8", "surrogateescape")).hexdigest()[:6]
    return f"{plain[: _LONGEST_SLUG - 7].rstrip('_.-')}_{digest}"


def network_spec(name: str, pretraining: str | None = None, settings: Settings | None = None) -> NetworkSpec:
    """Look up a network, and check that it has the weights asked for.

    Of an open network the form of the name is checked alone, and ``settings`` tell what only its files know.

    Raises:
        ConfigError: no network of this name, or none with such weights.
    """
    scheme = SCHEMES.get(name.partition(":")[0]) if ":" in name else None
    if scheme is not None:
        if folder_of(name) is None and not re.fullmatch(scheme.names, name.partition(":")[2]):
            raise ConfigError(
                f"network: {name!r} is not of the form {scheme.form}, {scheme.name}:/path/to/folder or "
                f"{scheme.name}:./folder."
            )
        known = settings or {}
        spec = replace(scheme.spec(name), **{field: known[field] for field in _SET if field in known})
    elif name in NETWORKS:
        spec = NETWORKS[name]
    else:
        forms = " or ".join(each.form for each in SCHEMES.values())
        raise ConfigError(f"network: {name!r} is not known; choose one of {', '.join(NETWORKS)}, or give {forms}.")
    if pretraining is not None and pretraining not in spec.pretrainings:
        raise ConfigError(
            f"pretraining: {name} has no {pretraining!r} weights; choose {' or '.join(spec.pretrainings)}."
        )
    return spec


def load(name: str, settings: Settings | None = None) -> Network:
    """Run a network's file, and return what makes the network; an open one is made by its ``settings``.

    Raises:
        ConfigError: no network of this name.
    """
    spec = network_spec(name, settings=settings)
    import_module(spec.module)
    if spec.is_open:
        return _OPEN_FAMILIES[name.partition(":")[0]](spec, settings)
    return _FAMILIES[name](spec)


def load_open(name: str, settings: Settings | None = None) -> OpenNetwork | None:
    """As :func:`load` for an open network; ``None`` for a listed one."""
    network = load(name, settings) if ":" in name else None
    return network if isinstance(network, OpenNetwork) else None


def _decorators(file: Path, called: str) -> Iterator[ast.Call]:
    """The calls of a decorator in a file's text."""
    text = file.read_text(encoding="utf-8")
    if f"\n@{called}(" not in text:  # most files hold none, and need no parsing
        return
    for node in ast.parse(text).body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(call, ast.Call) and ast.unparse(call.func) == called:
                yield call


def _registered(file: Path) -> Iterator[NetworkSpec]:
    """The networks of a file, by the decorators in its text.

    Raises:
        ValueError: a decorator is given something that is not written out.
    """
    for call in _decorators(file, "network"):
        try:
            shared: dict[str, Any] = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
            for name, own in ast.literal_eval(call.args[0]).items():
                yield NetworkSpec(name=name, module=f"{__package__}.{file.stem}", **own, **shared)
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(
                f"{file}, line {call.lineno}: give @network what a NetworkSpec needs, written out without "
                f"variables: it is read without running the file ({error})."
            ) from None


def _schemes(file: Path) -> Iterator[Scheme]:
    """The open families of a file, by the decorators in its text."""
    for call in _decorators(file, "encoders"):
        given: dict[str, Any] = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        names, form = given.pop("names"), given.pop("form")
        yield Scheme(ast.literal_eval(call.args[0]), f"{__package__}.{file.stem}", names, form, given)


NETWORKS: dict[str, NetworkSpec] = {
    spec.name: spec for file in sorted(Path(__file__).parent.glob("*.py")) for spec in _registered(file)
}
"""Every listed network by its name."""

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme for file in sorted(Path(__file__).parent.glob("*.py")) for scheme in _schemes(file)
}
"""The open families by what stands before the colon."""


def network_modules() -> set[str]:
    """The modules of all networks."""
    return {network.module for network in NETWORKS.values()} | {scheme.module for scheme in SCHEMES.values()}
