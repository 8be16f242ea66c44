"""`mllm-eval reproduce`: is a run's record enough to make it again?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllm_eval.console import say

if TYPE_CHECKING:
    from mllm_eval.pipeline.reproduction import Compared


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("reproduce", short_help="make a run again from its record, and compare")(reproduce)


def reproduce(
    run: Annotated[str, typer.Argument(help="hash, beginning of one, whole name, or encoder")],
    into: Annotated[
        Path | None, typer.Option(help="fresh folder for its results; default: results/reproduced/HASH")
    ] = None,
) -> None:
    """Make a run again from its record in a fresh folder, and compare answers, scores, losses and weights.

    Exit code 1 where anything differs; what differs of versions and machine is said. The run itself is left alone.

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


def lines_of(name: str, compared: Compared) -> list[str]:
    """What is said of a comparison."""
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
