"""Shares the work of a probe among processes, so that each of them ends with the same sums, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def rank() -> tuple[int, int]:
    """This process's rank and the world size; (0, 1) without a process group."""
    group = torch.distributed
    if not group.is_available() or not group.is_initialized():
        return 0, 1
    return group.get_rank(), group.get_world_size()


def share(count: int) -> list[int]:
    """The parts, of `count` in all, that this process computes: those with index = rank modulo world size."""
    own, world = rank()
    return list(range(own, count, world))


def exchanged(parts: Sequence[Tensor], count: int, like: Tensor) -> list[Tensor]:
    """Gathers all `count` parts in order; this process passes those of `share`. Each has the shape and dtype of `like`.

    The result is bit-identical on every process.
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
    """The objects that the processes pass, by rank."""
    _, world = rank()
    if world == 1:
        return [own]
    gathered: list[Any] = [None] * world
    torch.distributed.all_gather_object(gathered, own)
    return gathered
