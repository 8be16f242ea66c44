"""Collectives: how processes meet, wait for each other, agree on a value, and end together.

Each function also works in a single process. torch is loaded only if there are several.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from mllm_eval.distributed import alive
from mllm_eval.distributed.launchers import free_port
from mllm_eval.distributed.ranks import rank, several
from mllm_eval.distributed.workqueue import WAIT, Share
from mllm_eval.environment import device
from mllm_eval.errors import UserError

Value = TypeVar("Value")

# Timeout where all processes do the same steps, as in training. A process that takes longer has failed. `WAIT` is the
# timeout elsewhere, where all processes wait for the slowest one, which may prepare data.
COLLECTIVE = timedelta(minutes=30)
_waiting: Any = None
"""The default group it was made for, and the group in which processes wait while one works alone."""


class SharedError(UserError):
    """Bad input that all processes know of; only one of them prints it."""


def _group() -> Any:
    """torch.distributed if this process has joined a process group, else None."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return None
    return torch.distributed


def join(distributed: bool) -> None:
    """Initialise the process group if `distributed` is set. A process without a launcher becomes a group of one."""
    if not distributed or _group() is not None:
        return
    import torch

    if "WORLD_SIZE" not in os.environ:
        alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        os.environ.update({name: str(value) for name, value in alone.items()})
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(device())
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=COLLECTIVE)
    alive.watch(torch.distributed)


def place_in_group() -> tuple[int, int]:
    """The rank of this process in the process group, and the number of its processes; (0, 1) without a group."""
    group = _group()
    return (0, 1) if group is None else (group.get_rank(), group.get_world_size())


def backend() -> str:
    """The name of the process group's backend, `nccl` or `gloo`; empty without a group."""
    group = _group()
    return "" if group is None else str(group.get_backend())


def _patient() -> Any:
    """The CPU group with the timeout `WAIT`. All processes must call this together the first time, to make it."""
    import torch

    global _waiting
    if _waiting is None or _waiting[0] is not torch.distributed.group.WORLD:
        _waiting = torch.distributed.group.WORLD, torch.distributed.new_group(backend="gloo", timeout=WAIT)
    return _waiting[1]


def meet() -> None:
    """Join the process group, if a launcher has started several processes."""
    join(several())


@contextmanager
def sharing() -> Iterator[Share]:
    """Join the process group, and yield this process's share of the work in the `with` block."""
    meet()
    share = Share.of_group() if several() else Share()
    yield share
    share.close()


def without_compiling() -> None:
    """Keep DeepSpeed on a CPU from compiling its shared-memory reduction, a minute of gcc that only inference needs."""
    import torch

    if not torch.cuda.is_available():
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def barrier() -> None:
    """Wait for the other processes, if there are any, up to `WAIT`."""
    if (group := _group()) is not None:
        group.barrier(_patient())


def together(work: Callable[[], None], first_only: bool = False) -> None:
    """Run some work on every process, or only on rank 0, and return when all have finished it.

    If one process meets a UserError, all raise it as SharedError, so that none waits for a process that has ended.
    """
    problem: str | None = None
    try:
        if not first_only or rank() == 0:
            work()
    except UserError as error:
        if _group() is None:
            raise
        problem = str(error)
    if first := next((one for one in all_gathered(problem) if one is not None), None):
        raise SharedError(first)


def all_gathered(own: Value) -> list[Value]:
    """The values of all processes, by rank, on every process. Each waits for the others, up to `WAIT`."""
    if (group := _group()) is None:
        return [own]
    by_rank: list[Any] = [None] * group.get_world_size()
    group.all_gather_object(by_rank, own, _patient())
    return by_rank


def gathered(own: Value) -> list[Value]:
    """The values of all processes, by rank, on rank 0; an empty list on other ranks."""
    by_rank = all_gathered(own)
    return by_rank if place_in_group()[0] == 0 else []


def largest(own: Sequence[int], device: Any) -> list[int]:
    """The largest of all processes' numbers at each place of the list, on every process.

    The processes exchange them from `device`, on which the group's backend works, and within `COLLECTIVE`.
    """
    if (group := _group()) is None:
        return list(own)
    import torch

    numbers = torch.tensor(own, device=device)
    group.all_reduce(numbers, group.ReduceOp.MAX)
    return [int(number) for number in numbers.tolist()]


def decided(decide: Callable[[], Value]) -> Value:
    """Return rank 0's decision on all processes, because what each finds on the disk may change between two looks.

    Raises SharedError on all of them if rank 0 met bad input.
    """
    sent: list[Any] = [None]

    def look() -> None:
        sent[0] = decide()

    together(look, first_only=True)
    if (group := _group()) is not None:
        group.broadcast_object_list(sent, src=0, group=_patient())
    decision: Value = sent[0]
    return decision


def tells(problem: UserError) -> bool:
    """Whether this process prints an error: rank 0, or a process that met it alone while the others were training."""
    alone = _group() is not None and not isinstance(problem, SharedError)
    return rank() == 0 or alone
