"""Attention of rows whose keys consist of a prefix shared with other rows and a suffix of their own.

Attention to prefix and suffix is computed separately and combined by their log-sum-exp, which equals one softmax over
both parts (as in Juravsky et al. 2024, "Hydragen", arXiv:2402.05099). The queries of all rows with the same prefix form
one matrix, so that the prefix is neither copied nor read once per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from mllm_eval.model.internals import attending_by, register_attention

NAME = "mllm_eval_shared_prefixes"


@dataclass(frozen=True)
class SharedPrefixes:
    """Keys and values of prefixes, one tensor [prefixes, key heads, tokens, width] per layer."""

    keys: list[Tensor]
    values: list[Tensor]

    @property
    def tokens(self) -> int:
        """Number of tokens of each prefix."""
        return self.keys[0].shape[-2] if self.keys else 0

    def of_layer(self, layer: int, rows: Sequence[Span]) -> LayerPrefixes | None:
        """Return one layer's prefixes for rows described by spans; None without prefixes."""
        return LayerPrefixes(self.keys[layer], self.values[layer], rows) if self.tokens else None


@dataclass(frozen=True)
class Span:
    """Prefixes `first` to `first + count - 1`, each shared by `each` rows; their rows are consecutive from `row`."""

    first: int
    count: int
    each: int
    row: int


@dataclass(frozen=True)
class LayerPrefixes:
    """Keys and values [prefixes, key heads, tokens, width] of one layer, and the rows that share each prefix."""

    keys: Tensor
    values: Tensor
    rows: Sequence[Span]


def spans(prefixes: Sequence[int]) -> list[Span]:
    """Return spans for the rows' prefix numbers, which must ascend."""
    merged: list[Span] = []
    row = 0
    for prefix, rows in groupby(prefixes):
        each = len(list(rows))
        last = merged[-1] if merged else None
        if last and last.each == each and last.first + last.count == prefix:
            merged[-1] = Span(last.first, last.count + 1, each, last.row)
        else:
            merged.append(Span(prefix, 1, each, row))
        row += each
    return merged


def shared_prefix_attention(llm: Any) -> AbstractContextManager[None]:
    """Return a context in which the model attends to its cache and to the `prefixes` it is called with."""
    return attending_by(NAME, llm)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Return attention [B, heads, N, width] and the log-sum-exp of its scores [B, heads, N], float32 or wider.

    `mask` [B, 1, N, M] is added to the scaled scores.
    """
    if query.device.type == "cpu":
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, total = flash(query, key, value, 0.0, False, attn_mask=mask, scale=scale)
        return out, total
    if query.device.type == "cuda" and fused_agrees(query.device, query.dtype, query.shape[-1]):
        return attend_fused(query, key, value, mask, scale)
    return attend_by_products(query, key, value, mask, scale)


def attend_fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Compute `attend` on a GPU by torch's fused kernels, which return the log-sum-exp as well.

    The last two strides of `mask` must be multiples of eight elements, or 0 or 1.
    """
    if mask is None and query.dtype in (torch.bfloat16, torch.float16):
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        out, total = flash(query, key, value, 0.0, False, False, scale=scale)[:2]
        return out, total
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    bias = None if mask is None else mask.expand(*query.shape[:3], key.shape[2])
    out, total = efficient(query, key, value, bias, True, 0.0, False, scale=scale)[:2]
    # The kernel pads the log-sum-exp to a multiple of 32 positions.
    return out, total[..., : query.shape[2]]


