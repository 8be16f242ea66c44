"""`mllm-eval align`: representational alignment of vision encoders with language models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_eval.console import say


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("align", short_help="measure how similar encoders and LLMs are")(align)


def align(
    encoders: Annotated[str, typer.Argument(help="names in configs/encoders, or paths to yaml files; comma-separated")],
    llm: Annotated[
        str, typer.Option(help="names in configs/llms, hashes of runs, or folders in the hub's format; comma-separated")
    ] = "mini-llama",
    protocol: Annotated[str, typer.Option(help="name in configs/alignments, or path to a yaml file")] = "platonic",
    data: Annotated[str, typer.Option(help="pairs of an image and a caption: mini, or hub (WiT-1024)")] = "mini",
    metric: Annotated[
        str | None, typer.Option(help="mutual_knn (default), cycle_knn, lcs_knn, cka, unbiased_cka or cknna")
    ] = None,
    permutations: Annotated[
        int | None, typer.Option(help="shuffles for chance; default: the protocol's; 0: none", min=0)
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="download and lock the pairs first")] = False,
    folder: Annotated[
        Path | None, typer.Option("--from", help="with --fetch: read the pairs from here instead")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per line")] = False,
) -> None:
    """Measure how similar the features of encoders are to those of language models (alignment, Huh et al. 2024).

    Every block of an encoder is compared with every layer of an LLM: the encoder sees images, the LLM their captions.
    By default the score is the share of nearest neighbours that both have in common, for the pair of layers with the
    largest share. The largest of many pairs grows by chance, so the same value is computed on shuffled captions, too.
    Nothing is trained. If --llm is the hash of a run, its LLM is used as it was after stage 2.

    \b
      mllm-eval align mini-dino,mini-clip,mini-random           three encoders, the miniature's LLM
      mllm-eval align mini-clip --llm mini-llama,afb84f2ff91b   an LLM before and after training in a run
      mllm-eval align webssl-dino1b-full2b-224 --llm llama-3.1-8b --data hub --fetch
    """
    import json
    import sys

    from mllm_eval.alignment.measure import align as measure
    from mllm_eval.alignment.pairs import fetch_pairs
    from mllm_eval.alignment.protocol import load_alignment
    from mllm_eval.alignment.representations import known_language
    from mllm_eval.catalog import load_encoder
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
    encoders_asked, models = [load_encoder(one) for one in split(encoders) or []], split(llm) or []
    for model in models:
        known_language(model)
    shown = display()
    if fetch:
        fetch_pairs(chosen, data, folder, shown)
    results = []
    for encoder in encoders_asked:
        for model in models:
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
