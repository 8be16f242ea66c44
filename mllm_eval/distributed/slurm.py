"""Runs a command as a Slurm job through submitit: one task per GPU by default, and requeued after preemption."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mllm_eval.errors import UserError

# Seconds before the end at which Slurm signals a job to requeue: enough for the current step and a checkpoint.
NOTICE = 300
# How often a job may reach its time limit and be requeued. Preemptions are not counted.
REQUEUES = 100
KEPT = ("MLLM_EVAL_RESULTS", "MLLM_EVAL_DATA", "MLLM_EVAL_PATH")


@dataclass(frozen=True)
class Job:
    """Resources of a Slurm job. gpus and processes are per node; processes: None for one per GPU."""

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
        """Processes per node."""
        return self.processes or max(1, self.gpus)


@dataclass
class Call:
    """The function that every task of a job calls: `main`, with a command's arguments; it returns an exit code.

    A requeued job repeats the call, because commands continue where they stopped.
    """

    main: Callable[[list[str]], int]
    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> None:
        """Run the command as the rank that Slurm assigns. Raises SystemExit if its exit code is not 0."""
        import submitit

        os.environ.update(self.environment)
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if code := self.main(self.words):
            raise SystemExit(code)

    def checkpoint(self) -> Any:
        """What submitit requeues: the same call."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def submit(name: str, logs: Path, call: Call, job: Job) -> Any:
    """Submit a call as a Slurm job and return submitit's job. logs: the folder for its logs.

    Raises UserError if submitit or Slurm is missing, or if Slurm refuses the job.
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
        # srun inherits neither value from the job; without them a task may get one core.
        # With --kill-on-bad-exit a failed rank ends the others, which would otherwise wait until the job's time limit.
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