@cache
def fused_agrees(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether `attend_fused` agrees with `attend_by_products` on this device, to 2 %; tested once per process.

    The fused kernels are private functions of torch, which may change between its versions.
    """
    query, key, value = torch.randn(3, 2, 3, 24, width, device=device).to(dtype)
    mask = torch.zeros(2, 1, 24, 24, device=device, dtype=dtype)
    mask[:, :, :, :5] = torch.finfo(dtype).min
    try:
        for given in (None, mask):
            fused = attend_fused(query, key, value, given, width**-0.5)
            expected = attend_by_products(query, key, value, given, width**-0.5)
            for one, other in zip(fused, expected, strict=True):
                if not torch.allclose(one.float(), other.float(), rtol=2e-2, atol=2e-2):
                    return False
    except RuntimeError:
        return False
    return True


def attend_by_products(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute `attend` by two matrix products, for devices without a fused kernel that returns the log-sum-exp.

    Scores of half precision are kept in float32, as fused kernels do. Rounding them to bfloat16 would shift them, and
    so the logarithm of each attention weight, by up to 2^-9 of the largest score.
    """
    scores = _float_product(query, key.mT) * scale
    if mask is not None:
        scores = scores + mask
    total = scores.logsumexp(-1)
    return (scores - total[..., None]).exp().to(value.dtype) @ value, total


def _float_product(one: Tensor, other: Tensor) -> Tensor:
    """Return the product [B, heads, N, M] of [B, heads, N, K] and [B, heads, K, M] in float32 or wider."""
    if one.dtype not in (torch.bfloat16, torch.float16):
        return one @ other
    if one.device.type == "cuda":
        # Tensor cores accumulate in float32 anyway; this avoids float32 copies of the keys.
        product: Any = torch.bmm
        flat: Tensor = product(one.flatten(0, 1), other.flatten(0, 1), out_dtype=torch.float32)
        return flat.reshape(*one.shape[:2], *flat.shape[1:])
    return one.float() @ other.float()


def attend_to_prefixes(query: Tensor, prefixes: LayerPrefixes, scale: float) -> tuple[Tensor, Tensor]:
    """Compute `attend` for queries [rows, heads, N, width] and the keys and values of the rows' shared prefixes."""
    outs, totals = [], []
    _, many, length, width = query.shape
    for span in prefixes.rows:
        parted = (span.count, span.each, many, length)
        rows = slice(span.row, span.row + span.count * span.each)
        here = slice(span.first, span.first + span.count)
        together = query[rows].reshape(*parted, width).transpose(1, 2).flatten(2, 3)
        out, total = attend(together, prefixes.keys[here], prefixes.values[here], None, scale)
        joined = (span.count, many, span.each, length)
        outs.append(out.reshape(*joined, width).transpose(1, 2).flatten(0, 1))
        totals.append(total.reshape(joined).transpose(1, 2).flatten(0, 1))
    if len(outs) == 1:
        # torch.cat of one tensor would copy it.
        return outs[0], totals[0]
    return torch.cat(outs), torch.cat(totals)


def attend_to_both(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    prefixes: LayerPrefixes | None,
) -> Tensor:
    """Return the attention [rows, heads, N, width] of queries to their rows' own keys and to their prefixes' keys.

    There may be fewer key heads than query heads (grouped-query attention). `mask` applies to the rows' own keys; all
    of a prefix is visible.
    """
    # Query heads that share a key head are laid out as further positions of one head.
    rows, many, length, width = query.shape
    groups = many // key.shape[1]
    query = query.reshape(rows, key.shape[1], groups * length, width)
    if mask is not None and groups > 1:
        # With one position the mask can be expanded without a copy.
        mask = mask.expand(-1, -1, groups, -1) if length == 1 else mask.repeat(1, 1, groups, 1)
    out, total = attend(query, key, value, mask, scale)
    if prefixes is not None:
        shared, shared_total = attend_to_prefixes(query, prefixes, scale)
        share = torch.sigmoid(shared_total - total)[..., None]
        # Combined in float32, so that the result is rounded once.
        out = torch.lerp(out.to(share.dtype), shared.to(share.dtype), share).to(out.dtype)
    return out.reshape(rows, many, length, width)


def _forward(  # noqa: PLR0913  what transformers gives an attention
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    prefixes: SharedPrefixes,
    row_prefixes: Sequence[Span],
    **kwargs: Any,
) -> tuple[Tensor, None]:
    here = prefixes.of_layer(module.layer_idx, row_prefixes)
    out = attend_to_both(query, key, value, attention_mask, scaling, here)
    return out.transpose(1, 2).contiguous(), None


register_attention(NAME, _forward)
