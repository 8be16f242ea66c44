"""The app, its help, and the commands eval, compare, train and table; the other commands are registered here."""

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
    refuse_without,
    split,
)

if TYPE_CHECKING:
    from mllm_eval.pipeline import Selection

EXAMPLES = """
Evaluate frozen vision encoders on VQA benchmarks, as in Cambrian-1 and the Web-SSL paper.

\b
  mllm-eval eval mini-dino                          train, answer, score; print the row of the table
  mllm-eval eval mini-dino --blind                  also ask every question without its image
  mllm-eval compare mini-dino,mini-clip,mini-random evaluate several encoders; print one table
  mllm-eval ls encoders                             list the encoders that can be evaluated
  mllm-eval show mini-dino                          show a run: config, scores, time and memory

Commands compute only what is missing, and continue where they were stopped. Results are written to
./results or $MLLM_EVAL_RESULTS. Data are in $MLLM_EVAL_DATA; if it is not set, in the folder data of
a checkout of this project; without a checkout in ~/.cache/mllm_eval.
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


@app.command("eval", short_help="train, answer, score; print the row of the table")
@launchable("eval")
def eval_(
    encoder: Annotated[str | None, typer.Argument(help="name in configs/encoders, or path to a yaml file")] = None,
    recipe: Recipe = "mini",
    llm: Llm = None,
    seed: Seed = None,
    benchmarks: Benchmarks = None,
    blind: Blind = False,
    rules: Rules = "cambrian",
    model: Annotated[str | None, typer.Option(help="instead: an external model, folder or hub's owner/name")] = None,
    data: Annotated[str | None, typer.Option(help="with --model: benchmarks' data, hub (default) or mini")] = None,
    dtype: Annotated[str | None, typer.Option(help="with --model; default: bfloat16 on a GPU, else float32")] = None,
    batch: Annotated[int | None, typer.Option(help="with --model: questions per batch; default: 1", min=1)] = None,
    variants: Annotated[str | None, typer.Option(help="also ask these variants (comma-separated), or all")] = None,
    subset: Subset = None,
    server: Annotated[str | None, typer.Option(help="address of a vLLM server that answers: docs/vllm.md")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="ask failed samples again (`show --failed`)")
    ] = False,
    *,
    start: Start,
) -> None:
    """Train projector and LLM for an encoder, answer the benchmarks, score the answers, and print the row of the table.

    Steps that are done already are skipped. An external model (--model) is not trained.

    \b
      mllm-eval eval mini-dino                             all sixteen benchmarks
      mllm-eval eval mini-dino --benchmarks mme,chartqa --seed 1 --blind
      mllm-eval eval mini-dino --benchmarks textvqa --variants all
      mllm-eval eval mini-dino --subset 1000               1000 questions in all; intervals say how exact that is
      mllm-eval eval --model my-vlm --data mini            an external model
      mllm-eval eval mini-dino --launch torchrun --processes 2
    """
    from mllm_eval.cli.display import display
    from mllm_eval.cli.models import ExternalOptions, eval_external
    from mllm_eval.cli.writing import print_row
    from mllm_eval.errors import UserError
    from mllm_eval.library.evaluation import evaluate
    from mllm_eval.pipeline.asked import rules_asked
    from mllm_eval.run import Run

    if (encoder is None) == (model is None):
        raise UserError("say what to evaluate: mllm-eval eval ENCODER, or mllm-eval eval --model FOLDER")
    chosen, others = split(benchmarks), split(variants)
    if encoder is None:
        refuse_without("an encoder", recipe=None if recipe == "mini" else recipe, llm=llm, seed=seed, server=server)
        which: Selection = {"benchmarks": chosen, "blind": blind, "variants": others, "subset": subset, "rules": rules,
                            "retry_failed": retry_failed}  # fmt: skip
        eval_external(ExternalOptions(str(model), data or "hub", dtype, batch or 1), start, **which)
        return

    refuse_without("--model", data=data, dtype=dtype, batch=batch)

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


@app.command("compare", short_help="evaluate several encoders; print one table")
def compare_(
    encoders: Annotated[str, typer.Argument(help="names or yaml files of encoders, comma-separated")],
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
    """Evaluate several encoders with one recipe, and print one table with tests of their differences.

    What is missing is trained and asked first. The table is also written to results/tables.

    \b
      mllm-eval compare mini-dino,mini-clip,mini-random
    """
    from mllm_eval.cli.display import display
    from mllm_eval.cli.writing import print_compared
    from mllm_eval.library.compared import compare
    from mllm_eval.report.tableoptions import TableOptions

    compared = compare(
        split(encoders) or [],
        benchmarks=split(benchmarks),
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


@app.command(short_help="train projector and LLM, without benchmarks")
@launchable("train")
def train(
    encoder: Encoder,
    recipe: Recipe = "mini",
    llm: Llm = None,
    seed: Seed = None,
    prepare: Annotated[bool, typer.Option(help="only check and tokenise the data, on all CPU cores")] = False,
    *,
    start: Start,
) -> None:
    """Train for an encoder without asking benchmarks: stage 1 the projector, stage 2 the projector and the LLM.

    \b
      mllm-eval train mini-dino --seed 1
      mllm-eval train mini-dino --prepare                  the part that needs no GPU
      mllm-eval train mini-dino --launch torchrun --processes 2
      mllm-eval train webssl-dino1b-full2b-224 --recipe webssl-paper --launch slurm --nodes 4 --partition gpu
    """
    from mllm_eval.cli.training import train_run

    train_run(encoder, recipe, llm, seed, prepare, start)


rescoring.register(app)


@app.command(short_help="print the table of runs, or a table of the paper")
def table(
    name: Annotated[str | None, typer.Argument(help="a name of `mllm-eval ls tables`; default: the runs")] = None,
    runs: Annotated[str | None, typer.Option(help="hashes, names or encoders, comma-separated; default: all")] = None,
    rules: Rules = "cambrian",
    blind: Annotated[bool, typer.Option("--blind", help="also show the rows asked without images")] = False,
    baseline: Baseline = None,
    intervals: Intervals = False,
    subset: Annotated[int | None, typer.Option(help="show the rows of a subset of so many questions")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="with --subset: show rows of all questions, too")] = False,
    mixed_recipes: Mixed = False,
    published_only: Annotated[bool, typer.Option("--published-only", help="leave out runs")] = False,
    cost: Annotated[bool, typer.Option("--cost", help="add visual tokens, FLOPs and seconds per question")] = False,
    gain: Annotated[bool, typer.Option("--gain", help="add the gain from images (score - blind score)")] = False,
    details: Annotated[bool, typer.Option("--details", help="instead: n, failed, unparsed, chance, hash")] = False,
    variants: Annotated[str | None, typer.Option(help="instead: scores by variant of this benchmark")] = None,
    leaks: Annotated[
        str | None,
        typer.Option(help="instead: scores without samples that `leaks` found; training, or the name of a folder"),
    ] = None,
    leaked: Annotated[str, typer.Option(help="with --leaks: by pictures, questions, both or either")] = "pictures",
    form: Annotated[str, typer.Option("--format", help="terminal, csv, md, tex or html")] = "terminal",
    out: Annotated[Path | None, typer.Option(help="file to write instead of printing")] = None,
) -> None:
    """Print a table of runs with significance tests, or a table of the paper with your runs as further rows.

    \b
      mllm-eval table --runs mini-dino,mini-clip --baseline mini-clip
      mllm-eval table offshelf --published-only --format tex
      mllm-eval table --variants textvqa                  one benchmark, asked in different ways
      mllm-eval table --leaks training --runs mini-dino   without samples found in the run's training data
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

    refuse_without("--subset", whole=whole and subset is None)
    refuse_without("--leaks", leaked=leaked if leaks is None and leaked != "pictures" else None)
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
