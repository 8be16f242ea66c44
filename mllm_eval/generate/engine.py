"""Answers a batch: shared heads once, then its blocks of questions, each row until it ends.

The answers are those of `reference.answer_one`, to the rounding of sums. A row of a block lies in the cache
as head | padding | tail | answer: the padding stands between head and tail, is masked, and takes no
position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mllm_eval.generate.batching import Batch, Piece, Request, Row
from mllm_eval.generate.keyvalues import KeyValues, moved_rows
from mllm_eval.generate.model import Answerer, embed_images, embed_pieces

# Room made ahead for an answer: most end after a few tokens, and longer ones have the room extended.
ROOM_FOR_ANSWER = 16


@torch.inference_mode()
def answer_batch(
    model: Answerer,
    batch: Batch,
    requests: Sequence[Request],
    features: Mapping[str, Tensor],
    max_new_tokens: int,
    ends: frozenset[int],
) -> dict[int, list[int]]:
    """The tokens of each request of the batch that has all its images, by the request's number.

    `features` holds the grids [h, w, D] of the images that could be read, by sha256; requests with another
    image are left out of what is returned.
    """
    blocks = [
        [row for row in block if all(image in features for image in requests[row.request].images)]
        for block in batch.blocks
    ]
    images = embed_images(model, features)
    used = sorted({row.head for block in blocks for row in block})
    heads = _prefill_heads(model, [batch.heads[head] for head in used], batch.head_tokens, images)
    places = {head: place for place, head in enumerate(used)}
    answers: dict[int, list[int]] = {}
    for block in blocks:
        if block:
            rows = [replace(row, head=places[row.head]) for row in block]
            tokens = _answer_block(model, heads, rows, images, max_new_tokens, ends)
            answers.update(zip((row.request for row in rows), tokens, strict=True))
    return answers


def _prefill_heads(
    model: Answerer, heads: Sequence[tuple[Piece, ...]], tokens: int, images: Mapping[str, Tensor]
) -> KeyValues:
    cache = KeyValues(model.llm.config.num_hidden_layers, tokens)
    if heads and tokens:
        inputs = torch.stack([embed_pieces(model, head, images) for head in heads])
        # Without `lm_head`: no token is chosen here.
        model.llm.model(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
    return cache


def _answer_block(
    model: Answerer,
    heads: KeyValues,
    rows: Sequence[Row],
    images: Mapping[str, Tensor],
    max_new_tokens: int,
    ends: frozenset[int],
) -> list[list[int]]:
    tails = [embed_pieces(model, row.tail, images) for row in rows]
    width, shared = max(len(tail) for tail in tails), heads.get_seq_length()
    padding = torch.tensor([width - len(tail) for tail in tails], device=tails[0].device)
    inputs = torch.stack([torch.nn.functional.pad(tail, (0, 0, width - len(tail), 0)) for tail in tails])
    cache = heads.pick([row.head for row in rows], shared + width + min(max_new_tokens, ROOM_FOR_ANSWER))
    hidden = model.llm.model(
        inputs_embeds=inputs,
        attention_mask=_tail_mask(padding, shared, width, inputs.dtype),
        position_ids=shared + (torch.arange(width, device=padding.device) - padding[:, None]).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1]
    return _decode(model, cache, hidden, padding, shared, max_new_tokens, ends)


def _tail_mask(padding: Tensor, shared: int, width: int, dtype: torch.dtype) -> Tensor:
    """What to add to the scores [rows, 1, width, shared + width] of tails: 0 or the least number."""
    at = torch.arange(width, device=padding.device)
    seen = (at[None, :] <= at[:, None]) & (at[None, None, :] >= padding[:, None, None])
    mask = torch.zeros(len(padding), 1, width, shared + width, dtype=dtype, device=padding.device)
    mask[:, 0, :, shared:].masked_fill_(~seen, torch.finfo(dtype).min)
    return mask


def _decode(
    model: Answerer,
    cache: KeyValues,
    hidden: Tensor,
    padding: Tensor,
    shared: int,
    max_new_tokens: int,
    ends: frozenset[int],
) -> list[list[int]]:
    """Greedy tokens of each row, from the last hidden states [rows, H] of the prompts."""
    answers: list[list[int]] = [[] for _ in padding]
    going = list(range(len(answers)))
    while True:
        chosen = model.llm.lm_head(hidden).argmax(-1)
        for row, token in zip(going, chosen.tolist(), strict=True):
            answers[row].append(token)
        full = len(answers[going[0]]) == max_new_tokens
        ended = [place for place, row in enumerate(going) if full or answers[row][-1] in ends]
        if len(ended) == len(going):
            return answers
        if ended:
            moves = moved_rows(ended, len(going))
            left = len(going) - len(ended)
            cache.drop(moves, left)
            for place, row in moves:
                going[place], chosen[place], padding[place] = going[row], chosen[row], padding[row]
            going, chosen, padding = going[:left], chosen[:left], padding[:left]
        length = cache.get_seq_length()
        hidden = model.llm.model(
            inputs_embeds=model.llm.get_input_embeddings()(chosen)[:, None],
            attention_mask=_answer_mask(padding, shared, length + 1, hidden.dtype),
            position_ids=(length - padding)[:, None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]


def _answer_mask(padding: Tensor, shared: int, length: int, dtype: torch.dtype) -> Tensor | None:
    """What to add to the scores [rows, 1, 1, length] of the newest tokens; None when no row is padded."""
    if not padding.any():
        return None
    at = torch.arange(length, device=padding.device)
    hidden = (at >= shared) & (at < shared + padding[:, None])
    mask = torch.zeros(hidden.shape, dtype=dtype, device=padding.device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None, None, :]
