"""The options of a launcher, for the commands that can be several processes, and what they start."""

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
"""Starts the processes that were asked for, which do a command of the `Run` or `ExternalModel` given;
False for none: it is done here."""


def _options(
    launch: Annotated[str, typer.Option(help="here, torchrun, deepspeed or slurm")] = "here",
    processes: Annotated[int | None, typer.Option(help="per machine; default: one a GPU", min=1)] = None,
    nodes: Annotated[int | None, typer.Option(help="slurm: machines", min=1)] = None,
    gpus: Annotated[int | None, typer.Option(help="slurm: GPUs of a machine", min=0)] = None,
    cpus: Annotated[int | None, typer.Option(help="slurm: cores of a process", min=1)] = None,
    memory: Annotated[str | None, typer.Option(help="slurm: of a machine, such as 480G")] = None,
    notice: Annotated[int | None, typer.Option(help="slurm: seconds before its end, default 300", min=1)] = None,
    hours: Annotated[float | None, typer.Option(help="slurm: after these it queues again", min=0.1)] = None,
    partition: Annotated[str | None, typer.Option(help="slurm")] = None,
    account: Annotated[str | None, typer.Option(help="slurm")] = None,
    qos: Annotated[str | None, typer.Option(help="slurm")] = None,
) -> None:
    """What every command that can be launched takes besides its own options."""


def launchable(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give the command of this name a launcher's options. Its parameter `start` gets a `Start` in their stead.

    What is started is the same command with the same options but the launcher's.
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
    """A command's words that say what was given and is no default."""
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
    """Do a command of `mllm-eval`, and return its exit code."""
    from mllm_eval.cli.app import app

    return int(app(words, standalone_mode=False) or 0)


def _start(run_of: Callable[[], Run | ExternalModel], words: list[str], launch: str, asked: dict[str, Any]) -> bool:
    """Raises UserError for an unknown launcher, options it does not have, or batches the processes cannot divide."""
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
