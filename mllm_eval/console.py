"""What commands print: texts of models, data and files are letters, never commands of a terminal, nor rich's markup."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Any

from mllm_eval import escaping

if TYPE_CHECKING:
    from rich.console import Console


def say(*texts: object, sep: str = " ", end: str = "\n", file: IO[str] | None = None, flush: bool = False) -> None:
    """As `print`, each text as `escaping.lines` has it."""
    out = sys.stdout if file is None else file
    print(*(escaping.lines(str(text)) for text in texts), sep=sep, end=end, file=out, flush=flush)


def console(**options: Any) -> Console:
    """A console of rich that takes every text, those in the cells of its tables too, as it stands.

    Texts in brackets are no markup: an answer `[/b]` would end the program. Takes what `rich.console.Console` takes.
    """
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **how: Any) -> Any:
            """The text without markup and without what a terminal acts on."""
            return super().render_str(escaping.lines(text), **{**how, "markup": False, "emoji": False})

    return Plain(**{"highlight": False, "markup": False, "emoji": False, **options})
