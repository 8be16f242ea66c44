"""The miniature's own commands: make its data, pretrain its weights."""

from __future__ import annotations

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


@app.command(short_help="pretrain its weights: hours")
def weights() -> None:
    """Pretrain the miniature's encoders and LLM from nothing: hours on two cores; goes on if stopped."""
    from mllm_eval.miniature import pretrain_all

    pretrain_all()
