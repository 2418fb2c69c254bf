"""Names in any script: drawn in a font of this machine that has them; what none has is named in brackets.

matplotlib's own font has neither Chinese, Japanese and Korean nor most emoji. matplotlib asks a list of families in
turn: those that are needed are added to its setting ``font.family``.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby

import matplotlib as mpl
from matplotlib import figure
from matplotlib.backend_bases import RendererBase
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text
from matplotlib.textpath import TextPath

logger = logging.getLogger(__name__)
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # its remarks on weights are no user's business

#: Boxes that stand for a script each, which tell a reader nothing.
_NO_FONT = "Last Resort"
#: Joiners, marks of direction, variation selectors, controls: what shows nothing may be left out.
_UNSEEN = ("Cf", "Cc", "Mn")


class Figure(figure.Figure):
    """A white figure, laid out by what is in it; texts are drawn in the fonts that names turned out to need, also
    those set before.
    """

    def __init__(self, figsize: tuple[float, float], dpi: float = 130) -> None:
        """Make an empty figure of ``figsize`` in inches."""
        super().__init__(figsize, dpi, facecolor="white", layout="constrained")

    def draw(self, renderer: RendererBase) -> None:
        """Draw the figure."""
        for text in self.findobj(Text):
            text.set_fontfamily(mpl.rcParams["font.family"])
        super().draw(renderer)


def drawable(text: str) -> str:
    """Return a text as it can be drawn here: what no font has is named in brackets, and the user is told once.

    >>> drawable("cat")
    'cat'
    """
    missing = {character for character in text if not _is_drawn(character)}
    if not missing:
        return text
    unseen = {character for character in missing if unicodedata.category(character) in _UNSEEN}
    _tell(bool(missing - unseen))
    runs = groupby((character for character in text if character not in unseen), missing.__contains__)
    return "".join(_named(run) if no_font else "".join(run) for no_font, run in runs)


def shown(name: str, longest: int = 40) -> str:
    """A name for a figure: of characters that can be drawn, not too long, and no mathematics in a dollar sign."""
    name = drawable(name)
    name = name if len(name) <= longest else name[: longest - 1] + "…"
    return name.replace("$", r"\$")


def class_name(label: str, longest: int = 28) -> str:
    """A class's label for a figure.

    >>> class_name("sea_waves")
    'sea waves'
    """
    return shown(label.replace("_", " "), longest)


def width_of(names: Sequence[str], size: float) -> float:
    """Width in inches of the longest of several names set in ``size`` points."""
    font = FontProperties(size=size)
    widths = (TextPath((0, 0), name, prop=font).get_extents().width for name in names if name.strip())
    return float(max(widths, default=0)) / 72


@cache
def _is_drawn(character: str) -> bool:
    """Tell whether a font has a character; if need be, that font is added to matplotlib's families."""
    known = mpl.rcParams["font.family"]
    if any(_has(family, character) for family in known):
        return True
    others = {font.name for font in fontManager.ttflist if _NO_FONT not in font.name} - set(known)
    for family in sorted(others, key=lambda name: ("Sans" not in name, name)):
        if _has(family, character):
            mpl.rcParams["font.family"] = [*known, family]
            return True
    return False


def _has(family: str, character: str) -> bool:
    try:
        font = get_font(findfont(FontProperties(family=[family]), fallback_to_default=False))
        if not font.get_char_index(ord(character)):
            return False
        font.set_size(12, 72)
        glyph = font.load_char(ord(character))
    except (OSError, RuntimeError, ValueError):  # not there, or made of pictures, as fonts of coloured emoji are
        return False
    return bool(glyph.width) or unicodedata.category(character) in (*_UNSEEN, "Zs")


def _named(characters: Iterable[str]) -> str:
    """Letters by their sound, where Unicode knows it, and pictures by what they show; else their numbers.

    >>> _named("かき개"), _named("🐈"), _named("猫犬")
    ('[ka ki gae]', '[cat]', '[U+732B 72AC]')
    """
    names = []
    for character in characters:
        name = unicodedata.name(character, "CJK")
        for kind in (" LETTER ", " SYLLABLE ", " SIGN "):
            name = name.rpartition(kind)[2]
        names.append(f"U+{ord(character):04X}" if name.startswith("CJK") else name.lower())
    return re.sub(r"(?<=[0-9A-F]{4}) U\+", " ", f"[{' '.join(names)}]")


@cache
def _tell(needed: bool) -> None:
    if needed:
        logger.warning(
            "No font here has some characters of the names in the pictures: these are named in brackets, such as "
            "[U+732B]. To see them, install a font that has them (Noto Sans CJK, Noto Emoji) and run again."
        )
