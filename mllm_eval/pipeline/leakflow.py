"""Search training data for benchmark pictures and questions: provide missing data, then search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_eval.catalog import (
    Benchmark,
    Encoder,
    Given,
    Recipe,
    load_benchmark,
    load_encoder,
    load_recipe,
    paper_benchmarks,
)
from mllm_eval.environment import settings
from mllm_eval.leaks.check import find_leaks
from mllm_eval.leaks.corpora import existing
from mllm_eval.leaks.findings import Findings, Overlapping
from mllm_eval.leaks.matching import USUAL, Tolerance
from mllm_eval.leaks.overlap import find_overlap
from mllm_eval.leaks.sources import hold_in_range
from mllm_eval.pipeline.reporter import Reporter, Silent
from mllm_eval.pipeline.sources import folders_of, needed, provide


@settings()
def check_leaks(
    source: str | Mapping[str, Any] | Recipe | Path,
    benchmarks: Sequence[Given | Benchmark] | None = None,
    pin: str | None = None,
    encoder: Given | Encoder = "mini-dino",
    *,
    tolerance: Tolerance = USUAL,
    reporter: Reporter | None = None,
) -> Findings:
    """Search a recipe's training data, or a folder of images, for the images and questions of benchmarks.

    Missing data that this installation can render are rendered first.

    Args:
        source: a recipe (a name, a dict, or the object), or the `Path` of a folder of images, tar shards or parquet
            files, or of one such file. A `Path` has no text, so only images are searched.
        benchmarks: default: the paper's sixteen.
        pin: the data pin of the benchmarks; default: the recipe's, or `mini` for a folder.
        encoder: the encoder whose summaries confirm candidates.
        tolerance: how similar the hashes and features of a pair must be.

    Raises:
        UserError: missing data or library, no readable images, or a value out of range.
    """
    listener = reporter or Silent()
    hold_in_range(tolerance)
    named = [load_benchmark(one) for one in benchmarks or paper_benchmarks()]
    encoder = load_encoder(encoder)
    if isinstance(source, Path):
        existing(source)
        pin = pin or "mini"
        provide(folders_of(named, pin), listener)
    else:
        source = load_recipe(source)
        pin = pin or source.data
        provide([*needed(source, True, []), *folders_of(named, pin)], listener)
    return find_leaks(source, named, pin, encoder, tolerance=tolerance, step=listener.step, say=listener.say)


@settings()
def check_overlap(
    recipe: str | Mapping[str, Any] | Recipe,
    against: Path,
    encoder: Given | Encoder = "mini-dino",
    *,
    tolerance: Tolerance = USUAL,
    reporter: Reporter | None = None,
) -> Overlapping:
    """Search a folder of images for the training images of a recipe; see `mllm_eval.leaks.overlap.find_overlap`.

    Missing data that this installation can render are rendered first.

    Raises:
        UserError: missing data or library, no readable images, or a value out of range.
    """
    listener = reporter or Silent()
    hold_in_range(tolerance)
    recipe, encoder = load_recipe(recipe), load_encoder(encoder)
    existing(against)
    provide(needed(recipe, True, []), listener)
    return find_overlap(recipe, against, encoder, tolerance=tolerance, step=listener.step, say=listener.say)
