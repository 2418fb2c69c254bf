"""What the systems reach on the target's test part, and how much of the gap each closes.

The *gap* is the bound's score less that of the source alone; a system *closes* the share of it that it is above the
source alone. Scores are of the test clips of all seeds together; their intervals are by group, a group with all its
seeds counting as one. For shares, seeds and groups are drawn again with replacement, 2,000 times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from soundstack.evaluation.metrics import accuracy, confusion_matrix, macro_f1
from soundstack.evaluation.score_table import ScoreTable
from soundstack.evaluation.statistics import Interval, score_intervals
from soundstack.evaluation.tables import percent
from soundstack.transfer.systems import BOUND

START = "source_only"
MEASURES = {"accuracy": accuracy, "macro_f1": macro_f1}
_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class Comparison:
    """By system, the test clips' scores (T, K) for each seed, and the A-distances of its features by seed.

    ``clips``, ``labels`` and ``groups`` (T,) are those of each seed, which may test other clips.
    """

    classes: tuple[str, ...]
    clips: Sequence[Sequence[str]]
    labels: Sequence[Sequence[str]]
    groups: Sequence[Sequence[str]]
    scores: Mapping[str, Sequence[NDArray[np.float64]]]
    distances: Mapping[str, Sequence[float]]

    def table(self, system: str, seeds: Sequence[int] | None = None) -> ScoreTable:
        """The scores of a system, of all seeds or some; a clip's name has the number of the seed behind it."""
        numbers = range(len(self.clips)) if seeds is None else seeds
        clips = [f"{clip}#{number}" for number in numbers for clip in self.clips[number]]
        labels = [label for number in numbers for label in self.labels[number]]
        scores = np.concatenate([self.scores[system][number] for number in numbers])
        return ScoreTable(tuple(clips), tuple(labels), ("test",) * len(clips), scores, self.classes, "decision")

    @cached_property
    def intervals(self) -> dict[str, dict[str, Interval]]:
        """Accuracy and macro-F1 of each system."""
        pairs = zip(self.clips, self.groups, strict=True)
        group_of = {
            f"{clip}#{number}": group
            for number, (clips, groups) in enumerate(pairs)
            for clip, group in zip(clips, groups, strict=True)
        }
        return {system: score_intervals(self.table(system), group_of) for system in self.scores}

    @cached_property
    def gains(self) -> dict[str, dict[str, tuple[Interval, Interval | None]]]:
        """By system and measure, what it gains over the source alone, and the share of the gap that it closes.

        There is no share where the gap may be none: where its interval reaches 0.
        """
        systems = [START, *(system for system in self.scores if system not in (START, BOUND)), BOUND]
        counts = self._counts(systems)
        seeds, groups = counts.shape[1:3]
        rng = np.random.default_rng(0)
        of_seeds = np.concatenate([np.ones((1, seeds)), rng.multinomial(seeds, np.full(seeds, 1 / seeds), _DRAWS)])
        drawn = np.empty((2, _DRAWS + 1, len(systems)))
        for number, of_seed in enumerate(of_seeds):  # the first is the sample itself
            of_group = rng.multinomial(groups, np.full(groups, 1 / groups)) if number else np.ones(groups)
            confusions = np.einsum("s,g,ysgij->yij", of_seed, of_group, counts, optimize=True)
            drawn[:, number] = [measure(confusions) for measure in MEASURES.values()]
        gains = drawn - drawn[:, :, :1]
        gaps = gains[:, :, -1]
        found: dict[str, dict[str, tuple[Interval, Interval | None]]] = {system: {} for system in systems[1:]}
        for measure, gain, gap in zip(MEASURES, gains, gaps, strict=True):
            is_gap = np.quantile(gap, 0.025) > 0
            for at, system in enumerate(systems[1:], start=1):
                share = _interval(gain[:, at] / np.where(gap > 0, gap, np.nan)) if is_gap else None
                found[system][measure] = _interval(gain[:, at]), share if system != BOUND else None
        return found

    def _counts(self, systems: Sequence[str]) -> NDArray[np.float64]:
        """Confusions by system, seed and group: (Y, S, G, K, K)."""
        names = sorted({group for groups in self.groups for group in groups})
        place, classes = {name: at for at, name in enumerate(names)}, len(self.classes)
        counts = np.zeros((len(systems), len(self.clips), len(names), classes, classes))
        for row, system in enumerate(systems):
            for seed, groups in enumerate(self.groups):
                table, of = self.table(system, [seed]), np.array([place[group] for group in groups])
                np.add.at(counts[row, seed], (of, table.truth, table.predicted), 1)
        return counts

    def frame(self) -> pd.DataFrame:
        """The table of systems as it is shown: scores and shares in per cent with 95 % intervals."""
        rows = []
        for system, scores in self.intervals.items():
            share = self.gains[system]["accuracy"][1] if system != START else None
            distances = self.distances.get(system)
            rows.append(
                {
                    "system": system,
                    "accuracy": percent(scores["accuracy"]),
                    "macro-F1": percent(scores["macro_f1"]),
                    "gap closed": percent(share) if share else "-",
                    "A-distance": f"{np.mean(distances):.2f}" if distances else "-",
                }
            )
        return pd.DataFrame(rows)

    def said(self) -> list[str]:
        """What came of it, in sentences; also where it did not help."""
        gap = self.gains[BOUND]["accuracy"][0]
        lines = [f"Gap: labels of the target bring {percent(gap)} points of accuracy over the source alone."]
        if gap.low <= 0:
            lines.append("It may be none, so no share of it is told.")
        for system, of_measure in self.gains.items():
            gain, share = of_measure["accuracy"]
            if system == BOUND or system.startswith(START):
                continue
            word = "helps" if gain.low > 0 else "harms" if gain.high < 0 else "is not certain to help"
            half = ", at least half" if share and share.value >= 0.5 - 1e-9 else ""
            closes = f", {percent(share)} % of the gap{half}" if share else ""
            lines.append(f"{system} {word}: {percent(gain)} points{closes}.")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Scores, gains, shares and A-distances by system, as JSON-able values."""
        content: dict[str, Any] = {}
        for system, scores in self.intervals.items():
            tables = [self.table(system, [seed]) for seed in range(len(self.clips))]
            confusions = np.stack([confusion_matrix(t.truth, t.predicted, len(self.classes)) for t in tables])
            content[system] = {"a_distance": list(self.distances.get(system, []))}
            for measure, score in MEASURES.items():
                gain, share = self.gains[system][measure] if system != START else (None, None)
                content[system][measure] = {
                    **(_ends(scores[measure]) or {}),
                    "by_seed": score(confusions).tolist(),
                    "gain": _ends(gain),
                    "closed": _ends(share),
                }
        return content

    def metrics(self) -> dict[str, float]:
        """What a run logs, by ``transfer/<system>_<what>``."""
        values: dict[str, float] = {}
        for system, content in self.to_json().items():
            for measure in MEASURES:
                own, name = content[measure], f"transfer/{system}_{measure}"
                values |= {name: own["value"], f"{name}_ci_low": own["low"], f"{name}_ci_high": own["high"]}
                if own["closed"]:
                    values |= {f"{name}_closed{end}": own["closed"][key] for end, key in _ENDS.items()}
            if content["a_distance"]:
                values[f"transfer/{system}_a_distance"] = float(np.mean(content["a_distance"]))
        return values


_ENDS = {"": "value", "_ci_low": "low", "_ci_high": "high"}


def _interval(draws: NDArray[np.float64]) -> Interval:
    """The first value, and the interval by percentiles of the others."""
    low, high = np.nanquantile(draws[1:], (0.025, 0.975))
    return Interval(float(draws[0]), float(low), float(high))


def _ends(interval: Interval | None) -> dict[str, float] | None:
    return {"value": interval.value, "low": interval.low, "high": interval.high} if interval else None
