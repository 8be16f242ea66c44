"""Starting a training: here, as several processes of one machine, or as a job of a Slurm cluster."""

from __future__ import annotations

from mllm_eval.launch.processes import LAUNCHERS, check, default_processes, run_processes
from mllm_eval.launch.slurm import Job, Training, submit

__all__ = ["LAUNCHERS", "Job", "Training", "check", "default_processes", "run_processes", "submit"]
