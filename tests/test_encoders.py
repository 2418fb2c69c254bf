"""timm's and transformers' networks give what the libraries themselves compute, in windows and however batched."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import small_networks
from soundstack.networks import cpu
from soundstack.networks.build import build, restore
from soundstack.networks.hf_encoder import window_starts
from soundstack.networks.registry import Settings, load_open, network_spec
from soundstack.spectrograms.picture import DeepSpectrumPicture
from soundstack.utils.errors import ConfigError, WeightsError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for every small network."""
    place = tmp_path_factory.mktemp("saved")
    return {name: small_networks.save(place / name, name) for name in (*small_networks.AUDIO, *small_networks.PICTURES)}


def look_up(name: str, layer: int | None = None, *, random: bool = False) -> Settings:
    network = load_open(name)
    assert network is not None
    settings: Settings = json.loads(json.dumps(network.look_up(layer, None, random=random)))
    return settings


def made(name: str, layer: int | None = None, pretraining: str = "pretrained", seed: int = 0) -> tuple[Any, Settings]:
    settings = look_up(name, layer)
    return build(name, pretraining, seed=seed, settings=settings), settings


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def librarys_states(folder: Path, clip: Tensor) -> tuple[Any, Any]:
    """What the library's own model and extractor make of a clip (samples,), of the encoder of sound alone."""
    extractor = hf.AutoFeatureExtractor.from_pretrained(folder)
    model = hf.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    model = model.audio_model if hasattr(model, "audio_model") else model
    model = model.encoder if model.config.model_type == "whisper" else model
    given = extractor(clip.numpy(), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    with torch.inference_mode():
        return model(**given, output_hidden_states=True), given


@pytest.mark.parametrize("name", ["ast", "wav2vec2", "wavlm", "hubert", "bert"])
@pytest.mark.parametrize("layer", [None, 1, -2])
def test_features_are_the_mean_over_time_of_the_librarys_hidden_states(
    saved: dict[str, Path], name: str, layer: int | None
) -> None:
    net, settings = made(f"hf:{saved[name]}", layer)
    clip = noise(int(0.8 * settings["sample_rate"]))
    outputs, _ = librarys_states(saved[name], clip)
    states = outputs.last_hidden_state if layer is None else outputs.hidden_states[layer]
    with torch.inference_mode():
        torch.testing.assert_close(net(clip[None]), states.mean(dim=1))


def test_what_whisper_is_padded_with_does_not_count(saved: dict[str, Path]) -> None:
    net, _ = made(f"hf:{saved['whisper']}")
    clip = noise(16_000)  # half of the two seconds that this one hears: 50 of its 100 states
    outputs, _ = librarys_states(saved["whisper"], clip)
    with torch.inference_mode():
        torch.testing.assert_close(net(clip[None])[0], outputs.last_hidden_state[0, :50].mean(dim=0))


@pytest.mark.parametrize("layer", [None, 0])
def test_claps_states_are_averaged_over_bands_and_time(saved: dict[str, Path], layer: int | None) -> None:
    net, _ = made(f"hf:{saved['clap']}", layer)
    clip = noise(40_000)
    outputs, _ = librarys_states(saved["clap"], clip)
    states = outputs.pooler_output[0] if layer is None else outputs.hidden_states[0][0].mean(dim=(1, 2))
    with torch.inference_mode():
        torch.testing.assert_close(net(clip[None])[0], states)


@pytest.mark.parametrize(("name", "window"), [("clap", 48_000), ("whisper", 32_000), ("ast", 400 + 127 * 160)])
def test_a_longer_clip_is_the_mean_of_windows_and_nothing_is_random(
    saved: dict[str, Path], name: str, window: int
) -> None:
    net, _ = made(f"hf:{saved[name]}")
    clip = noise(2 * window + 1000)
    starts = [0, round((window + 1000) / 2), window + 1000]
    with torch.inference_mode():
        windows = torch.cat([net(clip[None, start : start + window]) for start in starts])
        whole = net(clip[None])
        torch.testing.assert_close(whole[0], windows.mean(dim=0))
        assert torch.equal(whole, net(clip[None]))


@pytest.mark.parametrize("name", [*small_networks.AUDIO, *small_networks.PICTURES])
def test_features_are_equal_to_the_last_bit_in_any_batch_and_from_the_saved_state(
    saved: dict[str, Path], name: str
) -> None:
    kind = "timm" if name in small_networks.PICTURES else "hf"
    net, settings = made(f"{kind}:{saved[name]}")
    inputs = noise(5, 8000)
    if kind == "timm":
        inputs = torch.randint(0, 256, (5, 3, 160, 160), dtype=torch.uint8)
    again = restore(f"{kind}:/gone", net.state_dict(), settings=settings)
    with torch.inference_mode():
        features = net(inputs)
        assert torch.isfinite(features).all()
        assert len(torch.unique(features, dim=0)) == 5
        assert torch.equal(net(inputs[2:3]), features[2:3])
        assert torch.equal(again(inputs[[4, 0]]), features[[4, 0]])


def test_the_decoder_and_the_other_tower_are_not_kept(saved: dict[str, Path]) -> None:
    whisper, settings = made(f"hf:{saved['whisper']}")
    assert settings["architecture"] == "WhisperEncoder"
    assert not any("decoder" in key for key in whisper.state_dict())
    clap, settings = made(f"hf:{saved['clap']}")
    assert settings["architecture"] == "ClapAudioModel"
    assert not any("text" in key for key in clap.state_dict())


def test_random_weights_depend_on_the_seed_alone_and_leave_the_global_state(saved: dict[str, Path]) -> None:
    for name in (f"hf:{saved['wavlm']}", f"timm:{saved['test_vit']}"):
        settings, before = look_up(name, random=True), torch.get_rng_state()
        states = [build(name, "none", seed=seed, settings=settings).state_dict() for seed in (1, 1, 2)]
        assert torch.equal(torch.get_rng_state(), before)
        same, other = (all(torch.equal(value, states[at][key]) for key, value in states[0].items()) for at in (1, 2))
        assert same and not other


def test_a_layer_that_is_not_there_is_refused_with_those_that_are(saved: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"^layer: .*has hidden states 0 to 2 \(or -1 to -3\), not 3\.$"):
        made(f"hf:{saved['wavlm']}", 3)
    with pytest.raises(ConfigError, match=r"^layer: .*pooled features alone"):
        made(f"timm:{saved['test_vit']}", 1)


def test_lacking_weights_are_refused_where_a_feature_depends_on_them(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = small_networks.save(tmp_path / "wavlm", "wavlm")
    state = load_file(folder / "model.safetensors")
    assert state.pop("masked_spec_embed") is not None  # of training alone
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    net, _ = made(f"hf:{folder}")
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())
    state.pop("encoder.layers.1.feed_forward.output_dense.weight")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match="lack weights of the encoder"):
        made(f"hf:{folder}")


