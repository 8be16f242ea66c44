"""What `mllm-eval score` does with runs."""

from __future__ import annotations

import sys


def score_anew(run: str | None) -> None:
    """Score the answers of a run, or of all that are saved, and say what was scored.

    Raises:
        UserError: an unknown run, or none saved.
    """
    from mllm_eval import pipeline
    from mllm_eval.cli.display import display
    from mllm_eval.errors import UserError
    from mllm_eval.finished import Finished, saved, saved_models, unreadable_notes
    from mllm_eval.run import Run, saved_runs
    from mllm_eval.storage import results_home

    runs: list[Run | Finished] = [saved(run)] if run is not None else [*saved_runs(), *saved_models()]
    if not runs:
        raise UserError(f"no runs under {results_home()}; `mllm-eval eval mini-dino` makes one")
    for note in unreadable_notes() if run is None else []:
        print(note, file=sys.stderr)
    for one in runs:
        print(f"{one.name}: {', '.join(pipeline.score_run(one, display()))}")
