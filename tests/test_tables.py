"""The table of systems, as text and as Markdown."""

from __future__ import annotations

import doctest

import pytest

from soundstack.evaluation import tables
from soundstack.evaluation.statistics import Interval
from soundstack.evaluation.tables import SystemScores, summary_table

CRNN = SystemScores(
    "crnn",
    devel_accuracy=Interval(0.75, 0.7, 0.8),
    devel_macro_f1=Interval(0.741, 0.69, 0.79),
    test_accuracy=Interval(0.8, 0.7, 0.9),
    test_macro_f1=Interval(0.79, 0.68, 0.89),
)
FUSION = SystemScores(
    "fusion",
    devel_accuracy=Interval(0.85, 0.81, 0.89),
    devel_macro_f1=Interval(0.84, 0.79, 0.89),
    test_accuracy=Interval(0.8, 0.71, 0.88),
    test_macro_f1=Interval(0.78, 0.69, 0.87),
)
DEVEL_ONLY = SystemScores("devel|only", devel_accuracy=Interval(1.0, 1.0, 1.0))


def test_every_system_has_a_line_with_scores_and_intervals_in_per_cent() -> None:
    lines = summary_table([CRNN, FUSION]).splitlines()
    assert lines[2].split("  ")[0].strip() == "crnn"
    assert "75.0 [70.0, 80.0]" in lines[2]
    assert "84.0 [79.0, 89.0]" in lines[3]


def test_the_columns_stand_below_each_other() -> None:
    lines = summary_table([CRNN, FUSION, DEVEL_ONLY]).splitlines()[:-1]
    assert len(lines) == 5
    assert len(set(map(len, lines))) == 1


def test_the_best_of_each_column_is_marked_and_equals_share_the_mark() -> None:
    crnn, fusion = summary_table([CRNN, FUSION]).splitlines()[2:4]
    assert "*85.0 [81.0, 89.0]" in fusion and "*84.0" in fusion and "*78.0" not in fusion
    assert "*80.0" in crnn and "*80.0" in fusion
    assert crnn.count("*") == 2


def test_a_system_alone_is_not_marked_as_the_best() -> None:
    assert "*" not in summary_table([CRNN])
    assert "*" not in summary_table([CRNN], markdown=True)


def test_a_system_without_test_scores_shows_a_dash() -> None:
    line = summary_table([DEVEL_ONLY, CRNN]).splitlines()[2]
    assert line.split() == ["devel|only", "*100.0", "[100.0,", "100.0]", "-", "-", "-"]


def test_the_markdown_form_has_five_cells_in_every_row() -> None:
    lines = summary_table([CRNN, FUSION, DEVEL_ONLY], markdown=True).splitlines()
    assert lines[1] == "| :-- | --: | --: | --: | --: |"
    assert all(line.replace("\\|", "").count("|") == 6 for line in lines)
    assert "| devel\\|only | **100.0 [100.0, 100.0]** | - | - | - |" in lines


def test_the_plain_form_is_ascii() -> None:
    assert summary_table([CRNN, FUSION, DEVEL_ONLY]).isascii()


@pytest.mark.parametrize("markdown", [False, True])
def test_a_table_without_systems_is_a_header(markdown: bool) -> None:
    assert "test macro-F1" in summary_table([], markdown=markdown)


def test_the_examples_in_the_docstrings_hold() -> None:
    results = doctest.testmod(tables)
    assert results.attempted >= 1
    assert results.failed == 0


def test_intervals_that_rest_on_few_groups_say_so_below_the_table() -> None:
    few, enough = Interval(0.5, 0.1, 0.9, groups=5), Interval(0.5, 0.4, 0.6, groups=50)
    rows = [SystemScores(name, enough, enough, few, few) for name in ("crnn", "fusion")]
    table = summary_table(rows)
    assert table.count("Only 5 groups of clips in test") == 1
    assert "devel:" not in table
    assert "groups" not in summary_table([SystemScores("crnn", enough, enough, enough, enough)])
