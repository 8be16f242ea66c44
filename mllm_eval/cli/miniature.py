"""`mllm-eval miniature`: renders the miniature's data and pretrains its weights, also on filtered pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllm_eval.cli.textrich import text_rich
from mllm_eval.console import say

# Names that the corpus records for its filter if no model filters: levels light and heavy, and level none.
WHO = ("its labels", "nobody")

app = typer.Typer(
    help="Render the data of the miniature (the small test setup), or pretrain its weights, also on filtered pictures.",
    short_help="render the miniature's data, pretrain its weights",
    no_args_is_help=True,
)


@app.command(short_help="render the training sets and benchmarks")
def build() -> None:
    """Render the miniature's training sets and its 16 benchmarks into the data folder, and print where they are."""
    from mllm_eval.miniature.build import build as build_data
    from mllm_eval.storage import data_home

    build_data(data_home())
    say(data_home() / "miniature")


@app.command(short_help="pretrain encoders and LLM from scratch; takes hours")
def weights(
    only: Annotated[str, typer.Option(help="models, comma-separated; default: all, with --corpus mini-dino")] = "",
    out: Annotated[Path | None, typer.Option(help="folder to write to; default: results/mini-weights")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; another number gives other weights")] = 1,
    corpus: Annotated[str | None, typer.Option(help="for mini-dino: none, light, heavy, or a folder of keys")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="default: mini-dino 4200, mini-clip 3000")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of mini-dino")] = 0,
) -> None:
    """Pretrain the miniature's encoders and LLM from scratch. This takes hours on two cores, and can be interrupted.

    The weights that the package ships are not changed; to replace them, copy the new ones to
    mllm_eval/miniature/weights. With --corpus, mini-dino is pretrained on the pictures that a filter kept (`mllm-eval
    miniature corpus`) instead of newly rendered ones, with the same number per step, and its weights are written to
    results/mini-weights/CORPUS-sSEED.

    \b
      mllm-eval miniature weights
      mllm-eval miniature weights --corpus heavy --steps 4200 --seed 1
    """
    from mllm_eval.miniature.pretrain.make import NAMES, make
    from mllm_eval.miniature.textrich import KEYS, LEVELS, corpora, keep, load_pool, true_keys
    from mllm_eval.storage import results_home

    if corpus in LEVELS and not (corpora() / corpus / KEYS).is_file():
        keep(corpus, true_keys(corpus), WHO[corpus == "none"])
    pool = None if corpus is None else load_pool(corpus)
    names = tuple(only.split(",")) if only else ("mini-dino",) if pool is not None else NAMES
    home = results_home() / "mini-weights"
    folder = out or (home if pool is None else home / f"{pool.name}-s{seed}")
    many = None if steps is None else {"mini-dino": steps, "mini-clip": steps}
    make(folder / "work", names, folder, threads, many, pool, seed)


@app.command(short_help="render pretraining pictures and filter them")
def corpus(
    level: Annotated[str, typer.Option(help="filter: none, light or heavy")] = "none",
    model: Annotated[str | None, typer.Option(help="hash of the run that filters; default: true labels")] = None,
) -> None:
    """Render 24,000 pretraining pictures as WebDataset tars (data/corpus), and list those that a filter keeps.

    By default the filter uses the true labels of the pictures. With --model, the run is asked about every picture, as
    `mllm-eval filter` does. The list is written to results/corpora/LEVEL, where `mllm-eval miniature weights` reads it.

    \b
      mllm-eval miniature corpus --level none                  every picture
      mllm-eval miniature corpus --level heavy                 by true labels
      mllm-eval train mini-dino --recipe mini-reader           train a model that can filter
      mllm-eval miniature corpus --level heavy --model HASH    by the answers of that model
    """
    from mllm_eval.cli.filtering import filter_, said_index
    from mllm_eval.errors import UserError, near
    from mllm_eval.miniature.textrich import LABELS, LEVELS, build, keep, true_keys
    from mllm_eval.storage import results_home

    if level not in LEVELS:
        raise UserError(f"--level {level}: unknown.{near(level, LEVELS)} Known: {', '.join(LEVELS)}")
    place = build()
    say(place)
    if model is None or level == "none":
        folder = keep(level, true_keys(level), WHO[level == "none"])
    else:
        out = results_home() / "filter" / f"corpus.{level}.{model}"
        filter_(place, model, level, out, label=LABELS[level])
        folder = keep(level, said_index(out), f"run {model}")
    say(folder)


app.command("text-rich", short_help="compare pretraining on all and on text-rich pictures; takes hours")(text_rich)
