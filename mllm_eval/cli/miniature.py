"""The miniature's own commands: make its data, pretrain its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_eval.console import say

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
    say(data_home() / "miniature")


@app.command(short_help="pretrain its weights: hours")
def weights(
    only: Annotated[str, typer.Option(help="comma-separated; default: all four")] = "",
    out: Annotated[Path | None, typer.Option(help="folder to write to; default: results/mini-weights")] = None,
    threads: Annotated[int, typer.Option(min=1, help="the same number gives the same weights")] = 1,
) -> None:
    """Pretrain the miniature's encoders and LLM from nothing: hours on two cores; goes on if stopped.

    The package's own weights stay as they are; copy the new ones over mllm_eval/miniature/weights to ship them.
    """
    from mllm_eval.miniature.pretrain.make import NAMES, make
    from mllm_eval.storage import results_home

    folder = out or results_home() / "mini-weights"
    make(folder / "work", tuple(only.split(",")) if only else NAMES, folder, threads)