def test_weights_of_another_network_are_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    for name, other, kind in (("wavlm", "whisper", "hf"), ("test_vit", "test_convnext", "timm")):
        folder = small_networks.save(tmp_path / name, name)
        (folder / "model.safetensors").write_bytes((saved[other] / "model.safetensors").read_bytes())
        with pytest.raises(WeightsError) as caught:
            made(f"{kind}:{folder}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", small_networks.PICTURES)
def test_timms_features_are_timms_own(saved: dict[str, Path], name: str) -> None:
    net, settings = made(f"timm:{saved[name]}")
    pictures = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    own = timm.create_model(f"local-dir:{saved[name]}", pretrained=True, num_classes=0).eval()
    known = own.pretrained_cfg
    mean, deviation = (torch.tensor(known[each]).view(1, 3, 1, 1) for each in ("mean", "std"))
    with torch.inference_mode():
        torch.testing.assert_close(net(pictures), own((pictures / 255 - mean) / deviation))
    spec = network_spec(f"timm:{saved[name]}", settings=settings)
    assert (spec.picture_size, spec.interpolation, spec.licence) == (160, "bicubic", "apache-2.0")


@pytest.mark.parametrize("name", [*small_networks.PICTURES, *small_networks.AUDIO])
def test_openvino_gives_the_same_features(saved: dict[str, Path], name: str) -> None:
    is_picture = name in small_networks.PICTURES
    net, _ = made(f"{'timm' if is_picture else 'hf'}:{saved[name]}")
    pictures, waves = torch.randint(0, 256, (3, 3, 160, 160), dtype=torch.uint8), 0.1 * torch.randn(3, 24_000)
    given = pictures if is_picture else waves
    with torch.inference_mode():
        fast = cpu.on_cpu(net, "float32")
        found = fast(given)
        torch.testing.assert_close(found, net(given), rtol=1e-3, atol=1e-4)
        assert torch.equal(fast(given[1:2]), found[1:2])


