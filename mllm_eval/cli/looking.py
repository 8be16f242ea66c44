"""The commands ls, show, prompt and bench."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mllm_eval.cli import listing
from mllm_eval.cli.options import DEFAULT_VARIANT
from mllm_eval.cli.recipes import recipes
from mllm_eval.console import say

if TYPE_CHECKING:
    from mllm_eval.catalog import Kind
    from mllm_eval.results import Timing
    from mllm_eval.run import RunFolder

KINDS = ("runs", "encoders", "llms", "recipes", "benchmarks", "probes", "alignments", "filters", "tables")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("ls", short_help="list runs, or names: encoders, llms, recipes, benchmarks, ...")(ls)
    app.command("show", short_help="show a run: config, scores, time and memory")(show)
    app.command("encoders", short_help="list all encoders with their facts")(listing.encoders)
    app.command("recipes", short_help="list recipes, show one, or count what its batches hold")(recipes)
    app.command("prompt", short_help="print the prompts of a benchmark")(prompt)
    app.command("bench", short_help="time parts of this project on this machine")(bench)


def ls(what: Annotated[str, typer.Argument(help=", ".join(KINDS))] = "runs") -> None:
    """List names: of the saved runs with their progress, or those that other commands accept, such as encoders.

    \b
      mllm-eval ls               saved runs: hash, name, progress
      mllm-eval ls encoders      names that `mllm-eval eval` accepts
    """
    from mllm_eval.catalog import names
    from mllm_eval.errors import UserError, near
    from mllm_eval.saved import read_all_saved
    from mllm_eval.storage import results_home

    if what not in KINDS:
        raise UserError(f"can't list {what!r}.{near(what, KINDS)} Known: {', '.join(KINDS)}")
    if what == "runs":
        saved = read_all_saved()
        runs = [*saved.runs, *saved.external]
        for run in runs:
            say(f"{run.hash}  {run.name.removesuffix('-' + run.hash):<32} {state(run)}")
        for name, why in saved.unreadable.items():
            say(f"{name}  left out, because its config no longer loads: {why}")
        if not runs and not saved.unreadable:
            say(f"no runs under {results_home()} yet; `mllm-eval eval mini-dino` makes one", file=sys.stderr)
        return
    if what == "tables":
        from mllm_eval.report import table_names

        say(*table_names(), sep="\n")
        return
    say(*names(cast("Kind", what)), sep="\n")


def state(run: RunFolder) -> str:
    """The progress of a run in words, as its files show it: begun, trained, or how many benchmarks are answered."""
    from mllm_eval.catalog.variant import DEFAULT, parse_stem

    answered = [parse_stem(path.stem)[1] for path in (run.folder / "answers").glob("*.jsonl")]
    if answered:
        whole = answered.count(DEFAULT)
        parts = sum(variant.subset is not None for variant in answered)
        variants = len(answered) - whole - parts
        more = [f"+{count} {what}" for count, what in ((variants, "variants"), (parts, "of a subset")) if count]
        said = f"answered {whole} benchmarks" + (f" ({', '.join(more)})" if more else "")
        failed = _failed(run)
        return f"{said}, {failed:,} samples failed" if failed else said
    return "trained" if run.checkpoint.is_dir() else "begun"


def _failed(run: RunFolder) -> int:
    """Number of failed samples in all scored benchmarks and variants; unreadable summaries are ignored."""
    from mllm_eval.errors import UserError

    failed = {}
    for path in (run.folder / "scores").glob("*.json"):
        try:
            summary = run.read_summary(path)
            failed[summary["benchmark"], summary["variant"]] = int(summary["n_failed"])
        except (UserError, KeyError, TypeError, ValueError):
            continue
    return sum(failed.values())


def show(
    run: Annotated[str, typer.Argument(help="hash, beginning of a hash, name, or encoder")],
    rules: Annotated[str, typer.Option(help="rule set of the scores: cambrian or robust")] = "cambrian",
    benchmark: Annotated[str | None, typer.Option(help="details of this benchmark only")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="instead: list failed samples with reasons")] = False,
) -> None:
    """Show a run: its config, assumed values of its recipe, scores of all benchmarks, time and memory of each step.

    \b
      mllm-eval show mini-dino
      mllm-eval show mini-dino --failed                samples without an answer; `eval --retry-failed` asks them again
      mllm-eval show mini-dino --benchmark seed        scores by question type, answer counts, gold against answer
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from mllm_eval.catalog.variant import DEFAULT
    from mllm_eval.cli.showing import most_frequent_answer, print_benchmark, print_parts, print_warning
    from mllm_eval.console import console as make_console
    from mllm_eval.console import widen
    from mllm_eval.data.rowcounts import row_counts
    from mllm_eval.errors import UserError, near
    from mllm_eval.external import ExternalModel
    from mllm_eval.imported import Imported
    from mllm_eval.results import columns, hold_to_known_rules, record_of
    from mllm_eval.results.failed import too_many_failed
    from mllm_eval.saved import saved

    chosen = saved(run)
    if failed:
        listing.print_failed(chosen, benchmark)
        return
    record = record_of(chosen)
    hold_to_known_rules([record], rules)
    console = make_console(highlight=False, width=None if sys.stdout.isatty() else listing.PIPED_WIDTH)
    if benchmark is not None:
        every = [record.summaries(rules, variant) for variant in record.variants(rules)]
        if not any(benchmark in own for own in every):
            known = sorted({name for own in every for name in own})
            raise UserError(f"{chosen.name} has no {rules} scores of {benchmark!r}.{near(benchmark, known)} "
                            f"It has: {', '.join(known) or 'none'}")  # fmt: skip
        for own in every:
            if benchmark in own:
                print_benchmark(console, record, own[benchmark])
        return
    console.print(f"{chosen.name}\n{chosen.folder}", markup=False)
    if isinstance(chosen, ExternalModel):
        about = f"data {chosen.data}, {chosen.dtype}, {chosen.batch} at a time"
        console.print(
            f"{chosen.heading} ({chosen.weights.repo or chosen.weights.path}); {about}; {state(chosen)}", markup=False
        )
        for note in record.notes:
            console.print(note, markup=False)
    elif isinstance(chosen, Imported):
        console.print(f"{chosen.heading}; data {chosen.data}; {state(chosen)}", markup=False)
        for title, about in record.manifest.get("files", {}).items():
            console.print(f"{title}: {about.get('file')} ({about.get('format')}), SHA-256 {about.get('sha256')}",
                          markup=False)  # fmt: skip
    else:
        console.print(f"encoder {chosen.encoder.name}, recipe {chosen.recipe.name} ({chosen.recipe.hash}), ", end="")
        console.print(f"LLM {chosen.llm.name}, seed {chosen.seed}; {state(chosen)}", markup=False)
        for field, source in chosen.recipe.assumed().items():
            console.print(f"assumed {field}: {source}", markup=False)
        for number, counts in row_counts(chosen.folder).items():
            console.print(f"stage {number}: {counts.spoken()}", markup=False)
    for variant in record.variants(rules):
        sheet = Table(title=f"{rules} rules, {variant}", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        words = ("benchmark", "top answer", "protocol")
        for name in ("benchmark", "value", "chance", "n", "failed", "unparsed", "empty", "top answer", "protocol"):
            sheet.add_column(name, justify="left" if name in words else "right", no_wrap=True)
        own = record.summaries(rules, variant)
        for name, summary in own.items():
            numbers = (
                _cell(summary.get(key, "?")) for key in ("value", "chance", "n", "n_failed", "n_unparsed", "n_empty")
            )
            version = summary["protocol"].rpartition(".")[2]
            top = most_frequent_answer(record, summary)
            sheet.add_row(name, *numbers, top, f"{version} {summary['protocol_hash']}")
        widen(console, sheet)
        console.print(sheet)
        print_warning(console, record, rules, variant)
        if variant == DEFAULT:
            print_parts(console, own)
        if means := columns().means(
            {name: one["value"] for name, one in own.items() if one["value"] is not None and not too_many_failed(one)}
        ):
            console.print(", ".join(f"{columns().named()[key].title} {_cell(value)}" for key, value in means.items()))
    _print_costs(console, record.timings)


def _cell(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _print_costs(console: Any, timings: Sequence[Timing]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    if not timings:
        return
    sheet = Table(title="cost", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("step", "seconds", "cpu seconds", "peak MiB"):
        sheet.add_column(name, justify="left" if name == "step" else "right")
    for one in timings:
        sheet.add_row(one.title, *(f"{number:.1f}" for number in (one.seconds, one.cpu_seconds, one.peak_mib)))
    totals = [sum(one.seconds for one in timings), sum(one.cpu_seconds for one in timings)]
    peak = max(one.peak_mib for one in timings)
    sheet.add_row("in all", *(f"{total:.1f}" for total in totals), f"{peak:.1f}")
    console.print(sheet)


def prompt(
    benchmark: Annotated[str, typer.Argument(help="name in benchmarks/, or path to its folder")],
    recipe: Annotated[str, typer.Option(help="recipe of the template and the data: name, or a yaml file")] = "mini",
    records: Annotated[Path | None, typer.Option(help="JSON lines of upstream rows to use instead of the data")] = None,
    template: Annotated[str | None, typer.Option(help="conversation template; default: the recipe's")] = None,
    data: Annotated[str | None, typer.Option(help="data of the benchmark; default: the recipe's")] = None,
    variant: Annotated[str, typer.Option(help="of the questions: default, blind, ...")] = DEFAULT_VARIANT,
    llm: Annotated[str | None, typer.Option(help="also print the tokens that this LLM reads")] = None,
) -> None:
    """Print the prompts of a benchmark under a recipe's conversation template, as one JSON object per question.

    If the template needs the tokenizer's begin-of-text token before the prompt, a line on stderr names it. With --llm
    each line also has `ids` and `tokens`, which include the begin-of-text token; an image is one placeholder token.

    \b
      mllm-eval prompt mme | head -1                                      the first prompt
      mllm-eval prompt mmmu --recipe webssl-paper --records rows.jsonl    prompts of other rows
      mllm-eval prompt mme --llm mini-llama | head -1                     with tokens
    """
    from mllm_eval.catalog import load_recipe
    from mllm_eval.catalog.variant import VariantKey
    from mllm_eval.data.prompts import begin_words, show_prompts
    from mllm_eval.prompts import template_named

    chosen = load_recipe(recipe)
    template, data = template or chosen.template, data or chosen.data
    template_named(template)
    tokenizer = None
    if llm is not None:
        from mllm_eval.catalog import load_llm
        from mllm_eval.environment import before_torch

        before_torch()
        from mllm_eval.model import load_tokenizer

        tokenizer = load_tokenizer(load_llm(llm), template)

    if said := begin_words(template):
        # On stderr, because stdout has exactly the bytes that the template writes.
        say(said, file=sys.stderr)
    for line in show_prompts(benchmark, records, template, data, VariantKey.parse(variant), tokenizer):
        say(line)


def bench(
    names: Annotated[list[str] | None, typer.Argument(help="names that --list prints; default: all")] = None,
    listed: Annotated[bool, typer.Option("--list", help="only list what can be timed")] = False,
) -> None:
    """Time parts of this project on this machine, print medians, and write them to results/bench/NAME.json.

    Options after `--` are passed to the timing's script.

    \b
      mllm-eval bench scoring
      mllm-eval bench pipeline -- --benchmarks mme,chartqa
    """
    from mllm_eval.cli.benching import run_timings, timings

    if listed:
        for name, about in timings().items():
            say(f"{name:<14} {about}")
        return
    asked = names or []
    at = next((i for i, word in enumerate(asked) if word.startswith("-")), len(asked))
    if not run_timings(asked[:at], asked[at:]):
        raise typer.Exit(1)
