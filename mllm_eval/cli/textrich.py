"""`mllm-eval miniature text-rich`: what pretraining on pictures with text changes, as in the Web-SSL paper."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllm_eval.console import say

if TYPE_CHECKING:
    from mllm_eval.miniature.textrich import Pool
    from mllm_eval.results import RunRecord


def text_rich(
    corpora: Annotated[
        str, typer.Option(help="two or more, comma-separated; the first is the baseline")
    ] = "none,heavy",
    seeds: Annotated[str, typer.Option(help="of pretraining and training, comma-separated")] = "0,1",
    steps: Annotated[int, typer.Option(min=1, help="of each pretraining")] = 4200,
    blind: Annotated[bool, typer.Option("--blind", help="also ask without images")] = False,
) -> None:
    """Pretrain mini-dino on each corpus with each seed, and compare VQA and probes. Takes hours; can be interrupted.

    It repeats the Web-SSL paper's comparison in small: an encoder pretrained on all pictures against one pretrained on
    text-rich pictures, with the same number of images seen. Each seed gives a table of rows and one of probes, with
    tests. One more table and a plot show what the other corpus changes, for each seed and over all of them. All go to
    results/tables/text-rich*. A pretraining may also be made before, by `mllm-eval miniature weights --corpus heavy
    --seed 1`, for instance two at the same time.

    \b
      mllm-eval miniature corpus --level none
      mllm-eval miniature corpus --level heavy
      mllm-eval miniature text-rich                        needs both corpora
    """
    from functools import partial

    from mllm_eval import pipeline
    from mllm_eval.cli.display import display
    from mllm_eval.cli.options import split
    from mllm_eval.cli.writing import print_and_write, table_of
    from mllm_eval.errors import UserError
    from mllm_eval.library.compared import compare
    from mllm_eval.miniature.textrich import load_pool
    from mllm_eval.report import read_scored
    from mllm_eval.report.corpustable import corpus_gaps, corpus_table
    from mllm_eval.report.probetable import probe_table
    from mllm_eval.report.site.plots import corpus_changes
    from mllm_eval.report.site.visionplots import write_svg
    from mllm_eval.report.tableoptions import TableOptions
    from mllm_eval.storage import results_home

    chosen = [load_pool(name) for name in split(corpora) or []]
    numbers = [int(seed) if seed.isdigit() else -1 for seed in split(seeds) or []]
    if len(chosen) < 2 or min(numbers, default=-1) < 0:
        raise UserError("two corpora at least (none,heavy), and seeds that are whole numbers (0,1)")
    made = {seed: [str(_encoder(pool, seed, steps)) for pool in chosen] for seed in numbers}
    records: dict[str, list[RunRecord]] = {pool.name: [] for pool in chosen}
    for seed, paths in made.items():
        baseline = Path(paths[0]).stem
        comparison = compare(paths, progress=display(), recipe="mini", seed=seed, blind=blind, baseline=baseline)
        own = [one.record for one in comparison.results]
        for pool, record in zip(chosen, own, strict=True):
            records[pool.name].append(record)
        say(f"seed {seed}")
        print_and_write(table_of(own, TableOptions("cambrian", baseline), blind), f"text-rich-s{seed}", "cambrian")
        probed = pipeline.probe(paths, None, reporter=display())
        print_and_write(probe_table(probed), f"text-rich-s{seed}.probes", "cambrian")
    runs = {name: [read_scored(record, "cambrian") for record in own] for name, own in records.items()}
    gaps = corpus_gaps(runs)
    print_and_write(corpus_table(runs, gaps), "text-rich", "cambrian")
    path = results_home() / "tables" / "text-rich.svg"
    if (drawn := write_svg(path, "text-rich", partial(corpus_changes, gaps))) is not None:
        say(f"drawn: {drawn}", file=sys.stderr)


def _encoder(pool: Pool, seed: int, steps: int) -> Path:
    """Pretrains mini-dino on a corpus, unless that is done; the yaml that describes the encoder."""
    import yaml

    from mllm_eval.miniature.pretrain.make import make
    from mllm_eval.storage import results_home, write_atomic

    name = f"mini-dino-{pool.name}-s{seed}"
    folder = results_home() / "mini-weights" / f"{pool.name}-s{seed}"
    make(folder / "work", ("mini-dino",), folder, steps={"mini-dino": steps}, pool=pool, seed=seed)
    path = results_home() / "corpora" / "encoders" / f"{name}.yaml"
    about = {"base": "package:configs/encoders/mini-dino.yaml", "name": name,
             "weights": {"path": str(folder / "mini-dino")},
             "facts": {"pretraining_data": f"rendered miniature images, filter {pool.name}",
                       "samples_seen": str(64 * steps), "supervision": "self"}}  # fmt: skip
    write_atomic(path, yaml.safe_dump(about, sort_keys=False))
    return path
