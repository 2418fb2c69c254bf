"""All systems on all pairs of a run. Labels of the target are taken for the bound and for the final scores alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from soundstack.config.transfer import TransferConfig
from soundstack.training.fold import derived_seed
from soundstack.transfer.compare import Comparison
from soundstack.transfer.dann import DannSpec
from soundstack.transfer.domains import Pair
from soundstack.transfer.pairs import Pairs
from soundstack.transfer.systems import BOUND, SYSTEMS, Adapted, a_distance, target_supervised
from soundstack.utils.errors import DataError

#: Systems whose features are drawn: before, and after.
MAPPED = ("source_only", "statistics", "dann")


@dataclass(frozen=True, eq=False)
class Outcome:
    """The comparison, the features of the first seed's systems that are drawn, and what the reader should be told."""

    comparison: Comparison
    mapped: dict[str, Adapted]
    notes: tuple[str, ...]
    counts: dict[str, int]

    def to_json(self, config: TransferConfig, found: Pairs) -> dict[str, Any]:
        """All that a report needs, as JSON-able values; ``counts`` are the clips of the first seed."""
        of_source = found.data_set.fingerprint
        return {
            "schema": 1,
            "source": {"name": config.data_name, "where": config.source_where, "fingerprint": of_source},
            "target": {
                "name": config.of_target.data_name if config.is_other_set else config.target,
                "where": config.target_where,
                "fingerprint": found.target,
                "strength": config.strength if config.target == "rerecorded" else None,
            },
            "network": config.network,
            "pretraining": config.chosen_pretraining,
            "seeds": list(range(config.seed, config.seed + config.seeds)),
            "classes": self.comparison.classes,
            "counts": self.counts,
            "systems": self.comparison.to_json(),
            "said": self.comparison.said(),
            "notes": self.notes,
        }


def run(
    found: Pairs, config: TransferConfig, device: torch.device, progress: Callable[[int], object] = lambda count: None
) -> Outcome:
    """Adapt and score, seed by seed.

    Raises:
        DataError: as of the pairs, or seeds have other classes.
    """
    scores, distances = defaultdict(list), defaultdict(list)
    done: list[Pair] = []
    mapped: dict[str, Adapted] = {}
    for number, pair in enumerate(found.of_seeds):
        if done and pair.classes != done[0].classes:
            raise DataError("The seeds have other common classes; some class has too few groups to be halved.")
        spec = DannSpec(config.adversary, config.steps, derived_seed("transfer", config.seed + number))
        for name, adapted in adapt(pair, spec, device).items():
            scores[name].append(adapted.scores)
            distances[name].append(a_distance(adapted, (pair.source.folds, pair.target.folds), device))
            if not done and name in MAPPED:
                mapped[name] = adapted
        scores[BOUND].append(bound(pair, spec, device))
        done.append(pair)
        progress(1)
    clips = [[clip.id for clip in pair.test.clips] for pair in done]
    labels = [[clip.label for clip in pair.test.clips] for pair in done]
    groups = [[clip.group for clip in pair.test.clips] for pair in done]
    comparison = Comparison(done[0].classes, clips, labels, groups, scores, distances)
    counts = {part: len(getattr(done[0], part).clips) for part in ("source", "target", "test")}
    return Outcome(comparison, mapped, done[0].notes, counts)


def adapt(pair: Pair, spec: DannSpec, device: torch.device) -> dict[str, Adapted]:
    """Every system that knows no label of the target."""
    task = pair.task(spec, device)
    return {name: system(task) for name, system in SYSTEMS.items()}


def bound(pair: Pair, spec: DannSpec, device: torch.device) -> NDArray[np.float64]:
    """The scores of what is trained on the target's labels (T, K)."""
    return target_supervised(pair.task(spec, device), pair.target.truth(pair.classes), pair.target.folds)
