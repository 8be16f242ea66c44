"""Compares answering with transformers' `LlavaForConditionalGeneration.generate`, for LLaMA-3-8B and ViT-L/14@336."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from mllm_eval.answers import Journal
from mllm_eval.catalog import Encoder
from mllm_eval.data.samples import Sample
from mllm_eval.features import Features, FeatureStore
from mllm_eval.generate import Limits, Task, TemplateFormat, answer_tasks
from mllm_eval.generate import attention as engine
from mllm_eval.generate.backoff import limits_for
from mllm_eval.generate.engine import Engine
from mllm_eval.generate.request import write_request
from mllm_eval.generate.tokenized import TokenizedPrompts
from mllm_eval.gpucheck.models import (
    CLIP_L_336,
    IMAGE,
    LLAMA_3_8B,
    PAD,
    TEMPLATE,
    TINY_CLIP,
    TINY_LLAMA,
    llava_of,
    questions,
    random_model,
)
from mllm_eval.gpucheck.session import Session
from mllm_eval.model.vlm import VLM
from mllm_eval.prompts import PromptTokens

# Tokens per answer, the same for all answers and typical of the benchmarks.
TOKENS = 8
BATCH = 16
# Required speed as a multiple of `generate` at batch 1, by questions per image; and at batch 16, as a pair: with an
# empty feature store, and with all features stored.
ALONE = {1: 4.0, 2: 4.0, 31: 20.0}
BATCHED = {1: (1.0, 1.0), 2: (1.2, 1.6), 31: (4.0, 8.0)}
# Questions per image -> number of images.
FULL, DRY = {1: 64, 2: 32, 31: 4}, {1: 6, 2: 3, 31: 1}
# Number of questions compared and timed at batch 1, and timed at batch 16.
COMPARED, TIMED = 20, 64
# The longest time of a workload in seconds; it is skipped if less is left.
WORKLOAD = 40.0
# Allowed difference in the share of equal answers (one of 16 is 0.06). If LLaVA's own batching changes many answers,
# two standard errors of a difference are allowed instead.
SLACK = 0.1


@contextmanager
def planted() -> Iterator[None]:
    """Scales the engine's attention by 0.7."""
    right = engine.attend_to_both

    def scaled(query: Any, key: Any, value: Any, mask: Any, scale: float, *rest: Any) -> Any:
        return right(query, key, value, mask, 0.7 * scale, *rest)

    with patch.object(engine, "attend_to_both", scaled):
        yield


