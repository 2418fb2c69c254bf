"""Model cards: every fact shows, strange names stay text, and a description fits MLflow's column."""

from __future__ import annotations

import doctest
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient

from soundstack.audio.decode import AudioSpec
from soundstack.config.steps import CrnnConfig
from soundstack.evaluation.evaluation import SCORES
from soundstack.evaluation.statistics import Interval
from soundstack.recognisers.base import System
from soundstack.tracking import card as cards
from soundstack.tracking import champion
from soundstack.utils import markdown
from test_recognisers import crnn
from test_tracking import evaluation, register

#: What Markdown or HTML would take for markup where no backslash stands before it.
MARKUP = re.compile(r"(?<!\\)(?:\\\\)*[\[\]`*_~#|<>]|&(?!amp;|lt;|gt;)")


def facts(labels: tuple[str, ...] = ("cat", "dog", "siren"), members: int = 0) -> cards.Facts:
    """A system, or a fusion, on three classes: the siren is taken for the dog."""
    classes = len(labels)
    confusion = 10 * np.eye(classes, dtype=np.int64)
    confusion[-1] = 0
    confusion[-1, 1] = 7
    confusion[-1, -1] = 3
    audio = AudioSpec(44_100, 5.0)
    one = System("A network and a linear SVM.", audio, "efficientnet_lite0", "imagenet", "Apache-2.0")
    return cards.Facts(
        name="esc10-fusion" if members else "esc10-efficientnet_lite0-imagenet",
        version="3",
        dataset="esc10",
        fingerprint="0123456789ab",
        systems=(one, System("A CRNN.", audio), *[one] * (members - 2)) if members else (one,),
        members=tuple(
            cards.Member(f"esc10-member{number}/{number + 1}", 1 / members, 0.7) for number in range(members)
        ),
        settings={"C": "0.001", "feature_bound": "10"},
        scores={name: Interval(0.8, 0.712, 0.888) for name in SCORES},
        classes=labels,
        confusion=confusion,
        clips=(10 * classes, 1234),
        folds=4,
        data={"licence": "CC BY-NC 3.0", "citation": "Piczak, 2015", "notes": ["One clip is silent."], "silent": ["x"]},
    )


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(markdown).failed == 0


def test_a_card_says_what_the_model_is_how_good_and_where_it_fails() -> None:
    text = cards.card(facts())
    assert text.startswith("# esc10-efficientnet\\_lite0-imagenet, version 3\n")
    for heading in ("Data", "Scores", "Weaknesses", "Limits", "How to call it"):
        assert f"\n## {heading}\n" in text
    assert "## Members" not in text
    assert "\n\nA network and a linear SVM.\n\n" in text
    assert "- Licence: CC BY-NC 3.0\n- Citation: Piczak, 2015\n- Clips: 30 development in 4 folds, 1,234 test" in text
    assert "fingerprint 0123456789ab" in text
    assert "- Note: One clip is silent." in text
    assert "| test | 80.0 [71.2, 88.8] | 80.0 [71.2, 88.8] |" in text
    assert "Trained on 5 s clips" in text and "44,100 Hz" in text
    assert "Licence of the pre-trained weights: Apache-2.0 (efficientnet\\_lite0)" in text
    assert "mlflow models serve -m models:/esc10-efficientnet_lite0-imagenet/3 " in text
    assert f"]({cards.CONFUSION_PICTURE})" in text


def test_the_worst_class_stands_first_with_what_it_is_taken_for() -> None:
    rows = re.findall(r"^\| (\w+) \|(.*)\|$", cards.card(facts()).partition("## Weaknesses")[2], re.MULTILINE)
    assert [name for name, _ in rows] == ["class", "siren", "dog", "cat"]
    assert rows[1][1].strip() == "46.2 | 100.0 | 30.0 | 10 | dog (7)"
    assert rows[3][1].strip().endswith("| none")


def test_a_fusion_s_card_has_its_members_by_share_and_all_their_weights_licences() -> None:
    given = facts(members=2)
    heavy = replace(given.members[1], share=0.9, without=0.612)
    text = cards.card(replace(given, members=(replace(given.members[0], share=0.1), heavy)))
    assert "A fusion of 2 systems" in text
    assert text.index("| esc10-member1/2 | 90.0 | 61.2 |") < text.index("| esc10-member0/1 | 10.0 | 70.0 |")
    assert text.count("Licence of the pre-trained weights") == 1


