"""Makes a plan: memory for each way of sharding, and operations, hours and cost of each step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mllm_eval.catalog import Recipe, load_encoder, load_llm, load_recipe
from mllm_eval.errors import UserError
from mllm_eval.features.eviction import bound, features_root
from mllm_eval.features.key import stored_dtype
from mllm_eval.features.storeshards import LINE
from mllm_eval.operations.count import Lessons, QuestionCounts, asking, encoding, learning, passing
from mllm_eval.operations.shapes import (
    EncoderShape,
    LlamaShape,
    ProjectorShape,
    added_parameters,
    encoder_shape,
    llama_shape,
    projector_shape,
)
from mllm_eval.plan.featurespace import Keeping, keeping
from mllm_eval.plan.gpus import Gpu, parse_gpus
from mllm_eval.plan.memory import checkpoint, loading
from mllm_eval.plan.ways import GIB, RESERVE, Memory, parts, ways
from mllm_eval.plan.workload import ANSWER, QUESTION, BenchmarkLoad, StageLoad, benchmark_loads, stage_load


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


@dataclass(frozen=True)
class Plan:
    """The whole plan. Sizes are in bytes, times in hours.

    loading: host memory that each process of a stage needs before its weights are on the GPU.
    checkpoints: size of one checkpoint of a stage; two are kept, and a third exists while it is written.
    """

    encoder: str
    recipe: str
    llm: str
    gpus: str
    mfu: float
    price: float
    parameters: dict[str, int]
    chosen: dict[str, str]
    memory: dict[str, list[Memory]]
    loading: dict[str, int]
    checkpoints: dict[str, int]
    steps: list[Step]
    benchmarks: list[dict[str, Any]]
    plain_evaluation: float
    store: dict[str, int]
    keeping: dict[str, Keeping]
    assumed: list[str]

    @property
    def hours(self) -> float:
        return sum(step.hours for step in self.steps)

    @property
    def gpu_hours(self) -> float:
        return self.hours * int(self.gpus.partition("x")[0])

    @property
    def cost(self) -> float:
        return self.gpu_hours * self.price

    def to_dict(self) -> dict[str, Any]:
        """Plain data; sizes in bytes, times in hours, cost in the price's currency."""
        plain = asdict(self)
        for stage, listed in self.memory.items():
            for at, way in enumerate(listed):
                plain["memory"][stage][at] |= {"gpu": way.gpu, "activations_peak": way.activations.peak}
        return {**plain, "hours": self.hours, "gpu_hours": self.gpu_hours, "cost": self.cost}


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What a run is planned for.

    gpus: number and name, from configs/gpus.yaml. mfu: model FLOPs utilisation, the share of the GPUs' peak that the
    model's own operations reach. price: per GPU hour, in any currency. rows: of stage 1 and stage 2; None for the
    recipe's. text: mean tokens per row without the image. micro_batch: rows per GPU and pass, instead of the recipe's.
    """

    gpus: str = "8xH100"
    mfu: float = 0.4
    price: float = 2.5
    rows: tuple[int | None, int | None] = (None, None)
    text: int | None = None
    micro_batch: int | None = None


@dataclass(frozen=True, slots=True)
class _Machines:
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


AS_THE_RECIPE_SAYS = PlanOptions()
"""The recipe's own values on eight H100."""


