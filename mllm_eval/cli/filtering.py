"""`mllm-eval filter`: keeps the web images in which a multimodal model sees readable text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mllm_eval.console import say

if TYPE_CHECKING:
    from mllm_eval.filtering import Filtered
    from mllm_eval.filtering.throughput import Projection


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("filter", short_help="keep the images of a corpus that contain readable text")(filter_)


def filter_(
    images: Annotated[Path, typer.Option(help="folder of tars, parquet files or images; or one tar or parquet")],
    model: Annotated[
        str, typer.Option(help="a run (hash, name, encoder), a folder of the hub's format, or owner/name")
    ],
    level: Annotated[str, typer.Option(help="the question: light, heavy (configs/filters), or a yaml file")] = "light",
    out: Annotated[Path | None, typer.Option(help="folder; default: results/filter/CORPUS.LEVEL.MODEL")] = None,
    write: Annotated[str, typer.Option(help="index (keys of kept images), or shards (also the images)")] = "index",
    threshold: Annotated[float | None, typer.Option(help="least p(yes) of a kept image; default: the level's")] = None,
    label: Annotated[
        str | None, typer.Option(help="field of the .json, or parquet column, with true labels to measure agreement")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="parquet column of the images, if several fit")] = None,
    batch: Annotated[int | None, typer.Option(help="images per batch; default: 16, on a GPU 64", min=1)] = None,
    dtype: Annotated[str | None, typer.Option(help="of an external model; default: float32")] = None,
    server: Annotated[str | None, typer.Option(help="address of a vLLM server of the run's LLM: docs/vllm.md")] = None,
    ray: Annotated[str | None, typer.Option(help="run on Ray: local, or the address of a cluster")] = None,
    workers: Annotated[int | None, typer.Option(help="with --ray: number of workers; default: 2", min=1)] = None,
    gpus: Annotated[str, typer.Option(help="of the estimate: number and name, as in configs/gpus.yaml")] = "8xH100",
    mfu: Annotated[float, typer.Option(help="assumed share of the GPUs' peak FLOPs", min=0.01, max=1)] = 0.4,
    price: Annotated[float, typer.Option(help="of one GPU hour, in any currency", min=0)] = 2.5,
    pictures: Annotated[str, typer.Option(help="of the estimate: number of images")] = "2B",
    report: Annotated[bool, typer.Option("--report/--no-report", help="write a page with examples")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Ask a multimodal model one yes/no question about every image of a corpus, and keep the images with answer yes.

    p(yes) = P(yes) / (P(yes) + P(no)) of the answer's first token, summed over all spellings of yes and no in the
    vocabulary. This takes one forward pass per image; no text is generated. Written for each shard: a table of
    decisions (key, p_yes, mass = P(yes) + P(no), decision, reason), the keys of kept images and, with --write shards,
    the kept images. Broken images, repeated keys, missing captions and truncated tars are counted and named, and the
    other images are still filtered. A filter that was stopped continues where it was. At the end it estimates time and
    cost of a larger corpus (--pictures) on other GPUs (--gpus).

    \b
      mllm-eval filter --images corpus/ --level heavy --model mini-dino-reader
      mllm-eval filter --images 00000.tar --level light --model HuggingFaceTB/SmolVLM2-500M-Video-Instruct
      mllm-eval filter --images corpus/ --level heavy --model HASH --write shards --label document
      mllm-eval filter --images corpus/ --level light --model HASH --ray local --workers 2
    """
    from mllm_eval.catalog.level import load_level
    from mllm_eval.cli.display import display
    from mllm_eval.cli.planning import count
    from mllm_eval.config import short_hash
    from mllm_eval.data.shards import name_of
    from mllm_eval.environment import settings
    from mllm_eval.errors import UserError
    from mllm_eval.filtering import (
        FilterQuestion,
        FilterSettings,
        Places,
        Work,
        filter_corpus,
        filtering_model,
        open_corpus,
    )
    from mllm_eval.filtering.throughput import project
    from mllm_eval.plan.gpus import parse_gpus
    from mllm_eval.storage import results_home

    if write not in ("index", "shards"):
        raise UserError(f"--write {write}: index or shards")
    if workers is not None and ray is None:
        raise UserError("--workers goes with --ray local, or the address of a cluster")
    parse_gpus(gpus)
    many = count(pictures) or 0
    with settings():
        corpus, chosen = open_corpus(images), load_level(level)
        question = FilterQuestion.of(filtering_model(model, dtype), chosen, threshold, batch, server)
        stem = f"{name_of(corpus.place.resolve().name).partition('.')[0]}.{chosen.name}.{question.model.hash}"
        places = Places((out or results_home() / "filter" / stem).absolute())
        # The column can change every decision. It is left out if not given, which keeps the keys of earlier filters.
        identity = question.config() | ({} if image_column is None else {"image_column": image_column})
        asked = FilterSettings(short_hash(identity), question.threshold, label, image_column, write == "shards")
        published = None if chosen.published is None else chosen.published.share
        config = {**identity, "label": label, "published": published}
        work = Work(corpus, asked, places, config, question.load)
        do = None
        if ray is not None:
            from mllm_eval.filtering.onray import on_ray

            do = on_ray(ray, workers or 2)
        shown = display()
        with shown.step(f"filter: {corpus.place.name}, {chosen.name}") as progress:
            made = filter_corpus(work, do, progress)
        projected = project(made, question.model, many, gpus, mfu, price)
        if report:
            from mllm_eval.filtering.page import write_page

            with shown.step("report"):
                write_page(made, corpus, chosen, projected, image_column)
    if as_json:
        say(json.dumps(result(made, projected), ensure_ascii=False))
        return
    for line in said(made, projected):
        say(line)


