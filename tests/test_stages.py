"""A network cut for training: the parts make the whole, what is below stays as it is, what is above learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import small_networks
from soundstack.config.finetune import FinetuneConfig
from soundstack.config.lowdata import LowdataConfig
from soundstack.config.suite import system_step
from soundstack.networks.build import build
from soundstack.networks.registry import NETWORKS, load_open
from soundstack.networks.stages import Split, split

CHAINS = [name for name, spec in NETWORKS.items() if spec.input == "picture" or name.startswith("panns")]
DEPTHS = (0.0, 0.3, 1.0)


def inputs(net: Any, rate: int = 32_000) -> Tensor:
    if hasattr(net, "size"):
        return torch.randint(0, 256, (2, 3, net.size, net.size), dtype=torch.uint8)
    return 0.1 * torch.randn(2, rate)


def whole(cut: Split, given: Tensor) -> Tensor:
    lower: Any = cut.lower or nn.Identity()
    features: Tensor = cut.upper(lower(given))
    return features


def trained(net: nn.Module) -> set[str]:
    return {name for name, weight in net.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("name", CHAINS)
def test_the_parts_of_every_chain_make_the_whole_at_any_depth(name: str) -> None:
    net = build(name, "none", seed=0)
    given = inputs(net)
    with torch.inference_mode():
        expected, counts = net(given), []
        for depth in DEPTHS:
            cut = split(net, depth)
            torch.testing.assert_close(whole(cut, given), expected)
            counts.append(len(cut.layers))
            assert len(trained(net)) == sum(len(weights) for weights in cut.weights())
    layers = counts[-1]
    assert counts == [0, max(1, round(0.3 * layers)), layers]
    assert layers >= 4


@pytest.mark.parametrize("name", ["efficientnet_lite0", "panns_wavegram_logmel_cnn14"])
def test_what_lies_below_the_cut_has_no_gradient_and_the_layers_above_have(name: str) -> None:
    net = build(name, "none", seed=0)
    cut = split(net, 0.3)
    whole(cut, inputs(net)).square().sum().backward()
    learning = {name for name, weight in net.named_parameters() if weight.grad is not None}
    assert learning == trained(net)
    assert 0 < len(learning) < len(list(net.parameters()))
    assert cut.lower is not None
    assert not any(weight.requires_grad for weight in cut.lower.parameters())


def test_depthwise_kernels_are_held() -> None:
    net = build("efficientnet_lite0", "none", seed=0)
    split(net, 1.0)
    kernels = [each for each in net.modules() if isinstance(each, nn.Conv2d)]
    assert {each.groups > 1 for each in kernels} == {True, False}
    assert all(each.weight.requires_grad == (each.groups == 1) for each in kernels)


def test_saving_memory_changes_no_gradient() -> None:
    found = []
    for saving in (False, True):
        net = build("efficientnet_lite0", "none", seed=0)
        torch.manual_seed(0)
        given, cut = inputs(net), split(net, 0.2)
        if saving:
            cut.save_memory()
        whole(cut, given).square().sum().backward()
        found.append([weight.grad for layer in cut.weights() for weight in layer])
    for plain, saved in zip(*found, strict=True):
        torch.testing.assert_close(saved, plain)


@pytest.mark.parametrize("kind", ["ast", "wav2vec2", "test_vit", "test_convnext"])
def test_of_open_networks_the_upper_blocks_learn(kind: str, tmp_path: Path) -> None:
    scheme = "timm" if kind in small_networks.PICTURES else "hf"
    name = f"{scheme}:{small_networks.save(tmp_path / kind, kind)}"
    network = load_open(name)
    assert network is not None
    settings = json.loads(json.dumps(network.look_up(None, None, random=False)))
    net = build(name, "pretrained", seed=0, settings=settings)
    given = inputs(net, 16_000)
    with torch.no_grad():
        expected = net(given)
    counts = []
    for depth in (0.3, 1.0):
        cut = split(net, depth)
        torch.testing.assert_close(whole(cut, given), expected, atol=1e-5, rtol=1e-4)
        whole(cut, given).square().sum().backward()
        learning = {name for name, weight in net.named_parameters() if weight.grad is not None}
        assert learning <= trained(net)
        assert learning
        counts.append(len(trained(net)))
        net.zero_grad(set_to_none=True)
    assert 0 < counts[0] < counts[1]


def test_a_network_that_is_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match="birdnet cannot be trained further"):
        FinetuneConfig(network="birdnet")
    with pytest.raises(ValueError, match=r"systems\n.*birdnet cannot be trained further"):
        LowdataConfig(systems="crnn,finetune-birdnet-birdsong")


def test_systems_name_the_step_that_trains_them() -> None:
    chosen = {"network": "efficientnet_lite0", "pretraining": "imagenet"}
    assert system_step("finetune-efficientnet_lite0-imagenet") == ("finetune", chosen)
    assert system_step("efficientnet_lite0-imagenet") == ("deepspectrum", chosen)
    assert system_step("crnn") == ("crnn", {})
