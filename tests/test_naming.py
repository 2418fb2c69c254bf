"""Names of own tables: made of paths, and told apart."""

from __future__ import annotations

import doctest
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundstack.config import naming


def test_the_examples_hold() -> None:
    assert doctest.testmod(naming).failed == 0


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/ada/birds/clips.csv", "birds"),
        ("/home/ada/birds/data/meta.csv", "birds"),
        ("/home/ada/birds.csv", "birds"),
        ("Night-birds v1.2.csv", "night_birds_v1.2"),
        ("Vögel/labels.csv", "vogel"),
        ("demo/clips.csv", "demo_own"),
        ("meta/esc50.csv", "esc50_own"),
        ("/clips.csv", "clips"),
        ("auto.csv", "auto_own"),
        ("..csv", "table"),
    ],
)
def test_a_name_is_made_of_the_file_or_of_its_folder(path: str, name: str) -> None:
    assert naming.of_table(Path(path)) == name


def test_words_in_other_scripts_are_told_apart_and_spelt_the_same_everywhere() -> None:
    names = {naming.of_table(Path(f"{word}/clips.csv")) for word in ("鳥", "犬", "птицы", "鳥1")}
    assert len(names) == 4
    assert naming.of_table(Path("Bi\u0308rds.csv")) == naming.of_table(Path("B\u00efrds.csv"))
    assert naming.of_table(Path(os.fsdecode(b"\xff\xfe.csv")))


@given(
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1).map(lambda text: f"{text}/{text}.csv")
)
def test_whatever_a_table_is_called_it_has_a_name_that_may_be_given(path: str) -> None:
    name = naming.of_table(Path(path))
    assert naming.checked(name) == name
