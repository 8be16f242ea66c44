"""The commands that make something: eval, compare, train, score, table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllm_eval.cli import rescoring
from mllm_eval.cli.guard import Guarded
from mllm_eval.cli.launching import Start, launchable
from mllm_eval.cli.options import (
    Baseline,
    Benchmarks,
    Blind,
    Encoder,
    Intervals,
    Llm,
    Mixed,
    Recipe,
    Rules,
    Seed,
    Subset,
    split,
)

if TYPE_CHECKING:
    from mllm_eval.pipeline import Selection

EXAMPLES = """
Cambrian-style VQA evaluation of frozen vision encoders.

\b
  mllm-eval eval mini-dino                          everything, to a row of the table
  mllm-eval eval mini-dino --blind                  and once more without the images
  mllm-eval compare mini-dino,mini-clip,mini-random one table, trains what is missing
  mllm-eval ls encoders                             what can be evaluated
  mllm-eval show mini-dino                          what a run is, has and cost

A command that was stopped goes on where it was; one with nothing to do ends in seconds.
Results are under ./results, or $MLLM_EVAL_RESULTS; data under $MLLM_EVAL_DATA, else ./data in a
checkout of this project, else ~/.cache/mllm_eval.
"""

app = typer.Typer(
    cls=Guarded,
    help=EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("eval", short_help="everything, to a row of the table")
@launchable("eval")
def eval_(
    encoder: Annotated[str | None, typer.Argument(help="name in configs/encoders, or path to a yaml file")] = None,
    recipe: Recipe = "mini",
    llm: Llm = None,
    seed: Seed = None,
    benchmarks: Benchmarks = None,
    blind: Blind = False,
    rules: Rules = "cambrian",
    model: Annotated[str | None, typer.Option(help="instead: an external model, folder or owner/name")] = None,
    data: Annotated[str, typer.Option(help="of an external model: the benchmarks' data, hub or mini")] = "hub",
    dtype: Annotated[str | None, typer.Option(help="of an external model: bfloat16 on a GPU, else float32")] = None,
    batch: Annotated[int, typer.Option(help="of an external model: questions at a time", min=1)] = 1,
    variants: Annotated[str | None, typer.Option(help="also ask these variants, or all of a benchmark's own")] = None,
    subset: Subset = None,
    server: Annotated[str | None, typer.Option(help="a vLLM server that answers: docs/vllm.md")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="ask failed samples again, as `show --failed` lists them")
    ] = False,
    *,
    start: Start,
) -> None:
    """Train an encoder's adapter, ask the benchmarks, score, and print the row: whatever of it is missing.

    \b
      mllm-eval eval mini-dino
      mllm-eval eval mini-dino --benchmarks mme,chartqa --seed 1 --blind
      mllm-eval eval mini-dino --benchmarks textvqa --variants all
      mllm-eval eval mini-dino --subset 1000               a part of the questions, with its interval
      mllm-eval eval --model my-vlm --data mini            an external model, as it is
      mllm-eval eval mini-dino --launch torchrun --processes 2
    """
    from mllm_eval.cli.display import display
    from mllm_eval.cli.models import External, eval_external
    from mllm_eval.cli.writing import print_row
    from mllm_eval.errors import UserError
    from mllm_eval.library.evaluation import evaluate
    from mllm_eval.pipeline.asked import rules_asked
    from mllm_eval.run import Run

    if (encoder is None) == (model is None):
        raise UserError("say what to evaluate: mllm-eval eval ENCODER, or mllm-eval eval --model FOLDER")
    chosen, others = split(benchmarks), split(variants)
    if encoder is None:
        if server is not None:
            raise UserError("--server answers for runs of encoders; an external model answers itself")
        external = External(str(model), data, dtype, batch)
        which: Selection = {
            "benchmarks": chosen, "blind": blind, "variants": others, "subset": subset, "rules": rules,
            "retry_failed": retry_failed,
        }  # fmt: skip
        eval_external(external, start, **which)
        return

    def asked() -> Run:
        run = Run.of(encoder, recipe, llm, seed)
        rules_asked(rules, chosen, run.data)
        return run

    if start(asked):
        return
    evaluation = evaluate(
        encoder, progress=display(), recipe=recipe, llm=llm, seed=seed, server=server, benchmarks=chosen,
        subset=subset, blind=blind, variants=others or (), rules=rules, retry_failed=retry_failed,
    )  # fmt: skip
    print_row(evaluation.run, rules, blind, evaluation.subset)


@app.command("compare", short_help="several encoders in one table")
def compare_(
    encoders: Annotated[str, typer.Argument(help="comma-separated names, at least two")],
    recipe: Recipe = "mini",
    llm: Llm = None,
    seed: Seed = None,
    benchmarks: Benchmarks = None,
    blind: Blind = False,
    rules: Rules = "cambrian",
    baseline: Baseline = None,
    intervals: Intervals = False,
    subset: Subset = None,
) -> None:
    """Evaluate several encoders under one recipe and print one table; also written to results/tables.

    \b
      mllm-eval compare mini-dino,mini-clip,mini-random
    """
    from mllm_eval.cli.display import display
    from mllm_eval.cli.writing import print_compared
    from mllm_eval.library.compared import compare
    from mllm_eval.report.tableoptions import TableOptions

    chosen = split(benchmarks)
    compared = compare(
        split(encoders) or [],
        benchmarks=chosen,
        subset=subset,
        progress=display(),
        recipe=recipe,
        llm=llm,
        seed=seed,
        blind=blind,
        rules=rules,
        baseline=baseline,
    )
    options = TableOptions(rules, baseline, intervals, subset=compared.results[0].subset)
    print_compared([one.record for one in compared.results], options, blind)


@app.command(short_help="both stages of training and nothing else")
@launchable("train")
def train(
    encoder: Encoder,
    recipe: Recipe = "mini",
    llm: Llm = None,
    seed: Seed = None,
    prepare: Annotated[bool, typer.Option(help="only what needs no GPU: checks and tokens, by all cores")] = False,
    *,
    start: Start,
) -> None:
    """Both stages of training and nothing else: stage 1 the projector, stage 2 projector and LLM.

    \b
      mllm-eval train mini-dino --seed 1
      mllm-eval train mini-dino --prepare
      mllm-eval train mini-dino --launch torchrun --processes 2
      mllm-eval train webssl-dino1b-full2b-224 --recipe webssl-paper --launch slurm --nodes 4 --partition gpu
    """
    from mllm_eval.cli.training import train_run

    train_run(encoder, recipe, llm, seed, prepare, start)


rescoring.register(app)


@app.command(short_help="print the table of runs, or one of the paper's")
def table(
    name: Annotated[str | None, typer.Argument(help="of `mllm-eval ls tables`; default: the runs")] = None,
    runs: Annotated[str | None, typer.Option(help="comma-separated; default: all")] = None,
    rules: Rules = "cambrian",
    blind: Annotated[bool, typer.Option("--blind", help="with the rows asked without images")] = False,
    baseline: Baseline = None,
    intervals: Intervals = False,
    subset: Annotated[int | None, typer.Option(help="the rows of this subset, not those of all questions")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="with --subset: and the rows of all questions")] = False,
    mixed_recipes: Mixed = False,
    published_only: Annotated[bool, typer.Option("--published-only", help="without runs")] = False,
    cost: Annotated[bool, typer.Option("--cost", help="with tokens, operations and seconds of a question")] = False,
    gain: Annotated[bool, typer.Option("--gain", help="with visual gain (score - blind) and its interval")] = False,
    details: Annotated[bool, typer.Option("--details", help="instead: n, failed, unparsed, chance, hash")] = False,
    variants: Annotated[str | None, typer.Option(help="instead: the variants of this benchmark")] = None,
    leaks: Annotated[
        str | None,
        typer.Option(help="instead: scores without samples that `leaks` found in training, or in a folder's name"),
    ] = None,
    leaked: Annotated[str, typer.Option(help="with --leaks: by pictures, questions, both or either")] = "pictures",
    form: Annotated[str, typer.Option("--format", help="terminal, csv, md, tex, html")] = "terminal",
    out: Annotated[Path | None, typer.Option(help="write it here instead of printing it")] = None,
) -> None:
    """Print the table of runs with its tests, or a named one with the paper's rows beside yours.

    \b
      mllm-eval table --runs mini-dino,mini-clip --baseline mini-clip
      mllm-eval table offshelf --published-only --format tex
      mllm-eval table --variants textvqa                  one benchmark, however it was asked
      mllm-eval table --leaks training --runs mini-dino   without what leaked into its own training data
    """
    from mllm_eval.cli.writing import (
        detail,
        put,
        table_of,
        table_of_all,
        with_left_out,
        with_own_costs,
        with_own_gains,
        without_leaks,
    )
    from mllm_eval.errors import UserError
    from mllm_eval.report import TableOptions, named_table
    from mllm_eval.report.variants import variants_table
    from mllm_eval.results import hold_to_known_rules, read_records

    asked, records = split(runs), read_records()
    chosen = [records.find(one) for one in asked] if asked else None
    shown_runs = records.every if chosen is None else chosen
    if not published_only:
        hold_to_known_rules(shown_runs, rules)
    if details or variants is not None or leaks is not None:
        if name is not None:
            raise UserError("--details, --variants and --leaks show runs; leave out the name of the table")
        if leaks is not None:
            shown = without_leaks(shown_runs, leaks, leaked, rules, subset)
        elif variants is not None:
            shown = variants_table(shown_runs, variants, rules)
        else:
            shown = detail(shown_runs, rules, blind, subset)
        put(shown if chosen is not None else with_left_out(shown, records), form, out)
        return
    options = TableOptions(rules, baseline, intervals, mixed_recipes, subset)
    if name is not None:
        shown = named_table(name, published_only, records.trained if chosen is None else chosen, options)
        shown = shown if published_only or chosen is not None else with_left_out(shown, records)
    elif chosen is None:
        shown = table_of_all(records, options, blind, whole)
    else:
        shown = table_of(chosen, options, blind, whole)
    shown = with_own_gains(shown, records, rules) if gain else shown
    put(with_own_costs(shown, records) if cost else shown, form, out)


def _others() -> None:
    # Registered here so that `mllm-eval --help` lists them last.
    from mllm_eval.cli import (
        aligning,
        creating,
        features,
        fetching,
        filtering,
        gpu,
        leaks,
        looking,
        miniature,
        models,
        planning,
        probing,
        reporting,
        reproducing,
        statistics,
    )

    first = (gpu, looking, statistics, aligning, filtering, leaks, reporting, reproducing, planning)
    for others in (*first, fetching, models, features, probing):
        others.register(app)
    app.add_typer(creating.app, name="new")
    app.add_typer(miniature.app, name="miniature")


_others()
