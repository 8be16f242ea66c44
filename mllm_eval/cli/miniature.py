"""The miniature's own commands: make its data, pretrain its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Make the miniature's data, or pretrain its weights anew.",
    short_help="the miniature's data and weights",
    no_args_is_help=True,
)


@app.command(short_help="render its data")
def build() -> None:
    """Render the miniature's training sets and its 16 benchmarks under the data home."""
    from mllm_eval.miniature.build import build as build_data
    from mllm_eval.storage import data_home

    build_data(data_home())
    print(data_home() / "miniature")


@app.command(short_help="pretrain its weights anew: hours")
def weights(
    names: Annotated[str | None, typer.Option(help="comma-separated; default: all four")] = None,
    out: Annotated[Path | None, typer.Option(help="default: mini-weights under the results")] = None,
) -> None:
    """Pretrain the miniature's encoders and LLM from nothing: hours on two cores; goes on if stopped.

    The weights that ship stay as they are; the same version of this project makes the same bytes.

    \b
      mllm-eval miniature weights --names mini-clip --out /tmp/weights
    """
    from mllm_eval.environment import before_torch
    from mllm_eval.storage import results_home

    before_torch()
    from mllm_eval.miniature.pretrain.make import NAMES, make

    target = out or results_home() / "mini-weights"
    chosen = tuple(name.strip() for name in names.split(",")) if names else NAMES
    make(target / ".work", chosen, target)
