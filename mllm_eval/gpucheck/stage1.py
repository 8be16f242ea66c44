"""Checks the paper's stage 1 at its real size, Web-DINO 7B at 518 pixels with LLaMA-3 8B: MFU and peak memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mllm_eval.adapters import family, load_encoder_model
from mllm_eval.catalog import Encoder, load_encoder, load_llm, load_recipe
from mllm_eval.gpucheck.machine import sheet
from mllm_eval.gpucheck.models import IMAGE, TEMPLATE, placed
from mllm_eval.gpucheck.session import GIB, Session
from mllm_eval.model.vlm import IGNORED, VLM, VLMConfig
from mllm_eval.operations.count import encoding, passing, projecting
from mllm_eval.operations.shapes import LlamaShape, encoder_shape, llama_shape, projector_shape
from mllm_eval.plan import PlanOptions, make_plan

# Model FLOPs utilisation: operations of the model, without recomputation, as a share of the data sheet's peak.
MFU = 0.35
# Largest relative difference between the measured peak memory and the planned one.
OF_PLAN = 0.15


@dataclass(frozen=True)
class StepScale:
    """The models, the rows per step, and the kinds of rows as (positions, targets): of mean length, and the longest."""

    encoder: str
    recipe: str
    rows: int
    mean: tuple[int, int]
    longest: tuple[int, int]


FULL = StepScale("webssl-dino7b-full8b-518", "webssl-paper", 8, (832, 128), (2048, 1472))
DRY = StepScale("mini-dino", "mini", 2, (60, 12), (160, 100))


@contextmanager
def planted() -> Iterator[None]:
    """Casts the whole model, including rotary frequencies, to bfloat16, and freezes nothing."""
    freeze = VLM.requires_grad_

    def thawed(model: Any, wanted: bool = True) -> Any:
        return freeze(model.bfloat16(), True)

    with patch.object(VLM, "requires_grad_", thawed):
        yield


def check(session: Session) -> None:
    """Runs forward and backward with gradient checkpointing, on rows of mean length and on the longest rows."""
    scale = DRY if session.dry else FULL
    recipe = load_recipe(scale.recipe)
    eye, llm = load_encoder(scale.encoder, recipe), load_llm(recipe.llm)
    shapes = encoder_shape(eye), llama_shape(llm), projector_shape(eye, recipe, llm)
    model = _model(session, eye, shapes[1], recipe.tokens)
    frequencies = {str(one.dtype) for name, one in model.named_buffers() if name.endswith("inv_freq")}
    session.judge("rotary frequencies are", ", ".join(sorted(frequencies)), "==", "torch.float32")
    peak_of_products = None if session.dry else sheet(session.device_name)
    for name, (length, targets) in (("rows of mean length", scale.mean), ("the longest rows", scale.longest)):
        batch = _batch(session, scale.rows, length, targets, recipe.tokens, shapes[1].vocab, eye.preprocessing.size)

        def step(batch: dict[str, torch.Tensor] = batch) -> None:
            model.zero_grad(set_to_none=True)
            model(**batch).loss.backward()

        session.free()
        taken = session.seconds(step, 1 if session.dry else 3, 1)
        session.seen(f"{name}: {scale.rows} of {length} positions", taken, "s")
        flops = passing(shapes[1], scale.rows, length, targets).training(False)
        flops += encoding(shapes[0], scale.rows) + 3 * projecting(shapes[2], scale.rows * recipe.tokens)
        if peak_of_products is None:
            session.seen(f"{name}: the model's own products", flops / taken / 1e12, "TFLOP/s")
        else:
            session.judge_on_gpu(f"{name}: MFU", flops / taken / (peak_of_products.tflops * 1e12), ">=", MFU)
    got = {name.partition(".")[0] for name, one in model.named_parameters() if one.grad is not None}
    session.judge("parts that have gradients", ", ".join(sorted(got)), "==", "projector")
    _memory(session, scale)


def _memory(session: Session, scale: StepScale) -> None:
    ways = make_plan(
        scale.encoder, scale.recipe, options=PlanOptions(gpus="1xH200", micro_batch=scale.rows, rows=(10**6, 10**6))
    )
    (planned,) = (one for one in ways.memory["stage 1"] if one.way == "ZeRO-2" and one.checkpointing)
    session.seen("planned for the longest rows under ZeRO-2", planned.gpu / GIB, "GiB")
    if (peak := session.peak()) is not None:
        session.seen("the longest rows: peak", peak, "GiB")
        off = abs(peak / (planned.gpu / GIB) - 1)
        session.judge_on_gpu("the longest rows: share the peak is off the plan", off, "<=", OF_PLAN)


def _model(session: Session, eye: Encoder, mind: LlamaShape, tokens: int) -> VLM:
    """A model with random weights; encoder and LLM are frozen, as in stage 1."""
    # The miniature's yaml has no architecture: its shapes are in the config of its weights.
    told = eye.architecture is not None
    kind: Any = family(eye.family)
    vision = kind.config_of(eye).to_dict() if told else load_encoder_model(eye).config_values()
    text = LlamaConfig(
        vocab_size=mind.vocab,
        hidden_size=mind.width,
        intermediate_size=mind.hidden,
        num_hidden_layers=mind.depth,
        num_attention_heads=mind.heads,
        num_key_value_heads=mind.keys * mind.heads // mind.attention,
        max_position_embeddings=8192,
        tie_word_embeddings=mind.tied,
    )
    config = VLMConfig(
        encoder=eye.model_dump(mode="json"),
        vision_config=vision,
        text_config=text.to_dict(),
        tokens=tokens,
        template=TEMPLATE,
        image_token_id=IMAGE,
        dtype="bfloat16",
    )
    with placed(session.device):
        model = VLM(config, llm=LlamaForCausalLM(text))
    model.requires_grad_(False)
    model.projector.requires_grad_(True)
    model.gradient_checkpointing_enable()  # type: ignore[no-untyped-call]
    return model.train()


def _batch(
    session: Session, rows: int, length: int, targets: int, tokens: int, words: int, size: int
) -> dict[str, torch.Tensor]:
    ids = torch.randint(10, words, (rows, length))
    before = min(91, length - tokens - targets)
    ids[:, before : before + tokens] = IMAGE
    labels = torch.full_like(ids, IGNORED)
    labels[:, -targets:] = ids[:, -targets:]
    made = {"input_ids": ids, "labels": labels, "pixel_values": torch.randn(rows, 3, size, size).bfloat16()}
    return {name: tensor.to(session.device) for name, tensor in made.items()}
