"""What `mllm-eval score` does with runs, and with files of answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mllm_eval.catalog.variant import VariantKey

from mllm_eval.console import say


def score_anew(run: str | None) -> None:
    """Score the answers of a run, or of all that are saved, and say what was scored.

    Raises:
        UserError: an unknown run, or none saved.
    """
    from mllm_eval import pipeline
    from mllm_eval.cli.display import display
    from mllm_eval.errors import UserError
    from mllm_eval.saved import read_all_saved
    from mllm_eval.storage import results_home

    saved = read_all_saved()
    runs = [saved.find(run)] if run is not None else [*saved.runs, *saved.external]
    if not runs:
        raise UserError(f"no runs under {results_home()}; `mllm-eval eval mini-dino` makes one")
    for note in saved.notes if run is None else []:
        say(note, file=sys.stderr)
    for one in runs:
        say(f"{one.name}: {', '.join(pipeline.score_run(one, display()))}")


def score_file(
    benchmark: str,
    answers: Path,
    rules: str,
    out: Path | None,
    partial: bool,
    layout: str,
    as_json: bool,
    data: str,
    variant: VariantKey,
    name: str | None,
) -> None:
    """Score a file of answers and print its numbers; with a `name`, keep them as a row of that name."""
    from mllm_eval.score import files

    found = files.score_file(benchmark, answers, rules, out, partial, layout, as_json, data, variant)
    if name is None:
        return
    from mllm_eval.cli.display import display
    from mllm_eval.pipeline.imported import keep_answers

    kept = keep_answers(name, benchmark, answers, found, data, variant, layout, display())
    shown = " and ".join(f"`mllm-eval {one} --runs {kept.label}`" for one in ("table", "report"))
    say(f"{kept.name}: kept; {shown} show it", file=sys.stderr)
