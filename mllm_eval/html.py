"""Html that shows texts as texts, whoever forgets to escape them.

`Html` is the one type that pages, tables and notebooks take: a text that is put into it or joined with it is escaped on
the way, and mypy holds that no plain text stands in its place. `tests/security/test_html.py` reads the syntax of the
whole package: what is declared to be html stands there as a literal, save for the few sources that it lists.
"""

from __future__ import annotations

from typing import Any, Self

from markupsafe import Markup

from mllm_eval import escaping


class Html(Markup):
    """Html as it is written in this project's code: `Html("<p>{}</p>").format(text)` escapes the text, Html stays.

    `format`, `join`, `+` and `replace` escape by `escaping.html` all that is not Html itself. An f-string gives a plain
    text, which would be escaped in its turn.
    """

    __slots__ = ()

    @classmethod
    def escape(cls, s: Any, /) -> Self:
        """Html stays as it is; of anything else its text, for an element or an attribute in quotes."""
        return cls(s.__html__() if hasattr(s, "__html__") else escaping.html(str(s)))


NOTHING = Html("")
"""No html, where there may be some."""


def joined(*parts: str) -> Html:
    """The parts one behind the other, texts among them escaped."""
    return NOTHING.join(parts)
