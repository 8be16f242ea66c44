"""Starting a command: here, as several processes of one machine, or as a job of a Slurm cluster."""

from __future__ import annotations

from mllm_eval.launch.processes import LAUNCHERS, check, default_processes, run_processes
from mllm_eval.launch.slurm import Call, Job, submit

__all__ = ["LAUNCHERS", "Call", "Job", "check", "default_processes", "run_processes", "submit"]
