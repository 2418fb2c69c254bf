"""Model cards: what a registered version is, what it was trained on, how good it is, where it fails and how to call it.

A card is Markdown, made of facts alone. MLflow keeps descriptions of up to 5,000 characters, so a card takes a limit:
it tells less of the longest parts, step by step, until it fits. Without a limit it tells all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstack.audio.decode import AudioSpec
from soundstack.config.base import Config
from soundstack.crnn.recogniser import CrnnRecogniser
from soundstack.deepspectrum.recogniser import SvmRecogniser
from soundstack.evaluation.evaluation import Evaluation
from soundstack.evaluation.metrics import class_scores, table_confusion
from soundstack.evaluation.statistics import Interval, few_groups
from soundstack.evaluation.tables import percent
from soundstack.fusion.recogniser import FusionRecogniser
from soundstack.networks.registry import NETWORKS
from soundstack.recognisers.base import Recogniser
from soundstack.utils.markdown import escape, table

#: MLflow's column holds 5,000 characters.
LONGEST_DESCRIPTION = 4999
FILE = "MODEL_CARD.md"
CONFUSION_PICTURE = "confusion/devel.png"
DATA_FILE = "data/data.json"
CONTRIBUTIONS_FILE = "contributions.json"


@dataclass(frozen=True)
class System:
    """A single system: a CRNN (``network`` is its layout) or SVMs on the features of a pre-trained or random network.

    ``models`` counts what is averaged: the fold models of a CRNN, the SVMs on deep features.
    """

    network: str
    pretraining: str
    models: int
    audio: AudioSpec

    @property
    def is_crnn(self) -> bool:
        """Whether it was trained from scratch on spectrograms."""
        return self.network not in NETWORKS


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
        name, version: of the registered model.
        dataset, fingerprint: what it was trained on.
        systems: the system itself, or those of a fusion's members.
        members: of a fusion; empty for a single system.
        settings: the main ones by name.
        scores: ``devel_accuracy`` ... ``test_macro_f1``.
        classes: the labels in alphabetical order.
        confusion: of the development clips, out of fold: (K, K), rows are the truth.
        clips: the number of development and of test clips.
        folds: the number of development folds.
        data: what ``data/data.json`` holds; empty where the run has none.
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


@dataclass(frozen=True)
class _Detail:
    """How much is told: numbers of rows and items, and characters a text; None is all."""

    worst: int | None
    members: int | None
    labels: int | None
    notes: int | None
    settings: int | None
    text: int | None
    name: int | None


_ALL = _Detail(None, None, None, None, None, None, None)
#: From more to less; the last one fits whatever the facts are.
_SHORTER = (
    _Detail(10, None, None, 6, None, 400, 60),
    _Detail(8, None, 50, 4, 16, 300, 60),
    _Detail(6, 20, 20, 3, 16, 200, 50),
    _Detail(5, 10, 10, 2, 12, 150, 40),
    _Detail(3, 5, 5, 1, 8, 100, 24),
    _Detail(2, 3, 3, 0, 4, 60, 24),
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
    whole = isinstance(recogniser, FusionRecogniser)
    parts = list(recogniser.members.values()) if isinstance(recogniser, FusionRecogniser) else [recogniser]
    return Facts(
        name=name,
        version=version,
        dataset=tags.get("dataset", ""),
        fingerprint=tags.get("data_fingerprint", ""),
        systems=tuple(map(_system, parts)),
        members=_members(_json(folder / CONTRIBUTIONS_FILE)) if whole else (),
        settings=_settings(config, _json(folder / "config.json").get("resolved", {})),
        scores=evaluation.intervals,
        classes=evaluation.devel.classes,
        confusion=table_confusion(evaluation.devel),
        clips=(len(evaluation.devel.clips), len(evaluation.test.clips)),
        folds=len(evaluation.devel.fold_names),
        data=_json(folder / DATA_FILE),
    )


def card(facts: Facts, picture: str = CONFUSION_PICTURE, limit: int | None = None) -> str:
    """The card as Markdown, of at most ``limit`` characters; ``picture`` is the address of the confusion matrix."""
    if limit is None:
        return _text(facts, picture, _ALL)
    text = ""
    for detail in (_ALL, *_SHORTER):
        text = _text(facts, picture, detail)
        if detail is not _ALL:
            text += f"\n*Shortened: the run's artifact `{FILE}` tells all.*\n"
        if len(text) <= limit:
            break
    return text


def family_description(facts: Facts) -> str:
    """What stands above all versions of a registered model."""
    data = escape(facts.dataset, 60) or "one data set"
    return (
        f"{_what(facts)}\n\nTrained on {data}; {len(facts.classes)} classes. The description of a version is its model "
        "card. The alias `champion` moves to a new version that is at least as good by macro-F1 on devel, if both were "
        "scored on the same clips and folds.\n"
    )


def _text(facts: Facts, picture: str, detail: _Detail) -> str:
    parts = [
        f"# {escape(facts.name)}, version {escape(facts.version)}\n",
        f"{_what(facts)}\n",
        *_settings_part(facts, detail),
        *_data_part(facts, detail),
        *_members_part(facts, detail),
        *_scores_part(facts),
        *_weaknesses_part(facts, picture, detail),
        *_limits_part(facts, detail),
        *_calls_part(facts),
    ]
    return "\n".join(parts)


def _what(facts: Facts) -> str:
    if facts.members or len(facts.systems) > 1:
        return (
            f"A fusion of {len(facts.systems)} systems: a linear SVM stacked on their scores, clip by clip "
            "(Amiriparian et al. 2020, section 3.4). It takes raw audio; its members are in it."
        )
    system = facts.systems[0]
    if system.is_crnn:
        return (
            f"A convolutional recurrent network (CRNN, {escape(system.network)}) on log-mel spectrograms, trained from "
            f"scratch; the mean of {system.models} fold models (Amiriparian et al. 2020, section 3.2)."
        )
    spec = NETWORKS[system.network]
    kind = "pictures of spectrograms" if spec.input == "picture" else "the waveform"
    svms = "a linear SVM" if system.models == 1 else f"the mean of {system.models} linear SVMs"
    return (
        f"Deep features and {svms}: {escape(system.network)} on {kind}, {_pretraining(system)}; {spec.dim} features "
        f"from {escape(spec.layer)} (Amiriparian et al. 2020, section 3.3)."
    )


def _pretraining(system: System) -> str:
    return "random weights" if system.pretraining == "none" else f"pre-trained on {escape(system.pretraining)}"


def _settings_part(facts: Facts, detail: _Detail) -> Iterator[str]:
    shown = [f"{escape(name, detail.name)} {escape(str(value), 40)}" for name, value in facts.settings.items()]
    if shown:
        yield f"Settings: {_listed(shown, detail.settings)}.\n"


def _data_part(facts: Facts, detail: _Detail) -> Iterator[str]:
    devel, test = facts.clips
    yield "## Data\n"
    yield f"- Data set: {escape(facts.dataset, 60) or 'not named'}, fingerprint {escape(facts.fingerprint, 40)}"
    for name, title in (("licence", "Licence"), ("citation", "Citation")):
        text = str(facts.data.get(name) or "")
        yield f"- {title}: {escape(text, detail.text) if text else 'not stated'}"
    yield f"- Clips: {devel:,} development in {facts.folds} folds, {test:,} test"
    labels = [escape(label, detail.name) for label in facts.classes]
    yield f"- Classes: {len(labels)}: {_listed(labels, detail.labels)}"
    for name, title in (("skipped", "Damaged and skipped"), ("silent", "Digital silence")):
        if clips := facts.data.get(name):
            yield f"- {title}: {len(clips):,} clips"
    notes = [str(note) for note in facts.data.get("notes", ())]
    shown = notes if detail.notes is None else notes[: detail.notes]
    yield from (f"- Note: {escape(note, detail.text)}" for note in shown)
    if len(shown) < len(notes):
        yield f"- {len(notes) - len(shown)} more notes"
    yield ""


def _members_part(facts: Facts, detail: _Detail) -> Iterator[str]:
    if not facts.members:
        return
    ranked = sorted(facts.members, key=lambda member: -member.share)
    shown = ranked if detail.members is None else ranked[: detail.members]
    rows = [
        [escape(member.version, 100), f"{100 * member.share:.1f}", f"{100 * member.without:.1f}"] for member in shown
    ]
    yield "## Members\n"
    yield table(["member/version", "share of the weights, %", "devel macro-F1 without it, %"], rows, numbers=True)
    if rest := ranked[len(shown) :]:
        yield f"And {len(rest)} more, with {100 * sum(member.share for member in rest):.1f} % together.\n"


def _scores_part(facts: Facts) -> Iterator[str]:
    rows = [
        [title, *(percent(facts.scores[f"{part}_{measure}"]) for measure in ("accuracy", "macro_f1"))]
        for part, title in (("devel", "devel, out of fold"), ("test", "test"))
    ]
    yield "## Scores\n"
    yield table(["", "accuracy, %", "macro-F1, %"], rows, numbers=True)
    few = few_groups({part: facts.scores[f"{part}_accuracy"].groups for part in ("devel", "test")})
    yield f"In brackets: 95 % intervals, by groups of clips. {few}".rstrip() + "\n"


def _weaknesses_part(facts: Facts, picture: str, detail: _Detail) -> Iterator[str]:
    precision, recall, f1 = class_scores(facts.confusion)
    support = facts.confusion.sum(axis=1)
    order = np.argsort(f1, kind="stable")
    chosen = order[: detail.worst] if detail.worst is not None else order
    rows = [
        [
            escape(facts.classes[row], detail.name),
            *(f"{100 * values[row]:.1f}" for values in (f1, precision, recall)),
            str(support[row]),
            _taken_for(facts, int(row), detail),
        ]
        for row in chosen
    ]
    yield "## Weaknesses\n"
    yield (
        "By class on devel, the worst first:\n"
        if len(rows) == len(order)
        else (f"The worst {len(rows)} of {len(order)} classes by F1 on devel:\n")
    )
    yield table(["class", "F1, %", "precision, %", "recall, %", "clips", "most often taken for"], rows)
    yield f"![Confusion matrix of the development clips]({picture})\n"


def _taken_for(facts: Facts, row: int, detail: _Detail) -> str:
    wrong = facts.confusion[row].copy()
    wrong[row] = 0
    most = [int(column) for column in np.argsort(-wrong, kind="stable")[:2] if wrong[column]]
    return ", ".join(f"{escape(facts.classes[column], detail.name)} ({wrong[column]})" for column in most) or "none"


def _limits_part(facts: Facts, detail: _Detail) -> Iterator[str]:
    seconds = " or ".join(f"{value:g}" for value in sorted({system.audio.seconds for system in facts.systems}))
    rates = " or ".join(f"{value:,}" for value in sorted({system.audio.sample_rate for system in facts.systems}))
    yield "## Limits\n"
    yield f"- Trained on {seconds} s clips; shorter ones are padded with silence, longer ones were not in training."
    yield f"- Heard at {rates} Hz: clips are resampled to that, and what lies above half of it is lost."
    yield (
        f"- It always answers one of its {len(facts.classes)} classes, also for silence, for several sounds at once, "
        "and for sounds that are none of them."
    )
    yield (
        "- Measured on the data above only: other microphones, places and noise are not covered. Not for decisions "
        "about people or their safety. Devel scores are slightly high: settings may have been chosen by them."
    )
    yield from _licences(facts, detail)
    yield ""


def _licences(facts: Facts, detail: _Detail) -> Iterator[str]:
    networks: dict[str, list[str]] = {}
    for system in facts.systems:
        if not system.is_crnn and system.pretraining != "none":
            names = networks.setdefault(NETWORKS[system.network].licence, [])
            if system.network not in names:
                names.append(system.network)
    for licence, names in networks.items():
        yield f"- Licence of the pre-trained weights: {escape(licence)} ({_listed([*map(escape, names)], 5)})"
    if not networks:
        yield "- No pre-trained weights of others are in it."
    if of_data := facts.data.get("licence"):
        yield f"- The licence of the data may bind what is made of it: {escape(str(of_data), detail.text)}"


def _calls_part(facts: Facts) -> Iterator[str]:
    address = f"models:/{facts.name}/{facts.version}"
    yield "## How to call it\n"
    yield "With `MLFLOW_TRACKING_URI` set to this store, as a server:\n"
    yield "```sh"
    yield f"mlflow models serve -m {address} --env-manager local -p 5001"
    yield """(printf '{"dataframe_records":[{"audio":"'; base64 < CLIP.wav | tr -d '\\n';"""
    yield """  printf '"}],"params":{"top_k":3}}') |"""
    yield "  curl -s -H 'Content-Type: application/json' --data-binary @- localhost:5001/invocations"
    yield "```\n"
    yield "Or in Python:\n"
    yield "```python"
    yield "import mlflow, pandas, pathlib"
    yield f'model = mlflow.pyfunc.load_model("{address}")'
    yield 'clips = pandas.DataFrame({"audio": [pathlib.Path("CLIP.wav").read_bytes()]})'
    yield 'print(model.predict(clips, params={"top_k": 3}))'
    yield "```\n"


def _listed(items: Sequence[str], most: int | None) -> str:
    if most is None or len(items) <= most:
        return ", ".join(items)
    return f"{', '.join(items[:most])} and {len(items) - most} more"


def _system(recogniser: Recogniser) -> System:
    match recogniser:
        case CrnnRecogniser():
            return System(recogniser.layout, "none", len(recogniser.folds), recogniser.audio)
        case SvmRecogniser():
            spec = recogniser.embedder.spec
            return System(spec.network, spec.pretraining, len(recogniser.svms), recogniser.audio)
    raise TypeError(f"no card is written of a {type(recogniser).__name__}")


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
    given = config.model_dump(mode="json", exclude=set(config.irrelevant) | elsewhere)
    chosen = {name: value for name, value in resolved.items() if name not in elsewhere}
    return {
        name: f"{value:g}" if isinstance(value, float) else value
        for name, value in (given | chosen).items()
        if value not in ("auto", None) and not isinstance(value, dict)
    }


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
