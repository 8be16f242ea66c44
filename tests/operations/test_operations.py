"""Counted operations against those of the products that torch computes, and shapes against weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from measured_step import (
    DEPTH,
    FEATURES,
    HEADS,
    HIDDEN,
    KEYS,
    LENGTH,
    ROWS,
    TOKENS,
    VOCAB,
    WIDTH,
    Trained,
    joint,
    llama,
    shape,
)
from tiny_models import make_conversations, make_encoder, make_llm, make_recipe
from torch.utils.flop_counter import FlopCounterMode

from mllm_eval.adapters import load_encoder_model
from mllm_eval.adapters.projector import Projector
from mllm_eval.catalog import load_encoder, load_llm, load_recipe
from mllm_eval.catalog.llm import LLM, LlamaArchitecture, llama_parameters
from mllm_eval.errors import UserError
from mllm_eval.kernels import use_kernels
from mllm_eval.model import load_llm_model
from mllm_eval.operations.count import QuestionCounts, asking, encoding, passing, projecting
from mllm_eval.operations.shapes import added_parameters, encoder_shape, llama_shape, lora_parameters, projector_shape

CLOSE = 0.15


@pytest.mark.parametrize("train_llm", [True, False])
def test_work_of_a_step_is_that_of_its_products(train_llm: bool) -> None:
    step = Trained(train_llm)
    step.llm.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        step.loss(whole=True).backward()
    foretold = passing(shape(), ROWS, LENGTH, LENGTH - TOKENS).training(train_llm)
    foretold += 3 * projecting(joint(), ROWS * TOKENS)
    assert foretold == pytest.approx(counter.get_total_flops(), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [-1, -2])
def test_work_of_asking_is_that_of_its_products(tmp_path: Path, layer: int) -> None:
    encoder = make_encoder(tmp_path / "encoder").model_copy(update={"feature_layer": layer})
    # torch counts the operations of its own products only.
    model = use_kernels(load_encoder_model(encoder), "torch")
    model.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, 28, 28))
    assert encoding(encoder_shape(encoder), 2) == pytest.approx(counter.get_total_flops(), rel=CLOSE)

    llm, answer, text = llama(), 4, 10
    llm.set_attn_implementation("eager")
    ids = torch.randint(0, VOCAB, (1, TOKENS + text))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for _ in range(3):
            llm.generate(ids, max_new_tokens=answer, min_new_tokens=answer, do_sample=False, pad_token_id=0)
    work = asking(shape(), joint(), encoder_shape(encoder), QuestionCounts(3, 3, TOKENS, text, answer), shared=False)
    plain = work.flops - work.encoder - projecting(joint(), 3 * TOKENS)
    assert plain == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_questions_of_one_image_share_its_work() -> None:
    encoder = encoder_shape(load_encoder("mini-dino"))
    shared = asking(shape(), joint(), encoder, QuestionCounts(30, 1, TOKENS, 10, 4))
    alone = asking(shape(), joint(), encoder, QuestionCounts(30, 1, TOKENS, 10, 4), shared=False)
    assert alone.encoder == 30 * shared.encoder
    assert shared.answer == alone.answer
    assert alone.flops > shared.flops


def test_parameters_are_those_of_the_weights(tmp_path: Path) -> None:
    assert llama_parameters(LlamaArchitecture(heads=HEADS, kv_heads=KEYS, hidden=HIDDEN), VOCAB, WIDTH, DEPTH) == sum(
        parameter.numel() for parameter in llama().parameters()
    )
    # LLaMA-3 8B as its model card counts it.
    assert llama_parameters(LlamaArchitecture(heads=32, kv_heads=8, hidden=14336), 128256, 4096, 32) == 8_030_261_248
    assert joint().params == sum(parameter.numel() for parameter in Projector(FEATURES, WIDTH, TOKENS).parameters())
    tiny = make_llm(tmp_path)
    stated = LLM(**{**tiny.model_dump(), "architecture": {"heads": 4, "kv_heads": 2, "hidden": 128}})
    assert llama_shape(stated) == llama_shape(tiny)
    assert load_llm_model(stated).config.num_hidden_layers == llama_shape(tiny).depth


def test_lora_trains_what_peft_adds() -> None:
    from peft import LoraConfig, get_peft_model

    for modules in (["q_proj", "v_proj"], ["lm_head", "o_proj"], "all-linear"):
        adapted = get_peft_model(llama(), LoraConfig(r=4, target_modules=modules))
        added = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
        assert lora_parameters(shape(), 4, modules) == added
    with pytest.raises(UserError, match=r"has no matrix 'q_prj'\. Did you mean 'q_proj'"):
        lora_parameters(shape(), 4, ["q_prj"])


def test_the_adapters_that_a_recipe_names_are_counted() -> None:
    stage = load_recipe("lora").stage2
    assert stage.lora is not None
    assert added_parameters(stage, shape()) == lora_parameters(shape(), stage.lora.r, stage.lora.targets)


def test_shapes_that_nobody_states_are_asked_for(tmp_path: Path) -> None:
    tiny = make_llm(tmp_path).model_copy(update={"weights": load_llm("mini-llama").weights.model_copy(
        update={"path": "nowhere"})})  # fmt: skip
    with pytest.raises(UserError, match="state it, or fetch them"):
        llama_shape(tiny)
    data, images = make_conversations(tmp_path)
    with pytest.raises(UserError, match="use mlp2x_gelu or linear"):
        projector_shape(load_encoder("mini-dino"), make_recipe(data, images, projector="resampler"), tiny)


def test_an_architecture_that_contradicts_the_parameters_is_refused(tmp_path: Path) -> None:
    tiny = make_llm(tmp_path)
    with pytest.raises(ValueError, match="contradicts the architecture"):
        LLM(**{**tiny.model_dump(), "architecture": {"heads": 4, "kv_heads": 4, "hidden": 128}})
