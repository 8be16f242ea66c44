"""`mllm-eval train`: here, as one of several processes, or by a launcher that starts them."""

from __future__ import annotations

from typing import Any

import typer

from mllm_eval.environment import world
from mllm_eval.errors import UserError


def train_run(encoder: str, recipe: str, llm: str | None, seed: int | None, launch: str, job: dict[str, Any]) -> None:
    """Train a run and print where its checkpoint is. `job`: what was asked of the launcher; None is its default.

    Raises:
        UserError: bad input, an unknown launcher, or options that the launcher does not have.
    """
    from mllm_eval.cli.display import display

    asked = {name: value for name, value in job.items() if value is not None}
    if launch == "here":
        if asked:
            raise UserError(f"--{next(iter(asked))} goes with --launch torchrun, deepspeed or slurm")
        from mllm_eval import pipeline

        run = pipeline.train_run(encoder, recipe, llm, seed, display())
        if not world()[0]:
            print(run.checkpoint)
        return
    from mllm_eval import launch as launching
    from mllm_eval.pipeline.sources import needed, provide
    from mllm_eval.run import Run
    from mllm_eval.train import is_trained

    run = Run.of(encoder, recipe, llm, seed)
    if is_trained(run):
        print(run.checkpoint)
        return
    if launch == "slurm":
        wanted = launching.Job(**asked)
        launching.check(run, wanted.nodes * wanted.tasks)
        provide(needed(run.recipe, True, []), display())
        submitted = launching.submit(run, launching.Training(encoder, recipe, llm, seed), wanted)
        print(f"job {submitted.job_id}: {run.name}, logs in {run.folder / 'slurm'}")
        return
    if other := sorted(set(asked) - {"processes"}):
        raise UserError(f"--{other[0]} goes with --launch slurm")
    processes = asked.get("processes") or launching.default_processes()
    launching.check(run, processes)
    provide(needed(run.recipe, True, []), display())
    words = ["train", encoder, "--recipe", recipe]
    words += ["--llm", llm] if llm else []
    words += ["--seed", str(seed)] if seed is not None else []
    raise typer.Exit(launching.run_processes(launch, words, processes))
