"""Shares the parts of one computation, so that each process ends with the same numbers, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mllm_eval.distributed.collectives import place_in_group

if TYPE_CHECKING:
    from torch import Tensor


def own_parts(count: int) -> list[int]:
    """The parts, of `count` in all, that this process computes: those with index = rank modulo world size."""
    own, size = place_in_group()
    return list(range(own, count, size))


def all_parts(parts: Sequence[Tensor], count: int, like: Tensor) -> list[Tensor]:
    """Gather all `count` parts in order, on every process; this process passes those of `own_parts`.

    Each part has the shape and dtype of `like`, and is on its device. All processes must call this within `COLLECTIVE`.
    """
    _, size = place_in_group()
    if size == 1:
        return list(parts)
    import torch

    each = -(-count // size)
    own = torch.zeros((each, *like.shape), dtype=like.dtype, device=like.device)
    for at, part in enumerate(parts):
        own[at] = part
    by_rank = [torch.zeros_like(own) for _ in range(size)]
    torch.distributed.all_gather(by_rank, own)
    return [by_rank[number % size][number // size] for number in range(count)]
