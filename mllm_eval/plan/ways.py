"""The ways of sharding a stage over GPUs, and the memory that each needs on one GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mllm_eval.catalog import Recipe, Stage
from mllm_eval.catalog.deepspeed import read_deepspeed
from mllm_eval.operations.shapes import EncoderShape, LlamaShape, ProjectorShape, added_parameters, matrices
from mllm_eval.plan.gpus import Gpu
from mllm_eval.plan.memory import (
    Activations,
    Adapters,
    MicroBatch,
    Parameters,
    Passes,
    Precision,
    States,
    Zero,
    activations,
    states,
)

GIB = 2**30
PER_NODE = 8
# CUDA's context, NCCL's buffers, and fragmentation in the allocator.
RESERVE = 3 * GIB
WAYS: tuple[tuple[str, Zero, bool], ...] = (
    ("no ZeRO", 0, False),
    ("ZeRO-2", 2, False),
    ("ZeRO-2 +host", 2, True),
    ("ZeRO-3", 3, False),
    ("ZeRO-3 +host", 3, True),
)


@dataclass(frozen=True)
class Memory:
    """One way of sharding a stage: memory of model states and activations, and whether they fit on a GPU."""

    way: str
    checkpointing: bool
    states: States
    activations: Activations
    fits: bool

    @property
    def gpu(self) -> int:
        return self.states.peak(self.activations.peak)


class StageParameters(NamedTuple):
    """Numbers of parameters in a stage: trained, frozen, and those of an encoder that runs in every step."""

    trained: int
    frozen: int
    encoder: int


def count_parameters(stage: Stage, llm: LlamaShape, joint: ProjectorShape, encoder: EncoderShape) -> StageParameters:
    """Count the parameters in a stage."""
    added = added_parameters(stage, llm)
    whole = stage.train_llm and added is None
    trained = joint.params + (llm.params if whole else added or 0)
    live = encoder.params if stage.features == "live" else 0
    return StageParameters(trained, 0 if whole else llm.params, live)


def adapters(stage: Stage, llm: LlamaShape) -> Adapters | None:
    """The facts about LoRA in one block that activations depend on; None without LoRA."""
    if stage.lora is None:
        return None
    inputs = [width for name, (width, _) in matrices(llm).items() if name in stage.lora.targets]
    return Adapters(sum(inputs), len(inputs), stage.lora.r, stage.lora.dropout > 0)


def own_way(stage: Stage, memories: list[Memory]) -> Memory | None:
    """The way of these that the recipe's stage trains in; None for a way that is not planned, such as ZeRO-1.

    Raises UserError for a DeepSpeed config that is unknown or can't be read.
    """
    file = None if stage.deepspeed is None else read_deepspeed(stage.deepspeed)
    sharding = (0, False) if file is None else (file.zero_stage, file.offloads)
    names: dict[tuple[int, bool], str] = {(zero, offload): way for way, zero, offload in WAYS}
    wanted = (names.get(sharding), stage.gradient_checkpointing)
    return next((one for one in memories if (one.way, one.checkpointing) == wanted), None)


def ways(
    recipe: Recipe,
    stage: Stage,
    llm: LlamaShape,
    joint: ProjectorShape,
    encoder: EncoderShape,
    gpu: Gpu,
    number: int,
) -> list[Memory]:
    """Memory of every way of sharding, with and without gradient checkpointing, for rows of the maximal length."""
    trained, frozen, eyes = count_parameters(stage, llm, joint, encoder)
    targets = stage.micro_batch * max(1, stage.max_length - recipe.positions)
    batch = MicroBatch(stage.micro_batch * stage.max_length, stage.micro_batch, recipe.positions, targets)
    whole = stage.train_llm and stage.lora is None
    live = encoder if eyes else None
    nodes = -(-number // PER_NODE)
    memories = []
    for way, zero, offload in WAYS:
        parameters = Parameters(trained, frozen, llm.largest, eyes)
        held = states(parameters, recipe.dtype, zero, number, nodes, offload)
        precision = Precision.of(recipe.dtype, zero)
        for checkpointing in (False, True):
            passes = Passes(whole, checkpointing, adapters(stage, llm), live)
            kept = activations(llm, joint, batch, precision, passes)
            fits = held.peak(kept.peak) + RESERVE <= gpu.gib * GIB
            memories.append(Memory(way, checkpointing, held, kept, fits))
    return memories
