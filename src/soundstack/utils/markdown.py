"""Text into Markdown: whatever a label, a file name or a citation holds is shown as it is, on one line."""

from __future__ import annotations

_ESCAPES = {sign: "\\" + sign for sign in "\\`*_[]~#|"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def escape(text: str, width: int | None = None) -> str:
    """Escape text for a paragraph or a table's cell; what is not printable becomes a space.

    With ``width`` the escaped text has at most so many characters and ends with an ellipsis where it was cut. The
    start of a line stays the caller's: a text that begins with ``-`` or ``1.`` would begin a list there.

    >>> escape("a|b <i>")
    'a\\\\|b &lt;i&gt;'
    >>> escape("AT&T", width=6)
    'AT…'
    """
    parts = [_ESCAPES.get(sign, sign) if sign.isprintable() else " " for sign in text]
    if width is None or sum(map(len, parts)) <= width:
        return "".join(parts)
    kept, left = [], width - 1
    for part in parts:
        left -= len(part)
        if left < 0:
            break
        kept.append(part)
    return "".join(kept).rstrip() + "…"
