"""Combine a DeepSpeed JSON with a recipe: they must agree where both set a value, else the recipe's holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from mllm_eval.catalog import Recipe, Stage
from mllm_eval.catalog.deepspeed import read_deepspeed
from mllm_eval.errors import UserError

AUTO = "auto"
GATHER = "stage3_gather_16bit_weights_on_model_save"

# Sections that change training in ways that a recipe cannot express.
OTHERWISE = (
    "amp",
    "compression_training",
    "curriculum_learning",
    "data_efficiency",
    "progressive_layer_drop",
    "quantize_training",
    "torch_autocast",
)
# Sections that are compared with the recipe and then dropped, as the stage makes its own optimiser and schedule.
SETTLED = ("optimizer", "scheduler", "fp16", "bfloat16")
# DeepSpeed's names of schedules -> transformers' names.
SCHEDULES = {"WarmupLR": "constant_with_warmup", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}


def deepspeed_config(recipe: Recipe, stage: Stage, processes: int, where: str) -> dict[str, Any] | None:
    """Return DeepSpeed's config for a stage; None for training without DeepSpeed.

    Values that a recipe decides (batch sizes, clipping, dtype) are set to `auto`, which transformers' Trainer replaces
    by its arguments. They must not be left out, because DeepSpeed and accelerate have defaults of their own, such as
    clipping at 1.0.

    Raises:
        UserError: a JSON that cannot be read, contradicts the recipe, changes training in a way that no recipe can
            express, or would not gather ZeRO-3's weights at the end.
    """
    if stage.deepspeed is None:
        return None
    file = read_deepspeed(stage.deepspeed)
    path, config = file.path, file.config
    for one in _shared(config, recipe, stage, stage.accumulation(processes, where)):
        if one.value not in (None, AUTO) and one.value != one.wanted:
            raise UserError(
                f"{path}: `{one.key}: {json.dumps(one.value)}` contradicts recipe {recipe.name}, {where}, whose "
                f'{one.field} is {json.dumps(one.wanted)}; write "auto" there, or change one of them'
            )
    for name in OTHERWISE:
        section = config.get(name)
        if section and not (isinstance(section, dict) and section.get("enabled", True) is False):
            raise UserError(f"{path}: `{name}` trains in a way that no recipe says; remove it")
    zero = file.section("zero_optimization")
    if file.zero_stage == 3 and zero.get(GATHER) is not True:
        raise UserError(
            f"{path}: `zero_optimization` has no `{GATHER}: true`, so that the trained weights could not be written; "
            "add it"
        )
    clean = {name: value for name, value in config.items() if name not in SETTLED}
    numbers = (
        "train_micro_batch_size_per_gpu",
        "train_batch_size",
        "gradient_accumulation_steps",
        "gradient_clipping",
    )
    half = {**_section(config, "bfloat16"), **_section(config, "bf16"), "enabled": AUTO}
    # DeepSpeed accepts an optimiser made elsewhere, as the stage's is, only with `zero_allow_untested_optimizer`.
    # By default it would accumulate gradients over micro-batches in the weights' dtype instead of float32.
    summed = {**_section(config, "data_types"), "grad_accum_dtype": "fp32"}
    return {
        **clean,
        "data_types": summed,
        **dict.fromkeys(numbers, AUTO),
        "bf16": half,
        "zero_allow_untested_optimizer": True,
    }


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name) or {}
    return section if isinstance(section, dict) else {}


class _Setting(NamedTuple):
    """What both may set: the JSON's key and value, the value that the recipe wants, and the recipe's field."""

    key: str
    value: Any
    wanted: Any
    field: str


def _shared(config: dict[str, Any], recipe: Recipe, stage: Stage, accumulation: int) -> Iterator[_Setting]:
    """Yield each value that both may set."""
    micro = config.get("train_micro_batch_size_per_gpu")
    yield _Setting("train_micro_batch_size_per_gpu", micro, stage.micro_batch, "micro_batch")
    yield _Setting("train_batch_size", config.get("train_batch_size"), stage.batch, "batch")
    steps = config.get("gradient_accumulation_steps")
    yield _Setting("gradient_accumulation_steps", steps, accumulation, "batch / (micro_batch x processes)")
    yield _Setting("gradient_clipping", config.get("gradient_clipping"), stage.max_grad_norm, "max_grad_norm")
    # DeepSpeed still reads `bfloat16`, the older name of `bf16`.
    half = {**_section(config, "bfloat16"), **_section(config, "bf16")}
    yield _Setting("bf16.enabled", half.get("enabled"), recipe.dtype == "bfloat16", "dtype: bfloat16")
    for name in ("bf16_master_weights_and_grads", "bf16_optimizer_states"):
        yield _Setting(f"bf16.{name}", half.get(name), False, "float32 of what is trained")
    yield _Setting("fp16.enabled", _section(config, "fp16").get("enabled"), False, "dtype: float16")
    summed = _section(config, "data_types").get("grad_accum_dtype")
    yield _Setting("data_types.grad_accum_dtype", summed, "fp32", "sum of gradients")
    yield from _optimiser(_section(config, "optimizer"), stage)
    yield from _schedule(_section(config, "scheduler"), stage)


def _optimiser(section: dict[str, Any], stage: Stage) -> Iterator[_Setting]:
    params = _section(section, "params")
    kind = section.get("type")
    # DeepSpeed's Adam is AdamW unless `adam_w_mode` is false.
    if kind == "Adam" and params.get("adam_w_mode", True) is True:
        kind = "AdamW"
    yield _Setting("optimizer.type", kind, "AdamW", "optimiser")
    yield _Setting("optimizer.params.lr", params.get("lr"), stage.lr, "lr")
    yield _Setting("optimizer.params.weight_decay", params.get("weight_decay"), stage.weight_decay, "weight_decay")
    yield _Setting("optimizer.params.betas", params.get("betas"), [0.9, stage.adam_beta2], "betas")
    yield _Setting("optimizer.params.eps", params.get("eps"), 1e-8, "epsilon")


def _schedule(section: dict[str, Any], stage: Stage) -> Iterator[_Setting]:
    params = _section(section, "params")
    kind = section.get("type")
    yield _Setting("scheduler.type", SCHEDULES.get(str(kind), kind), stage.schedule, "schedule")
    yield _Setting("scheduler.params.warmup_max_lr", params.get("warmup_max_lr"), stage.lr, "lr")
    yield _Setting("scheduler.params.warmup_min_lr", params.get("warmup_min_lr"), 0, "first lr")
    for name in ("warmup_num_steps", "total_num_steps"):
        # The number of steps is known only once the rows are counted, so the JSON must leave it to us.
        yield _Setting(f"scheduler.params.{name}", params.get(name), AUTO, "number of steps")
