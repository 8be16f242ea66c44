"""The steps of a planned run: operations and hours of encoding, of training, and of asking the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mllm_eval.catalog import Recipe
from mllm_eval.operations.count import Lessons, QuestionCounts, asking, encoding, learning, passing
from mllm_eval.operations.shapes import EncoderShape, LlamaShape, ProjectorShape, added_parameters
from mllm_eval.plan.featurespace import Keeping
from mllm_eval.plan.gpus import Gpu
from mllm_eval.plan.workload import ANSWER, QUESTION, BenchmarkLoad, StageLoad


@dataclass(frozen=True)
class Step:
    """A step of the flow.

    units: optimiser steps, images or questions. flops: operations of the model; `again`: those that gradient
    checkpointing repeats.
    """

    name: str
    units: int
    tokens: int
    flops: int
    hours: float
    note: str = ""
    again: int = 0


@dataclass(frozen=True, slots=True)
class Machines:
    """GPUs of one kind. mfu: the share of their peak that the model's own operations reach. dtype: of the products."""

    gpu: Gpu
    number: int
    mfu: float
    dtype: str

    @property
    def rate(self) -> float:
        """Model operations per second, on all GPUs together."""
        return self.number * self.gpu.peak(self.dtype) * 1e12 * self.mfu

    @property
    def bandwidth(self) -> float:
        """Bytes of GPU memory read per second, on all GPUs together."""
        return self.number * self.gpu.tb_per_second * 1e12


def plan_encoding(encoder: EncoderShape, kept: dict[str, Keeping], machines: Machines) -> Step:
    """Plan the step that encodes all images: of the training sets and of the benchmarks, as `kept` says of each."""
    rate = machines.rate
    images = sum(one.first for one in kept.values())
    again = sum(one.again for one in kept.values())
    flops = encoding(encoder, images)
    hours = encoding(encoder, again) / rate / 3600
    note = f"{hours:.2g} h of these in every run: not kept" if again else "each image once, ever"
    return Step("features", images, images * encoder.tokens, flops, flops / rate / 3600, note)


def plan_stage(
    name: str, recipe: Recipe, load: StageLoad, llm: LlamaShape, joint: ProjectorShape, machines: Machines
) -> Step:
    """Plan a stage of training (`stage 1` or `stage 2`)."""
    mfu = machines.mfu
    stage = {"stage 1": recipe.stage1, "stage 2": recipe.stage2}[name]
    added, tokens = added_parameters(stage, llm), recipe.positions + load.text
    trained = stage.train_llm and added is None
    flops = learning(llm, joint, Lessons(load.rows, tokens, load.targets, recipe.positions, trained, added or 0))
    hours = flops / machines.rate / 3600
    if not stage.gradient_checkpointing:
        return Step(name, load.steps, load.rows * tokens, flops, hours)
    # The backward pass repeats the forward pass of the blocks, but not of the output layer.
    work = passing(llm, load.rows, tokens, load.targets)
    again = work.matrices + work.attention + 2 * (added or 0) * load.rows * tokens
    note = (
        f"checkpointing computes {again:.3g} more, which MFU leaves out: {mfu:.0%} of it are "
        f"{mfu * (flops + again) / flops:.0%} of the peak"
    )
    return Step(name, load.steps, load.rows * tokens, flops, hours, note, again)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The step, a line per benchmark, and the FLOPs of a plain loop that shares no prefix between questions."""

    step: Step
    benchmarks: list[dict[str, Any]]
    plain: float


def plan_evaluation(
    recipe: Recipe,
    loads: list[BenchmarkLoad],
    llm: LlamaShape,
    joint: ProjectorShape,
    encoder: EncoderShape,
    machines: Machines,
) -> Evaluation:
    """Plan the answers to all benchmarks, and compare them with a loop that shares nothing between questions."""
    each: list[dict[str, Any]] = []
    plain = 0
    for one in loads:
        told = min(ANSWER, one.longest)
        asked = QuestionCounts(one.questions, one.images, recipe.positions, QUESTION, told)
        work = asking(llm, joint, encoder, asked)
        plain += asking(llm, joint, encoder, asked, shared=False).flops
        each.append(
            {
                "benchmark": one.name,
                "questions": one.questions,
                "images": one.images,
                "images_are_a_bound": one.bound,
                "encoder_flops": work.encoder,
                "prompt_flops": work.prompt,
                "answer_flops": work.answer,
            }
        )
    # The step "features" already counts the encoding of the images.
    flops = sum(line["prompt_flops"] + line["answer_flops"] for line in each)
    questions = sum(one.questions for one in loads)
    tokens = sum(one.images * recipe.positions + one.questions * (QUESTION + ANSWER) for one in loads)
    # Each generated token reads all weights once for a batch of rows.
    rows = 64
    reading = questions * ANSWER / rows * 2 * llm.params / machines.bandwidth
    note = f"the 16 benchmarks; of these {reading / 3600:.2f} h reading weights for {rows} answers at a time"
    if len(loads) != 16:
        note = note.replace("the 16", f"{len(loads)}")
    hours = flops / machines.rate / 3600 + reading / 3600
    return Evaluation(Step("evaluation", questions, tokens, flops, hours, note), each, float(plain))
