"""The commands that show something: ls, show, prompt, bench."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mllm_eval.cli import listing
from mllm_eval.cli.recipes import recipes
from mllm_eval.console import say

if TYPE_CHECKING:
    from mllm_eval.catalog import Kind
    from mllm_eval.results import Timing
    from mllm_eval.run import RunFolder

KINDS = ("runs", "encoders", "llms", "recipes", "benchmarks", "probes", "tables")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("ls", short_help="list runs, encoders, llms, recipes, benchmarks, probes, tables")(ls)
    app.command("show", short_help="what a run is, has and cost")(show)
    app.command("encoders", short_help="all encoders with their facts")(listing.encoders)
    app.command("recipes", short_help="recipes, and what their steps would learn from")(recipes)
    app.command("prompt", short_help="the prompts that records become")(prompt)
    app.command("bench", short_help="time parts of this project on this machine")(bench)


def ls(what: Annotated[str, typer.Argument(help=", ".join(KINDS))] = "runs") -> None:
    """List runs, encoders, llms, recipes, benchmarks, probes or tables.

    \b
      mllm-eval ls
      mllm-eval ls encoders
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
    """How far a run is, from its files."""
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
    """Samples without an answer in all that was scored; a summary that can't be read counts none."""
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
    run: Annotated[str, typer.Argument(help="hash, beginning of one, whole name, or encoder")],
    rules: Annotated[str, typer.Option(help="cambrian or robust")] = "cambrian",
    benchmark: Annotated[str | None, typer.Option(help="only this: its parts, and which answers were given")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="instead: the samples without an answer, and why")] = False,
) -> None:
    """Show what a run is, what it assumes, what it scored and what it cost.

    \b
      mllm-eval show mini-dino
      mllm-eval show mini-dino --failed                `eval --retry-failed` asks these again
      mllm-eval show mini-dino --benchmark seed        its types, the answers given, golds against answers
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from mllm_eval.catalog.variant import DEFAULT
    from mllm_eval.cli.showing import most_frequent_answer, print_benchmark, print_parts, print_warning
    from mllm_eval.console import console as make_console
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
    recipe: Annotated[str, typer.Option(help="whose template and data; a name or a path to a yaml file")] = "mini",
    records: Annotated[Path | None, typer.Option(help="jsonl of upstream rows; default: the data")] = None,
    template: Annotated[str | None, typer.Option(help="conversation template; default: the recipe's")] = None,
    data: Annotated[str | None, typer.Option(help="the benchmark's data; default: the recipe's")] = None,
    variant: Annotated[str, typer.Option(help="how it is asked: default, blind, ...")] = "default",
    llm: Annotated[str | None, typer.Option(help="show the tokens that this LLM gets, too")] = None,
) -> None:
    """Print the prompts that a benchmark's records become under a recipe, one a record, as JSON lines.

    Where a template wants the tokenizer's own begin token in front of them, a line beside them says which. With --llm
    each line has `ids` and `tokens`, from the begin token on, an image as its one mark.

    \b
      mllm-eval prompt mme | head -1
      mllm-eval prompt mmmu --recipe webssl-paper --records rows.jsonl
      mllm-eval prompt mme --llm mini-llama | head -1
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
        # Beside the lines, which hold what the template writes, byte for byte.
        say(said, file=sys.stderr)
    for line in show_prompts(benchmark, records, template, data, VariantKey.parse(variant), tokenizer):
        say(line)


def bench(
    names: Annotated[list[str] | None, typer.Argument(help="of --list; default: all")] = None,
    listed: Annotated[bool, typer.Option("--list", help="say what can be timed, and time nothing")] = False,
) -> None:
    """Time parts of this project on this machine; medians are printed and written to results/bench/NAME.json.

    What stands after `--` goes to the timing's own script.

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