def make_plan(
    encoder: str, recipe: str = "mini", llm: str | None = None, options: PlanOptions = AS_THE_RECIPE_SAYS
) -> Plan:
    """Make the plan of a run.

    Raises UserError for unknown names, missing sizes, an mfu outside (0, 1], and a batch that the GPUs cannot divide.
    """
    chosen = load_recipe(recipe)
    eye, mind = load_encoder(encoder, chosen), load_llm(llm or chosen.llm)
    mfu, micro_batch = options.mfu, options.micro_batch
    number, name, gpu = parse_gpus(options.gpus)
    if not 0 < mfu <= 1:
        raise UserError(f"mfu {mfu}: a share of the peak lies between 0 and 1")
    seeing, thinking = encoder_shape(eye), llama_shape(mind)
    joint = projector_shape(eye, chosen, mind)
    stages = {"stage 1": chosen.stage1, "stage 2": chosen.stage2}
    if micro_batch is not None:
        stages = {key: stage.model_copy(update={"micro_batch": micro_batch}) for key, stage in stages.items()}
    loads = {
        key: stage_load(chosen, at, stage, options.rows[at - 1], options.text)
        for at, (key, stage) in enumerate(stages.items(), start=1)
    }
    smaller = {}
    for key, stage in stages.items():
        if stage.batch % (stage.micro_batch * number):
            fitting = _fitting(stage.batch, stage.micro_batch, number)
            if fitting is None or micro_batch is not None:
                raise UserError(
                    f"recipe {chosen.name}, {key}: batch {stage.batch} is not a multiple of micro_batch "
                    f"{stage.micro_batch} x {number} GPUs; change one of them"
                )
            smaller[key] = (f"{key}: micro_batch {fitting}, as {number} GPUs share a batch of {stage.batch}; the "
                            f"recipe's {stage.micro_batch} is to be changed before it trains so")  # fmt: skip
            stages[key] = stage.model_copy(update={"micro_batch": fitting})
    machines = _Machines(gpu, number, mfu, chosen.dtype)
    rate = machines.rate
    asked = benchmark_loads(chosen.data)
    images = {key: load.images for key, load in loads.items()} | {"evaluation": sum(one.images for one in asked)}
    row = (seeing.tokens + 1) * seeing.width * (4 if stored_dtype(chosen) == "float32" else 2)
    limit = bound(features_root())
    live = {key: stage.features == "live" for key, stage in stages.items()}
    shown = {key: load.rows for key, load in loads.items()} | {"evaluation": images["evaluation"]}
    kept = keeping(row + LINE.itemsize, images, shown, live, limit)
    steps = [_encoding_step(seeing, kept, rate)]
    steps += [_stage_step(key, chosen, loads[key], thinking, joint, rate, mfu) for key in stages]
    held: dict[str, dict[str, Any]] = {}
    for key, stage in stages.items():
        trained, frozen, eyes = parts(stage, thinking, joint, seeing)
        held[key] = {"trained": trained, "frozen": frozen, "encoder": eyes, "dtype": chosen.dtype}
        held[key]["deepspeed"] = bool(stage.deepspeed)
    evaluation = _evaluation(chosen, asked, thinking, joint, seeing, machines)
    return Plan(
        encoder=eye.name,
        recipe=chosen.name,
        llm=mind.name,
        gpus=f"{number}x{name}",
        mfu=mfu,
        price=options.price,
        parameters={"encoder": eye.params, "projector": joint.params, "llm": mind.params},
        chosen={
            key: f"{stage.deepspeed or 'no ZeRO'}, checkpointing {'on' if stage.gradient_checkpointing else 'off'}"
            for key, stage in stages.items()
        },
        memory={key: ways(chosen, stage, thinking, joint, seeing, gpu, number) for key, stage in stages.items()},
        loading={key: loading(**held[key]) for key in stages},
        checkpoints={key: checkpoint(held[key]["trained"], chosen.dtype, held[key]["deepspeed"]) for key in stages},
        steps=[*steps, evaluation.step],
        benchmarks=evaluation.benchmarks,
        plain_evaluation=evaluation.plain,
        store={"one image": row, "bound": limit} | {key: count * row for key, count in images.items()},
        keeping=kept,
        assumed=[
            *(f"{key}: {said}" for key, load in loads.items() for said in load.assumed),
            *smaller.values(),
            *(["square images, of which no padding is hidden"] if chosen.padding == "hide" else []),
            f"questions of {QUESTION} tokens beside the image, answers of {ANSWER}",
            f"{RESERVE // GIB} GiB of each GPU for CUDA, NCCL and the allocator",
        ],
    )


def _fitting(batch: int, micro_batch: int, number: int) -> int | None:
    """The largest micro-batch, at most `micro_batch`, with which `number` GPUs can divide a batch; None if none can."""
    each, rest = divmod(batch, number)
    return None if rest else max(size for size in range(1, micro_batch + 1) if each % size == 0)


def _encoding_step(encoder: EncoderShape, kept: dict[str, Keeping], rate: float) -> Step:
    images = sum(one.first for one in kept.values())
    again = sum(one.again for one in kept.values())
    flops = encoding(encoder, images)
    hours = encoding(encoder, again) / rate / 3600
    note = f"{hours:.2g} h of these in every run: not kept" if again else "each image once, ever"
    return Step("features", images, images * encoder.tokens, flops, flops / rate / 3600, note)


def _stage_step(
    name: str, recipe: Recipe, load: StageLoad, llm: LlamaShape, joint: ProjectorShape, rate: float, mfu: float
) -> Step:
    stage = {"stage 1": recipe.stage1, "stage 2": recipe.stage2}[name]
    added, tokens = added_parameters(stage, llm), recipe.positions + load.text
    trained = stage.train_llm and added is None
    flops = learning(llm, joint, Lessons(load.rows, tokens, load.targets, recipe.positions, trained, added or 0))
    hours = flops / rate / 3600
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
class _Evaluation:
    """The step, a line per benchmark, and the FLOPs of a plain loop that shares no prefix between questions."""

    step: Step
    benchmarks: list[dict[str, Any]]
    plain: float


def _evaluation(
    recipe: Recipe,
    loads: list[BenchmarkLoad],
    llm: LlamaShape,
    joint: ProjectorShape,
    encoder: EncoderShape,
    machines: _Machines,
) -> _Evaluation:
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
    return _Evaluation(Step("evaluation", questions, tokens, flops, hours, note), each, float(plain))
