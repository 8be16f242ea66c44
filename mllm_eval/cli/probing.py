"""`mllm-eval probe`: what simple heads read from frozen encoders."""

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
    app.command("probe", short_help="classic vision: linear heads, neighbours, masks, depth")(probe)


@launchable("probe")
def probe(
    encoders: Annotated[str, typer.Argument(help="comma-separated names in configs/encoders, or paths to yaml files")],
    probes: Annotated[str, typer.Option("--probe", help="comma-separated, of `mllm-eval ls probes`, or all")] = "all",
    layers: Annotated[
        str | None, typer.Option(help="last, last4, even4, all (each by itself), or numbers; default: the protocol's")
    ] = None,
    data: Annotated[str, typer.Option(help="the probes' data: mini, or what `data --probe` has locked")] = "mini",
    select: Annotated[str | None, typer.Option(help="how a head is chosen: train_holdout, or val as published")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object a result")] = False,
    *,
    start: Start,
) -> None:
    """Probe encoders with simple heads on frozen features, and print one table with intervals and tests.

    \b
      mllm-eval probe mini-dino --probe in1k_linear
      mllm-eval probe mini-dino,mini-clip,mini-random
      mllm-eval probe mini-dino --probe in1k_knn --layers all     which layer serves the task best
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
