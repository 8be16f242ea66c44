"""`mllm-eval train`: trains in this process, as one of several ranks, or through a launcher that starts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllm_eval.console import say
from mllm_eval.distributed.ranks import rank

if TYPE_CHECKING:
    from mllm_eval.cli.launching import Start


def train_run(encoder: str, recipe: str, llm: str | None, seed: int | None, prepare: bool, start: Start) -> None:
    """Train a run and print the folder of its checkpoint.

    prepare: only check and tokenise the data. start: launches other processes, if the options ask for them.

    Raises UserError for bad input.
    """
    from mllm_eval import pipeline
    from mllm_eval.cli.display import display
    from mllm_eval.run import Run
    from mllm_eval.train import is_trained

    run = Run.of(encoder, recipe, llm, seed)
    if not is_trained(run):
        if start(lambda: run):
            return
        if prepare:
            pipeline.prepare_run(encoder, recipe, llm, seed, display())
            return
        pipeline.train_run(encoder, recipe, llm, seed, display())
    if not rank():
        say(run.checkpoint)
