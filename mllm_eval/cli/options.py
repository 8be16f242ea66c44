"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

Encoder = Annotated[str, typer.Argument(help="name in configs/encoders, or path to a yaml file")]
Recipe = Annotated[str, typer.Option(help="name in configs/recipes, or path to a yaml file")]
Llm = Annotated[str | None, typer.Option(help="name in configs/llms; default: the recipe's")]
Seed = Annotated[int | None, typer.Option(help="default: the recipe's", min=0)]
Benchmarks = Annotated[str | None, typer.Option(help="comma-separated; default: the sixteen of the paper")]
Blind = Annotated[bool, typer.Option("--blind", help="also ask without images")]
Subset = Annotated[
    int | None, typer.Option(help="only so many questions of those asked in all, a stratified part", min=16)
]
Rules = Annotated[str, typer.Option(help="rule set of the printed table: cambrian or robust")]
Baseline = Annotated[
    str | None,
    typer.Option(help="a row: print differences to it and mark the significant ones"),
]
Intervals = Annotated[bool, typer.Option("--intervals", help="print 95 % intervals")]
Mixed = Annotated[bool, typer.Option("--mixed-recipes", help="let rows of unequal recipes share the table")]


def split(names: str | None) -> list[str] | None:
    """Comma-separated names, or None for none."""
    listed = [name.strip() for name in (names or "").split(",") if name.strip()]
    return listed or None