def result(made: Filtered, projected: Projection | None) -> dict[str, Any]:
    """The object that --json prints: output folder, counts, and the estimate for a larger corpus (or None)."""
    from mllm_eval.filtering.corpusrun import summary

    return {"out": str(made.out), **summary(made), "projection": None if projected is None else projected.to_dict()}


def said(made: Filtered, projected: Projection | None) -> list[str]:
    """The lines that are printed without --json."""
    from mllm_eval.filtering.gone import GONE
    from mllm_eval.filtering.reading import FAULTS

    tally, about = made.tally, made.about
    seen = tally.judged + tally.failed
    lines = [f"{seen:,} images in {made.shards:,} shards: {tally.kept:,} kept, {tally.dropped:,} dropped, "
             f"{tally.failed:,} failed"]  # fmt: skip
    for kind, fault in sorted(tally.faults.items()):
        lines.append(f"{fault.count:,} {FAULTS[kind]}, the first: {fault.first[0]}")
    if made.gone:
        lines.append(f"{made.gone:,} shards that are no longer in the corpus do not count; their files: "
                     f"{made.out / GONE}")  # fmt: skip
    if made.left_out:
        lines.append(f"{len(made.left_out):,} parquet files taken for metadata, the first: {made.left_out[0]}")
    for word in ("yes", "no"):
        if word in about:
            lines.append(f"{word}: {', '.join(map(repr, about[word]))}")
    if tally.judged and tally.little > tally.judged / 2:
        lines.append(f"of {tally.little:,} answers less than half of the first token is yes or no: this model does "
                     "not answer the question")  # fmt: skip
    lines += [] if projected is None else projected.lines()
    lines += agreed(made)
    page = made.out / "report.html"
    lines.append(f"written: {page if page.is_file() else made.out}")
    return lines


def agreed(made: Filtered) -> list[str]:
    """Lines with the share of kept images, the published share, and the agreement with labels, if there are any."""
    from mllm_eval.filtering.agreement import agreement, share
    from mllm_eval.filtering.page import interval, percent

    kept, quality = share(made.tally.kept, made.tally.judged), agreement(made.tally)
    published = made.config.get("published")
    beside = "" if published is None else f"; published: {percent(published)}"
    lines = [] if kept.value is None else [f"kept: {percent(kept.value)} {interval(kept)}{beside}"]
    if quality is not None:
        area = "" if quality.area is None else f", area under ROC {quality.area:.3f}"
        lines.append(f"against the labels: precision {percent(quality.precision.value)} {interval(quality.precision)}, "
                     f"recall {percent(quality.recall.value)} {interval(quality.recall)}, "
                     f"calibration error {quality.error:.3f}{area}")  # fmt: skip
    return lines


def said_index(out: Path) -> list[str]:
    """The kept keys of a filtered corpus, in the order of its shards."""
    # Not splitlines, which also splits at signs that a key may hold.
    return [key for path in sorted((out / "kept").rglob("*.txt"))
            for key in path.read_text("utf-8").split("\n")[:-1]]  # fmt: skip
