"""`mllm-eval score`: scores the answers of runs again, or a file of answers of any model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllm_eval.cli.options import DEFAULT_VARIANT, refuse_without
from mllm_eval.console import say

if TYPE_CHECKING:
    from mllm_eval.score.files import ScoringOptions


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(short_help="score answers of runs again, or a file of answers")(score)


def score(
    what: Annotated[str | None, typer.Argument(help="a run, or with --answers a benchmark; default: all runs")] = None,
    answers: Annotated[Path | None, typer.Option(help="file of answers to the benchmark")] = None,
    rules: Annotated[str, typer.Option(help="with --answers: cambrian or robust")] = "cambrian",
    out: Annotated[Path | None, typer.Option(help="with --answers: file for one JSON line per sample")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="with --answers: accept missing samples")] = False,
    layout: Annotated[
        str, typer.Option("--format", help="of the answers: jsonl, cambrian, lmms_eval or vlmevalkit")
    ] = "jsonl",
    as_json: Annotated[bool, typer.Option("--json", help="with --answers: print the summary as JSON")] = False,
    data: Annotated[str, typer.Option(help="with --answers: data of the benchmark, mini or hub")] = "mini",
    variant: Annotated[str, typer.Option(help="with --answers: the variant that was asked")] = DEFAULT_VARIANT,
    name: Annotated[str | None, typer.Option("--as", help="with --answers: keep it as a row of this name")] = None,
) -> None:
    """Score the saved answers of runs again, or a file of answers of any model. No model is loaded.

    In the format jsonl a line is {"id": ..., "prediction": ...}; it may also hold the upstream row as "record".

    \b
      mllm-eval score                                                     all runs, both rule sets
      mllm-eval score mini-dino                                           one run
      mllm-eval score chartqa --answers answers.jsonl --rules robust      a file
      mllm-eval score chartqa --answers answers.jsonl --as their-vlm      a row of tables and the report
    """
    from mllm_eval.catalog.variant import VariantKey
    from mllm_eval.errors import UserError
    from mllm_eval.score.files import ScoringOptions

    if answers is not None:
        if what is None:
            raise UserError("say which benchmark the answers are for: mllm-eval score BENCHMARK --answers FILE")
        options = ScoringOptions(rules, partial, layout, data, VariantKey.parse(variant))
        score_file(what, answers, options, out, as_json, name)
        return
    if name is not None:
        raise UserError("--as names a file of answers: mllm-eval score BENCHMARK --answers FILE --as NAME")
    usual = {"rules": "cambrian", "format": "jsonl", "data": "mini", "variant": DEFAULT_VARIANT}
    asked = {"rules": rules, "format": layout, "data": data, "variant": variant}
    others = {option: value for option, value in asked.items() if value != usual[option]}
    refuse_without("--answers, a file of answers", out=out, partial=partial, json=as_json, **others)
    score_anew(what)


def score_anew(run: str | None) -> None:
    """Score the answers of one run, or of all saved runs, and print which benchmarks were scored.

    Raises:
        UserError: the run is unknown, or no run is saved.
    """
    from mllm_eval import pipeline
    from mllm_eval.cli.display import display
    from mllm_eval.errors import UserError
    from mllm_eval.saved import read_all_saved
    from mllm_eval.storage import results_home

    saved = read_all_saved()
    runs = [saved.find(run)] if run is not None else [*saved.runs, *saved.external]
    if not runs:
        raise UserError(f"no runs under {results_home()}; `mllm-eval eval mini-dino` makes one")
    for note in saved.notes if run is None else []:
        say(note, file=sys.stderr)
    for one in runs:
        say(f"{one.name}: {', '.join(pipeline.score_run(one, display()))}")


def score_file(
    benchmark: str, answers: Path, options: ScoringOptions, out: Path | None, as_json: bool, name: str | None
) -> None:
    """Score a file of answers and print the scores; with a `name`, keep them as a row of that name."""
    from mllm_eval.score import files

    scored = files.score_file(benchmark, answers, options, out, as_json)
    if name is None:
        return
    from mllm_eval.cli.display import display
    from mllm_eval.pipeline.importing import keep_answers

    kept = keep_answers(name, benchmark, answers, scored, options, display())
    shown = " and ".join(f"`mllm-eval {one} --runs {kept.label}`" for one in ("table", "report"))
    say(f"{kept.name}: kept; {shown} show it", file=sys.stderr)
