"""`mllm-eval align`: do pictures and their captions have the same neighbours?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_eval.console import say


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("align", short_help="alignment of encoders with language models")(align)


def align(
    encoders: Annotated[str, typer.Argument(help="names in configs/encoders, comma-separated, or paths to yaml files")],
    llm: Annotated[
        str, typer.Option(help="names in configs/llms, hashes of runs, or folders in hub format; comma-separated")
    ] = "mini-llama",
    protocol: Annotated[str, typer.Option(help="name in configs/alignments, or path to a yaml file")] = "platonic",
    data: Annotated[str, typer.Option(help="pictures and captions: mini, or hub (WiT-1024)")] = "mini",
    metric: Annotated[
        str | None, typer.Option(help="mutual_knn (default), cycle_knn, lcs_knn, cka, unbiased_cka, cknna")
    ] = None,
    permutations: Annotated[int | None, typer.Option(help="of the null distribution; 0: none", min=0)] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="fetch and lock the pairs first")] = False,
    folder: Annotated[Path | None, typer.Option("--from", help="with --fetch: take the pairs from this folder")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """Measure how far encoders and language models find the same things alike: the platonic measure of Huh et al. 2024.

    Every block of an encoder is compared with every layer of an LLM, on pictures and their captions. The score is the
    largest share of common nearest neighbours; chance, which grows with the number of layers, is measured by shuffling
    captions. Nothing is trained. A run's hash as --llm takes the LLM as stage 2 left it.

    \b
      mllm-eval align mini-dino,mini-clip,mini-random
      mllm-eval align mini-clip --llm mini-llama,afb84f2ff91b   does adapting bring the LLM nearer?
      mllm-eval align webssl-dino1b-full2b-224 --llm llama-3.1-8b --data hub --fetch
    """
    import json
    import sys

    from mllm_eval.alignment.measure import align as measure
    from mllm_eval.alignment.pairs import fetch_pairs
    from mllm_eval.alignment.protocol import load_alignment
    from mllm_eval.cli.display import display
    from mllm_eval.cli.options import split
    from mllm_eval.cli.writing import print_and_write
    from mllm_eval.config import validate
    from mllm_eval.errors import UserError
    from mllm_eval.report.alignmenttable import alignment_table
    from mllm_eval.report.site.visionplots import write_figures
    from mllm_eval.results.aligned import alignments_home

    if folder is not None and not fetch:
        raise UserError("--from says where --fetch takes the pairs from; add --fetch")
    chosen = load_alignment(protocol)
    if metric is not None:
        chosen = validate({**chosen.model_dump(), "metric": metric}, type(chosen), "--metric")
    shown = display()
    if fetch:
        fetch_pairs(chosen, data, folder, shown)
    results = []
    for encoder in split(encoders) or []:
        for model in split(llm) or []:
            results.append(measure(encoder, model, chosen, data, permutations, shown))
            if as_json:
                say(json.dumps(results[-1].row()))
    if as_json:
        return
    stem = "alignment" if chosen.metric == "mutual_knn" else f"alignment.{chosen.metric}"
    print_and_write(alignment_table(results), stem, "cambrian")
    try:
        written = write_figures(results, alignments_home() / "figures")
    except UserError as lacking:
        say(f"no figures: {lacking}", file=sys.stderr)
        return
    say("figures: " + ", ".join(str(path) for path in written if path.suffix == ".png"), file=sys.stderr)
