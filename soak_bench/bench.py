"""The parts of the bench in their order, sharing one tiny data set and one undisturbed run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from soak_bench import abuse, faults, fuzz, kills, load
from soak_bench.config import SoakConfig
from soak_bench.outcome import Part
from soak_bench.workplace import MODEL, Template, Undisturbed, undisturbed
from soundstack.tracking import registered_models
from soundstack.tracking.store import connect


def run(config: SoakConfig, folder: Path) -> Iterator[Part]:
    """Yield every part that is wanted as it is done; ``folder`` is for all that they write."""
    if config.wants("fuzz"):
        yield fuzz.run(config.fuzz_seconds, config.seed, say)
    needs_tiny = any(map(config.wants, ("kills", "requests", "faults"))) or config.model == "tiny"
    if config.what == "fuzz" or not needs_tiny:
        if config.wants("load"):
            yield load_registered(config, folder)
        return
    template = Template(folder)
    reference = undisturbed(template, kills.CHAINS if config.wants("kills") else 1)[0]
    if config.wants("requests"):
        yield abuse.run(reference.place, config.requests, config.seed, say)
    if config.wants("load"):
        yield load_tiny(reference, config.load_seconds) if config.model == "tiny" else load_registered(config, folder)
    if config.wants("faults"):
        yield faults.run(template, reference, config.seed, say)
    if config.wants("kills"):
        yield kills.run(template, reference, config.kills, config.seed, say)


def load_tiny(reference: Undisturbed, seconds: float) -> Part:
    """Load the tiny fused model."""
    place = reference.place
    candidates = place.folder.glob("artifacts/models/*/artifacts/artifacts/*/recogniser.json")
    fusion = next(path for path in candidates if json.loads(path.read_text(encoding="utf-8"))["type"] == "fusion")
    return load.run(f"models:/{MODEL}@champion", place.uri, fusion.parent, seconds, place.folder, say)


def load_registered(config: SoakConfig, folder: Path) -> Part:
    """Load a registered model of the user's own store."""
    found = registered_models.find_model(config.model)
    return load.run(found.uri, connect(), found.folder, config.load_seconds, folder, say)


def say(text: str) -> None:
    """Report progress where it disturbs no output."""
    print(text, file=sys.stderr, flush=True)
