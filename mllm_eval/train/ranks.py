"""Processes that work together: how they meet, wait for each other, agree, and end together."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from mllm_eval.environment import device, world
from mllm_eval.errors import UserError

if TYPE_CHECKING:
    from mllm_eval.data.samples import ImageRef
    from mllm_eval.features import Features

Decision = TypeVar("Decision")

# Others wait for the slowest as long as it prepares data.
WAIT = timedelta(days=7)
# Within training all do the same at the same time: who has not come by then has failed.
COLLECTIVE = timedelta(minutes=30)
_waiting: Any = None
"""The group in which processes wait for what one of them does alone."""


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
        torch.cuda.set_device(device())
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=COLLECTIVE)


def _patient() -> Any:
    """The group that waits for `WAIT`, on the CPU; every process that asks for it first makes it with the others."""
    global _waiting
    if _waiting is None or _waiting[0] is not torch.distributed.group.WORLD:
        _waiting = torch.distributed.group.WORLD, torch.distributed.new_group(backend="gloo", timeout=WAIT)
    return _waiting[1]


def without_compiling() -> None:
    """Keep DeepSpeed on a CPU from compiling its shared-memory reduction, a minute of gcc that inference alone uses."""
    if not torch.cuda.is_available():
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def barrier() -> None:
    """Wait for the other processes, if there are any, however long they are busy."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier(_patient())


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
    torch.distributed.all_gather_object(problems, problem, _patient())
    if found := next((one for one in problems if one is not None), None):
        raise SharedError(found)


def gathered(own: Decision) -> list[Decision]:
    """What every process has, by rank; nothing on those that are not rank 0."""
    if not torch.distributed.is_initialized():
        return [own]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, own, _patient())
    return found if world()[0] == 0 else []


def decided(decide: Callable[[], Decision]) -> Decision:
    """What rank 0 decides, on all processes: what each finds on the disk may change between one look and the next.

    Raises SharedError on all of them where rank 0 met bad input.
    """
    found: list[Any] = [None]

    def look() -> None:
        found[0] = decide()

    together(look, first_only=True)
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(found, src=0, group=_patient())
    decision: Decision = found[0]
    return decision


def encode_together(
    features: Features,
    images: Mapping[str, ImageRef],
    progress: Callable[[int, int], None],
    on_broken: Callable[[ImageRef, Exception], None] | None = None,
) -> None:
    """Fill the feature store: every process encodes its share of those images (by sha256) that are missing.

    `on_broken` is told on rank 0 of every image that cannot be read; without it one that cannot ends the work. Raises
    SharedError on all processes where one met bad input.
    """
    names = list(images)

    def look() -> Any:
        missing = set(features.store.missing(names))
        return np.array([at for at, name in enumerate(names) if name in missing], np.int64)

    missing = decided(look)
    rank, size = world()
    broken: list[tuple[str, str]] = []

    def note(image: ImageRef, problem: Exception) -> None:
        broken.append((image.sha256, str(problem)))

    def encode() -> None:
        share = [images[names[at]] for at in missing[rank::size]]
        told = note if on_broken else None
        features.fill(share, lambda done, _: progress(min(done * size, len(missing)), len(missing)), told)

    together(encode)
    features.store.refresh()
    if on_broken and (everyones := gathered(broken)):
        for name, problem in (one for each in everyones for one in each):
            on_broken(images[name], UserError(problem))


def tells(problem: UserError) -> bool:
    """Whether this process prints a problem: rank 0, or a process that met it alone while others were training."""
    alone = torch.distributed.is_initialized() and not isinstance(problem, SharedError)
    return world()[0] == 0 or alone
