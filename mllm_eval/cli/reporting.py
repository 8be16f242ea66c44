"""`mllm-eval report`: the site that people look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("report", short_help="write a site of tables, plots, differences and answers")(report)


def report(
    runs: Annotated[str | None, typer.Option(help="comma-separated; default: all of one recipe")] = None,
    out: Annotated[Path | None, typer.Option(help="folder; default: results/report")] = None,
    rules: Annotated[str, typer.Option(help="rule set of the tables: cambrian or robust")] = "cambrian",
    images: Annotated[bool, typer.Option("--images/--no-images", help="with a thumbnail of every image")] = True,
) -> None:
    """Write a static site: overview, comparison of encoders, every question with its answers, each run.

    It opens from a file or any web server and fetches nothing from elsewhere.

    \b
      mllm-eval report
      mllm-eval report --runs mini-dino,mini-clip --out site
    """
    from mllm_eval.cli.app import split
    from mllm_eval.cli.display import display
    from mllm_eval.external import saved, saved_models
    from mllm_eval.report.site import write_report
    from mllm_eval.run import saved_runs
    from mllm_eval.storage import results_home

    asked = split(runs)
    every = [*saved_runs(), *saved_models()]
    folders = [saved(one).folder for one in asked] if asked else [run.folder for run in every]
    with display().step("report") as progress:
        folder = write_report(folders, out or results_home() / "report", rules, images, asked is not None, progress)
    print(folder / "index.html")
