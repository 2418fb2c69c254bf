"""PANNs against librosa, the published keys and shapes, and numbers from their authors' code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from published_networks import (
    hollow_state,
    known_state,
    numbers,
    published_layers,
    published_shapes,
    without_checksum,
)
from soundstack.networks import panns
from soundstack.networks.build import build, restore
from soundstack.networks.registry import NETWORKS, load
from soundstack.utils.errors import WeightsError

NAMES = tuple(name for name in NETWORKS if name.startswith("panns"))
WAVEGRAM = "panns_wavegram_logmel_cnn14"


def noise(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def laid_out(name: str) -> panns.Panns:
    """The network without weights: for shapes."""
    with torch.device("meta"):
        return load(name).create()


def shapes_of(net: nn.Module, waveforms: Tensor) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Input and output shapes (without the batch) of every module that is called."""
    found = {}
    for name, module in net.named_modules():

        def note(_: nn.Module, given: tuple[Tensor, ...], out: Tensor, name: str = name) -> None:
            found[name] = (tuple(given[0].shape[1:]), tuple(out.shape[1:]))

        module.register_forward_hook(note)
    with torch.inference_mode():
        net(waveforms)
    return found


# --- the front end --------------------------------------------------------------------------------


def test_log_mel_is_that_of_librosa() -> None:
    wave = noise(32_000)
    power = librosa.feature.melspectrogram(
        y=wave,
        sr=32_000,
        n_fft=1024,
        hop_length=320,
        window="hann",
        center=True,
        pad_mode="reflect",
        power=2.0,
        n_mels=64,
        fmin=50,
        fmax=14_000,
    )
    expected = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None).T

    found = panns.PannsLogMel()(torch.from_numpy(wave)[None])[0].numpy()

    assert found.shape == (101, 64)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_log_mel_is_that_of_a_plain_fourier_transform() -> None:
    wave = noise(16_000)
    padded = np.pad(wave.astype(np.float64), 512, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    frames = np.stack([padded[start : start + 1024] * hann for start in range(0, 16_001, 320)])
    filters = librosa.filters.mel(sr=32_000, n_fft=1024, n_mels=64, fmin=50, fmax=14_000, dtype=np.float64)
    expected = 10 * np.log10(np.maximum(np.abs(np.fft.rfft(frames)) ** 2 @ filters.T, 1e-10))

    found = panns.PannsLogMel()(torch.from_numpy(wave)[None])[0].numpy()

    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_log_mel_of_silence_is_the_floor() -> None:
    assert (panns.PannsLogMel()(torch.zeros(1, 5000)) == -100).all()


def test_log_mel_stays_in_float32_where_the_network_runs_in_bfloat16() -> None:
    waves = torch.from_numpy(noise(6400))[None]
    with torch.autocast("cpu", torch.bfloat16):
        found = panns.PannsLogMel()(waves)

    assert found.dtype == torch.float32
    assert torch.equal(found, panns.PannsLogMel()(waves))


# --- keys and shapes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_state_dict_has_the_published_keys_and_shapes(name: str) -> None:
    state = {key: tuple(tensor.shape) for key, tensor in laid_out(name).state_dict().items()}

    assert state == published_shapes(name, front_end=False)


@pytest.mark.parametrize("name", NAMES)
def test_layers_have_the_published_shapes(name: str) -> None:
    net: Any = restore(name, hollow_state(published_shapes(name, front_end=False)))

    found = shapes_of(net, torch.zeros(1, 16_000))

    published = published_layers(name)
    del published["fc_audioset"]  # the tags: not computed here
    assert {layer: found[layer][1] for layer in published} == published


def test_the_wavegram_has_the_published_shapes_for_ten_seconds() -> None:
    net: Any = restore(WAVEGRAM, hollow_state(published_shapes(WAVEGRAM, front_end=False)))

    found = shapes_of(net, torch.zeros(1, 320_000))

    assert found["pre_conv0"] == ((1, 320_000), (64, 64_000))
    assert found["pre_block1"][1] == (64, 16_000)
    assert found["pre_block2"][1] == (128, 4_000)
    assert found["pre_block3"][1] == (128, 1_000)
    assert found["pre_block4"] == ((4, 1_000, 32), (64, 500, 32))
    assert found["conv_block1"] == ((1, 1_001, 64), (64, 500, 32))
    assert found["conv_block2"] == ((128, 500, 32), (128, 250, 16))
    assert found["conv_block6"] == ((1024, 31, 2), (2048, 31, 2))
    assert found["fc1"] == ((2048,), (2048,))


# --- the networks ---------------------------------------------------------------------------------


def test_cnn14_gives_the_embeddings_of_its_authors_code() -> None:
    """The numbers are those of panns_inference 0.1.1 with the same weights and waveforms."""
    waves = 0.1 * numbers((2, 32_000), seed=1000)
    waves[0] *= np.linspace(0, 1, 32_000)
    state = known_state("panns_cnn14")
    state["bn0.running_mean"].fill_(-40)  # as large as decibels are
    state["bn0.running_var"].fill_(400)
    net: Any = restore("panns_cnn14", state)

    with torch.inference_mode():
        found = net(torch.from_numpy(waves.astype(np.float32)))

    expected = [
        [6.9129815, 0.0, 2.7372038, 0.0, 3.4045341, 0.0, 2.6534936, 0.2833411],
        [9.4580078, 0.0, 4.0431943, 0.0, 5.5871625, 0.0, 3.9518511, 0.4138822],
    ]
    np.testing.assert_allclose(found[:, :8], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.sum(dim=1), [3925.1729, 5332.3955], rtol=1e-4)


def test_the_wavegram_joins_the_log_mel_branch_after_its_first_block() -> None:
    net: Any = build(WAVEGRAM, "none", seed=0)
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    for name in ("pre_block3", "pre_block4", "conv_block1", "conv_block2"):

        def note(_: nn.Module, given: tuple[Tensor, ...], out: Tensor, name: str = name) -> None:
            inputs[name], outputs[name] = given[0], out

        net.get_submodule(name).register_forward_hook(note)

    with torch.inference_mode():
        net(torch.from_numpy(noise(12_800))[None])

    learnt = outputs["pre_block3"]  # (1, 128, 40): channel c * 32 + b is band b of channel c
    assert torch.equal(inputs["pre_block4"][0, 3, :, 5], learnt[0, 3 * 32 + 5])
    assert torch.equal(inputs["conv_block2"], torch.cat([outputs["conv_block1"], outputs["pre_block4"]], dim=1))


class Joined(Exception):
    """Ends a forward pass where the branches are joined: the rest takes most of the time."""


@pytest.mark.parametrize("samples", [1, 500, 10_241, 12_345, 33_333])
def test_both_branches_of_the_wavegram_agree_at_every_length(samples: int) -> None:
    net: Any = restore(WAVEGRAM, hollow_state(published_shapes(WAVEGRAM, front_end=False)))
    outputs: dict[str, tuple[int, ...]] = {}

    def end(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        raise Joined

    for name in ("pre_block4", "conv_block1"):

        def note(_: nn.Module, given: tuple[Tensor, ...], out: Tensor, name: str = name) -> None:
            outputs[name] = tuple(out.shape)

        net.get_submodule(name).register_forward_hook(note)
    net.conv_block2.register_forward_pre_hook(end)

    with pytest.raises(Joined), torch.inference_mode():
        net(torch.zeros(1, samples))

    assert outputs["pre_block4"] == outputs["conv_block1"]
    assert outputs["conv_block1"][2] == max(16, -(-samples // 640))


def test_zeros_at_the_end_of_a_short_clip_change_nothing() -> None:
    net: Any = build("panns_cnn10", "none", seed=0)
    wave = torch.from_numpy(noise(4000))[None]

    with torch.inference_mode():
        short, padded = (
            net(wave),
            net(torch.nn.functional.pad(wave, (0, 800))),
        )  # 4800 samples fill every pool

    assert torch.equal(short, padded)


def test_random_weights_are_xaviers() -> None:
    net: Any = build("panns_cnn10", "none", seed=0)

    weight = net.conv_block3.conv1.weight  # (256, 128, 3, 3)
    bound = np.sqrt(6 / (9 * (128 + 256)))
    assert 0.99 * bound < weight.max() <= bound
    assert float(weight.std()) == pytest.approx(bound / np.sqrt(3), rel=0.01)
    assert (net.fc1.bias == 0).all()


# --- checkpoints ----------------------------------------------------------------------------------


def write_checkpoint(
    folder: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    changed: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """A checkpoint as published, but for its numbers and for the shapes of the ``changed`` keys."""
    state = hollow_state({**published_shapes(name), **(changed or {})})
    content = {"iteration": 600_000, "model": state, "sampler": {"indexes": np.arange(3)}}
    torch.save(content, folder / without_checksum(name, monkeypatch))


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_with_the_published_keys_is_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, name, monkeypatch)

    net: Any = build(name, "audioset", seed=0, weights_dir=tmp_path)

    assert (net.fc1.weight == 0.01).all()
    assert net.log_mel.filters.sum() > 0  # computed, not taken from the checkpoint


def test_the_checkpoint_of_another_sampling_rate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_16_khz = {"logmel_extractor.melW": (257, 64)}
    write_checkpoint(tmp_path, "panns_cnn14", monkeypatch, at_16_khz)

    with pytest.raises(WeightsError, match=r"'logmel_extractor\.melW' has shape \(257, 64\) where \(513, 64\)"):
        build("panns_cnn14", "audioset", seed=0, weights_dir=tmp_path)


def test_the_checkpoint_of_another_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = hollow_state(published_shapes(WAVEGRAM))
    torch.save({"model": state}, tmp_path / without_checksum("panns_cnn14", monkeypatch))

    with pytest.raises(WeightsError, match=r"the key 'pre_conv0\.weight' and 53 more"):
        build("panns_cnn14", "audioset", seed=0, weights_dir=tmp_path)
