"""Names in scripts that matplotlib's own font lacks: drawn where a font has them, else named; no boxes, no remarks."""

from __future__ import annotations

import doctest
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.font_manager import fontManager
from matplotlib.image import imread
from matplotlib.text import Text

from soundstack.evaluation import fonts, plots, sound_plots
from soundstack.report.comparisons import per_class_figure

#: Of the private use area: no font that is installed here or elsewhere has them, so that tests are the same everywhere.
CAT, DOG = "\ue8a1", "\ue8a2"
NAMES = [f"{CAT}{DOG} purrs", "dog"]


@pytest.fixture(autouse=True)
def a_machine_that_forgets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    with mpl.rc_context():
        for remembered in (fonts._is_drawn, fonts._tell):
            remembered.cache_clear()
        yield
    for remembered in (fonts._is_drawn, fonts._tell):
        remembered.cache_clear()


def install(path: Path, family: str, characters: str, outline: bool = True) -> None:
    """Make a font whose characters are all a square, and install it."""
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000)
    pen = pytest.importorskip("fontTools.pens.ttGlyphPen").TTGlyphPen(None)
    if outline:
        pen.moveTo((100, 0))
        for corner in ((100, 800), (900, 800), (900, 0)):
            pen.lineTo(corner)
        pen.closePath()
    names = [f"u{ord(character):04X}" for character in characters]
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap({ord(character): name for character, name in zip(characters, names, strict=True)})
    builder.setupGlyf(dict.fromkeys((".notdef", *names), pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", *names), (1000, 100)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    fontManager.addfont(path)


def confusion() -> Any:
    return plots.confusion_figure(np.eye(2, dtype=int), NAMES, f"{CAT}-fusion")


def timeline() -> Any:
    return sound_plots.timeline_figure([0.0, 1.0], [1.0, 2.0], [[0.9, 0.1], [0.2, 0.8]], NAMES, f"{CAT}.wav")


def preview() -> Any:
    return sound_plots.spectrogram_grid_figure({name: [np.zeros((128, 10))] for name in NAMES}, 16_000, 1.0)


def of_the_report() -> Any:
    return per_class_figure({f"{CAT}-crnn": [0.1, 0.9]}, NAMES)


def members() -> Any:
    return plots.contributions_figure(NAMES, [1.0, 2.0], [0.5, 0.5], 0.6)


FIGURES = [confusion, timeline, preview, of_the_report, members]


def drawn(figure: Any, path: Path) -> list[str]:
    """Save a figure, to which nobody may remark anything; its texts."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(path)
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("figure", FIGURES)
def test_a_name_is_drawn_where_fonts_have_its_characters(
    figure: Callable[[], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(tmp_path / "empty.ttf", "A Sans of nothing", CAT + DOG, outline=False)
    install(tmp_path / "cat.ttf", "Sans of cats", CAT)
    install(tmp_path / "dog.ttf", "Serif of dogs", DOG)
    texts = drawn(figure(), tmp_path / "x.png")
    assert any(NAMES[0] in text for text in texts)
    assert mpl.rcParams["font.family"][-2:] == ["Sans of cats", "Serif of dogs"]
    assert not caplog.records


@pytest.mark.parametrize("figure", FIGURES)
def test_a_character_that_no_font_has_is_named_and_the_user_is_told_once(
    figure: Callable[[], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        texts = drawn(figure(), tmp_path / "x.png")
    assert any("[U+E8A1 E8A2] purrs" in text for text in texts)
    assert not any(CAT in text for text in texts)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "install a font" in record.getMessage()


def test_a_square_of_ink_stands_where_the_character_is(tmp_path: Path) -> None:
    install(tmp_path / "cat.ttf", "Sans of cats", CAT)

    def ink() -> int:
        figure = fonts.Figure(figsize=(1, 1), dpi=100)
        text = figure.text(0.1, 0.1, "", size=40)  # made before the font is known to be needed
        text.set_text(fonts.drawable(CAT))
        drawn(figure, tmp_path / "x.png")
        return int((imread(tmp_path / "x.png")[..., 0] < 0.5).sum())

    # 40 points are 55.6 pixels at 100 dots an inch; the square takes 0.8 of them on each side.
    assert ink() == pytest.approx((0.8 * 40 * 100 / 72) ** 2, rel=0.1)


def test_what_shows_nothing_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    assert fonts.drawable("a\U000e0062b") == "ab"
    assert not caplog.records


def test_lone_surrogates_of_names_that_are_no_text_are_numbers(tmp_path: Path) -> None:
    assert fonts.drawable("a\udc80") == "a[U+DC80]"


def test_the_examples_in_the_docstrings_hold() -> None:
    results = doctest.testmod(fonts)
    assert results.attempted >= 2
    assert results.failed == 0
