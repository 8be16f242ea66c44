"""Print untrusted text (of models, data, files) so that neither the terminal nor rich interprets it."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Any

from mllm_eval import escaping

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Columns of the widest table that `widen` makes room for.
WIDEST = 1000


def say(*texts: object, sep: str = " ", end: str = "\n", file: IO[str] | None = None, flush: bool = False) -> None:
    """Print texts as `print` does, each escaped by `escaping.lines`."""
    out = sys.stdout if file is None else file
    print(*(escaping.lines(str(text)) for text in texts), sep=sep, end=end, file=out, flush=flush)


def widen(console: Console, sheet: Table) -> None:
    """Make a console wide enough for all columns of a table, so that no number is cut or broken over lines.

    A terminal that is narrower breaks the lines itself, where every digit stays.
    """
    whole = console.measure(sheet, options=console.options.update(max_width=WIDEST)).maximum
    console.width = max(console.width, whole)


def console(**options: Any) -> Console:
    """Return a rich console that prints every text literally, table cells included.

    As markup, an answer `[/b]` would raise an error. Options are those of `rich.console.Console`.
    """
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **how: Any) -> Any:
            """Render the text without markup, with control characters escaped."""
            return super().render_str(escaping.lines(text), **{**how, "markup": False, "emoji": False})

    return Plain(**{"highlight": False, "markup": False, "emoji": False, **options})
