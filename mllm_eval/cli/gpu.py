"""`mllm-eval check gpu`: what this project claims of a GPU, a line for each claim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_eval.console import say


def register(app: typer.Typer) -> None:
    """Add `check gpu` to the commands."""
    app.command("check gpu", short_help="hold what is claimed of a GPU against one")(check_gpu)


def check_gpu(
    only: Annotated[str | None, typer.Option(help="comma-separated: ceilings, attention, dtype, ...")] = None,
    budget: Annotated[float, typer.Option(help="seconds; what has no time left is skipped", min=0)] = 460,
    to: Annotated[Path | None, typer.Option("--json", help="default: gpu-check.json in the results")] = None,
    dry: Annotated[bool, typer.Option("--dry", help="on a CPU, at tiny shapes: speed is shown, not judged")] = False,
    gpus: Annotated[int, typer.Option(help="from 2 on: stage 2 on so many, killed and resumed", min=1)] = 1,
    planted: Annotated[bool, typer.Option("--planted", help="with a fault in each check, which must fail")] = False,
) -> None:
    """Eight checks on one GPU, in eight minutes of an H200: a line for each value, PASS or FAIL; 1 on any FAIL.

    \b
      mllm-eval check gpu
      mllm-eval check gpu --only attention,generation --budget 200
      mllm-eval check gpu --gpus 2                       nccl, kill and resume
      mllm-eval check gpu --dry                          the same code on a CPU, at tiny shapes
    """
    from mllm_eval.cli.options import split
    from mllm_eval.gpucheck.result import Check
    from mllm_eval.gpucheck.run import run_checks
    from mllm_eval.storage import results_home

    def tell(one: Check) -> None:
        say(one.line(), flush=True)

    to = to or results_home() / ("gpu-check.json" if gpus == 1 else f"gpu-check-{gpus}.json")
    found = run_checks(tell, split(only) or [], budget, dry, planted, gpus, to)
    states = [one.state for one in found]
    failed, skipped = states.count("FAIL"), [one.group for one in found if one.skipped]
    left = f"; not proved, for want of time: {', '.join(dict.fromkeys(skipped))}" if skipped else ""
    say(f"{states.count('PASS')} passed, {failed} failed{left}; {to}")
    raise typer.Exit(1 if failed else 0)
