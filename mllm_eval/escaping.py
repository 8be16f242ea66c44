"""Escape text of models, data sets and files, so that it is shown as text wherever it is printed.

There is one function per output format: terminal, html, LaTeX, markdown, csv for spreadsheets, and figures. All text
that is not a literal of this project's code must pass through one of them; for html, `mllm_eval.html` ensures it.
"""

from __future__ import annotations

import html as _html
import json
import re
import unicodedata

# Control characters, Unicode line separators, bidirectional controls, surrogates, and the invisible characters of the
# Tags block.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)
_FORMULA = re.compile(r"[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~#]|&(?=#?\w+;))")
_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "–": "--", "—": "---",  # noqa: RUF001
    "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "≤": r"$\le$", "≥": r"$\ge$",  # noqa: RUF001
    "→": r"$\to$", "’": "'", "“": "``", "”": "''",  # noqa: RUF001
    # a star or bracket after a line break would be taken for its argument
    "*": r"{*}", "[": r"{[}", "]": r"{]}", "`": r"\textasciigrave{}",
}  # fmt: skip


def line(text: str) -> str:
    """Escape a text as one line for a terminal: runs of whitespace become one space, the rest is as in `lines`."""
    return lines(" ".join(text.split()))


def lines(text: str) -> str:
    """Escape a text for a terminal; newlines and tabs are kept.

    Control characters could move the cursor, erase lines or change the window's title, and bidirectional controls
    reorder the shown letters. They become JSON escapes such as `\\u001b`, so that printed JSON keeps its value.
    """
    if text.isascii() and text.isprintable():
        return text
    return _UNSEEN.sub(lambda match: match[0] if match[0] in "\n\t" else json.dumps(match[0])[1:-1], text)


def html(text: str) -> str:
    """Escape a text for an html element or a quoted attribute; control characters are escaped as in `lines`."""
    return _html.escape(lines(text))


def figure(text: str) -> str:
    """Escape a text for a figure of matplotlib, which would read text between two dollar signs as mathematics."""
    return lines(text).replace("$", r"\$")


def latex(text: str) -> str:
    """Escape a text for LaTeX; characters without an ASCII form become `?`."""
    out = []
    for sign in " ".join(text.split()):
        if sign in _SIGNS:
            out.append(_SIGNS[sign])
        elif sign.isascii():
            out.append(sign if sign.isprintable() else "")
        else:
            plain = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
            out.append("".join(_SIGNS.get(part, part) for part in plain) or "?")
    return "".join(out)


def markdown(text: str) -> str:
    """Escape a text as one line of markdown, also for table cells: no html, links, images or emphasis."""
    return _MARKDOWN.sub(r"\\\1", line(text))


def cell(text: str) -> str:
    """Escape a text for a csv cell: an apostrophe goes before text that a spreadsheet would compute, except numbers."""
    shown = lines(text)
    return f"'{shown}" if _FORMULA.match(shown) and not _NUMBER.fullmatch(shown) else shown
