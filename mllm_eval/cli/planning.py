"""`mllm-eval plan`: estimates the memory, time and cost of a run before it starts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from mllm_eval.console import say

if TYPE_CHECKING:
    from mllm_eval.plan import Plan
    from mllm_eval.plan.featurespace import Keeping


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("plan", short_help="estimate memory, FLOPs, hours and cost of a run")(plan)


def plan(
    encoder: Annotated[str, typer.Argument(help="name in configs/encoders, or path to a yaml file")],
    recipe: Annotated[str, typer.Option(help="name in configs/recipes, or path to a yaml file")] = "mini",
    llm: Annotated[str | None, typer.Option(help="name in configs/llms; default: the recipe's")] = None,
    gpus: Annotated[str, typer.Option(help="number and name in configs/gpus.yaml; several with commas")] = "8xH100",
    mfu: Annotated[float, typer.Option(help="model FLOPs utilisation: assumed share of the peak")] = 0.4,
    price: Annotated[float, typer.Option(help="of one GPU hour, in any currency", min=0)] = 2.5,
    rows1: Annotated[str | None, typer.Option(help="rows of stage 1, such as 2.5M; default: the recipe's")] = None,
    rows2: Annotated[str | None, typer.Option(help="rows of stage 2; default: the recipe's")] = None,
    text_tokens: Annotated[int | None, typer.Option(help="mean tokens per row without the image", min=1)] = None,
    micro_batch: Annotated[int | None, typer.Option(help="rows per GPU and pass; default: the recipe's", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, with sizes in bytes")] = False,
) -> None:
    """Estimate what a run needs: parameters, memory per GPU (GiB), FLOPs, disk, hours and cost. Nothing is downloaded.

    \b
      mllm-eval plan mini-dino --gpus 1xA100
      mllm-eval plan dinov2-small --recipe desk --gpus 1xlaptop,1x4090,1xH100     one line per machine
    """
    import json

    from mllm_eval.plan import PlanOptions, make_plans

    options = PlanOptions(
        mfu=mfu, price=price, rows=(count(rows1), count(rows2)), text=text_tokens, micro_batch=micro_batch
    )
    machines = [one.strip() for one in gpus.split(",")]
    plans = make_plans(encoder, recipe, llm, options, machines)
    if as_json:
        told = [made.to_dict() for made in plans]
        say(json.dumps(told if len(told) > 1 else told[0], indent=2))
    elif len(plans) > 1:
        show_side_by_side(plans)
    else:
        show(plans[0])


def show_side_by_side(plans: list[Plan]) -> None:
    """Print the plans of one run on several machines, one line each."""
    say(f"{plans[0].encoder}, recipe {plans[0].recipe}, LLM {plans[0].llm}")
    for made in plans:
        peaks = []
        for stage, own in made.own.items():
            if own is None:
                peaks.append(f"{stage} is sharded in a way that is not planned ({made.chosen[stage]})")
            else:
                peaks.append(f"{stage} {size(own.gpu)} GiB{'' if own.fits else ', which does not fit'}")
        steps = ", ".join(f"{step.name} {hours(step.hours)}" for step in made.steps)
        say(f"  {made.gpus}: {hours(made.hours)} h ({steps}); {'; '.join(peaks)}; features "
              f"{size(sum(one.size for one in made.keeping.values()))} GiB of disk")  # fmt: skip
    say("assumed: " + "; ".join([f"{plans[0].mfu:.0%} of each machine's peak", *plans[0].assumed]))


def count(text: str | None) -> int | None:
    """Parse a number such as `2500000`, `2.5M` or `737k`; None stays None. Raises UserError for another form, or 0."""
    from mllm_eval.errors import UserError

    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmMbB]?)", text.strip().replace(",", ""))
    if match is None or float(match.group(1)) == 0:
        raise UserError(f"rows {text!r}: write a number such as 2500000, 2.5M or 737k")
    return round(float(match.group(1)) * {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}[match.group(2).lower()])


def show(made: Plan) -> None:
    """Print a plan as tables; sizes are in GiB (2^30 bytes)."""
    from rich.table import Table

    from mllm_eval.console import console as make_console
    from mllm_eval.console import widen
    from mllm_eval.features.eviction import VARIABLE

    console = make_console(highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(text, markup=False)

    say(f"{made.encoder}, recipe {made.recipe}, LLM {made.llm}, {made.gpus}")
    say("parameters: " + ", ".join(f"{name} {value:,}" for name, value in made.parameters.items()))
    for stage, ways in made.memory.items():
        sheet = Table(
            title=f"{stage}: GiB on a GPU (the recipe: {made.chosen[stage]})",
            title_justify="left",
            box=None,
            pad_edge=False,
            padding=(0, 1),
        )
        headings = ("", "weights", "grads", "AdamW", "step", "gather", "acts", "peak", "ckpt", "peak", "host")
        for heading in headings:
            sheet.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for plain, again in zip(ways[::2], ways[1::2], strict=True):
            held = plain.states
            sheet.add_row(
                plain.way,
                *(size(part) for part in (held.weights, held.gradients, held.optimiser, held.stepping, held.gathered)),
                size(plain.activations.peak),
                size(plain.gpu) + (" " if plain.fits else "!"),
                size(again.activations.peak),
                size(again.gpu) + (" " if again.fits else "!"),
                size(held.host),
            )
        widen(console, sheet)
        console.print(sheet)
    say("acts: activations at the longest rows; ckpt: with gradient checkpointing; !: does not fit")
    say("step: while the optimiser steps, when no activations are there; gather: during the passes alone")
    for stage, count in made.loading.items():
        say(
            f"{stage}: each process loads its weights in {size(count)} GiB of its machine's memory; a checkpoint takes "
            f"{size(made.checkpoints[stage])} GiB of disk, three of them at a time"
        )
    say("")
    sheet = Table(box=None)
    for heading in ("step", "units", "tokens", "FLOPs", "hours"):
        sheet.add_column(heading, justify="left" if heading == "step" else "right")
    sheet.add_column("", overflow="fold")
    for step in made.steps:
        sheet.add_row(
            step.name, f"{step.units:,}", f"{step.tokens:.3g}", f"{step.flops:.3g}", hours(step.hours), step.note
        )
    console.print(sheet)
    shared = sum(line["encoder_flops"] + line["prompt_flops"] + line["answer_flops"] for line in made.benchmarks)
    if shared:
        say(f"evaluation that shares no image between questions: {made.plain_evaluation / shared:.1f} times the FLOPs")
    disk = ", ".join(f"{name} {size(one.size)} ({kept(one)})" for name, one in made.keeping.items())
    say(f"features if all are kept, GiB: {disk}; one image {made.store['one image']:,} bytes")
    say(f"room for features here: {size(made.store['bound'])} GiB ({VARIABLE}, else half of the free disk)")
    say(f"in all: {hours(made.hours)} h, {made.gpu_hours:,.1f} GPU hours at {made.mfu:.0%} MFU, cost {made.cost:,.0f}")
    say("assumed: " + "; ".join(made.assumed))


def kept(one: Keeping) -> str:
    """Words that say whether all features fit into the store; if not, how many images every run encodes again."""
    if one.kept == one.images:
        return "kept"
    why = "live, as the recipe says" if one.live else f"no room for {one.images - one.kept:,} images"
    return f"{why}: {one.again:,} encoded in every run"


def size(count: float) -> str:
    """A number of bytes in GiB, without the unit; small sizes have one significant digit."""
    gib = count / 2**30
    if gib >= 100:
        return f"{gib:,.0f}"
    return f"{gib:,.1f}" if gib >= 0.05 or not count else f"{gib:.1g}"


def hours(value: float) -> str:
    """A number of hours: one decimal from 1 on, below it two significant digits."""
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"