@dataclass
class Rivals:
    """The same weights in this project's model and in transformers' LLaVA."""

    session: Session
    model: VLM
    llava: Any
    limits: Limits

    def inputs(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """A left-padded batch for LLaVA. Its pixels are preprocessed here, outside the measured time."""
        tokens = self.model.config.tokens
        prompts = TokenizedPrompts(PromptTokens(self.model.tokenizer, TEMPLATE), tokens)
        requests = [write_request(one, TemplateFormat(TEMPLATE), TOKENS) for one in samples]
        rows = [
            [
                one
                for piece in prompts.pieces(request)
                for one in ([IMAGE] * tokens if isinstance(piece, str) else piece)
            ]
            for request in requests
        ]
        encoder: Any = self.model.encoder
        shown = [torch.from_numpy(encoder.preprocess(sample.images[0].load())) for sample in samples]
        width = max(map(len, rows))
        ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        batch = {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.stack(shown).to(self.model.dtype)}
        return {name: tensor.to(self.session.device) for name, tensor in batch.items()}

    @torch.inference_mode()
    def theirs(self, batches: Sequence[dict[str, torch.Tensor]]) -> list[list[int]]:
        """The tokens of LLaVA's answers to all batches."""
        options = {"do_sample": False, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
        answers: list[list[int]] = []
        for one in batches:
            answers += self.llava.generate(**one, **options)[:, one["input_ids"].shape[1] :].tolist()
        return answers

    def ours(self, samples: Sequence[Sample], folder: Path, name: str) -> list[str]:
        """The texts of this project's answers, from encoded images, with the feature store in `folder`."""
        facts = Encoder.model_validate(self.model.config.encoder)
        store = FeatureStore(
            folder / "features", (facts.grid, facts.grid), facts.width, str(self.model.dtype).removeprefix("torch.")
        )
        encoder: Any = self.model.encoder
        features = Features(store, lambda: encoder)
        features.fill([image for sample in samples for image in sample.images])
        journal = Journal(folder / f"{name}.jsonl")
        task = Task(samples, TOKENS, journal, TemplateFormat(TEMPLATE))
        answer_tasks(Engine(self.model, TEMPLATE, features, self.limits), [task])
        store.close()
        done = journal.done()
        return [done[sample.id].text for sample in samples]


def check(session: Session) -> None:
    """Measures questions per second at 1, 2 and 31 questions per image, and checks that the answers agree."""
    shapes = (TINY_CLIP, TINY_LLAMA) if session.dry else (CLIP_L_336, LLAMA_3_8B)
    # float32 on a CPU: there LLaVA's batching changes no answer in bfloat16, so it would not show what rounding can do.
    model = random_model(*shapes, session.device, torch.float32 if session.dry else torch.bfloat16)
    rivals = Rivals(session, model, llava_of(model, session.device), limits_for(model))
    session.seen("batches are planned for", f"{rivals.limits.rows} questions, {rivals.limits.tokens} tokens")
    # Answers compared; those of this engine, and of LLaVA at batch 16, that equal LLaVA's at batch 1.
    counted, same, own = 0, 0, 0
    for each, images in (DRY if session.dry else FULL).items():
        if session.left < WORKLOAD and not session.dry:
            session.skip(f"{each} questions an image", "no time left")
            continue
        agreement = _compare(rivals, each, questions([each] * images, f"gpu{each}"))
        counted, same, own = counted + agreement[0], same + agreement[1], own + agreement[2]
    if counted:
        kept = own / counted
        slack = max(SLACK, 2 * math.sqrt(2 * kept * (1 - kept) / counted))
        note = f"of {counted}; LLaVA's own batches of {BATCH} keep {kept:.2f}"
        name = "share of answers that are LLaVA's at batch 1"
        session.judge(name, same / counted, ">=", round(max(0.0, kept - slack), 3), note=note)


def _compare(rivals: Rivals, each: int, samples: list[Sample]) -> tuple[int, int, int]:
    """Times both models. Returns the number of answers compared, and how many of each equal LLaVA's at batch 1.

    "Each" is this engine, and LLaVA at batch 16.
    """
    session, name = rivals.session, f"{each} an image"
    few, more = samples[:COMPARED], samples[:TIMED]
    single = [rivals.inputs([one]) for one in few]
    many = [rivals.inputs(more[at : at + BATCH]) for at in range(0, len(more), BATCH)]
    alone: list[list[int]] = []
    batched: list[list[int]] = []
    # Warm-up: the first call with a new shape is slow in both models.
    rivals.theirs(single[:1] + many[:1])
    rate_alone = len(few) / session.seconds(lambda: alone.extend(rivals.theirs(single)))
    rate_batched = len(more) / session.seconds(lambda: batched.extend(rivals.theirs(many)))
    session.seen(f"{name}: LLaVA.generate, batch 1", rate_alone, "questions/s")
    session.seen(f"{name}: LLaVA.generate, batch {BATCH}", rate_batched, "questions/s")
    said: list[str] = []
    session.free()
    with (
        tempfile.TemporaryDirectory(dir=session.folder) as once,
        tempfile.TemporaryDirectory(dir=session.folder) as kept,
    ):
        rivals.ours(samples[: max(2, len(samples) // 4)], Path(once), "warm-up")
        for at, way in enumerate(("cold", "warm")):
            said.clear()
            taken = session.seconds(lambda way=way: said.extend(rivals.ours(samples, Path(kept), way)))  # type: ignore[misc]
            rate = len(samples) / taken
            session.seen(f"{name}, {way}: this engine", rate, "questions/s")
            session.judge_on_gpu(f"{name}, {way}: times LLaVA's batch 1", rate / rate_alone, ">=", ALONE[each])
            times = rate / rate_batched
            session.judge_on_gpu(f"{name}, {way}: times LLaVA's batch {BATCH}", times, ">=", BATCHED[each][at])
    if (peak := session.peak()) is not None:
        session.seen(f"{name}: peak, LLaVA's copy of the weights included", peak, "GiB")
    decode = rivals.model.tokenizer.decode
    same = sum(decode(row, True) == said[at] for at, row in enumerate(alone))
    return len(few), same, sum(batched[at] == row for at, row in enumerate(alone))
