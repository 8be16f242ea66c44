"""A type for html that escapes all text put into it.

Pages, tables and notebooks accept only `Html`, which mypy checks. Text that is inserted into or joined with `Html` is
escaped. `tests/security/test_html.py` checks the syntax tree of the whole package: only literals, and a few listed
sources, may be declared as html.
"""

from __future__ import annotations

from typing import Any, Self

from markupsafe import Markup

from mllm_eval import escaping


class Html(Markup):
    """A string of html. `Html("<p>{}</p>").format(text)` escapes the text; an argument of type Html is unchanged.

    `format`, `join`, `+` and `replace` escape everything that is not Html by `escaping.html`. An f-string gives a plain
    string, which would be escaped when it is used.
    """

    __slots__ = ()

    @classmethod
    def escape(cls, s: Any, /) -> Self:
        """Return Html unchanged, and anything else as escaped text for an element or a quoted attribute."""
        return cls(s.__html__() if hasattr(s, "__html__") else escaping.html(str(s)))


NOTHING = Html("")
"""Empty html."""


def joined(*parts: str) -> Html:
    """Concatenate parts, escaping those that are not Html."""
    return NOTHING.join(parts)
