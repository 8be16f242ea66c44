"""Compares stage 2 at LLaMA-3.2-3B's size, with live features in bfloat16, with plain training of LLaVA."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mllm_eval.gpucheck.models import (
    CLIP_L_336,
    IMAGE,
    LLAMA_32_3B,
    PAD,
    TINY_CLIP,
    TINY_LLAMA,
    llava_of,
    random_model,
)
from mllm_eval.gpucheck.session import Session
from mllm_eval.gpucheck.worker import larger_loss
from mllm_eval.model.vlm import IGNORED
from mllm_eval.train.order import BatchPlan

# Required speed in tokens per second, as a multiple of plain training.
FASTER = 1.3
# Largest relative differences. Rounding in bfloat16 causes far less; a different function or target, far more.
SAME_LOSS, SAME_GRADIENT = 0.01, 0.05
# GiB by which the peak may exceed that of plain training.
SLACK = 0.1
# Kinds of rows: share, range of questions per row, and tokens of a question and of an answer as (median, sigma) of
# log-normal lengths. They are assumed from the composition of Cambrian-7M, whose lengths are not published.
KINDS = ((0.7, (1, 6), (25, 0.5), (5, 0.6)), (0.3, (1, 2), (30, 0.5), (140, 0.7)))
LONGEST = 2048
# Number of the template's tokens before the image.
BEFORE = 5


@contextmanager
def planted() -> Iterator[None]:
    """Increases the loss, as if it were divided by too few targets."""
    with larger_loss():
        yield


def row_lengths(rows: int, tokens: int, seed: int = 0) -> NDArray[np.int64]:
    """The number of tokens of each row, int64 [rows]: the image's `tokens`, the template and the text."""
    draw = np.random.default_rng(seed)
    lengths = np.zeros(rows, np.int64)
    for at in range(rows):
        _, turns, *texts = KINDS[draw.choice(len(KINDS), p=[kind[0] for kind in KINDS])]
        count = draw.integers(turns[0], turns[1] + 1)
        text = sum(median * np.exp(sigma * draw.standard_normal(count)).sum() for median, sigma in texts)
        lengths[at] = min(LONGEST, tokens + BEFORE + max(2, round(text)))
    return lengths


def check(session: Session) -> None:
    """Trains on the same rows in both ways: padded in their given order, and ordered as this project orders them."""
    shapes = (TINY_CLIP, replace(TINY_LLAMA, tied=True)) if session.dry else (CLIP_L_336, LLAMA_32_3B)
    micro, steps = (2, 3) if session.dry else (8, 6)
    model = random_model(*shapes, session.device)
    lengths = row_lengths(micro * steps, model.config.tokens)
    # All rows form one step of a recipe, which this project divides into micro-batches by length.
    ordered = BatchPlan(lengths, len(lengths), 1, (0,), "modality").rows(0)
    tower, words, size = model.config.tokens, shapes[1].words, shapes[0].pixels
    made = [_batch(session, lengths[at : at + micro], tower, words, size) for at in range(0, len(lengths), micro)]
    own = [
        _batch(session, lengths[ordered[at : at + micro]], tower, words, size) for at in range(0, len(lengths), micro)
    ]
    llava = llava_of(model, session.device)
    # Only one model at a time on the device: the peak of one must not include the other's weights.
    del model
    theirs = _trained(session, llava, llava.model.vision_tower, [own[0], *made], masked=True)
    del llava
    session.free()
    model = random_model(*shapes, session.device)
    ours = _trained(session, model, model.encoder, [own[0], *own], masked=False)
    session.judge("loss of the first batch, share it is off LLaVA's", _apart(ours.loss, theirs.loss), "<=", SAME_LOSS)
    note = f"{ours.norm:.4g} and {theirs.norm:.4g}"
    name = "norm of its gradient, share it is off LLaVA's"
    session.judge(name, _apart(ours.norm, theirs.norm), "<=", SAME_GRADIENT, note=note)
    rates = [int(lengths.sum()) / one.seconds for one in (theirs, ours)]
    session.seen("LLaVA trained plainly, rows as they come", rates[0], "tokens/s")
    session.seen("this project's stage 2", rates[1], "tokens/s")
    session.judge_on_gpu("times the plain way", rates[1] / rates[0], ">=", FASTER)
    if ours.peak is not None and theirs.peak is not None:
        session.judge_on_gpu("peak", ours.peak, "<=", round(theirs.peak + SLACK, 2), "GiB", "LLaVA's and 0.1")


class Trained:
    """Loss and gradient norm of the first batch, seconds of the other batches, and peak memory in GiB."""

    def __init__(self, loss: float, norm: float, seconds: float, peak: float | None) -> None:
        self.loss, self.norm, self.seconds, self.peak = loss, norm, seconds, peak


def _apart(one: float, other: float) -> float:
    return abs(one - other) / abs(other) if other else math.inf


def _batch(
    session: Session, lengths: Sequence[int] | NDArray[np.int64], tokens: int, words: int, size: int
) -> dict[str, Any]:
    """Rows with an image in front, padded to the longest row; the second half of each row's text is the target."""
    chance = torch.Generator().manual_seed(int(sum(lengths)))
    width = max(int(one) for one in lengths)
    ids = torch.full((len(lengths), width), PAD)
    labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    for at, length in enumerate(map(int, lengths)):
        ids[at, :length] = torch.randint(10, words, (length,), generator=chance)
        ids[at, BEFORE : BEFORE + tokens] = IMAGE
        mask[at, :length] = 1
        learnt = length - max(1, (length - tokens - BEFORE) // 2)
        labels[at, learnt:length] = ids[at, learnt:length]
    pixels = torch.randn(len(lengths), 3, size, size, generator=chance).bfloat16()
    made = {"input_ids": ids, "labels": labels, "attention_mask": mask, "pixel_values": pixels}
    return {name: tensor.to(session.device) for name, tensor in made.items()}


def _trained(session: Session, model: Any, tower: Any, batches: Sequence[dict[str, Any]], masked: bool) -> Trained:
    """One step per batch on all weights except the encoder's, with gradient checkpointing and torch's fused AdamW.

    The first step is not timed.
    """
    model.requires_grad_(True)
    tower.requires_grad_(False)
    model.train()
    tower.eval()
    model.config.use_cache = False
    model.gradient_checkpointing_enable()
    trained = [one for one in model.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-6, fused=True)

    def step(batch: dict[str, Any]) -> float:
        # Padding is on the right, where causal attention does not look, so this project passes no mask.
        given = batch if masked else {name: one for name, one in batch.items() if name != "attention_mask"}
        loss = model(**given).loss
        loss.backward()
        return float(loss.detach())

    def step_all() -> None:
        for batch in batches[1:]:
            step(batch)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    session.free()
    loss = step(batches[0])
    norms = torch._foreach_norm([one.grad for one in trained if one.grad is not None])
    norm = float(torch.stack([one.float() for one in norms]).norm())
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return Trained(loss, norm, session.seconds(step_all), session.peak())
