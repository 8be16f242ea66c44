"""Launcher options (torchrun, DeepSpeed, Slurm) for the commands that can run as several processes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.models import ArgumentInfo

from mllm_eval.console import say
from mllm_eval.errors import UserError

if TYPE_CHECKING:
    from mllm_eval.external import ExternalModel
    from mllm_eval.run import Run

Start = Callable[[Callable[[], Any]], bool]
"""Starts the command in other processes, if the launcher options ask for them, and returns whether it did.

Its argument is a function that returns the command's `Run`, `ExternalModel` or `ProbeSession`. After False the caller
does the work in its own process."""


def _options(
    launch: Annotated[str, typer.Option(help="this process (here), torchrun, deepspeed or slurm")] = "here",
    processes: Annotated[int | None, typer.Option(help="per node; default: one per GPU", min=1)] = None,
    nodes: Annotated[int | None, typer.Option(help="slurm: number of nodes; default: 1", min=1)] = None,
    gpus: Annotated[int | None, typer.Option(help="slurm: GPUs per node; default: 8", min=0)] = None,
    cpus: Annotated[int | None, typer.Option(help="slurm: CPU cores per process; default: 16", min=1)] = None,
    memory: Annotated[str | None, typer.Option(help="slurm: memory per node, such as 480G")] = None,
    notice: Annotated[
        int | None, typer.Option(help="slurm: seconds of warning before the time limit; default: 300", min=1)
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="slurm: time limit, then it is requeued; default: 24", min=0.1)
    ] = None,
    partition: Annotated[str | None, typer.Option(help="slurm: partition of the job")] = None,
    account: Annotated[str | None, typer.Option(help="slurm: account of the job")] = None,
    qos: Annotated[str | None, typer.Option(help="slurm: quality of service of the job")] = None,
) -> None:
    """Hold the launcher options in its signature. They are added to every command that can be launched."""


def launchable(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: add the launcher options to the command `name`, and pass it a `Start` as its parameter `start`.

    The processes that `Start` starts run the same command with the same options, without the launcher options.
    """

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        own = {key: value for key, value in _parameters(command).items() if key != "start"}
        more = _parameters(_options)

        @wraps(command)
        def called(**given: Any) -> None:
            job = {key: given.pop(key) for key in more}
            launch = job.pop("launch")
            asked = {key: value for key, value in job.items() if value is not None}
            words = [name, *_words(own, given)]
            command(**given, start=lambda run_of: _start(run_of, words, launch, asked))

        parameters = [*own.values(), *more.values()]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return wrap


def _parameters(command: Callable[..., None]) -> dict[str, inspect.Parameter]:
    hints = get_type_hints(command, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = inspect.signature(command).parameters.items()
    return {key: one.replace(kind=kind, annotation=hints[key]) for key, one in parameters}


def _words(parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> list[str]:
    """The command-line words that give a command these values; values equal to the default are left out."""
    arguments, options = [], []
    for key, parameter in parameters.items():
        value = given[key]
        info = parameter.annotation.__metadata__[0]
        if isinstance(info, ArgumentInfo):
            arguments += [] if value is None else [str(value)]
        elif value != parameter.default:
            flag = next((word for word in info.param_decls or () if word.startswith("--")), f"--{key}")
            options += [flag.replace("_", "-")] + ([] if value is True else [str(value)])
    return arguments + options


def command_line(words: list[str]) -> int:
    """Run `mllm-eval` with these words in this process, and return its exit code."""
    from mllm_eval.cli.app import app

    return int(app(words, standalone_mode=False) or 0)


def _start(run_of: Callable[[], Run | ExternalModel], words: list[str], launch: str, asked: dict[str, Any]) -> bool:
    """Launch the command, and return whether it was launched; see `Start`. torchrun and deepspeed end this process.

    Raises UserError for an unknown launcher, options it does not have, or batches the processes cannot divide.
    """
    if launch == "here":
        if asked:
            raise UserError(f"--{next(iter(asked))} goes with --launch torchrun, deepspeed or slurm")
        return False
    from mllm_eval.cli.display import display
    from mllm_eval.distributed import launchers, slurm
    from mllm_eval.pipeline.sources import needed, provide
    from mllm_eval.run import Run
    from mllm_eval.train import check_batches, is_trained

    run = run_of()
    if launch != "slurm" and (other := sorted(set(asked) - {"processes"})):
        raise UserError(f"--{other[0]} goes with --launch slurm")
    job = slurm.Job(**asked)
    processes = asked.get("processes") or launchers.default_processes()
    if isinstance(run, Run) and not is_trained(run):
        check_batches(run, job.nodes * job.tasks if launch == "slurm" else processes)
        provide(needed(run.recipe, True, []), display())
    if launch == "slurm":
        logs = run.folder / "slurm"
        submitted = slurm.submit(f"mllm-eval-{run.hash}", logs, slurm.Call(command_line, words), job)
        say(f"job {submitted.job_id}: {run.name}, logs in {logs}")
        return True
    raise typer.Exit(launchers.run_processes(launch, "mllm_eval", words, processes))
