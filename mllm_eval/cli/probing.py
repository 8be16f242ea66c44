"""`mllm-eval probe`: trains simple heads on the features of frozen encoders."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from mllm_eval.cli.launching import Start, launchable
from mllm_eval.cli.options import split
from mllm_eval.console import say


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("probe", short_help="probe features: classification, nearest neighbours, segmentation, depth")(probe)


@launchable("probe")
def probe(
    encoders: Annotated[str, typer.Argument(help="comma-separated names in configs/encoders, or paths to yaml files")],
    probes: Annotated[str, typer.Option("--probe", help="comma-separated, of `mllm-eval ls probes`, or all")] = "all",
    layers: Annotated[
        str | None,
        typer.Option(help="last, last4, even4, all (one result per layer), or numbers; default: the protocol's"),
    ] = None,
    data: Annotated[str, typer.Option(help="data of the probes: mini, or what `data --probe` has locked")] = "mini",
    select: Annotated[str | None, typer.Option(help="images that choose the head: train_holdout, or val")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per result")] = False,
    *,
    start: Start,
) -> None:
    """Train simple heads on the features of frozen encoders, and print a table with confidence intervals and tests.

    The tasks are classification, nearest neighbours, segmentation and depth. By default the head with the best
    hyperparameters is chosen on held-out training images; --select val chooses it on the reported images, as published.

    \b
      mllm-eval probe mini-dino --probe in1k_linear
      mllm-eval probe mini-dino,mini-clip,mini-random
      mllm-eval probe mini-dino --probe in1k_knn --layers all     every layer by itself: which is best for the task
      mllm-eval probe mini-dino --launch torchrun --processes 2
    """
    from mllm_eval import pipeline
    from mllm_eval.cli.display import display
    from mllm_eval.distributed.ranks import rank
    from mllm_eval.pipeline.probeflow import ProbeSession

    if start(lambda: ProbeSession(split(encoders) or [], split(probes) or [])):
        return
    results = pipeline.probe(split(encoders) or [], split(probes), layers, data, select, display())
    if rank():
        return
    if as_json:
        for folder, one in results.items():
            say(json.dumps({"folder": str(folder), **one.model_dump(mode="json", exclude={"environment"})}))
        return
    from mllm_eval.cli.writing import print_and_write
    from mllm_eval.report.probetable import probe_table
    from mllm_eval.report.site.visionplots import write_sweep
    from mllm_eval.storage import results_home

    stem = "probes" if layers is None else f"probes.{layers.replace(',', '-')}"
    print_and_write(probe_table(results), stem if select is None else f"{stem}.{select}", "cambrian")
    if (drawn := write_sweep(list(results.values()), results_home() / "tables" / f"{stem}.svg")) is not None:
        say(f"drawn: {drawn}", file=sys.stderr)
