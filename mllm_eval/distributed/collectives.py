"""Collectives: how processes meet, wait for each other, agree, and end together.

Each does what it should in one process, too, and loads torch only where there are several.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from mllm_eval.distributed import alive
from mllm_eval.distributed.ranks import rank, several
from mllm_eval.distributed.workqueue import Share
from mllm_eval.environment import device
from mllm_eval.errors import UserError

Decision = TypeVar("Decision")

# Others wait for the slowest as long as it prepares data.
WAIT = timedelta(days=7)
# Within training all do the same at the same time: who has not come by then has failed.
COLLECTIVE = timedelta(minutes=30)
_waiting: Any = None
"""The group in which processes wait for what one of them does alone."""


class SharedError(UserError):
    """Bad input that every process was told of; one of them prints it."""


def _group() -> Any:
    """torch.distributed where this process has joined the others, else None."""
    torch = sys.modules.get("torch")
    return torch.distributed if torch is not None and torch.distributed.is_initialized() else None


def join(distributed: bool) -> None:
    """Make the process group where there are several processes, or where `distributed` asks for it anyway."""
    if not distributed or _group() is not None:
        return
    import torch

    if "WORLD_SIZE" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in alone.items()})
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(device())
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=COLLECTIVE)
    alive.watch(torch.distributed)


def _patient() -> Any:
    """The group that waits for `WAIT`, on the CPU; every process that asks for it first makes it with the others."""
    import torch

    global _waiting
    if _waiting is None or _waiting[0] is not torch.distributed.group.WORLD:
        _waiting = torch.distributed.group.WORLD, torch.distributed.new_group(backend="gloo", timeout=WAIT)
    return _waiting[1]


def meet() -> None:
    """Wait for the other processes, if a launcher has started any."""
    join(several())


@contextmanager
def sharing() -> Iterator[Share]:
    """`meet`, and this process's share of what all do in the `with` block."""
    meet()
    share = Share.of_group() if several() else Share()
    yield share
    share.close()


def without_compiling() -> None:
    """Keep DeepSpeed on a CPU from compiling its shared-memory reduction, a minute of gcc that inference alone uses."""
    import torch

    if not torch.cuda.is_available():
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def barrier() -> None:
    """Wait for the other processes, if there are any, however long they are busy."""
    if (group := _group()) is not None:
        group.barrier(_patient())


def together(work: Callable[[], None], first_only: bool = False) -> None:
    """Do some work on every process, or on rank 0 alone, and go on when all have done it.

    Raises SharedError on all of them where one met bad input: none waits for a process that has gone.
    """
    problem: str | None = None
    try:
        if not first_only or rank() == 0:
            work()
    except UserError as error:
        if _group() is None:
            raise
        problem = str(error)
    if (group := _group()) is None:
        return
    problems: list[Any] = [None] * group.get_world_size()
    group.all_gather_object(problems, problem, _patient())
    if first := next((one for one in problems if one is not None), None):
        raise SharedError(first)


def gathered(own: Decision) -> list[Decision]:
    """What every process has, by rank; nothing on those that are not rank 0."""
    if (group := _group()) is None:
        return [own]
    by_rank: list[Any] = [None] * group.get_world_size()
    group.all_gather_object(by_rank, own, _patient())
    return by_rank if rank() == 0 else []


def decided(decide: Callable[[], Decision]) -> Decision:
    """What rank 0 decides, on all processes: what each finds on the disk may change between one look and the next.

    Raises SharedError on all of them where rank 0 met bad input.
    """
    sent: list[Any] = [None]

    def look() -> None:
        sent[0] = decide()

    together(look, first_only=True)
    if (group := _group()) is not None:
        group.broadcast_object_list(sent, src=0, group=_patient())
    decision: Decision = sent[0]
    return decision


def tells(problem: UserError) -> bool:
    """Whether this process prints a problem: rank 0, or a process that met it alone while others were training."""
    alone = _group() is not None and not isinstance(problem, SharedError)
    return rank() == 0 or alone
