"""openl3 against librosa, against the published keys and shapes, and against numbers from the torch port."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from published_networks import hollow_state, known_state, numbers, published_shapes, without_checksum
from soundstack.audio.mel import mel_filters
from soundstack.networks import openl3
from soundstack.networks.build import build, restore
from soundstack.networks.registry import load
from soundstack.utils.errors import WeightsError

# Librosa tells that the lowest bands are narrower than an FFT bin: so they are in openl3.
pytestmark = pytest.mark.filterwarnings("ignore:Empty filters detected")

NAMES = ("openl3_mel256_env_512", "openl3_mel256_env_6144", "openl3_mel128_env_512", "openl3_mel128_env_6144")


def noise(samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def small() -> openl3.OpenL3:
    """The network of 512 features with random weights."""
    net = build("openl3_mel256_env_512", "none", seed=0)
    assert isinstance(net, openl3.OpenL3)
    return net


# --- the front end --------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [256, 128])
def test_the_mel_filters_are_librosas_with_the_htk_scale_and_area_norm(bands: int) -> None:
    expected = librosa.filters.mel(
        sr=48_000, n_fft=2048, n_mels=bands, fmin=0, fmax=24_000, htk=True, norm="slaney", dtype=np.float64
    )

    np.testing.assert_allclose(mel_filters(48_000, 2048, bands, "htk"), expected, atol=1e-12)


@pytest.mark.parametrize("bands", [256, 128])
def test_log_mel_is_that_of_a_plain_fourier_transform(bands: int) -> None:
    half_silent = np.concatenate([np.zeros(24_000, dtype=np.float32), noise(24_000)])  # as every clip's first window
    windows = np.stack([noise(48_000, seed=1), half_silent])
    padded = np.pad(windows.astype(np.float64), ((0, 0), (982, 982)))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 2048, axis=1)[:, ::242] * hann
    filters = librosa.filters.mel(sr=48_000, n_fft=2048, n_mels=bands, htk=True, norm="slaney", dtype=np.float64)
    mel = np.sqrt(filters @ (np.abs(np.fft.rfft(frames)) ** 2).transpose(0, 2, 1))
    expected = 10 * np.log10(np.maximum(mel, 1e-10))
    expected = np.maximum(expected - expected.max(axis=(1, 2), keepdims=True), -80)

    found = openl3.OpenL3LogMel(bands)(torch.from_numpy(windows))[:, 0].numpy()

    assert found.shape == (2, bands, 199)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_each_window_is_relative_to_its_own_maximum_and_a_silent_one_is_flat() -> None:
    windows = torch.stack([torch.from_numpy(noise(48_000)), torch.zeros(48_000)])

    found = openl3.OpenL3LogMel(256)(torch.cat([windows, windows / 4]))

    assert torch.allclose(found[0], found[2], atol=1e-3)
    assert found[0].max() == 0
    assert found.min() >= -80
    assert (found[1] == 0).all()


# --- framing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "windows"), [(0.001, 1), (0.5, 1), (0.501, 2), (0.6, 2), (1, 6), (5, 46), (10, 96)]
)
def test_a_clip_is_cut_into_a_window_every_tenth_of_a_second(seconds: float, windows: int) -> None:
    assert openl3.frame(torch.zeros(2, round(48_000 * seconds))).shape == (2, windows, 48_000)


def test_the_first_window_is_centred_on_the_clips_begin_and_nothing_is_lost_at_its_end() -> None:
    clip = torch.arange(1.0, 40_001.0)[None]

    windows = openl3.frame(clip)

    assert (windows[0, 0, :24_000] == 0).all()
    assert windows[0, 0, 24_000] == 1
    assert windows[0, 1, 24_000] == 4_801
    last = windows[0, -1]
    assert last.max() == 40_000
    assert (last[int(last.argmax()) + 1 :] == 0).all()


@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_a_clips_embedding_is_the_mean_over_its_windows(
    small: openl3.OpenL3, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    clips = torch.from_numpy(np.stack([noise(33_600), noise(33_600, seed=1)]))  # 3 windows each
    monkeypatch.setattr(openl3, "WINDOWS_AT_ONCE", at_once)
    monkeypatch.setattr(small, "embed", lambda spectrograms: spectrograms[:, 0, :, 50:60].flatten(1))

    found = small(clips)

    by_hand = [small.embed(small.log_mel(openl3.frame(clip[None])[0])).mean(dim=0) for clip in clips]
    torch.testing.assert_close(found, torch.stack(by_hand), rtol=0, atol=1e-3)


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_state_dict_has_the_published_keys_and_shapes(name: str) -> None:
    with torch.device("meta"):
        net: Any = load(name).create()

    state = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}

    assert state == published_shapes(name, front_end=False)
    assert sum(parameter.numel() for parameter in net.parameters()) == 4_687_042


@pytest.mark.parametrize(
    ("name", "expected", "total"),
    [
        (
            "openl3_mel256_env_512",
            [93.152138, 35.467556, 660.94958, 510.19977, 3.5434351, 152.60745, 167.49310, 235.28253],
            127512.11,
        ),
        (
            "openl3_mel256_env_6144",
            [93.152138, -62.763054, 73.363831, -151.80023, 72.882705, -159.00502, 80.302231, -34.886097],
            795950.13,
        ),
    ],
)
def test_a_spectrogram_has_the_embedding_of_the_torch_port(name: str, expected: list[float], total: float) -> None:
    """The numbers are those of torchopenl3 1.0.1 with the same weights and spectrogram."""
    spectrogram = (40 * numbers((1, 1, 256, 199), seed=1000) - 40).astype(np.float32)
    net: Any = restore(name, known_state(name))

    with torch.inference_mode():
        found: Tensor = net.embed(torch.from_numpy(spectrogram))[0]

    np.testing.assert_allclose(found[:: len(found) // 8], expected, rtol=1e-4, atol=1e-2)
    assert float(found.sum()) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(("bands", "pool"), [(256, (8, 8)), (128, (4, 8))])
def test_the_large_embedding_is_in_the_order_of_bands_frames_and_channels(bands: int, pool: tuple[int, int]) -> None:
    with torch.device("meta"):
        net: Any = load(f"openl3_mel{bands}_env_6144").create()
    shapes: dict[str, tuple[int, ...]] = {}
    net.audio_embedding_layer.register_forward_hook(lambda _, given, out: shapes.update(out=tuple(out.shape)))

    embedding = net.to("meta").embed(torch.zeros(1, 1, bands, 199, device="meta"))

    assert net.pool == pool
    assert shapes["out"] == (1, 512, bands // 8, 24)
    assert embedding.shape == (1, 4 * 3 * 512)


def test_random_weights_are_hes_cut_normal_distribution(small: Any) -> None:
    weight = small.conv2d_6.weight  # (256, 256, 3, 3)
    wanted = np.sqrt(2 / (9 * 256))

    assert float(weight.std()) == pytest.approx(wanted, rel=0.01)
    assert weight.abs().max() <= 2 * wanted / 0.8796
    assert (small.conv2d_6.bias == 0).all()


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_with_the_published_keys_is_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(hollow_state(published_shapes(name)), tmp_path / without_checksum(name, monkeypatch))

    net: Any = build(name, "audioset", seed=0, weights_dir=tmp_path)

    assert (net.conv2d_3.weight == 0.01).all()


@pytest.mark.parametrize(("bands", "other"), [(256, 128), (128, 256)])
def test_the_checkpoint_for_other_bands_is_refused(
    bands: int, other: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"openl3_mel{bands}_env_512"
    state = hollow_state(published_shapes(f"openl3_mel{other}_env_512"))
    torch.save(state, tmp_path / without_checksum(name, monkeypatch))

    shapes = rf"'speclayer\.mel_basis' has shape \({other}, 1025\) where \({bands}, 1025\)"
    with pytest.raises(WeightsError, match=shapes):
        build(name, "audioset", seed=0, weights_dir=tmp_path)


def test_a_checkpoint_without_a_layer_is_refused_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = NAMES[0]
    shapes = published_shapes(name)
    del shapes["conv2d_4.bias"]
    torch.save(hollow_state(shapes), tmp_path / without_checksum(name, monkeypatch))

    with pytest.raises(WeightsError, match=r"lacks the key 'conv2d_4\.bias'"):
        build(name, "audioset", seed=0, weights_dir=tmp_path)
