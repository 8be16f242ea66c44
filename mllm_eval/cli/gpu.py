"""`mllm-eval check` compares encoder yaml files with their weights; `check gpu` tests claims about a GPU on one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_eval.console import say


def register(app: typer.Typer) -> None:
    """Add `check` and `check gpu` to the commands."""
    app.command("check", short_help="compare encoder yaml files with their weights")(check)
    app.command("check gpu", short_help="test the claims about speed, memory and dtypes on a GPU")(check_gpu)


def check(
    encoder: Annotated[str | None, typer.Argument(help="name; with --determinism a run; default: all")] = None,
    determinism: Annotated[
        bool, typer.Option("--determinism", help="instead: compare a run's answers by engine and by plain loop")
    ] = False,
    samples: Annotated[int | None, typer.Option(help="questions per benchmark; default: all", min=1)] = None,
) -> None:
    """Compare the facts in an encoder's yaml with its weights, or a run's fast engine with the plain loop.

    The plain loop generates each answer alone, at batch size 1 and without a shared prefix. The engine must give the
    same tokens, except where two logits are equal up to rounding (ties). The exit code is 2 if the check fails.

    \b
      mllm-eval check mini-dino                              its yaml and its weights
      mllm-eval check mini-dino --determinism --samples 20   about 20 questions of each benchmark, answered twice
      mllm-eval check gpu                                    claims about a GPU; see `mllm-eval check gpu --help`
    """
    from mllm_eval.cli.checking import check_determinism, check_encoders
    from mllm_eval.cli.options import refuse_without

    refuse_without("--determinism", samples=None if determinism else samples)

    right = check_determinism(encoder, samples) if determinism else check_encoders(encoder)
    raise typer.Exit(0 if right else 2)


def check_gpu(
    only: Annotated[str | None, typer.Option(help="checks, comma-separated: ceilings, attention, dtype, ...")] = None,
    budget: Annotated[float, typer.Option(help="seconds; checks that would exceed it are skipped", min=0)] = 460,
    to: Annotated[Path | None, typer.Option("--json", help="file; default: gpu-check.json in the results")] = None,
    dry: Annotated[bool, typer.Option("--dry", help="run on a CPU at tiny shapes; speed is not judged")] = False,
    gpus: Annotated[int, typer.Option(help="from 2 on: train stage 2 on so many, kill and resume it", min=1)] = 1,
    planted: Annotated[bool, typer.Option("--planted", help="put an error into each check; all must FAIL")] = False,
) -> None:
    """Test this project's claims about a GPU by eight checks: speed, memory, numerical error, dtypes.

    It prints PASS, FAIL or SEEN (no bound) for each value, and SKIP for a check without time. The exit code is 1 if any
    value fails. The checks are planned for eight minutes on one H200; docs/gpu.md describes them.

    \b
      mllm-eval check gpu
      mllm-eval check gpu --only attention,generation --budget 200
      mllm-eval check gpu --gpus 2                       NCCL on two GPUs; kill and resume
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
