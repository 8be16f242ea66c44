"""Starts several processes on one machine, with torchrun or the deepspeed launcher."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

from mllm_eval.environment import gpus
from mllm_eval.errors import UserError, near

LAUNCHERS = ("here", "torchrun", "deepspeed", "slurm")


def default_processes() -> int:
    """One process per GPU; one on a machine without GPUs."""
    return max(1, len(gpus()))


def run_processes(launcher: str, module: str, words: Sequence[str], processes: int) -> int:
    """Run a module, as `python -m` does, with the arguments `words` in a number of processes. Returns the exit code.

    Raises UserError for an unknown launcher.
    """
    return subprocess.call([*_command(launcher, processes), module, *words], env=_environment(processes))


def _command(launcher: str, processes: int) -> list[str]:
    port = str(free_port())
    if launcher == "torchrun":
        # Not `--standalone`, which uses the machine's host name. The name may not resolve.
        meeting = ["--master-addr", "127.0.0.1", "--master-port", port]
        start = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), *meeting]
        return [sys.executable, *start, "-m"]
    if launcher == "deepspeed":
        start = ["-m", "deepspeed.launcher.runner", "--num_gpus", str(processes), "--no_local_rank"]
        return [sys.executable, *start, "--master_port", port, "--module"]
    raise UserError(f"launcher {launcher!r} is unknown.{near(launcher, LAUNCHERS)} Known: {', '.join(LAUNCHERS)}")


def _environment(processes: int) -> dict[str, str]:
    threads = str(max(1, len(os.sched_getaffinity(0)) // processes))
    # Without this limit each process would use all cores. A value that the user sets has priority.
    return {"OMP_NUM_THREADS": threads, **os.environ}


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
