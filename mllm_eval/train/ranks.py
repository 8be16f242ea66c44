"""Processes that train together: how they meet, wait for each other, and end together."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch

from mllm_eval.environment import world
from mllm_eval.errors import UserError

# Others wait for the slowest as long as it prepares data.
WAIT = timedelta(days=7)


class SharedError(UserError):
    """Bad input that every process was told of; one of them prints it."""


def join_processes(distributed: bool) -> None:
    """Make the process group where there are several processes, or where `distributed` asks for it anyway."""
    if not distributed or torch.distributed.is_initialized():
        return
    if "WORLD_SIZE" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in alone.items()})
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=WAIT)


def without_compiling() -> None:
    """Keep DeepSpeed on a CPU from compiling its shared-memory reduction, a minute of gcc that inference alone uses."""
    if not torch.cuda.is_available():
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def barrier() -> None:
    """Wait for the other processes, if there are any."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def together(work: Callable[[], None], first_only: bool = False) -> None:
    """Do some work on every process, or on rank 0 alone, and go on when all have done it.

    Raises SharedError on all of them where one met bad input: none waits for a process that has gone.
    """
    problem: str | None = None
    try:
        if not first_only or world()[0] == 0:
            work()
    except UserError as error:
        if not torch.distributed.is_initialized():
            raise
        problem = str(error)
    if not torch.distributed.is_initialized():
        return
    problems: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(problems, problem)
    if found := next((one for one in problems if one is not None), None):
        raise SharedError(found)


def tells(problem: UserError) -> bool:
    """Whether this process prints a problem: rank 0, or a process that met it alone while others were training."""
    alone = torch.distributed.is_initialized() and not isinstance(problem, SharedError)
    return world()[0] == 0 or alone
