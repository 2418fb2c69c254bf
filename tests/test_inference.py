"""The networks' faster form: the plain networks' features, with less done for them."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from counted_operations import Operations
from soundstack.audio.decode import AudioSpec
from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec
from soundstack.networks.build import arrange, build
from soundstack.networks.cpu import winograd
from soundstack.networks.cpu.convolution import BATCH
from soundstack.networks.cpu.winograd import WinogradConv, pays
from soundstack.networks.registry import NETWORKS, load

AUDIO = [name for name, spec in NETWORKS.items() if spec.input == "waveform" and spec.random]
LIGHT = ["efficientnet_lite0", "densenet121", "resnet50", "panns_cnn10", "openl3_mel256_env_512"]
ALL = [name for name, spec in NETWORKS.items() if spec.random and name != "vgg19"]  # VGG19 has more of VGG16's layers

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


def lively(name):
    """A network whose batch norms are not the identity, and some of whose channels are turned round or dead."""
    net = build(name, "none", seed=3)
    generator = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.normal_(1, 0.3, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            if module.num_features > 1:
                module.weight.data[0], module.weight.data[1] = -1.0, 0.0
    return net


def pictures(count=3):
    return torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def batches(name, count=3):
    """What the network is fed: pictures, or waveforms of two lengths, the first shorter than the pools need."""
    if name not in AUDIO:
        return [pictures(count)]
    generator = torch.Generator().manual_seed(1)
    lengths = (3_001, 32_000)
    if name.startswith("openl3"):
        lengths, count = (12_000, 28_800), min(count, 2)  # 1 and 2 windows, each of which takes long
    return [0.1 * torch.randn((count, length), generator=generator) for length in lengths]


def run(forward, batch):
    with torch.inference_mode():
        return forward(batch)


def operations(forward, batch):
    with torch.no_grad(), Operations() as counted:  # inference mode would show whole layers
        forward(batch)
    return counted.counts


@pytest.fixture(scope="module", params=ALL)
def both(request):
    """A network's name, the network, and its faster form."""
    net = lively(request.param)
    return request.param, net, arrange(request.param, net)


def test_the_faster_form_gives_the_plain_networks_features(both):
    name, net, fast = both
    for batch in batches(name):
        plain, found = run(net, batch), run(fast, batch)
        assert found.shape == plain.shape
        assert found.dtype == torch.float32
        assert F.cosine_similarity(found.double(), plain.double()).min() > 0.999999
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-4 * float(plain.abs().max()))


def test_features_do_not_depend_on_the_batch_they_are_made_in(both):
    name, _, fast = both
    batch = batches(name)[0]
    alone, together = torch.cat([run(fast, one) for one in batch.split(1)]), run(fast, batch)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5 * float(together.abs().max()))


def test_convolutions_do_the_work_of_batch_norms_activations_and_additions(both):
    name, net, fast = both
    batch = batches(name, count=1)[0]
    plain, found = operations(net, batch), operations(fast, batch)
    convolutions = found["_convolution_pointwise"] + found["_convolution_pointwise_"]
    by_winograd = sum(pays(module) for module in net.modules() if isinstance(module, nn.Conv2d))
    assert convolutions + by_winograd == plain["convolution"]
    assert (by_winograd > 0) == (name in {"vgg16", "resnet50", *AUDIO})
    # DenseNet's last batch norm, and the first of audio networks, have no convolution to go into.
    assert sum(count for key, count in found.items() if "batch_norm" in key) == (name in {"densenet121", *AUDIO})
    if name not in AUDIO:
        assert found["add_"] == found["bmm"]  # Winograd's biases, once for some tiles
        assert found["cat"] + found["add"] + found["hardtanh_"] == 0


def test_making_it_changes_nothing_in_the_network():
    for name in LIGHT:
        net = lively(name)
        before = {key: value.clone() for key, value in net.state_dict().items()}
        arrange(name, net)
        assert net.state_dict().keys() == before.keys()
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_networks_without_a_faster_form_and_torch_without_onednn_run_as_they_are(monkeypatch):
    monkeypatch.setattr(type(load("vgg19")), "on_cpu", None)
    assert arrange("vgg19", nn.Identity()) is None
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert arrange("resnet50", nn.Identity()) is None
    assert arrange("panns_cnn10", nn.Identity()) is None


def spec(name="efficientnet_lite0", **options):
    return EmbeddingSpec(name, "none", AudioSpec(NETWORKS[name].sample_rate or 16000, 1.0), **options)


def waves(count=20):
    return (0.1 * np.random.default_rng(0).standard_normal((count, 16000))).astype(np.float32)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "panns_cnn10"])
def test_an_embedder_takes_the_faster_form_unless_it_is_switched_off(name):
    device = torch.device("cpu")
    fast, plain = Embedder.build(spec(name), device), Embedder.build(spec(name, shortcuts=False), device)
    found, expected = fast(waves(3)), plain(waves(3))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert (found != expected).any()  # another order of additions: else the switch would do nothing


def test_an_embedder_saves_the_network_as_published_and_restores_the_same_features():
    device = torch.device("cpu")
    embedder = Embedder.build(spec(), device)
    state = embedder.network.state_dict()
    assert any(key.endswith("running_mean") for key in state)
    again = Embedder.restore(spec(), state, device)
    np.testing.assert_array_equal(again(waves(3)), embedder(waves(3)))


def test_clips_go_through_the_network_in_batches_and_through_the_picture_once():
    embedder = Embedder.build(spec(), torch.device("cpu"))
    forward, sizes = embedder._forward, []
    embedder._forward = lambda batch: (sizes.append(len(batch)), forward(batch))[1]
    embedder(waves(20))
    assert sizes == [BATCH, 20 - BATCH]


def direct(x, weight, bias, activation, pool):
    y = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    y = y.relu() if activation == "relu" else y
    return {"none": lambda y, _: y, "mean": F.avg_pool2d, "maximum": F.max_pool2d}[pool](y, 2).float()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (1, 3), (14, 10), (56, 5), (15, 2), (1, 2)])
@pytest.mark.parametrize(("inputs", "outputs"), [(5, 3), (128, 160)])
def test_winograds_convolution_is_the_direct_one(height, width, inputs, outputs, monkeypatch):
    generator = torch.Generator().manual_seed(height * width)
    x = torch.randn((3, inputs, height, width), generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn((outputs, inputs, 3, 3), generator=generator)
    bias = torch.randn(outputs, generator=generator)
    for tiles in (1, 4, 40, 512):  # line by line, some lines, some clips, all at once
        monkeypatch.setattr(winograd, "TILES_AT_ONCE", tiles)
        for activation, pool in product(("none", "relu"), ("none", "mean", "maximum") if height > 1 else ("none",)):
            expected = direct(x, weight, bias, activation, pool)
            for two_wide in {False, width == 2}:
                found = WinogradConv(weight, bias, activation, pool=pool, two_wide=two_wide)(x)
                assert found.is_contiguous(memory_format=torch.channels_last)
                torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


def test_winograd_is_for_wide_3x3_convolutions_with_stride_1():
    assert pays(nn.Conv2d(128, 128, 3, padding=1))
    assert pays(nn.Conv2d(64, 128, 3, padding=1))
    for other in (
        nn.Conv2d(64, 64, 3, padding=1),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3, padding=1, groups=128),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 3, padding=2, dilation=2),
    ):
        assert not pays(other)
