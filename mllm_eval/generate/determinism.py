"""Compare the engine's answers with those of the reference loop, and measure how close a differing choice was."""

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

# Logits count as equal if they differ by less than this many units in the last place (float32 or wider) of the largest.
# This covers rounding that `_moved` misses, since a batch of two is often summed in the same order as one.
ROUNDING = 64
# Factor on `_moved`, since rounding may move both of the compared logits.
MOVES = 2
# Number of random perturbations of the embeddings.
DRAWS = 4


@dataclass(frozen=True)
class AnswerDifference:
    """A question to which engine and reference give different answers.

    asked: the task's name. id: the sample's id. text: the engine's answer. reference: the reference's answer.
    token: index, from 1, of the first token that differs.
    margin: logit of the reference's token there minus that of the engine's, by the reference in float32 or wider.
    tie: whether the margin is within rounding (`_moved`). After a tie, the rest of the texts need not agree.
    """

    asked: str
    id: str
    text: str
    reference: str
    token: int
    margin: float
    tie: bool


@dataclass(frozen=True)
class AnswerAgreement:
    """Number of compared questions, the number that failed among them, and the questions with different answers."""

    questions: int
    failed: int
    differences: tuple[AnswerDifference, ...]

    @property
    def sound(self) -> bool:
        """Whether all differences are ties."""
        return all(one.tie for one in self.differences)


def chosen(samples: Sequence[Sample], most: int | None) -> list[Sample]:
    """Return about `most` samples, chosen by a hash of their cluster, whole clusters at a time; all if None."""
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
) -> AnswerAgreement:
    """Answer every request by the engine, in one plan, and by the reference, and return the differences.

    Nothing is written to the tasks' journals.
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
    return AnswerAgreement(done, failed, tuple(differences))


def _difference(
    model: Answerer,
    named: tuple[str, str],
    pieces: Sequence[Piece],
    grids: Mapping[str, Tensor],
    tokens: Sequence[int],
    plain: Sequence[int],
    kept: Mapping[str, Kept],
) -> AnswerDifference:
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
    return AnswerDifference(*named, texts[0], texts[1], same + 1, margin, abs(margin) <= rounding)


def _moved(model: Answerer, inputs: Tensor, once: Tensor) -> float:
    """Estimate how much rounding alone changes the logits of the next token.

    Returns the largest absolute difference from `once` when the logits are computed in three other ways: in a batch of
    two; in two parts through a cache; and with embeddings perturbed by up to one unit in the last place. The
    perturbation matters in bfloat16, where a batch of two may be summed in the same order as one.

    Args:
        inputs: embeddings [1, N, H].
        once: logits [1, V] of `inputs`, computed in one forward pass.
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
    """Return the next token's logits [B, V] in float32 or wider, as rounding to bfloat16 would make many equal."""
    states: Tensor = model.llm.model(inputs_embeds=inputs, **options).last_hidden_state[:, -1]
    wide = torch.promote_types(states.dtype, torch.float32)
    logits: Tensor = states.to(wide) @ model.llm.lm_head.weight.to(wide).mT
    return logits
