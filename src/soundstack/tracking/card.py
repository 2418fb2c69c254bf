"""Model cards: what a registered version is, what it was trained on, how good it is, where it fails and how to call it.

A card is Markdown, made of facts alone; `templates/model_card.md.j2` is its text. MLflow keeps descriptions of up to
5,000 characters, so a card takes a limit: it tells less of the longest parts, step by step, until it fits. Without a
limit it tells all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from soundstack.config.base import Config
from soundstack.evaluation.evaluation import Evaluation
from soundstack.evaluation.metrics import class_scores, table_confusion
from soundstack.evaluation.none_rule import NoneRule
from soundstack.evaluation.statistics import Interval, few_groups
from soundstack.evaluation.tables import percent
from soundstack.networks.registry import NetworkSpec, network_spec
from soundstack.recognisers.base import Recogniser, System
from soundstack.utils.markdown import escape

#: MLflow's column holds 5,000 characters.
LONGEST_DESCRIPTION = 4999
FILE = "MODEL_CARD.md"
CONFUSION_PICTURE = "confusion/devel.png"
DATA_FILE = "data/data.json"


@dataclass(frozen=True)
class Member:
    """A member of a fusion, as ``name/version``: its share of the weights, and the devel macro-F1 without it (0..1)."""

    version: str
    share: float
    without: float


@dataclass(frozen=True)
class Facts:
    """What a card says.

    Attributes:
        systems: the system itself, or those of a fusion's members.
        members: of a fusion; empty for a single system.
        scores: ``devel_accuracy`` ... ``test_macro_f1``.
        confusion: of the development clips, out of fold: (K, K), rows are the truth.
        clips: the number of development and of test clips.
        data: what ``data/data.json`` holds; empty where the run has none.
        none: when it answers none, if ever, and how well, by metric.
    """

    name: str
    version: str
    dataset: str
    fingerprint: str
    systems: tuple[System, ...]
    members: tuple[Member, ...]
    settings: Mapping[str, Any]
    scores: Mapping[str, Interval]
    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    clips: tuple[int, int]
    folds: int
    data: Mapping[str, Any]
    none: NoneRule | None = None
    none_metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def weight_licences(self) -> list[tuple[str, list[str]]]:
        """Licences of pre-trained weights with the networks that have them, in alphabetical order."""
        found: dict[str, list[str]] = {}
        for network in _pretrained(self.systems):
            found.setdefault(network.licence, []).append(network.name)
        return sorted(found.items())

    @property
    def restriction(self) -> str:
        """See :func:`restriction`."""
        return restriction(self.systems)


#: How much is told, from all to the least, which fits whatever the facts are: at most so many rows and items, and so
#: many characters a text and a name.
_DETAIL = ("worst", "members", "labels", "notes", "settings", "text", "name")
_ALL = sys.maxsize
_DETAILS = (
    (_ALL,) * len(_DETAIL),
    (10, _ALL, _ALL, 6, _ALL, 400, 60),
    (8, _ALL, 50, 4, 16, 300, 60),
    (6, 20, 20, 3, 16, 200, 50),
    (5, 10, 10, 2, 12, 150, 40),
    (3, 5, 5, 1, 8, 100, 24),
    (2, 3, 3, 0, 4, 60, 24),
)


def facts_of(
    name: str,
    version: str,
    recogniser: Recogniser,
    evaluation: Evaluation,
    config: Config,
    tags: Mapping[str, str],
    folder: Path,
) -> Facts:
    """Collect the facts of a trained recogniser; ``folder`` holds what its run logs (data, settings, contributions)."""
    return Facts(
        name=name,
        version=version,
        dataset=tags.get("dataset", ""),
        fingerprint=tags.get("data_fingerprint", ""),
        systems=recogniser.systems,
        members=_members(_json(folder / "contributions.json")),
        settings=_settings(config, _json(folder / "config.json").get("resolved", {})),
        scores=evaluation.intervals,
        classes=evaluation.devel.classes,
        confusion=table_confusion(evaluation.devel),
        clips=(len(evaluation.devel.clips), len(evaluation.test.clips)),
        folds=len(evaluation.devel.fold_names),
        data=_json(folder / DATA_FILE),
        none=recogniser.none,
        none_metrics=evaluation.none.metrics() if evaluation.none else {},
    )


def restriction(systems: Iterable[System]) -> str:
    """What a user of the model must know before all else; empty where commercial use is free."""
    weights = [f"{each.name}, {each.licence} ({each.citation})" for each in _pretrained(systems) if each.non_commercial]
    return f"for non-commercial use only, by the licence of the weights in it: {'; '.join(weights)}" if weights else ""


def card(facts: Facts, picture: str = CONFUSION_PICTURE, limit: int | None = None) -> str:
    """The card as Markdown, of at most ``limit`` characters; ``picture`` is the address of the confusion matrix."""
    few = few_groups({part: facts.scores[f"{part}_accuracy"].groups for part in ("devel", "test")})
    known = {"facts": facts, "picture": picture, "file": FILE, "classes": _worst_first(facts), "few_groups": few}
    template, text = _TEMPLATES.get_template("model_card.md.j2"), ""
    for numbers in _DETAILS:
        most = dict(zip(_DETAIL, numbers, strict=True))
        settings = [f"{escape(name, most['name'])} {escape(str(value), 40)}" for name, value in facts.settings.items()]
        text = template.render(known, most=most, settings=settings, shortened=numbers != _DETAILS[0])
        if limit is None or len(text) <= limit:
            break
    return text


def family_description(facts: Facts) -> str:
    """What stands above all versions of a registered model."""
    return _TEMPLATES.get_template("model_family.md.j2").render(facts=facts)


def _pretrained(systems: Iterable[System]) -> list[NetworkSpec]:
    """The networks with published weights, each once."""
    used = {each.network: each.licence for each in systems if each.pretraining != "none"}
    # Of a listed network the licence is known; of an open one, its settings tell it.
    return [network_spec(name, settings={"licence": licence}) for name, licence in used.items()]


def _listed(items: Iterable[str], most: int) -> str:
    shown = list(items)
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + rest


#: Nothing is escaped but by the filter ``md``.
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {
    "md": lambda value, width=None: escape(str(value), width),
    "number": format,
    "percent": percent,
    "listed": _listed,
}


def _worst_first(facts: Facts) -> list[dict[str, Any]]:
    """The classes with their scores, by F1, and the two that each is most often taken for."""
    precision, recall, f1 = class_scores(facts.confusion)
    wrong = facts.confusion * ~np.eye(len(f1), dtype=bool)
    return [
        {
            "label": facts.classes[row],
            "f1": f1[row],
            "precision": precision[row],
            "recall": recall[row],
            "clips": facts.confusion[row].sum(),
            "taken_for": [
                (facts.classes[at], wrong[row, at])
                for at in np.argsort(-wrong[row], kind="stable")[:2]
                if wrong[row, at]
            ],
        }
        for row in np.argsort(f1, kind="stable")
    ]


def _members(contributions: Mapping[str, Any]) -> tuple[Member, ...]:
    shares, without = contributions.get("weight_share", {}), contributions.get("devel_macro_f1_without", {})
    return tuple(
        Member(version, shares[name], without[name])
        for version in contributions.get("members", ())
        if (name := version.rpartition("/")[0]) in shares
    )


def _settings(config: Config, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What was set or chosen and changes the result, but for what the card says elsewhere."""
    elsewhere = {"dataset", "network", "pretraining", "members", "layout", "audio", "spectrogram"}
    given = config.model_dump(mode="json", exclude=set(config.irrelevant))
    return {
        name: f"{value:g}" if isinstance(value, float) else value
        for name, value in (given | dict(resolved)).items()
        if name not in elsewhere and value not in ("auto", None) and not isinstance(value, dict)
    }


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
