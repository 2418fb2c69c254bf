"""Networks by OpenVINO: the plain networks' features in less time."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from soundstack.audio.decode import AudioSpec
from soundstack.config.steps import DeepSpectrumConfig
from soundstack.deepspectrum.embedding import BATCH, Embedder, EmbeddingSpec
from soundstack.deepspectrum.extract import embedding_spec
from soundstack.networks import cpu
from soundstack.networks.build import build
from soundstack.networks.registry import NETWORKS
from soundstack.utils import project
from soundstack.utils.errors import ConfigError

AUDIO = [name for name, spec in NETWORKS.items() if spec.input == "waveform" and spec.random]
LIGHT = ["efficientnet_lite0", "densenet121", "resnet50", "panns_cnn10", "openl3_mel256_env_512"]
ALL = [name for name, spec in NETWORKS.items() if spec.random and name != "vgg19"]  # VGG19 has more of VGG16's layers


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


@pytest.fixture(scope="module", params=ALL)
def both(request):
    """A network's name, the network, and its form by OpenVINO in float32."""
    net = lively(request.param)
    return request.param, net, cpu.on_cpu(net, "float32")


def test_openvino_gives_the_plain_networks_features(both):
    name, net, fast = both
    for batch in batches(name):
        plain, found = run(net, batch), run(fast, batch)
        assert found.shape == plain.shape
        assert found.dtype == torch.float32
        assert F.cosine_similarity(found.double(), plain.double()).min() > 0.999999
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LIGHT)
def test_features_are_equal_to_the_last_bit_in_any_batch_and_on_any_number_of_threads(name, precision, monkeypatch):
    net = lively(name)
    batch = batches(name)[0]
    found = run(cpu.on_cpu(net, precision), batch)
    for threads in (1, 4):  # a thread an input, and all threads for each
        monkeypatch.setattr(cpu, "THREADS", threads)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        fast = cpu.on_cpu(net, precision)
        alone, together = torch.cat([run(fast, one) for one in batch.split(1)]), run(fast, batch)
        assert torch.equal(alone, together)
        assert torch.equal(together, found)


def test_several_threads_may_ask_at_once():
    net = lively("efficientnet_lite0")
    fast, clips = cpu.on_cpu(net, "float32"), pictures(8)
    expected = run(fast, clips)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: run(fast, clips), range(8)))
    assert all(torch.equal(each, expected) for each in found)


@pytest.mark.skipif(not cpu.computes_bfloat16(), reason="this processor has no bfloat16")
@pytest.mark.parametrize("name", LIGHT)
def test_bfloat16_gives_nearly_the_same_features(name):
    net = lively(name)
    for batch in batches(name):
        plain, found = run(net, batch), run(cpu.on_cpu(net, "bfloat16"), batch)
        assert found.dtype == torch.float32
        assert not torch.equal(found, plain)
        assert F.cosine_similarity(found.double(), plain.double()).min() > 0.99


def test_a_model_of_another_machine_runs_in_float32_where_there_is_no_bfloat16(monkeypatch):
    net, clips = lively("efficientnet_lite0"), pictures()
    expected = run(cpu.on_cpu(net, "float32"), clips)
    monkeypatch.setattr(cpu, "computes_bfloat16", lambda: False)
    assert torch.equal(run(cpu.on_cpu(net, "bfloat16"), clips), expected)


def test_making_it_changes_nothing_in_the_network():
    net = lively("panns_cnn10")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    run(cpu.on_cpu(net, "float32"), batches("panns_cnn10")[0])
    assert "embed" not in vars(net)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_network_without_embed_runs_as_it_is():
    net = nn.Linear(2, 3)
    assert cpu.on_cpu(net, "bfloat16") is net


@pytest.mark.parametrize(
    ("given", "device", "shortcuts", "has_bfloat16", "used"),
    [
        ("auto", "cpu", True, True, "bfloat16"),
        ("auto", "cpu", True, False, "float32"),
        ("auto", "cpu", False, True, "float32"),
        ("auto", "cuda", True, True, "float32"),
        ("float32", "cpu", True, True, "float32"),
        ("bfloat16", "cpu", True, True, "bfloat16"),
        ("bfloat16", "cpu", False, False, "bfloat16"),
        ("bfloat16", "cuda", True, False, "bfloat16"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_has_it(given, device, shortcuts, has_bfloat16, used, monkeypatch):
    monkeypatch.setattr(cpu, "computes_bfloat16", lambda: has_bfloat16)
    config = DeepSpectrumConfig(precision=given, shortcuts=shortcuts)
    assert embedding_spec(config, AudioSpec(16_000, 1.0), torch.device(device)).precision == used


def test_bfloat16_is_refused_on_a_processor_without_it(monkeypatch):
    monkeypatch.setattr(cpu, "computes_bfloat16", lambda: False)
    with pytest.raises(ConfigError, match="precision: this processor has no bfloat16; use"):
        embedding_spec(DeepSpectrumConfig(precision="bfloat16"), AudioSpec(16_000, 1.0), torch.device("cpu"))


def test_openvino_sends_nothing_and_writes_nothing(tmp_path):
    """Its import would ask who sits there, send that, and write to the home."""
    code = (
        "import sys; from soundstack.networks import cpu; "
        "print(cpu.computes_bfloat16(), sys.modules['openvino_telemetry'])"
    )
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(project.PROJECT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(cpu.computes_bfloat16()), "None"]
    assert list(tmp_path.iterdir()) == []


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
