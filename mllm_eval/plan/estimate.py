"""Makes a plan: memory for each way of sharding, and operations, hours and cost of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mllm_eval.catalog import LLM, Encoder, Recipe, Stage, load_encoder, load_llm, load_recipe
from mllm_eval.errors import UserError
from mllm_eval.features.eviction import bound, features_root
from mllm_eval.features.key import stored_dtype
from mllm_eval.features.storeshards import LINE
from mllm_eval.operations.shapes import (
    EncoderShape,
    LlamaShape,
    ProjectorShape,
    encoder_shape,
    llama_shape,
    projector_shape,
)
from mllm_eval.plan.featurespace import Keeping, keeping
from mllm_eval.plan.gpus import parse_gpus
from mllm_eval.plan.memory import checkpoint, loading
from mllm_eval.plan.steps import Machines, Step, plan_encoding, plan_evaluation, plan_stage
from mllm_eval.plan.ways import GIB, RESERVE, Memory, count_parameters, own_way, ways
from mllm_eval.plan.workload import ANSWER, QUESTION, BenchmarkLoad, StageLoad, benchmark_loads, stage_load


@dataclass(frozen=True)
class Plan:
    """The whole plan. Sizes are in bytes, times in hours.

    memory: of each way of sharding a stage. own: the way of these that the recipe trains in; None if it is not planned.
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
    own: dict[str, Memory | None]
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
        del plain["own"]
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


AS_THE_RECIPE_SAYS = PlanOptions()
"""The recipe's own values on eight H100."""


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is planned, read once for all machines: configs, shapes, and sizes of the data of each stage."""

    recipe: Recipe
    encoder: Encoder
    llm: LLM
    seeing: EncoderShape
    thinking: LlamaShape
    joint: ProjectorShape
    stages: dict[str, Stage]
    loads: dict[str, StageLoad]
    asked: list[BenchmarkLoad]


def make_plan(
    encoder: str, recipe: str = "mini", llm: str | None = None, options: PlanOptions = AS_THE_RECIPE_SAYS
) -> Plan:
    """Make the plan of a run.

    Raises UserError for unknown names, missing sizes, an mfu outside (0, 1], and a batch that the GPUs cannot divide.
    """
    return make_plans(encoder, recipe, llm, options, [options.gpus])[0]


def make_plans(encoder: str, recipe: str, llm: str | None, options: PlanOptions, machines: Sequence[str]) -> list[Plan]:
    """Make a plan for each of these machines (such as `8xH100`, in place of `options.gpus`); files are read once.

    Raises UserError as `make_plan` does.
    """
    for gpus in machines:
        parse_gpus(gpus)
    if not 0 < options.mfu <= 1:
        raise UserError(f"mfu {options.mfu}: a share of the peak lies between 0 and 1")
    subject = _read_subject(encoder, recipe, llm, options)
    return [_plan(subject, replace(options, gpus=gpus)) for gpus in machines]


def _read_subject(encoder: str, recipe: str, llm: str | None, options: PlanOptions) -> _Subject:
    chosen = load_recipe(recipe)
    eye, mind = load_encoder(encoder, chosen), load_llm(llm or chosen.llm)
    seeing, thinking = encoder_shape(eye), llama_shape(mind)
    joint = projector_shape(eye, chosen, mind)
    stages = {"stage 1": chosen.stage1, "stage 2": chosen.stage2}
    if options.micro_batch is not None:
        changed = {"micro_batch": options.micro_batch}
        stages = {key: stage.model_copy(update=changed) for key, stage in stages.items()}
    loads = {
        key: stage_load(chosen, at, stage, options.rows[at - 1], options.text)
        for at, (key, stage) in enumerate(stages.items(), start=1)
    }
    asked = benchmark_loads(chosen.data)
    return _Subject(chosen, eye, mind, seeing, thinking, joint, stages, loads, asked)


def _plan(subject: _Subject, options: PlanOptions) -> Plan:
    chosen, eye, mind, mfu = subject.recipe, subject.encoder, subject.llm, options.mfu
    seeing, thinking, joint = subject.seeing, subject.thinking, subject.joint
    stages, loads, asked = dict(subject.stages), subject.loads, subject.asked
    number, name, gpu = parse_gpus(options.gpus)
    smaller = {}
    for key, stage in stages.items():
        if stage.batch % (stage.micro_batch * number):
            fitting = _fitting(stage.batch, stage.micro_batch, number)
            if fitting is None or options.micro_batch is not None:
                raise UserError(
                    f"recipe {chosen.name}, {key}: batch {stage.batch} is not a multiple of micro_batch "
                    f"{stage.micro_batch} x {number} GPUs; change one of them"
                )
            smaller[key] = (f"{key}: micro_batch {fitting}, as {number} GPUs share a batch of {stage.batch}; the "
                            f"recipe's {stage.micro_batch} is to be changed before it trains so")  # fmt: skip
            stages[key] = stage.model_copy(update={"micro_batch": fitting})
    machines = Machines(gpu, number, mfu, chosen.dtype)
    images = {key: load.images for key, load in loads.items()} | {"evaluation": sum(one.images for one in asked)}
    row = (seeing.tokens + 1) * seeing.width * (4 if stored_dtype(chosen) == "float32" else 2)
    limit = bound(features_root())
    live = {key: stage.features == "live" for key, stage in stages.items()}
    shown = {key: load.rows for key, load in loads.items()} | {"evaluation": images["evaluation"]}
    kept = keeping(row + LINE.itemsize, images, shown, live, limit)
    steps = [plan_encoding(seeing, kept, machines)]
    steps += [plan_stage(key, chosen, loads[key], thinking, joint, machines) for key in stages]
    held: dict[str, dict[str, Any]] = {}
    for key, stage in stages.items():
        trained, frozen, eyes = count_parameters(stage, thinking, joint, seeing)
        held[key] = {"trained": trained, "frozen": frozen, "encoder": eyes, "dtype": chosen.dtype}
        held[key]["deepspeed"] = bool(stage.deepspeed)
    memory = {key: ways(chosen, stage, thinking, joint, seeing, gpu, number) for key, stage in stages.items()}
    evaluation = plan_evaluation(chosen, asked, thinking, joint, seeing, machines)
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
        memory=memory,
        own={key: own_way(stage, memory[key]) for key, stage in stages.items()},
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
