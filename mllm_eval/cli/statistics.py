"""The commands `mllm-eval diff` and `mllm-eval stats` (scaling, seeds, power, subset, predict)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mllm_eval.console import say

if TYPE_CHECKING:
    from mllm_eval.report import Scored
    from mllm_eval.report.diff import AnswersDiff
    from mllm_eval.results import Records

EXAMPLES = """
Statistics over runs: scaling fits, variance between seeds, power of a comparison, subsets, and predictions.

\b
  mllm-eval stats power mini-clip mini-dino --difference 2    questions needed to find a difference of 2 points
  mllm-eval stats scaling params --metrics avg                AVG against the number of parameters
"""

stats = typer.Typer(
    no_args_is_help=True,
    help=EXAMPLES,
    short_help="scaling fits, seeds, power, subsets, predictions",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
Form = Annotated[str, typer.Option("--format", help="terminal, csv, md, tex or html")]
Out = Annotated[Path | None, typer.Option(help="file to write instead of printing")]
Runs = Annotated[
    str | None, typer.Option(help="hashes, names or encoders, comma-separated; default: all of one recipe")
]
Rules = Annotated[str, typer.Option(help="rule set of the scores: cambrian or robust")]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("diff", short_help="show how two runs differ")(diff)
    app.add_typer(stats, name="stats")


@stats.command(short_help="fit scores to encoder size: slope per doubling, R2, crossings")
def scaling(
    curve: Annotated[str, typer.Argument(help="size of an encoder: params, or samples seen")] = "params",
    metrics: Annotated[str | None, typer.Option(help="columns, comma-separated: avg, ocr_chart, mmmu, ...")] = None,
    published_only: Annotated[bool, typer.Option("--published-only", help="leave out runs")] = False,
    rules: Rules = "cambrian",
    form: Form = "terminal",
    out: Out = None,
) -> None:
    """Fit scores to the logarithm of the encoder's parameters, or of samples seen in pretraining, for each family.

    \b
      mllm-eval stats scaling params --metrics avg,ocr_chart
      mllm-eval stats scaling samples --published-only --format csv
    """
    from mllm_eval.cli.options import split
    from mllm_eval.cli.writing import put
    from mllm_eval.report.scalingtable import scaling_table
    from mllm_eval.results import read_records
    from mllm_eval.storage import results_home

    records = read_records()
    # Published rows stand alone where nothing was run yet.
    nothing = published_only or not (results_home() / "runs").is_dir()
    runs = [] if nothing else _scored(records, None, rules)
    put(scaling_table(curve, split(metrics), runs), form, out)


@stats.command(short_help="variance between seeds and within a seed")
def seeds(runs: Runs = None, rules: Rules = "cambrian", form: Form = "terminal", out: Out = None) -> None:
    """Show how much scores vary between training seeds, and how much they would vary with other questions.

    It needs an encoder that was run with two or more seeds.

    \b
      mllm-eval eval mini-dino --seed 1 && mllm-eval stats seeds
    """
    from mllm_eval.cli.writing import put
    from mllm_eval.errors import UserError
    from mllm_eval.report.seedtable import seed_table
    from mllm_eval.results import read_records

    shown = seed_table(_scored(read_records(), runs, rules))
    if shown is None:
        raise UserError("no encoder was run with two seeds; `mllm-eval eval ENCODER --seed 1` makes another")
    put(shown, form, out)


@stats.command(short_help="questions or seeds needed to find a difference")
def power(
    a: Annotated[str, typer.Argument(help="a run: hash, name, or encoder")],
    b: Annotated[str, typer.Argument(help="the run to compare it with")],
    difference: Annotated[float, typer.Option(help="difference to find, in points of AVG", min=0.001)] = 1.0,
    rules: Rules = "cambrian",
    form: Form = "terminal",
    out: Out = None,
) -> None:
    """Show the smallest difference of two runs that these questions can find, and what a given one would need.

    The table gives the power of the paired test, and the number of questions or seeds for the difference --difference.

    \b
      mllm-eval stats power mini-clip mini-dino --difference 2
    """
    from mllm_eval.cli.writing import put
    from mllm_eval.report import read_scored
    from mllm_eval.report.seedtable import seed_groups
    from mllm_eval.report.sizing import power_table
    from mllm_eval.results import read_records

    records = read_records()
    first, second = (read_scored(records.find(name), rules) for name in (a, b))
    put(power_table(first, second, difference, seed_groups(_scored(records, None, rules))), form, out)


@stats.command(short_help="compare scores on a subset with scores on all questions")
def subset(
    size: Annotated[int, typer.Option(help="number of questions of the subset in all", min=1)] = 1000,
    runs: Runs = None,
    rules: Rules = "cambrian",
    form: Form = "terminal",
    out: Out = None,
) -> None:
    """Score runs on a stratified subset of their questions; compare values, intervals and ranks with all questions.

    \b
      mllm-eval stats subset --size 1000
    """
    from mllm_eval.cli.writing import put
    from mllm_eval.report.comparison import labels
    from mllm_eval.report.sizing import subset_table
    from mllm_eval.results import read_records

    scored = _scored(read_records(), runs, rules)
    put(subset_table(scored, labels(scored), size), form, out)


@stats.command(short_help="predict VQA scores from probe results")
def predict(
    target: Annotated[str, typer.Option(help="score: avg, or a category (general, ocr_chart, ...)")] = "avg",
    given: Annotated[str | None, typer.Option(help="results of one encoder: in1k=84.1,nyud_lin4=0.35")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="name, or path to a yaml file: take the results that `probe` has stored of it")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="plot published against predicted: .png, .pdf or .svg")] = None,
    form: Form = "terminal",
    out: Out = None,
) -> None:
    """Show how well probe results predict the VQA scores of published encoders, and predict the score of another one.

    \b
      mllm-eval stats predict
      mllm-eval stats predict --target ocr_chart --given in1k=84.1,ade20k_lin=46.2
      mllm-eval stats predict --encoder webssl-dino1b-full2b-224   after `mllm-eval probe` of it on the real data
    """
    from mllm_eval.cli.options import split
    from mllm_eval.cli.writing import put
    from mllm_eval.errors import UserError
    from mllm_eval.report.prediction import draw_prediction, prediction_table

    values = {}
    for part in split(given) or []:
        name, _, text = part.partition("=")
        if name.strip() in values:
            raise UserError(f"--given {part}: {name.strip()} has a value already; say it once")
        try:
            values[name.strip()] = float(text)
        except ValueError:
            raise UserError(f"--given {part}: say NAME=NUMBER, as in in1k=84.1") from None
    shown = prediction_table(target, values, encoder)
    if figure is not None:
        draw_prediction(target, figure)
    put(shown, form, out)


def _scored(records: Records, names: str | None, rules: str) -> list[Scored]:
    from mllm_eval.cli.options import split
    from mllm_eval.errors import UserError
    from mllm_eval.report import read_scored
    from mllm_eval.report.choice import choose_one_recipe
    from mllm_eval.results import hold_to_known_rules
    from mllm_eval.storage import results_home

    if asked := split(names):
        chosen = [records.find(one) for one in asked]
        hold_to_known_rules(chosen, rules)
        return [read_scored(record, rules) for record in chosen]
    chosen = choose_one_recipe(records.trained, rules).runs
    for note in records.notes:
        say(note, file=sys.stderr)
    if not chosen:
        raise UserError(f"no scored runs under {results_home()}; `mllm-eval eval mini-dino` makes one")
    return [read_scored(record, rules) for record in chosen]


def diff(
    a: Annotated[str, typer.Argument(help="a run: hash, beginning of a hash, name, or encoder")],
    b: Annotated[str, typer.Argument(help="another run")],
    rules: Rules = "cambrian",
) -> None:
    """Show how two runs differ: config, data, package versions, and per benchmark how many answers are the same.

    \b
      mllm-eval diff mini-dino mini-clip
    """
    from rich.table import Table as RichTable

    from mllm_eval.cli.listing import PIPED_WIDTH
    from mllm_eval.console import console as make_console
    from mllm_eval.report.diff import diff as compare
    from mllm_eval.results import hold_to_known_rules, read_records

    records = read_records()
    first, second = (records.find(one) for one in (a, b))
    hold_to_known_rules([first, second], rules)
    differences = compare(first, second, rules)
    console = make_console(highlight=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    names = (first.encoder, second.encoder) if first.encoder != second.encoder else (first.hash, second.hash)
    for what, unequal in (
        ("config", differences.config),
        ("data", differences.data),
        ("environment", differences.environment),
    ):
        if not unequal:
            console.print(f"{what}: equal")
            continue
        sheet = RichTable(box=None, pad_edge=False)
        for head in (what, *names):
            sheet.add_column(_plain(head), overflow="fold")
        for key, (left, right) in unequal.items():
            sheet.add_row(_plain(key), _plain(left), _plain(right))
        console.print(sheet)
    _print_answers(console, differences.answers, *names)


def _print_answers(console: Any, answers: list[AnswersDiff], first: str, second: str) -> None:
    from rich.table import Table

    from mllm_eval.console import widen

    sheet = Table(box=None, pad_edge=False)
    sheet.add_column("answers")
    for head in (first, second, "asked both", "same answer", f"{first} higher", f"{second} higher"):
        sheet.add_column(_plain(head), justify="right", overflow="fold")
    for one in answers:
        values = ["–" if value is None else f"{value:.1f}" for value in (one.value_a, one.value_b)]  # noqa: RUF001
        counts = (one.shared, one.same, one.only_a, one.only_b)
        sheet.add_row(_plain(one.benchmark), *values, *(str(count) for count in counts))
    widen(console, sheet)
    console.print(sheet)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape("".join(sign if sign.isprintable() else " " for sign in text))