def test_what_openvino_cannot_run_is_refused_with_the_way_out() -> None:
    class Sorted(nn.Module):
        def embed(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.lstsq(x[:, None], x[:, None]).solution[:, 0]

    level = logging.root.level
    with pytest.raises(ConfigError, match="shortcuts: OpenVINO cannot run this network") as refused:
        cpu.on_cpu(Sorted(), "float32").embed(torch.ones(1, 3))
    assert logging.root.level == level
    assert "\n" not in str(refused.value) and str(refused.value).endswith("give shortcuts=no.")


def test_a_name_of_timm_has_what_timm_knows_of_it_without_any_file() -> None:
    settings = look_up("timm:vit_base_patch16_siglip_224.webli", random=True)
    assert settings["picture_size"] == 224 and settings["architecture"] == "vit_base_patch16_siglip_224"
    assert settings["pretrained_cfg"]["mean"] == [0.5, 0.5, 0.5]
    assert look_up("timm:tf_efficientnet_b4.ns_jft_in1k", random=True)["picture_size"] == 380
    assert look_up("timm:mixer_b16_224.goog_in21k", random=True)["url"].endswith("/timm/mixer_b16_224.goog_in21k")


def test_what_timm_does_not_know_is_refused_with_what_was_likely_meant() -> None:
    with pytest.raises(
        ConfigError, match=r"has no 'convnext_tinny.fb_in22k'; did you mean timm:convnext_tiny.fb_in22k"
    ):
        look_up("timm:convnext_tinny.fb_in22k", random=True)
    with pytest.raises(ConfigError, match=r"has no 'resnet50.of_mine'; did you mean timm:resnet50\."):
        look_up("timm:resnet50.of_mine", random=True)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
@pytest.mark.parametrize("size", [160, 224, 384])
def test_pictures_of_any_size_are_resized_as_pillow_does(size: int, interpolation: str) -> None:
    picture = DeepSpectrumPicture(16_000, size=size, interpolation=interpolation)
    db = picture.decibel(np.random.default_rng(0).standard_normal(16_000).astype(np.float32))
    figure = Image.fromarray(picture.db_to_picture(db))
    pillows = np.asarray(figure.resize((size, size), Image.Resampling[interpolation.upper()]))
    ours = picture.resized(db).transpose(1, 2, 0)
    assert ours.shape == (size, size, 3)
    assert (ours == pillows).mean() > 0.995 and np.abs(ours.astype(int) - pillows).max() <= 1


def test_no_frame_of_a_clip_is_lost_between_the_windows() -> None:
    for samples in range(1, 40):
        starts = window_starts(samples, 7)
        assert starts[0] == 0 and len(starts) == -(-samples // 7) and starts[-1] == max(0, samples - 7)
        assert set().union(*(range(start, start + 7) for start in starts)) >= set(range(samples))
