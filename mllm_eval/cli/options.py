"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

Encoder = Annotated[str, typer.Argument(help="name in configs/encoders, or path to a yaml file")]
Recipe = Annotated[str, typer.Option(help="name in configs/recipes, or path to a yaml file")]
Llm = Annotated[str | None, typer.Option(help="name in configs/llms, or path to a yaml file; default: the recipe's")]
Seed = Annotated[int | None, typer.Option(help="of the training; default: the recipe's", min=0)]
Benchmarks = Annotated[str | None, typer.Option(help="comma-separated; default: the sixteen of the paper")]
Blind = Annotated[bool, typer.Option("--blind", help="also ask all questions without their images")]
Subset = Annotated[
    int | None, typer.Option(help="ask only so many questions in all: a stratified sample, equal per benchmark", min=16)
]
Rules = Annotated[str, typer.Option(help="rule set of the printed scores: cambrian (the paper's) or robust")]
Baseline = Annotated[
    str | None,
    typer.Option(help="name of a row: print differences from it, and mark significant ones"),
]
Intervals = Annotated[bool, typer.Option("--intervals", help="print 95 % confidence intervals")]
Mixed = Annotated[bool, typer.Option("--mixed-recipes", help="allow rows of different recipes in one table")]
# The name of `mllm_eval.catalog.variant.DEFAULT`, which is not imported, because `--help` would load pydantic for it.
DEFAULT_VARIANT = "default"


def refuse_without(other: str, **given: object) -> None:
    """Refuse options that would be ignored because they act only with `other`, which was not given.

    given: name of an option -> its value; None and False stand for an option that was not given, either. Raises
    UserError that names the first.
    """
    from mllm_eval.errors import UserError

    for name, value in given.items():
        if value is not None and value is not False:
            raise UserError(f"--{name.rstrip('_').replace('_', '-')} goes with {other}")


def split(names: str | None) -> list[str] | None:
    """Split comma-separated names, without spaces around them. None if there are none."""
    listed = [name.strip() for name in (names or "").split(",") if name.strip()]
    return listed or None