def test_random_weights_have_nobody_s_licence() -> None:
    random = System("A network with random weights.", AudioSpec(44_100, 5.0), "vgg16")
    text = cards.card(replace(facts(), systems=(random,)))
    assert "random weights" in text and "No pre-trained weights of others" in text


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=2, max_size=6, unique=True))
def test_strange_labels_are_text_in_a_table_of_unchanged_shape(labels: list[str]) -> None:
    text = cards.card(facts(tuple(labels)))
    table = text.partition("## Weaknesses")[2].partition("![")[0].strip().split("\n")[2:]
    assert len(table) == 2 + len(labels)
    assert all(len(re.split(r"(?<!\\)(?:\\\\)*\|", row)) == 8 for row in table)
    assert text.count("\n## ") == len(re.findall(r"^## ", cards.card(facts()), re.MULTILINE))
    for label in labels:
        shown = markdown.escape(label)
        assert not MARKUP.search(shown)
        assert "\n" not in shown and shown.replace(" ", "").isprintable()
        assert f"| {shown} |" in text


@given(st.text(), st.integers(1, 40))
def test_cut_text_keeps_its_width_and_no_half_an_escape(text: str, width: int) -> None:
    shown = markdown.escape(text, width)
    assert len(shown) <= width
    assert not MARKUP.search(shown)
    assert not re.search(r"(?<!\\)(?:\\\\)*\\…$", shown)


@pytest.mark.parametrize("label", ["air conditioner", "&" * 300, "[x](http://example.org) " * 20, "警報" * 80])
def test_a_description_fits_with_50_classes_and_20_members(label: str) -> None:
    labels = tuple(f"{number:02d}{label}" for number in range(50))
    given = facts(labels, members=20)
    given = replace(
        given,
        members=tuple(replace(member, version=f"esc10-{'m' * 80}/{member.version}") for member in given.members),
        data={"licence": "<&>" * 1000, "citation": "|" * 5000, "notes": ["_" * 900] * 30, "skipped": ["x"] * 9},
        settings={f"name_{number}": "*" * 500 for number in range(60)},
    )
    picture = "get-artifact?path=confusion%2Fdevel.png&run_uuid=" + "0" * 32
    text = cards.card(given, picture, cards.LONGEST_DESCRIPTION)
    assert 2000 < len(text) < 5000
    assert picture in text and "## How to call it" in text and text.count("```") == 4
    assert "*Shortened: the run's artifact `MODEL_CARD.md` tells all.*" in text
    assert len(cards.card(given)) > 20_000


def test_a_card_that_fits_is_not_shortened() -> None:
    assert cards.card(facts(), limit=cards.LONGEST_DESCRIPTION) == cards.card(facts())


def test_a_registered_version_has_its_card_and_the_model_keeps_the_user_s_own_text(store: str, tmp_path: Path) -> None:
    client = MlflowClient()
    first = register("demo-crnn", 0.5)
    version = client.get_model_version("demo-crnn", first.version)
    text = version.description
    assert "# demo-crnn, version 1\n" in text and "models:/demo-crnn/1" in text
    assert f"](get-artifact?path=confusion%2Fdevel.png&run_uuid={version.run_id})" in text
    assert {"MODEL_CARD.md", "confusion"} <= {item.path for item in client.list_artifacts(version.run_id)}
    whole = Path(client.download_artifacts(version.run_id, "MODEL_CARD.md", str(tmp_path))).read_text(encoding="utf-8")
    assert "](confusion/devel.png)" in whole
    assert "mean of 2 fold models" in client.get_registered_model("demo-crnn").description
    client.update_registered_model("demo-crnn", "My own text.")
    second = register("demo-crnn", 0.5)
    assert client.get_registered_model("demo-crnn").description == "My own text."
    assert "version 2\n" in client.get_model_version("demo-crnn", second.version).description


def test_the_card_stands_before_the_champion_s_alias_moves(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    move = MlflowClient.set_registered_model_alias

    def moving(self: MlflowClient, name: str, alias: str, version: str) -> None:
        seen.append(self.get_model_version(name, version).description)
        move(self, name, alias, version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", moving)
    register("demo-crnn", 0.5)
    assert len(seen) == 1 and "## Scores" in seen[0]


def test_facts_are_those_that_the_run_logs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / cards.DATA_FILE).write_text(json.dumps({"licence": "CC0", "notes": []}))
    resolved = {"epochs": 7, "layout": "four_blocks", "spectrogram": {"bands": 128}}
    (tmp_path / "config.json").write_text(json.dumps({"resolved": resolved}))
    found = cards.facts_of(
        "demo-crnn", "1", crnn(), evaluation(0.5), CrnnConfig(), {"dataset": "demo", "data_fingerprint": "f"}, tmp_path
    )
    assert found.data["licence"] == "CC0"
    assert found.settings["epochs"] == 7 and found.settings["standardise"] == "scalar"
    assert not {"spectrogram", "data_dir", "cache_dir", "suffix", "learning_rate"} & found.settings.keys()
    assert found.clips == (12, 6) and found.folds == 2
    assert "- Licence: CC0\n" in cards.card(found)


def test_an_own_description_of_a_model_s_family_fits_too() -> None:
    assert len(cards.family_description(replace(facts(members=3), dataset="&" * 500))) < 1000
    assert champion.ALIAS in cards.family_description(facts())
