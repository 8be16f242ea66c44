"""A training step of a recipe at true shapes on the pretended GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pretend_gpu import GPU, pretended, put, put_module
from transformers import LlamaConfig, LlamaForCausalLM

from mllm_eval.adapters import family_of
from mllm_eval.catalog import LLM, Encoder, Recipe, Stage
from mllm_eval.model import IGNORED
from mllm_eval.model.vlm import VLM, VLMConfig
from mllm_eval.operations.shapes import llama_shape
from mllm_eval.train.lora import add_lora


@dataclass(frozen=True)
class Measured:
    """Bytes on the GPU: the model alone; what a step adds at most; and when the forward pass is done."""

    weights: int
    peak: int
    kept: int


def llama_of(llm: LLM) -> Any:
    """A LLaMA of a yaml's architecture, without values."""
    shape = llama_shape(llm)
    head = shape.attention // shape.heads
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.keys // head,
        head_dim=head,
        intermediate_size=shape.hidden,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=8192,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def model_of(encoder: Encoder, recipe: Recipe, stage: Stage, llm: LLM) -> VLM:
    """The model of a stage as training makes it, on the pretended GPU."""
    dtype = getattr(torch, recipe.dtype)
    held = dtype if stage.deepspeed else torch.float32
    llama = llama_of(llm)
    config = VLMConfig(
        encoder=encoder.model_dump(mode="json"),
        vision_config=None,
        text_config=llama.config.to_dict(),
        tokens=recipe.tokens,
        projector=recipe.projector,
        standardize=recipe.standardize,
        row_token=recipe.row_token,
        image_token_id=llm.vocab,
    )
    with torch.device("meta"):
        model = VLM(config, llm=llama).to(held)
        model.llm.requires_grad_(stage.train_llm)
        if stage.lora is not None:
            add_lora(model.llm, stage.lora, llm)
        # As DeepSpeed does with bf16: peft makes adapters in float32.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(held)
        if stage.features == "live":
            family: Any = family_of(encoder)
            model.encoder = family.build(encoder, family.config_of(encoder).to_dict()).to(dtype)
    put_module(model)
    if stage.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model.train()


def step_of(encoder: Encoder, recipe: Recipe, stage: Stage, llm: LLM) -> Measured:
    """Forward and backward of a micro-batch of the longest rows, of which all behind the image are targets."""
    before = GPU.now
    model = model_of(encoder, recipe, stage, llm)
    ids = torch.randint(0, llm.vocab, (stage.micro_batch, stage.max_length))
    ids[:, : recipe.positions] = llm.vocab
    labels = ids.clone()
    labels[:, : recipe.positions] = IGNORED
    size = encoder.preprocessing.size
    if stage.features == "live":
        seen = {"pixel_values": torch.empty(stage.micro_batch, 3, size, size, device="meta")}
    else:
        grid = (stage.micro_batch, encoder.grid, encoder.grid, encoder.width)
        seen = {"features": torch.empty(grid, dtype=getattr(torch, recipe.dtype), device="meta")}
    with pretended():
        weights = GPU.begin()
        given = {name: put(one) for name, one in (*seen.items(), ("input_ids", ids), ("labels", labels))}
        loss = model(**given, num_items_in_batch=put(torch.tensor(100))).loss
        kept = GPU.now
        for parameter in model.parameters():
            if parameter.requires_grad:
                # Gradients of a step are counted with the states: sharded, each is reduced and let go as it comes.
                parameter.register_post_accumulate_grad_hook(_forget)
        loss.backward()
        peak = GPU.peak
    return Measured(weights - before, peak - weights, kept - weights)


def _forget(parameter: torch.nn.Parameter) -> None:
    parameter.grad = None
