"""Features from audio encoders of the Hugging Face hub, of their usual sizes: the project's way beside torch.

    python benchmarks/encoders.py [--turns 3]

Weights are random. Both take a clip of 5 s of noise through the model's own extractor and the encoder; both may use all
cores. Ours: by OpenVINO, in float32 and, where the processor has it, in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from _common import Row, cosine, parser, show, take_turns  # isort: skip

import torch
import transformers

from soundstack.networks import cpu
from soundstack.networks.hf_encoder import AudioEncoder
from soundstack.utils import devices

SECONDS = 5


def encoders() -> Iterator[tuple[str, AudioEncoder]]:
    """Name and network."""
    clap = transformers.ClapFeatureExtractor(feature_size=64, truncation="rand_trunc")
    made: dict[str, tuple[Any, Any]] = {
        "AST": (transformers.ASTModel(transformers.ASTConfig()), transformers.ASTFeatureExtractor()),
        "CLAP's audio tower": (transformers.ClapAudioModel(transformers.ClapAudioConfig()), clap),
        "WavLM base": (transformers.WavLMModel(transformers.WavLMConfig()), transformers.Wav2Vec2FeatureExtractor()),
    }
    for name, (model, extractor) in made.items():
        model.set_attn_implementation("eager")
        yield name, AudioEncoder(model.eval(), extractor, None).eval()


def rows(turns: int) -> Iterator[Row]:
    """Measure."""
    devices.choose("cpu")
    precisions = ("float32", "bfloat16") if cpu.computes_bfloat16() else ("float32",)
    torch.manual_seed(0)
    with torch.inference_mode():
        for name, plain in encoders():
            clip = 0.1 * torch.randn(1, SECONDS * plain.extractor.sampling_rate)
            ways = {"torch": plain} | {precision: cpu.on_cpu(plain, precision) for precision in precisions}
            steps = {way: lambda turn, net=net, clip=clip: net(clip).numpy() for way, net in ways.items()}
            timings, results = take_turns(steps, turns)
            theirs = timings["torch"].median
            for precision in precisions:
                ours = timings[precision].median
                yield Row(
                    f"{name}, {precision}",
                    "torch, float32",
                    "ms/clip",
                    theirs[0] * 1000,
                    ours[0] * 1000,
                    theirs[0] / ours[0],
                    theirs[1] / ours[1],
                    equality=f"cosine {cosine(results['torch'][0], results[precision][0]):.5f}",
                )


if __name__ == "__main__":
    given = parser(__doc__, turns=(3, "turns of each")).parse_args()
    show(rows(given.turns), given.json)
