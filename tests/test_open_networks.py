"""Networks by the names that others published them under: names, files, refusals, and all that members have."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import constants
from mlflow.tracking import MlflowClient
from pydantic import ValidationError

import deepspectrum
import fuse
import small_networks
import soundstack
from soundstack.audio.decode import AudioSpec
from soundstack.config import suite as suites
from soundstack.config.steps import DeepSpectrumConfig, FuseConfig, MainConfig
from soundstack.config.suite import Fusion
from soundstack.deepspectrum.embedding import Embedder, EmbeddingSpec
from soundstack.networks.build import build
from soundstack.networks.hub import Source
from soundstack.networks.registry import NETWORKS, load_open, network_spec, slug
from soundstack.networks.weights import find_or_fetch, identity
from soundstack.serving import shipped
from soundstack.tracking.reuse import row_key
from soundstack.utils.errors import ConfigError, WeightsError
from waiting import PATIENCE

LISTED = EmbeddingSpec("efficientnet_lite0", "none", AudioSpec(16_000, 1.0), seed=3)
AST = "hf:MIT/ast-finetuned-audioset-10-10-0.4593"
#: What MLflow, Windows and glob patterns take for a letter of a name.
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*[A-Za-z0-9]")


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_networks.save(tmp_path_factory.mktemp("saved") / "tiny wavlm", "wavlm")


@pytest.fixture(scope="module")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_networks.save(tmp_path_factory.mktemp("saved") / "convnext", "test_convnext")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub is switched off, and its usual cache is an empty folder, which is returned."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "usual"))
    return tmp_path / "usual"


def refusal(call: Callable[[], Any], error: type[Exception] = WeightsError) -> str:
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm:convnext_tiny.fb_in22k", "timm_convnext_tiny.fb_in22k"),
        (AST, "hf_MIT_ast-finetuned-audioset-10-10-0.4593"),
        ("hf:laion/clap-htsat-fused@refs/pr/3", "hf_laion_clap-htsat-fused_refs_pr_3"),
        ("hf:/models/my model!/", "hf_my_model"),
        ("timm:./runs/best.", "timm_best"),
        ("densenet121", "densenet121"),
        ("crnn", "crnn"),
        ("hf:MIT/*-pretrained", "hf_MIT_*-pretrained"),
    ],
)
def test_a_network_is_called_by_what_all_names_may_hold(name: str, expected: str) -> None:
    assert slug(name) == expected


@pytest.mark.parametrize("folder", ["/models/Vögel", "/models/鳥", "/models/" + "long" * 60])
def test_foreign_and_long_names_are_told_apart_by_a_digest(folder: str) -> None:
    names = {slug(f"hf:{folder}"), slug(f"hf:{folder}2")}
    assert len(names) == 2
    assert all(PLAIN.fullmatch(name) and len(name) <= 100 for name in names)


def test_a_listed_network_has_no_settings_and_is_kept_as_before() -> None:
    for name, spec in NETWORKS.items():
        assert not spec.is_open and spec.slug == name and spec.picture_size == 224
    assert "settings" not in LISTED.to_json()
    assert EmbeddingSpec.from_json(LISTED.to_json()) == LISTED


def test_a_configuration_takes_open_networks_by_the_form_of_their_names(wavlm: Path, monkeypatch: Any) -> None:
    config = DeepSpectrumConfig(network=AST)
    assert config.model_name == "demo-hf_MIT_ast-finetuned-audioset-10-10-0.4593-pretrained"
    assert DeepSpectrumConfig(network="timm:no_such", pretraining="none").model_name == "demo-timm_no_such-none"
    monkeypatch.chdir(wavlm.parent)
    for spelt in ("hf:./tiny wavlm", "hf:../" + wavlm.parent.name + "/tiny wavlm/", f"hf:{wavlm}"):
        assert DeepSpectrumConfig(network=spelt).network == f"hf:{wavlm.resolve()}"
    assert DeepSpectrumConfig(network=AST, layer=-2).layer == -2
    for wrong in ({"network": AST, "pretraining": "audioset"}, {"network": "timm:x", "layer": 1}, {"layer": 1}):
        with pytest.raises(ValidationError, match=r"has no 'audioset' weights|leave layer out"):
            DeepSpectrumConfig(**wrong)


def test_systems_and_patterns_take_open_networks_by_name(wavlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(wavlm.parent)
    config = MainConfig(systems=f"crnn, timm:convnext_tiny.fb_in22k-pretrained, {AST}-none, hf:./tiny wavlm-pretrained")
    networks = [row.parameters.get("network") for row in config.chosen_suite.rows]
    assert networks == [None, "timm:convnext_tiny.fb_in22k", AST, f"hf:{wavlm.resolve()}"]
    for wrong in ("timm:convnext_tiny", f"{AST}-imagenet", "hf:x-pretrained", "hf:./gone-none"):
        with pytest.raises(ValidationError, match=r"is not a system|is not of the form|is no folder"):
            MainConfig(systems=wrong)
    names = ["demo-crnn", f"demo-{slug(AST)}-pretrained", "demo-timm_x.y-none"]
    assert Fusion(members=f"{AST}-pretrained").pick("demo", names) == names[1:2]
    assert Fusion(members="hf:MIT/*, timm_*").pick("demo", names) == names[1:]


def test_a_network_is_described_without_loading_its_library() -> None:
    spec = network_spec(AST)
    assert (spec.input, spec.pretrainings, spec.family) == ("waveform", ("pretrained", "none"), "audio_encoder")
    assert network_spec("timm:anything.at_all").family == "deepspectrum"
    message = refusal(lambda: network_spec("vgg11"), ConfigError)
    assert "timm:NAME" in message and "hf:ORG/NAME" in message


def test_the_hubs_cache_is_used_as_it_is_and_the_commit_is_told(wavlm: Path, no_hub: Path, tmp_path: Path) -> None:
    small_networks.into_hub_cache(wavlm, "org/wavlm", no_hub)
    other = small_networks.into_hub_cache(wavlm, "org/wavlm", tmp_path / "own", commit="f" * 40, revision="v2")
    (other / "README.md").write_text("---\nlicense: other\nlicense_name: odd\nlicense_link: LICENSE\n---\n# Hm\n")
    settings = load_open("hf:org/wavlm").look_up(None, None, random=False)
    assert settings["revision"] == small_networks.COMMIT
    assert settings["licence"] == "not stated: see https://huggingface.co/org/wavlm"
    assert settings["sample_rate"] == 16_000 and settings["architecture"] == "WavLMModel"
    tagged = load_open("hf:org/wavlm@v2").look_up(None, tmp_path / "own", random=False)
    assert (tagged["revision"], tagged["licence"]) == ("f" * 40, "odd (LICENSE)")
    assert find_or_fetch(network_spec(f"hf:org/wavlm@{'f' * 40}"), tmp_path / "own") == other
    assert build("hf:org/wavlm", "pretrained", seed=0, settings=settings) is not None


def test_a_hubs_cache_in_a_store_is_taken_over_once_and_without_weights_where_none_are_needed(
    wavlm: Path, no_hub: Path, tmp_path: Path
) -> None:
    small_networks.into_hub_cache(wavlm, "org/wavlm", tmp_path / "cache")
    shutil.copytree(tmp_path / "cache", tmp_path / "store")  # without links, as a store has it
    shared, network = (tmp_path / "store").as_uri(), load_open("hf:org/wavlm")
    random = network.look_up(None, shared, random=True)
    weights = no_hub / "models--org--wavlm" / "snapshots" / small_networks.COMMIT / "model.safetensors"
    assert random["revision"] == small_networks.COMMIT and not weights.exists()
    assert find_or_fetch(network_spec("hf:org/wavlm"), shared) == weights.parent
    assert network.look_up(None, shared, random=False) == random
    written = weights.stat().st_mtime_ns
    stored = tmp_path / "store" / "models--org--wavlm"
    (stored / "refs" / "main").write_text("f" * 40)
    (stored / "snapshots" / small_networks.COMMIT / "model.safetensors").write_bytes(b"other")
    assert find_or_fetch(network_spec("hf:org/wavlm"), shared) == weights.parent
    assert weights.stat().st_mtime_ns == written  # what is here stays what it was
    assert "`hf download org/other`" in refusal(lambda: load_open("hf:org/other").look_up(None, shared, random=False))


def test_weights_in_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    model, extractor = small_networks.AUDIO["wavlm"]()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    extractor.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    name = f"hf:{tmp_path}"
    settings = load_open(name).look_up(None, None, random=False)
    state = build(name, "pretrained", seed=0, settings=settings).state_dict()
    assert (state["model.masked_spec_embed"] == model.masked_spec_embed).all()
    last = sorted(tmp_path.glob("model-*-of-*.safetensors"))[-1]
    last.unlink()
    assert "lacks model.safetensors" in refusal(lambda: find_or_fetch(network_spec(name)))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../outside.safetensors"}}))
    assert "not safetensors beside it" in refusal(lambda: find_or_fetch(network_spec(name)))


def test_half_precision_and_an_extractor_inside_of_a_processor_are_read(tmp_path: Path) -> None:
    model, extractor = small_networks.AUDIO["whisper"]()
    model.half().save_pretrained(tmp_path)
    processor = {"processor_class": "WhisperProcessor", "feature_extractor": extractor.to_dict()}
    (tmp_path / "processor_config.json").write_text(json.dumps(processor))
    name = f"hf:{tmp_path}"
    settings = load_open(name).look_up(None, None, random=False)
    assert settings["extractor"]["chunk_length"] == 2
    state = build(name, "pretrained", seed=0, settings=settings).state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert torch.equal(state["model.conv1.weight"], model.model.encoder.conv1.weight.float())


def test_what_cannot_be_fetched_is_named_with_what_to_do(no_hub: Path, tmp_path: Path) -> None:
    for name, repository in ((AST, AST[3:]), ("timm:resnet18.a1_in1k", "timm/resnet18.a1_in1k")):
        message = refusal(lambda name=name: load_open(name).look_up(None, tmp_path / "own", random=False))
        assert f"`hf download {repository}`" in message and "the hub is switched off" in message
        assert str(tmp_path / "own") in message and str(no_hub) in message
        assert f"models--{repository.replace('/', '--')}" in message
        assert f"network={name.partition(':')[0]}:/path/to/folder" in message
    message = refusal(lambda: Source.of("hf:a/b@v1").find_or_fetch(None, whole=True, allow_download=False))
    assert "--revision v1" in message and "downloads are switched off" in message


def test_a_cache_with_a_part_of_the_files_is_told_from_a_model_that_lacks_them(wavlm: Path, no_hub: Path) -> None:
    snapshot = small_networks.into_hub_cache(wavlm, "org/part", no_hub)
    (snapshot / "model.safetensors").unlink()
    assert load_open("hf:org/part").look_up(None, None, random=False)["revision"] == small_networks.COMMIT
    assert "`hf download org/part`" in refusal(lambda: find_or_fetch(network_spec("hf:org/part")))


def test_pickled_weights_are_refused(tmp_path: Path, no_hub: Path) -> None:
    folder = small_networks.save(tmp_path / "wavlm", "wavlm")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refusal(lambda: find_or_fetch(network_spec(f"hf:{folder}")))
    assert "pickled weights alone (pytorch_model.bin)" in message and "save_pretrained(FOLDER)" in message
    small_networks.into_hub_cache(folder, "org/pickled", no_hub)
    message = refusal(lambda: find_or_fetch(network_spec("hf:org/pickled")))
    assert "network=hf:org/pickled@refs/pr/1" in message


def test_a_models_own_code_is_not_run(tmp_path: Path) -> None:
    folder = small_networks.save(tmp_path / "wavlm", "wavlm")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: ...\n")
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "evil.Config", "AutoModel": "evil.Config"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": classes, "model_type": "new"}))
    message = refusal(lambda: load_open(f"hf:{folder}").look_up(None, None, random=False))
    assert "code of its own, which is never run" in message
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": classes}))  # the library's own is taken
    assert load_open(f"hf:{folder}").look_up(None, None, random=False)["architecture"] == "WavLMModel"
    assert not (tmp_path / "ran").exists()


def test_what_is_no_encoder_of_sound_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    message = refusal(lambda: load_open(f"hf:{tmp_path}").look_up(None, None, random=False))
    assert "cannot be used by transformers" in message
    assert "lacks config.json" in refusal(lambda: load_open(f"timm:{tmp_path / '..'}").look_up(None, None, random=True))


def test_the_identity_follows_weights_and_description(tmp_path: Path) -> None:
    folder = small_networks.save(tmp_path / "wavlm", "wavlm")
    spec = network_spec(f"hf:{folder}")
    before, random = (identity(spec, kind) for kind in ("pretrained", "none"))
    description = folder / "preprocessor_config.json"
    description.write_text(description.read_text().replace("0.0", "0.5"))
    assert identity(spec, "pretrained") != before and identity(spec, "none") != random
    after, weights = identity(spec, "none"), folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert identity(spec, "none") == after
    assert identity(spec, "pretrained") not in (before, after)


def test_the_suite_best_fuses_all_of_its_rows_and_the_trained_on_sound_among_them() -> None:
    suite = suites.load("best")
    names = [
        DeepSpectrumConfig(**row.parameters).model_name if row.step == "deepspectrum" else "demo-crnn"
        for row in suite.rows
    ]
    everything, audio = (fusion.pick("demo", names) for fusion in suite.fusions)
    assert everything == names and "demo-hf_laion_clap-htsat-unfused-pretrained" in audio
    assert len(audio) == 3 and not any(word in name for name in audio for word in ("crnn", "efficientnet"))


def test_bfloat16_is_close_and_the_extractor_stays_in_float32(wavlm: Path) -> None:
    name = f"hf:{wavlm}"
    settings = load_open(name).look_up(None, None, random=False)
    waves = 0.1 * np.random.default_rng(0).standard_normal((2, 16_000)).astype(np.float32)
    specs = [
        EmbeddingSpec(name, "pretrained", LISTED.audio, precision=precision, settings=settings)
        for precision in ("float32", "bfloat16")
    ]
    full, half = (Embedder.build(spec, torch.device("cpu"))(waves) for spec in specs)
    assert full.dtype == half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.05 * np.abs(full).max()


def test_the_hub_is_told_nothing_of_its_users() -> None:
    assert constants.HF_HUB_DISABLE_TELEMETRY


@pytest.fixture
def data(tiny_csv: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    table = tiny_csv(tmp_path / "data")
    return {"dataset": "csv", "data_dir": str(table), "name": "tiny", "cache_dir": str(tmp_path / "cache")}


def _requirements(model: str) -> str:
    return (Path(mlflow.artifacts.download_artifacts(f"models:/{model}")) / "requirements.txt").read_text()


def test_open_networks_are_members_with_all_that_members_have(
    store: str, no_hub: Path, data: dict[str, Any], tmp_path: Path
) -> None:
    """Features, folds, models, cards and a fusion; the sources deleted, the models still answer as before."""
    folders = {
        f"{kind}:{tmp_path / name}": small_networks.save(tmp_path / name, name)
        for kind, name in (("timm", "test_vit"), ("hf", "ast"), ("hf", "whisper"))
    }
    small_networks.into_hub_cache(small_networks.save(tmp_path / "clap", "clap"), "org/clap", no_hub)
    networks = [*folders, "hf:org/clap"]
    members = [deepspectrum.run(DeepSpectrumConfig(network=name, **data)).name for name in networks]
    assert members == [f"tiny-{slug(name)}-pretrained" for name in networks]
    assert all(PLAIN.fullmatch(name) for name in members)
    again = deepspectrum.run(DeepSpectrumConfig(network=networks[1], **data))
    client = MlflowClient()
    stored = client.get_model_version(again.name, again.version)
    assert client.get_run(stored.run_id).data.metrics["examples_made"] == 0
    assert stored.tags["family"] == "audio_encoder"
    fuse.run(FuseConfig(dataset="csv", name="tiny", members="all", cache_dir=data["cache_dir"]))
    card = client.get_model_version(members[-1], "1").description
    assert "ClapAudioModel" in card and small_networks.COMMIT in card.replace("\\", "")
    assert "not stated: see https" in card.replace("\\", "")
    clips = pd.DataFrame({"audio": [path.read_bytes() for path in sorted((tmp_path / "data").glob("*test-0.wav"))]})
    before = {name: mlflow.pyfunc.load_model(f"models:/{name}/1").predict(clips) for name in (*members, "tiny-fusion")}
    for place in (*folders.values(), no_hub, Path(data["cache_dir"])):
        shutil.rmtree(place)
    for name, answer in before.items():
        pd.testing.assert_frame_equal(mlflow.pyfunc.load_model(f"models:/{name}/1").predict(clips), answer)
    assert "timm==" in _requirements(f"{members[0]}/1") and "transformers" not in _requirements(f"{members[0]}/1")
    assert "transformers==" in _requirements(f"{members[1]}/1") and "timm" not in _requirements(f"{members[1]}/1")
    assert {"timm", "transformers"} <= {line.partition("==")[0] for line in _requirements("tiny-fusion/1").split()}


def test_a_listed_networks_model_needs_neither_library() -> None:
    needed = {
        line.partition("==")[0] for line in shipped.requirements({"deepspectrum.recogniser", "networks.densenet"})
    }
    assert not needed & {"timm", "transformers", "huggingface_hub"}


_LOADED = """
import sys
from soundstack.deepspectrum import system
from soundstack.networks.build import build
from soundstack.tracking import registry
build("efficientnet_lite0", "none", seed=0)
print(sorted({"timm", "transformers", "huggingface_hub"} & set(sys.modules)))
"""


def test_neither_library_is_loaded_where_no_open_network_is_used() -> None:
    source = str(Path(soundstack.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", _LOADED],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stdout.strip() == "[]"


def test_a_row_is_done_again_where_the_folder_has_other_weights(data: dict[str, Any], tmp_path: Path) -> None:
    folder = small_networks.save(tmp_path / "wavlm", "wavlm")
    config = DeepSpectrumConfig(network=f"hf:{folder}", **data)
    key = row_key(config, "data")
    assert row_key(config, "data") == key != row_key(config.model_copy(update={"layer": 1}), "data")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert row_key(config, "data") != key


def test_pictures_are_drawn_in_the_networks_size(convnext: Path) -> None:
    name = f"timm:{convnext}"
    settings = load_open(name).look_up(None, None, random=False)
    spec = EmbeddingSpec(name, "pretrained", LISTED.audio, settings=settings)
    pictures = Embedder.build(spec, torch.device("cpu")).inputs(np.zeros((2, 16_000), dtype=np.float32))
    assert pictures.shape == (2, 3, 160, 160)
    kept = json.loads(json.dumps(spec.to_json()))
    assert json.loads(json.dumps(EmbeddingSpec.from_json(kept).to_json())) == kept
