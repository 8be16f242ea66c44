"""Compares the engine's attention with float64, relative to the error of torch's fused kernel on the same inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from mllm_eval.generate import attention as engine
from mllm_eval.gpucheck.session import Session

# The largest error, as a multiple of the fused kernel's.
BOUND = 2.0
# Variances of the attention scores. Random weights give the first; trained weights give larger ones.
SPREADS = (1.0, 4.0, 16.0)
ROWS, KEY_HEADS, WIDTH = 4, 8, 128


@contextmanager
def planted() -> Iterator[None]:
    """Rounds the scores to bfloat16 before the softmax."""

    def rounded(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        scores = ((query @ key.mT) * scale).float()
        scores = scores if mask is None else scores + mask
        total = scores.logsumexp(-1)
        return (scores - total[..., None]).exp().to(value.dtype) @ value, total

    with patch.object(engine, "attend", rounded):
        yield


def check(session: Session) -> None:
    """Checks attention to a row's own keys, and attention to a shared prefix together with own keys, as in decoding."""
    prefix, suffix, groups = (60, 13, 2) if session.dry else (640, 27, 4)
    scale = WIDTH**-0.5
    alone, joined = 0.0, 0.0
    if not session.dry:
        agrees = engine.fused_agrees(torch.device(session.device), torch.bfloat16, WIDTH)
        session.seen("torch's fused kernels are used", "yes" if agrees else "no")
    for spread in SPREADS:
        torch.manual_seed(int(spread))
        ours, fused = _alone(session.device, prefix + suffix, spread, scale)
        alone = max(alone, ours / fused)
        session.seen(f"error at scores of variance {spread:g}, the engine's", ours)
        session.seen(f"error at scores of variance {spread:g}, the fused kernel's", fused)
        ours, fused = _joined(session.device, prefix, suffix, groups, spread, scale)
        joined = max(joined, ours / fused)
    session.judge("error against float64, times the fused kernel's", alone, "<=", BOUND)
    session.judge("with a prefix that rows share, times the fused kernel's", joined, "<=", BOUND)


def _drawn(device: str, heads: int, length: int, spread: float = 1.0) -> Tensor:
    return (torch.randn(ROWS, heads, length, WIDTH, device=device) * math.sqrt(spread)).bfloat16()


def _alone(device: str, keys: int, spread: float, scale: float) -> tuple[float, float]:
    root = math.sqrt(spread)
    query, key = _drawn(device, KEY_HEADS, 64, root), _drawn(device, KEY_HEADS, keys, root)
    value = _drawn(device, KEY_HEADS, keys)
    exact = (query.double() @ key.double().mT * scale).softmax(-1) @ value.double()
    ours, _ = engine.attend(query, key, value, None, scale)
    return _off(ours, exact), _off(F.scaled_dot_product_attention(query, key, value, scale=scale), exact)


def _joined(device: str, prefix: int, suffix: int, groups: int, spread: float, scale: float) -> tuple[float, float]:
    """The two errors if all rows share a prefix of `prefix` keys and have `suffix` keys of their own."""
    root = math.sqrt(spread)
    query = _drawn(device, KEY_HEADS * groups, 1, root)
    keys, values = _drawn(device, KEY_HEADS, prefix + suffix, root), _drawn(device, KEY_HEADS, prefix + suffix)
    keys[:, :, :prefix], values[:, :, :prefix] = keys[:1, :, :prefix].clone(), values[:1, :, :prefix].clone()
    shared, shared_values = (one[:1, :, :prefix].contiguous() for one in (keys, values))
    prefixes = engine.LayerPrefixes(shared, shared_values, engine.spans([0] * ROWS))
    own, own_values = keys[:, :, prefix:].contiguous(), values[:, :, prefix:].contiguous()
    ours = engine.attend_to_both(query, own, own_values, None, scale, prefixes)
    wide, wide_values = (one.repeat_interleave(groups, 1) for one in (keys, values))
    exact = (query.double() @ wide.double().mT * scale).softmax(-1) @ wide_values.double()
    return _off(ours, exact), _off(F.scaled_dot_product_attention(query, wide, wide_values, scale=scale), exact)


def _off(computed: Tensor, exact: Tensor) -> float:
    return float((computed.double() - exact).norm() / exact.norm())
