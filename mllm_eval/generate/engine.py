"""This project's engine: batched greedy decoding that computes each shared prefix once.

Its answers equal those of `reference.answer_one` except for the rounding of sums. After its prefix, a row is laid out
as padding | suffix | answer. The padding is masked and takes no position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mllm_eval.generate.attention import SharedPrefixes, shared_prefix_attention, spans
from mllm_eval.generate.batching import Piece, PromptRow, TokenBatch
from mllm_eval.generate.embedding import EmbeddingBackend
from mllm_eval.generate.llamalayers import fill, newest_states
from mllm_eval.generate.model import Answerer, embed_images, embed_pieces
from mllm_eval.model.internals import KeyValues

# Tokens reserved in the cache per answer. Most answers are shorter; the cache grows for longer ones.
ROOM_FOR_ANSWER = 16


class Engine(EmbeddingBackend):
    """Computes each prefix once for all requests that share it, and decodes these as rows of a batch."""

    def complete_batch(self, batch: TokenBatch, features: Mapping[str, Tensor]) -> dict[int, list[int]]:
        """See `answer_batch`."""
        return answer_batch(self.model, batch, features, self.ends, self.limits.pass_tokens)


@torch.inference_mode()
def answer_batch(
    model: Answerer,
    batch: TokenBatch,
    features: Mapping[str, Tensor],
    ends: frozenset[int],
    pass_tokens: int,
) -> dict[int, list[int]]:
    """Return request number -> answer tokens, for each request of the batch whose images are all in `features`.

    An answer ends with one of the tokens `ends`, which is included, or at its row's token limit.

    Args:
        features: SHA-256 -> patch features [h, w, D] of each readable image.
        pass_tokens: most tokens of prefixes in one forward pass.
    """
    blocks = [[row for row in block if all(image in features for image in batch.images(row))] for block in batch.blocks]
    images = embed_images(model, features, batch.kept)
    used = sorted({row.prefix for block in blocks for row in block})
    prefixes = prefill_prefixes(
        model, [batch.prefixes[prefix] for prefix in used], batch.prefix_tokens, images, pass_tokens
    )
    places = {prefix: place for place, prefix in enumerate(used)}
    answers: dict[int, list[int]] = {}
    for block in filter(None, blocks):
        rows = sorted((replace(row, prefix=places[row.prefix]) for row in block), key=lambda row: row.prefix)
        with shared_prefix_attention(model.llm):
            tokens = _answer_block(model, prefixes, rows, images, ends)
        answers.update(zip((row.request for row in rows), tokens, strict=True))
    return answers


def prefill_prefixes(
    model: Answerer,
    prefixes: Sequence[tuple[Piece, ...]],
    tokens: int,
    images: Mapping[str, Tensor],
    pass_tokens: int,
) -> SharedPrefixes:
    """Return the keys and values of prefixes of `tokens` tokens each, at most `pass_tokens` tokens per forward pass.

    A single prefix may exceed `pass_tokens`.
    """
    if not prefixes or not tokens:
        return SharedPrefixes([], [])
    passes = []
    each = max(1, pass_tokens // tokens)
    for start in range(0, len(prefixes), each):
        inputs = torch.stack([embed_pieces(model, prefix, images) for prefix in prefixes[start : start + each]])
        cache = KeyValues(model.llm.config.num_hidden_layers, tokens)
        fill(model.llm.model, inputs, cache)
        passes.append(cache.held)
    layers = list(zip(*passes, strict=True))
    return SharedPrefixes(
        [torch.cat([one.keys for one in layer]) for layer in layers],
        [torch.cat([one.values for one in layer]) for layer in layers],
    )


def _answer_block(
    model: Answerer,
    prefixes: SharedPrefixes,
    rows: Sequence[PromptRow],
    images: Mapping[str, Tensor],
    ends: frozenset[int],
) -> list[list[int]]:
    """Return each row's answer tokens by greedy decoding; the rows must be sorted by prefix."""
    suffixes = [embed_pieces(model, row.suffix, images) for row in rows]
    width = max(len(suffix) for suffix in suffixes)
    padding = torch.tensor([width - len(suffix) for suffix in suffixes], device=suffixes[0].device)
    longest = max(row.longest for row in rows)
    cache = KeyValues(model.llm.config.num_hidden_layers, width + min(longest, ROOM_FOR_ANSWER))
    hidden = newest_states(
        model.llm.model,
        torch.stack([_padded(suffix, width) for suffix in suffixes]),
        prefixes.tokens + (torch.arange(width, device=padding.device) - padding[:, None]).clamp(min=0),
        suffix_mask(padding, width, suffixes[0].dtype),
        cache,
        prefixes,
        spans([row.prefix for row in rows]),
    )
    answers: list[list[int]] = [[] for _ in rows]
    going = list(range(len(rows)))
    while True:
        chosen = model.llm.lm_head(hidden).argmax(-1)
        for row, token in zip(going, chosen.tolist(), strict=True):
            answers[row].append(token)
        on = [
            place
            for place, row in enumerate(going)
            if len(answers[row]) < rows[row].longest and answers[row][-1] not in ends
        ]
        if not on:
            return answers
        if len(on) < len(going):
            going = [going[place] for place in on]
            kept = torch.tensor(on, device=padding.device)
            chosen, padding = chosen[kept], padding[kept]
            cache.keep(kept)
        length = cache.get_seq_length()
        hidden = newest_states(
            model.llm.model,
            model.llm.get_input_embeddings()(chosen)[:, None],
            (prefixes.tokens + length - padding)[:, None],
            answer_mask(padding, length + 1, hidden.dtype),
            cache,
            prefixes,
            spans([rows[row].prefix for row in going]),
        )


def _padded(suffix: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(suffix, (0, 0, width - len(suffix), 0))


def suffix_mask(padding: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Return the additive causal mask [rows, 1, width, width] of left-padded suffixes: 0, or the dtype's minimum.

    padding: [rows], padding tokens on each row's left.
    """
    at = torch.arange(width, device=padding.device)
    seen = (at[None, :] <= at[:, None]) & (at[None, None, :] >= padding[:, None, None])
    return _least_where(~seen, dtype)[:, None]


def answer_mask(padding: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Return the additive mask [rows, 1, 1, length] of the newest tokens: 0, or the dtype's minimum for padding."""
    return _least_where(torch.arange(length, device=padding.device) < padding[:, None], dtype)[:, None, None, :]


def _least_where(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    length = hidden.shape[-1]
    # Fused GPU kernels need rows whose stride is a multiple of eight elements.
    room = torch.zeros(*hidden.shape[:-1], -(-length // 8) * 8, dtype=dtype, device=hidden.device)
    return room[..., :length].masked_fill_(hidden, torch.finfo(dtype).min)
