"""Whether the engine answers as the plain loop does, and by how little a token was chosen where it does not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mllm_eval.catalog import Kept
from mllm_eval.data.samples import Sample
from mllm_eval.generate.backoff import Backoff
from mllm_eval.generate.batching import Limits, Piece
from mllm_eval.generate.embedding import Features
from mllm_eval.generate.engine import Engine
from mllm_eval.generate.model import Answerer, embed_images, embed_pieces
from mllm_eval.generate.reference import answer_one
from mllm_eval.generate.task import Task, same_requests
from mllm_eval.progress import Progress

# Logits that differ by less than this many units in the last place of the largest are the same but for rounding,
# in float32 or wider, where a batch of two may well be computed as a batch of one is.
ROUNDING = 64
# Either of the two logits that are compared may move so.
MOVES = 2
# Roundings of the embeddings that are tried.
DRAWS = 4


@dataclass(frozen=True)
class Difference:
    """A question that engine and reference answer otherwise.

    `token` counts from 1; up to it both are the same. There the reference's logits, multiplied out in float32, prefer
    its own token by `margin`; it is a `tie` where that is within what rounding moves them (`_moved`). Text behind a
    token that was chosen by a tie says nothing.
    """

    asked: str
    id: str
    text: str
    reference: str
    token: int
    margin: float
    tie: bool


@dataclass(frozen=True)
class Agreement:
    """How many questions were answered by both, how many of them not at all, and the differences."""

    questions: int
    failed: int
    differences: tuple[Difference, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing but ties differs."""
        return all(one.tie for one in self.differences)


def chosen(samples: Sequence[Sample], most: int | None) -> list[Sample]:
    """About `most` samples, those on one image together, drawn by a hash of the image; all without `most`."""
    if most is None:
        return list(samples)

    def drawn(sample: Sample) -> str:
        return hashlib.sha256(sample.cluster.encode()).hexdigest()

    taken = {drawn(sample) for sample in sorted(samples, key=drawn)[:most]}
    return [sample for sample in samples if drawn(sample) in taken]


@torch.inference_mode()
def compare_answers(
    model: Answerer,
    tasks: Sequence[Task],
    template: str,
    features: Features,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Agreement:
    """Answer every request by the engine, what is asked in one plan, and by the reference, and tell the differences.

    The journals are left alone.
    """
    engine = Engine(model, template, features, limits)
    backoff = Backoff(engine)
    repeated = {(task, place) for others in same_requests(tasks).values() for task, place in others}
    names = {
        request: (task.name, request.id)
        for task in tasks
        for place, request in enumerate(task.requests)
        if (task, place) not in repeated
    }
    done, failed, differences = 0, 0, []
    for batch in engine.plan(list(names), backoff.planned_for):
        tokens = backoff.compute(batch.requests, engine.complete)
        grids, _ = engine.images.read([image for request in batch.requests for image in request.images])
        for request, answered in zip(batch.requests, tokens, strict=True):
            done += 1
            if answered is None:
                failed += 1
                continue
            pieces, kept = engine.prompts.pieces(request), engine.prompts.kept
            plain = answer_one(model, pieces, grids, request.max_new_tokens, engine.ends, kept)
            if plain != answered:
                differences.append(_difference(model, names[request], pieces, grids, answered, plain, kept))
        if progress:
            progress(done, len(names))
    return Agreement(done, failed, tuple(differences))


def _difference(
    model: Answerer,
    named: tuple[str, str],
    pieces: Sequence[Piece],
    grids: Mapping[str, Tensor],
    tokens: Sequence[int],
    plain: Sequence[int],
    kept: Mapping[str, Kept],
) -> Difference:
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tokens, plain, strict=False)))
    shown = {piece: grids[piece] for piece in pieces if isinstance(piece, str)}
    before: list[Piece] = [*pieces, *([tuple(plain[:same])] if same else [])]
    inputs = embed_pieces(model, before, embed_images(model, shown, kept))[None]
    once = _logits(model, inputs)
    logits = once[0]
    margin = float(logits[plain[same]] - logits[tokens[same]])
    rounding = ROUNDING * torch.finfo(logits.dtype).eps * float(logits.abs().max()) + MOVES * _moved(
        model, inputs, once
    )
    texts = [model.tokenizer.decode(list(one), skip_special_tokens=True).strip() for one in (tokens, plain)]
    return Difference(*named, texts[0], texts[1], same + 1, margin, abs(margin) <= rounding)


def _moved(model: Answerer, inputs: Tensor, once: Tensor) -> float:
    """By how much the plain loop's logits of the next token move by rounding alone.

    inputs: [1, N, H]; once: [1, V], their logits in one go. Beside that they are computed in a batch of two, in two
    parts through a cache, and with the embeddings off by up to a unit in their last place either way; the greatest
    difference is taken. In bfloat16 that is what all states are rounded by, and a batch of two may well be summed in
    the same order as one.
    """
    others = [_logits(model, inputs.repeat(2, 1, 1))]
    if inputs.shape[1] > 1:
        cache = DynamicCache(config=model.llm.config)
        half = inputs.shape[1] // 2
        model.llm.model(inputs_embeds=inputs[:, :half], past_key_values=cache, use_cache=True)
        others.append(_logits(model, inputs[:, half:], past_key_values=cache, use_cache=True))
    wide = torch.promote_types(inputs.dtype, torch.float32)
    noise = torch.Generator().manual_seed(0)
    for _ in range(DRAWS):
        off = torch.rand(inputs.shape, generator=noise, dtype=torch.float32).to(inputs.device, wide) - 0.5
        turned = inputs.to(wide) * (1 + 2 * torch.finfo(inputs.dtype).eps * off)
        others.append(_logits(model, turned.to(inputs.dtype)))
    return max(float((other - once).abs().max()) for other in others)


def _logits(model: Answerer, inputs: Tensor, **options: Any) -> Tensor:
    """[B, V] float32 or wider: the head's product is not rounded to the model's dtype, in which many logits tie."""
    states: Tensor = model.llm.model(inputs_embeds=inputs, **options).last_hidden_state[:, -1]
    wide = torch.promote_types(states.dtype, torch.float32)
    logits: Tensor = states.to(wide) @ model.llm.lm_head.weight.to(wide).mT
    return logits
