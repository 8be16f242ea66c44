"""What models, data sets and files say, written so that it is text wherever it is shown.

One function a surface: a terminal, html, LaTeX, markdown, a csv that a spreadsheet opens, a figure. Whoever writes a
text that does not stand in this project's own code puts it through one of these; of html `mllm_eval.html` sees to it.
"""

from __future__ import annotations

import html as _html
import json
import re
import unicodedata

# Control characters, line ends of Unicode, marks that turn the order of letters around, halves of surrogate pairs, and
# the invisible letters of the block of tags.
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
    """A text as one line for a terminal: blanks of any kind become one blank, the rest is as in `lines`."""
    return lines(" ".join(text.split()))


def lines(text: str) -> str:
    """A text for a terminal, its own line ends and tabs kept: what a terminal would act on is spelt out as in JSON.

    A control character may move the cursor, erase lines, change the window's title or its colours; a mark of direction
    shows letters in another order than they have. They become `\\u001b`, `\\u202e`, so that JSON stays what it was.
    """
    if text.isascii() and text.isprintable():
        return text
    return _UNSEEN.sub(lambda match: match[0] if match[0] in "\n\t" else json.dumps(match[0])[1:-1], text)


def html(text: str) -> str:
    """A text for html, within an element or an attribute in quotes; control characters are spelt out as in `lines`."""
    return _html.escape(lines(text))


def figure(text: str) -> str:
    """A text for a figure of matplotlib, which would take what stands between two dollars for mathematics."""
    return lines(text).replace("$", r"\$")


def latex(text: str) -> str:
    """Any text as LaTeX that prints it; letters without an ASCII form become `?`."""
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
    """A text as markdown that shows it, in a cell of a table too: no html, no link, no picture, no emphasis."""
    return _MARKDOWN.sub(r"\\\1", line(text))


def cell(text: str) -> str:
    """A text for a cell of a csv: what a spreadsheet would compute begins with an apostrophe; numbers stay."""
    shown = lines(text)
    return f"'{shown}" if _FORMULA.match(shown) and not _NUMBER.fullmatch(shown) else shown
