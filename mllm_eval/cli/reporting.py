"""`mllm-eval report`: writes a static site of tables, plots and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_eval.console import say


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("report", short_help="write a site of tables, plots, differences and answers")(report)


def report(
    runs: Annotated[
        str | None, typer.Option(help="hashes, names or encoders, comma-separated; default: all of one recipe")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder to write; default: results/report")] = None,
    rules: Annotated[str, typer.Option(help="rule set of the scores: cambrian or robust")] = "cambrian",
    images: Annotated[bool, typer.Option("--images/--no-images", help="include a thumbnail of every image")] = True,
) -> None:
    """Write a static site: an overview, a comparison of encoders, every question with its answers, and each run.

    It opens from disk or from any web server, and loads nothing from other sites.

    \b
      mllm-eval report                                         all runs of one recipe, to results/report
      mllm-eval report --runs mini-dino,mini-clip --out site
    """
    from mllm_eval.cli.display import display
    from mllm_eval.cli.options import split
    from mllm_eval.report.site import write_report
    from mllm_eval.results import read_records
    from mllm_eval.storage import results_home

    asked, records = split(runs), read_records()
    chosen = [records.find(one) for one in asked] if asked else records.every
    unreadable = [] if asked is not None else records.notes
    place = out or results_home() / "report"
    with display().step("report") as progress:
        folder = write_report(chosen, place, rules, images, asked is not None, progress, unreadable)
    say(folder / "index.html")
