"""External models on the command line: asked, and this project's checkpoints made into them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

if TYPE_CHECKING:
    from mllm_eval.cli.launching import Start
    from mllm_eval.pipeline import Selection


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("export", short_help="a run's checkpoint as a stock LLaVA model, or its LLM")(export)


@dataclass(frozen=True)
class External:
    """An external model as the command line names it: folder or repository, and how it is asked."""

    place: str
    data: str
    dtype: str | None
    batch: int


def eval_external(named: External, start: Start, **which: Unpack[Selection]) -> None:
    """Ask an external model the benchmarks, score, and print its row. Raises UserError for an unknown dtype."""
    from typing import cast, get_args

    from mllm_eval.catalog.subset import size_of_table
    from mllm_eval.cli.display import display
    from mllm_eval.cli.tables import print_row
    from mllm_eval.environment import gpus
    from mllm_eval.errors import UserError, near
    from mllm_eval.external import Dtype, ExternalModel
    from mllm_eval.pipeline import evaluate_external
    from mllm_eval.pipeline.asked import rules_asked

    chosen = named.dtype or ("bfloat16" if gpus() else "float32")
    if chosen not in get_args(Dtype):
        raise UserError(
            f"dtype {chosen!r} is unknown.{near(chosen, get_args(Dtype))} Known: {', '.join(get_args(Dtype))}"
        )
    dtype, rules, benchmarks = cast("Dtype", chosen), str(which.get("rules")), which.get("benchmarks")

    def asked() -> ExternalModel:
        rules_asked(rules, benchmarks, named.data)
        return ExternalModel.of(named.place, named.data, dtype, named.batch)

    if start(asked):
        return
    model = evaluate_external(named.place, named.data, dtype, named.batch, display(), **which)
    print_row(model, rules, which.get("blind", False), size_of_table(which.get("subset"), benchmarks))


def export(
    run: Annotated[str, typer.Argument(help="hash, beginning of one, whole name, or encoder")],
    to: Annotated[Path, typer.Option(help="folder to write; must not be there yet")],
    llm: Annotated[bool, typer.Option("--llm", help="only the LLM, for `eval --server`")] = False,
) -> None:
    """Write a run's checkpoint as a stock LlavaForConditionalGeneration, where that says the same function.

    Proven by equal logits; where LLaVA's class can't say it, one line says why. With --llm, the LLM alone as a
    stock LlamaForCausalLM: what a server needs that is given embeddings.

    \b
      mllm-eval export mini-clip --to llava-mini-clip
      mllm-eval export mini-clip --llm --to llama-of-mini-clip
    """
    from mllm_eval.cli.display import display
    from mllm_eval.environment import before_torch
    from mllm_eval.run import saved_run

    found = saved_run(run)
    before_torch()
    from mllm_eval.model.export import export_llava
    from mllm_eval.model.llm import export_llm

    if llm:
        with display().step(f"export: LLM of {found.name}"):
            export_llm(found.checkpoint, to)
        print(f"{to}: LlamaForCausalLM; `vllm serve {to} --enable-prompt-embeds`, then `mllm-eval eval "
              f"{found.encoder.name} --server ADDRESS`")  # fmt: skip
        return
    with display().step(f"export: {found.name}"):
        proof = export_llava(found.checkpoint, to)
    print(f"{to}: LlavaForConditionalGeneration; {proof}")
