"""`mllm-eval check`: facts of encoders against their weights; `check gpu`: what this project claims of a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_eval.console import say


def register(app: typer.Typer) -> None:
    """Add `check` and `check gpu` to the commands."""
    app.command("check", short_help="hold facts of encoders against their weights")(check)
    app.command("check gpu", short_help="hold what is claimed of a GPU against one")(check_gpu)


def check(
    encoder: Annotated[str | None, typer.Argument(help="name; default: all")] = None,
    determinism: Annotated[
        bool, typer.Option("--determinism", help="instead: does a run's engine answer as the plain loop does")
    ] = False,
    samples: Annotated[int | None, typer.Option(help="of each benchmark; default: all", min=1)] = None,
) -> None:
    """Hold the facts of an encoder's yaml against its weights, or a run's fast engine against the plain loop.

    \b
      mllm-eval check mini-dino
      mllm-eval check mini-dino --determinism --samples 20
      mllm-eval check gpu                                what is claimed of a GPU: --help says more
    """
    from mllm_eval.cli.checking import check_determinism, check_encoders

    right = check_determinism(encoder, samples) if determinism else check_encoders(encoder)
    raise typer.Exit(0 if right else 2)


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
    checks = run_checks(tell, split(only) or [], budget, dry, planted, gpus, to)
    states = [one.state for one in checks]
    failed, skipped = states.count("FAIL"), [one.group for one in checks if one.skipped]
    left = f"; not proved, for want of time: {', '.join(dict.fromkeys(skipped))}" if skipped else ""
    say(f"{states.count('PASS')} passed, {failed} failed{left}; {to}")
    raise typer.Exit(1 if failed else 0)
