"""Check the settings of a training before anything is computed, to refuse impossible or contradictory ones."""

from __future__ import annotations

from mllm_eval.adapters import hold_encoder, weights_place
from mllm_eval.catalog import Lora, Stage
from mllm_eval.distributed.ranks import world_size
from mllm_eval.errors import UserError
from mllm_eval.kernels import resolve_kernels
from mllm_eval.model.outline import Outline, llama_outline
from mllm_eval.run import Run
from mllm_eval.train.liger import check_liger
from mllm_eval.train.sharding import deepspeed_config


def check_settings(run: Run) -> None:
    """Check that recipe, LLM and encoder of a run fit each other, without reading weights.

    Raises UserError for settings that would fail after hours, or train something else than they state.
    """
    stages = {1: run.recipe.stage1, 2: run.recipe.stage2}
    resolve_kernels(run.recipe.kernels)
    for number, stage in stages.items():
        _check_stage(run, stage, number)
    outline = llama_outline(run.llm)
    for number, stage in stages.items():
        _check_llm(run, stage, f"stage {number}", outline)
    hold_encoder(run.encoder, weights_place(run.encoder.weights))


def _check_stage(run: Run, stage: Stage, number: int) -> None:
    where = f"stage {number}"
    size = world_size()
    stage.accumulation(size, where)
    deepspeed_config(run.recipe, stage, size, where)
    check_liger(stage.kernels, where)
    if stage.lora is not None and number == 1:
        raise UserError(f"{where}: `lora` belongs to stage 2; stage 1 trains the projector")
    if run.recipe.standardize and number == 1 and stage.features == "live":
        raise UserError(f"{where}: `standardize` is measured on stored features; set `features: store`")


def _check_llm(run: Run, stage: Stage, where: str, outline: Outline) -> None:
    longest = outline.positions
    if stage.max_length > longest:
        raise UserError(
            f"{where}: `max_length: {stage.max_length}` is more than the {longest} positions of llm {run.llm.name} "
            f"(`max_position_embeddings`); set it to at most {longest}"
        )
    if stage.kernels is not None and outline.activation not in ("silu", "swish"):
        raise UserError(
            f"{where}: `kernels: {stage.kernels}` computes a SwiGLU, llm {run.llm.name} has "
            f"`hidden_act: {outline.activation}`; remove the field"
        )
    if stage.lora is not None:
        check_targets(stage.lora, outline.linear, outline.tied, where)


def check_targets(lora: Lora, linear: frozenset[str], tied: bool, where: str) -> None:
    """Check that each LoRA target is a linear layer of the LLM, and that merging into it changes no other layer.

    Raises UserError for names that are no linear layer, and for an output layer tied to the input embedding: merging
    would change the embedding as well.
    """
    for name in lora.targets:
        if name not in linear:
            raise UserError(f"{where}: lora: the LLM has no linear layer {name!r}; it has {', '.join(sorted(linear))}")
    if tied and "lm_head" in lora.targets:
        raise UserError(
            f"{where}: lora: the output layer 'lm_head' of this LLM is its embedding too (`tie_word_embeddings`), "
            "which the merged adapter would change as well; take it off `targets`"
        )
