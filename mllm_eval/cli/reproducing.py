"""`mllm-eval reproduce`: repeats a run from its record and compares the results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllm_eval.console import say

if TYPE_CHECKING:
    from mllm_eval.pipeline.reproduction import Reproduction


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("reproduce", short_help="repeat a run from its record, and compare the results")(reproduce)


def reproduce(
    run: Annotated[str, typer.Argument(help="hash, beginning of a hash, name, or encoder")],
    into: Annotated[
        Path | None, typer.Option(help="new folder for its results; default: results/reproduced/HASH")
    ] = None,
) -> None:
    """Repeat a run from its record in a new folder, and compare answers, scores, losses and weights with the original.

    The exit code is 1 if any of them differs. Differences in package versions and hardware are listed. The original
    run is not changed.

    \b
      mllm-eval reproduce mini-dino
      mllm-eval reproduce afb84f2ff91b --into /scratch/again
    """
    from mllm_eval.cli.display import display
    from mllm_eval.pipeline.reproduction import reproduce as again
    from mllm_eval.saved import saved_run
    from mllm_eval.storage import results_home

    original = saved_run(run)
    compared = again(original, (into or results_home() / "reproduced" / original.hash).absolute(), display())
    say(*lines_of(original.name, compared), sep="\n")
    raise typer.Exit(0 if compared.same else 1)


def lines_of(name: str, compared: Reproduction) -> list[str]:
    """The comparison of a run with its repetition, as lines of text."""
    lines = [
        f"{name}: {'the same to the last bit' if compared.same else 'not the same'}; made again under {compared.folder}"
    ]
    lines.append(f"weights of the checkpoint: {'the same bytes' if compared.checkpoint else 'other bytes'}")
    for stage, (steps, gap) in compared.losses.items():
        said = "the same losses" if not gap else f"losses differ by up to {gap:.3g}"
        lines.append(f"stage {stage}: {steps:,} steps, {said}")
    for title, (questions, equal, whole) in compared.answers.items():
        said = "the same bytes" if whole else f"{equal:,} of the same text ({100 * equal / max(1, questions):.2f} %)"
        lines.append(f"answers: {title}: {questions:,}, {said}")
    lines += [
        f"scores: {title}: {before}, now {now}" for title, (before, now) in compared.scores.items() if before != now
    ]
    lines += [f"not made again: {one}" for one in compared.left_out]
    lines += [f"environment: {one}" for one in compared.environment] or ["environment: the same"]
    return lines
