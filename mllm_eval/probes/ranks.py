"""What several processes do of a probe together: each its parts, and all the same sums in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def rank() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) where no group was made."""
    group = torch.distributed
    if not group.is_available() or not group.is_initialized():
        return 0, 1
    return group.get_rank(), group.get_world_size()


def share(count: int) -> list[int]:
    """The parts of `count` that this process computes: part i belongs to process i modulo their number."""
    own, world = rank()
    return list(range(own, count, world))


def exchanged(parts: Sequence[Tensor], count: int, like: Tensor) -> list[Tensor]:
    """All `count` parts, in order, of which this process computed those of `share`; each has `like`'s shape and type.

    The same on every process, bit for bit: what follows is computed by each alone and stays equal.
    """
    _, world = rank()
    if world == 1:
        return list(parts)
    each = -(-count // world)
    own = torch.zeros((each, *like.shape), dtype=like.dtype, device=like.device)
    for at, part in enumerate(parts):
        own[at] = part
    every = [torch.zeros_like(own) for _ in range(world)]
    torch.distributed.all_gather(every, own)
    return [every[number % world][number // world] for number in range(count)]


def told(own: Any) -> list[Any]:
    """What every process says, by rank."""
    _, world = rank()
    if world == 1:
        return [own]
    gathered: list[Any] = [None] * world
    torch.distributed.all_gather_object(gathered, own)
    return gathered
