"""`mllm-eval weights` and `mllm-eval data`: download or render files, check them, and lock them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_eval.console import say


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("data", short_help="render or download data, check and lock them")(data)
    app.command("weights", short_help="download weights, check and lock them")(weights)


def weights(
    encoder: Annotated[str | None, typer.Argument(help="name in configs/encoders, or path to a yaml file")] = None,
    llm: Annotated[str | None, typer.Option(help="name in configs/llms, or path to a yaml file")] = None,
    model: Annotated[str | None, typer.Option(help="an external model of the hub, owner/name[@revision]")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="download nothing; check and lock local files")] = False,
    folder: Annotated[Path | None, typer.Option("--from", help="read the files from this folder instead")] = None,
) -> None:
    """Download the pinned weights of an encoder or an LLM, check them against their yaml, and lock them.

    A lock records the revision and the checksum of every file. Later runs read only locked files and need no network.
    A gated LLM is downloaded with your own login (`hf auth login`), which this project neither reads nor writes.

    \b
      mllm-eval weights webssl-dino1b-full2b-224
      mllm-eval weights --llm mini-llama --offline           only check files that are here
    """
    from mllm_eval.catalog import LLM, Encoder, load_encoder, load_llm
    from mllm_eval.cli.display import display
    from mllm_eval.errors import UserError
    from mllm_eval.pipeline.provision import Whole, provide_weights

    chosen: list[Encoder | LLM | Whole] = []
    chosen += [load_encoder(encoder)] if encoder else []
    chosen += [load_llm(llm)] if llm else []
    chosen += [Whole.of(model)] if model else []
    if not chosen:
        raise UserError("say what to fetch: mllm-eval weights ENCODER, or --llm NAME, or both")
    for one in provide_weights(chosen, offline, folder, display()):
        if one.lock is None:
            say(f"{one.name}: ok; {one.place}", *one.notes, sep="\n  ")
            continue
        files, size = len(one.lock.only.files), sum(file.size for file in one.lock.only.files.values())
        say(f"{one.name}: ok; {files} files, {size / 2**30:.2f} GiB, revision {one.lock.revision_found}")
        say(f"  {one.place}", f"locked in {one.lock_file}", *one.notes, sep="\n  ")


def data(
    benchmarks: Annotated[list[str] | None, typer.Argument(help="default: the recipe's data; with --data all")] = None,
    recipe: Annotated[str | None, typer.Option(help="the recipe whose data are made; default: mini")] = None,
    pin: Annotated[str | None, typer.Option("--data", help="source of benchmarks: hub (default), mini, ...")] = None,
    folder: Annotated[Path | None, typer.Option("--from", help="read the files from this folder instead")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="only compare local files with their locks")] = False,
    probe: Annotated[str | None, typer.Option(help="instead: data of these probes, comma-separated, or all")] = None,
) -> None:
    """Render or check the data of a recipe, or download, check and lock the data of benchmarks or probes.

    \b
      mllm-eval data                                     render the miniature's data, or check them
      mllm-eval data --data hub                          download the sixteen benchmarks from the hub
      mllm-eval data chartqa docvqa --from /copies       read two of them from a folder
      mllm-eval data --probe in1k_linear                 download ImageNet-1k from the hub
      mllm-eval data --probe nyu_linear1 --from /nyu     data that may not be redistributed: read your own copy
    """
    from mllm_eval import pipeline
    from mllm_eval.cli.display import display
    from mllm_eval.errors import UserError
    from mllm_eval.storage import data_home

    if probe is not None:
        if benchmarks or recipe is not None:
            raise UserError("--probe cannot be combined with benchmarks or --recipe; leave one of them out")
        pipeline.provide_probes(probe, pin, folder, offline, display())
        return
    asked = [part.strip() for name in benchmarks or [] for part in name.split(",") if part.strip()]
    if asked or pin or folder or offline:
        if recipe is not None:
            raise UserError(
                "--recipe cannot be combined with benchmarks, --data, --from or --offline, because a recipe names "
                "its own data; leave one of them out"
            )
        made = pipeline.provide_benchmarks(asked or None, pin or "hub", folder, offline, display())
    else:
        made = pipeline.provide_data(recipe or "mini", display())
    say(f"{data_home()}: {'made' if made else 'complete, nothing to do'}")
