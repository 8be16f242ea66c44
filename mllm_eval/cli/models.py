"""External models: `mllm-eval eval --model`, and `mllm-eval export`, which turns a run into one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from mllm_eval.console import say

if TYPE_CHECKING:
    from mllm_eval.cli.launching import Start
    from mllm_eval.external import ExternalModel
    from mllm_eval.pipeline import Selection


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("export", short_help="write a run's checkpoint as a standard LLaVA model, or its LLM")(export)


@dataclass(frozen=True)
class ExternalOptions:
    """An external model as given on the command line: folder or hub repository, data, dtype, questions per batch."""

    place: str
    data: str
    dtype: str | None
    batch: int


def eval_external(named: ExternalOptions, start: Start, **which: Unpack[Selection]) -> None:
    """Ask an external model the benchmarks, score its answers, and print its row.

    Raises UserError for an unknown dtype.
    """
    from mllm_eval.cli.display import display
    from mllm_eval.cli.writing import print_row
    from mllm_eval.library.evaluation import evaluate, external_model
    from mllm_eval.pipeline.asked import rules_asked

    rules, benchmarks = which.get("rules") or "cambrian", which.get("benchmarks")

    def asked() -> ExternalModel:
        rules_asked(rules, benchmarks, named.data)
        return external_model(named.place, data=named.data, dtype=named.dtype, batch=named.batch)

    if start(asked):
        return
    results = evaluate(
        asked(),
        benchmarks=benchmarks,
        subset=which.get("subset"),
        progress=display(),
        blind=which.get("blind", False),
        variants=which.get("variants") or (),
        rules=rules,
        retry_failed=which.get("retry_failed", False),
    )
    print_row(results.run, rules, results.blind, results.subset)


def export(
    run: Annotated[str, typer.Argument(help="hash, beginning of a hash, name, or encoder")],
    to: Annotated[Path, typer.Option(help="folder to write; it must not exist")],
    llm: Annotated[bool, typer.Option("--llm", help="only the LLM, for `eval --server`")] = False,
) -> None:
    """Write a run's checkpoint as a LlavaForConditionalGeneration of transformers, if that class can represent it.

    The written model must give the same logits up to rounding; if the class cannot represent the checkpoint, one line
    says why. With --llm, only the LLM is written, as a LlamaForCausalLM, for a server that receives embeddings.

    \b
      mllm-eval export mini-clip --to llava-mini-clip
      mllm-eval export mini-clip --llm --to llama-of-mini-clip       for vLLM: docs/vllm.md
    """
    from mllm_eval.cli.display import display
    from mllm_eval.environment import before_torch
    from mllm_eval.saved import saved_run

    chosen = saved_run(run)
    before_torch()
    from mllm_eval.model.export import export_llava
    from mllm_eval.model.llmexport import export_llm

    if llm:
        with display().step(f"export: LLM of {chosen.name}"):
            export_llm(chosen.checkpoint, to)
        say(f"{to}: LlamaForCausalLM; `vllm serve {to} --enable-prompt-embeds`, then `mllm-eval eval "
              f"{chosen.encoder.name} --server ADDRESS`")  # fmt: skip
        return
    with display().step(f"export: {chosen.name}"):
        proof = export_llava(chosen.checkpoint, to)
    say(f"{to}: LlavaForConditionalGeneration; {proof}")
