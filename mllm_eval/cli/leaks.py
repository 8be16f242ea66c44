"""`mllm-eval leaks`: searches training data for the pictures and questions of benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllm_eval.console import say

if TYPE_CHECKING:
    from mllm_eval.leaks.findings import Findings, Overlapping


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("leaks", short_help="search training data for benchmark pictures and questions")(leaks)


def leaks(
    recipe: Annotated[
        str | None, typer.Argument(help="whose training data are searched: name in configs/recipes, or a yaml file")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="a folder of images, tars or parquet files, or one such file: searched instead "
            "of a recipe's data, or, with a recipe, for its training images"
        ),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="encoder whose features confirm copies: name in configs/encoders, or a yaml file")
    ] = "mini-dino",
    benchmarks: Annotated[str | None, typer.Option(help="comma-separated; default: the sixteen of the paper")] = None,
    data: Annotated[str | None, typer.Option(help="data of the benchmarks; default: the recipe's, else mini")] = None,
    radius: Annotated[int, typer.Option(help="largest distance of candidates' hashes, bits", min=0, max=20)] = 10,
    alarm: Annotated[float, typer.Option(help="false-alarm rate on pairs of different images")] = 0.001,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per benchmark")] = False,
) -> None:
    """Search the training data of a recipe for near-duplicates of benchmark pictures, and for benchmark questions.

    A perceptual hash of 64 bits finds candidates; each benchmark picture is hashed whole, cropped by a tenth, and
    mirrored. A candidate counts as a copy if the similarity of the encoder's features exceeds a threshold. The
    threshold is set on pairs of different images, of which the share --alarm exceeds it. Questions are compared word
    for word, without case and punctuation. The findings are written to results/leaks and change no score. `table
    --leaks` prints scores without the leaked samples next to the scores, and `report` shows both pictures of the
    most similar pairs.

    \b
      mllm-eval leaks mini
      mllm-eval leaks webssl-paper --encoder webssl-dino1b-full2b-224
      mllm-eval leaks --against laion-part/ --benchmarks gqa,textvqa     a folder of images; no questions
      mllm-eval leaks webssl-paper --against laion-part/                 training images that the folder holds, too
      mllm-eval table --leaks training --runs mini-dino                  scores without leaked samples
    """
    from mllm_eval.cli.display import display
    from mllm_eval.cli.options import split
    from mllm_eval.errors import UserError
    from mllm_eval.leaks.matching import Tolerance
    from mllm_eval.pipeline.leakflow import check_leaks, check_overlap

    source = recipe if recipe is not None else against
    if source is None:
        raise UserError("give a recipe, such as `mllm-eval leaks mini`, --against a folder of images, or both")
    shown = display()
    tolerance = Tolerance(radius, alarm)
    if recipe is not None and against is not None:
        if benchmarks is not None or data is not None:
            raise UserError("a recipe with --against compares training images with the folder, and no benchmarks; "
                            "leave out --benchmarks and --data, or one of the two")  # fmt: skip
        overlap = check_overlap(recipe, against, encoder, tolerance=tolerance, reporter=shown)
        say(*([overlap.counts.model_dump_json()] if as_json else overlap_lines(overlap)), sep="\n")
        return
    findings = check_leaks(source, split(benchmarks), data, encoder, tolerance=tolerance, reporter=shown)
    if as_json:
        for counts in findings.benchmarks.values():
            say(counts.model_dump_json())
        return
    say(*lines(findings), sep="\n")


def lines(findings: Findings) -> list[str]:
    """The findings as text: a line about the corpus, one row per benchmark, and lines about what was skipped."""
    every = list(findings.benchmarks.values())
    first = every[0]
    head = f"{'benchmark':<16} {'pictures':>8} {'near':>8} {'copies':>7} "
    head += f"{'samples':>8} {'leaked':>7} {'standing':>9} {'both':>6}"
    said = [f"{first.corpus}: {first.images:,} images; near: pairs of hashes within {first.settings.radius} bits; "
            f"copies: pictures that {first.settings.encoder} confirms", "", head]  # fmt: skip
    for one in every:
        standing = "-" if one.standing is None else f"{one.leaked['questions']:,}"
        said.append(
            f"{one.benchmark:<16} {one.pictures:>8,} {one.candidates:>8,} {one.leaked_pictures:>7,} {one.samples:>8,} "
            f"{one.leaked['pictures']:>7,} {standing:>9} {one.leaked['both']:>6,}"
        )
    said += ["", "leaked: samples on such a picture; standing: samples whose question stands in the training text word "
             "for word; both: in a row with that picture"]  # fmt: skip
    rates = [one.alarm for one in every if one.alarm is not None]
    if rates:
        said.append(f"False alarms: of pairs known to be different, those of one benchmark most alike, a share "
                    f"of {min(rates):.2g} to {max(rates):.2g} passes")  # fmt: skip
    if unsure := [one.benchmark for one in every if one.candidates and one.threshold is None]:
        said.append(f"Not confirmed, since no two pictures are known to be different: {', '.join(unsure)}")
    beyond = {one.benchmark: one.candidates - one.looked_at for one in every if one.candidates > one.looked_at}
    if beyond:
        left = ", ".join(f"{name} ({count:,})" for name, count in beyond.items())
        said.append(f"Pairs that were not looked at, beyond a picture's {first.settings.most} nearest: {left}")
    if first.broken_images or first.broken_rows:
        reasons = "; ".join((*first.broken_rows_first[:1], *first.broken_images_first[:2]))
        said.append(f"Left out: {first.broken_images:,} images or shards and {first.broken_rows:,} rows that can't be "
                    f"read: {reasons}")  # fmt: skip
    for one in every:
        if one.broken_pictures:
            broken = f"{one.broken_pictures:,} pictures can't be decoded: {one.broken_pictures_first[0]}"
            said.append(f"{one.benchmark}: {broken}")
    return [*said, f"Pairs, questions and samples: {findings.folder}"]


def overlap_lines(overlap: Overlapping) -> list[str]:
    """The training images that occur in a folder, as text."""
    one = overlap.counts
    said = [
        f"{one.recipe}: {one.images:,} training images; {one.against}: {one.others:,} images",
        f"{one.candidates:,} pairs of hashes within {one.settings.radius} bits; {one.settings.encoder} confirms "
        f"{one.pairs:,}, of {one.copied:,} training images",
    ]  # fmt: skip
    if one.alarm is not None:
        said.append(f"False alarms: of pairs of different training images, those most alike, a share of "
                    f"{one.alarm:.2g} passes")  # fmt: skip
    elif one.candidates:
        said.append("Not confirmed, since no two training images are known to be different")
    if one.candidates > one.looked_at:
        said.append(f"Pairs that were not looked at, beyond an image's {one.settings.most} nearest: "
                    f"{one.candidates - one.looked_at:,}")  # fmt: skip
    if one.broken_images or one.broken_rows or one.broken_others:
        first = (*one.broken_rows_first[:1], *one.broken_images_first[:1], *one.broken_others_first[:1])
        said.append(
            f"Left out: {one.broken_rows:,} rows, {one.broken_images:,} training images, and {one.broken_others:,} "
            f"images or shards of {one.against} that can't be read: {'; '.join(first)}"
        )
    return [*said, f"Pairs: {overlap.folder / 'pairs.jsonl'}"]
