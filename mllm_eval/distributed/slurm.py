"""A command as a job of a Slurm cluster, through submitit: one task a GPU, and back in the queue when preempted."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mllm_eval.errors import UserError

# Seconds before its end at which Slurm tells a job to go back into the queue: the step at hand and a checkpoint.
NOTICE = 300
# How often a job may run out of its time and go back into the queue; being preempted does not count.
REQUEUES = 100
KEPT = ("MLLM_EVAL_RESULTS", "MLLM_EVAL_DATA", "MLLM_EVAL_PATH")


@dataclass(frozen=True)
class Job:
    """What is asked of Slurm. `gpus` and `processes` are per node; one process a GPU unless said otherwise."""

    partition: str | None = None
    nodes: int = 1
    gpus: int = 8
    processes: int | None = None
    hours: float = 24.0
    cpus: int = 16
    memory: str | None = None
    notice: int = NOTICE
    account: str | None = None
    qos: str | None = None

    @property
    def tasks(self) -> int:
        """Processes of a node."""
        return self.processes or max(1, self.gpus)


@dataclass
class Call:
    """What every task of a job calls: `main` (a function of a module) with a command's words; it returns an exit code.

    A command goes on where it was, so a job that is queued again does.
    """

    main: Callable[[list[str]], int]
    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> None:
        """Do the command as the rank that Slurm says. Raises SystemExit where its exit code is not 0."""
        import submitit

        os.environ.update(self.environment)
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if code := self.main(self.words):
            raise SystemExit(code)

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue: the same again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def submit(name: str, logs: Path, call: Call, job: Job) -> Any:
    """Put a call into the queue under a name; submitit's job, whose logs are in the folder `logs`.

    Raises UserError where submitit or Slurm is missing, or Slurm refuses the job.
    """
    try:
        import submitit
    except ImportError:
        raise UserError("launch slurm: submitit is not installed; pip install 'mllm-eval[slurm]'") from None
    try:
        executor = submitit.SlurmExecutor(logs, max_num_timeout=REQUEUES)
    except RuntimeError:
        raise UserError("launch slurm: there is no `srun` on this machine; use one of the cluster's") from None
    asked = {
        "job_name": name,
        "partition": job.partition,
        "nodes": job.nodes,
        "ntasks_per_node": job.tasks,
        "gpus_per_node": job.gpus or None,
        "cpus_per_task": job.cpus,
        "time": round(job.hours * 60),
        "account": job.account,
        "qos": job.qos,
        "mem": job.memory,
        "signal_delay_s": job.notice,
        # srun takes neither from the job: without them a task may get one core.
        # A rank that ends takes the others with it: they would wait for it until the job's time is over.
        "srun_args": [
            f"--cpus-per-task={job.cpus}",
            *([f"--mem={job.memory}"] if job.memory else []),
            "--kill-on-bad-exit=1",
        ],
        "additional_parameters": {"requeue": True},
    }
    executor.update_parameters(**{name: value for name, value in asked.items() if value is not None})
    call.environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    call.environment["MLLM_EVAL_NOTICE"] = str(job.notice)
    try:
        return executor.submit(call)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as problem:
        lines = str(problem).strip().splitlines() or [type(problem).__name__]
        raise UserError(f"launch slurm: the job was refused ({lines[-1]})") from None
