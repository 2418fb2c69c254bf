"""Small random networks, saved by timm and transformers themselves, in folders and as the hub's cache has them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
import transformers as hf
from timm.models import save_for_hf

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 8, 8),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
_CLAP: dict[str, Any] = {
    "hidden_size": 32,
    "patch_embeds_hidden_size": 8,
    "depths": [1, 1],
    "num_hidden_layers": 2,
    "num_attention_heads": [2, 2],
    "num_mel_bins": 32,
    "spec_size": 64,
    "window_size": 4,
}


def _ast() -> tuple[Any, Any]:
    config = hf.ASTConfig(**_SIZES, max_length=128, num_mel_bins=32)
    return hf.ASTForAudioClassification(config), hf.ASTFeatureExtractor(max_length=128, num_mel_bins=32)


def _wav2vec2() -> tuple[Any, Any]:
    config = hf.Wav2Vec2Config(**_SIZES, **_CONVOLUTIONS, vocab_size=32)
    return hf.Wav2Vec2ForCTC(config), hf.Wav2Vec2FeatureExtractor()


def _wavlm() -> tuple[Any, Any]:
    return hf.WavLMModel(hf.WavLMConfig(**_SIZES, **_CONVOLUTIONS)), hf.Wav2Vec2FeatureExtractor()


def _hubert() -> tuple[Any, Any]:
    return hf.HubertModel(hf.HubertConfig(**_SIZES, **_CONVOLUTIONS)), hf.Wav2Vec2FeatureExtractor()


def _bert() -> tuple[Any, Any]:
    config = hf.Wav2Vec2BertConfig(**_SIZES, feature_projection_input_dim=160)
    return hf.Wav2Vec2BertModel(config), hf.SeamlessM4TFeatureExtractor()


def _whisper() -> tuple[Any, Any]:
    config = hf.WhisperConfig(
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=100,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return hf.WhisperForConditionalGeneration(config), hf.WhisperFeatureExtractor(chunk_length=2)


def _clap() -> tuple[Any, Any]:
    config = hf.ClapConfig(audio_config=_CLAP, text_config=_SIZES | {"vocab_size": 64}, projection_dim=16)
    return hf.ClapModel(config), hf.ClapFeatureExtractor(feature_size=32, max_length_s=1, truncation="rand_trunc")


AUDIO = {
    "ast": _ast,
    "wav2vec2": _wav2vec2,
    "wavlm": _wavlm,
    "hubert": _hubert,
    "bert": _bert,
    "whisper": _whisper,
    "clap": _clap,
}
PICTURES = ("test_convnext", "test_vit")


def save(folder: Path, name: str) -> Path:
    """Save one of ``AUDIO`` or ``PICTURES``, with random weights, as its library does."""
    torch.manual_seed(0)
    if name in PICTURES:
        save_for_hf(timm.create_model(name), str(folder), safe_serialization=True)
        return folder
    model, extractor = AUDIO[name]()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def into_hub_cache(folder: Path, repository: str, cache: Path, commit: str = COMMIT, revision: str = "main") -> Path:
    """Lay a folder's files out as the hub's cache has them: blobs by their digests, a snapshot a commit, refs."""
    place = cache / f"models--{repository.replace('/', '--')}"
    snapshot, reference = place / "snapshots" / commit, place / "refs" / revision
    for each in (place / "blobs", snapshot, reference.parent):
        each.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        blob = place / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(blob)
    reference.write_text(commit, encoding="utf-8")
    return snapshot
