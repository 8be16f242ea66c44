"""Select the samples that a variant asks: all of a benchmark, or a stratified part of them."""

from __future__ import annotations

from collections.abc import Sequence

from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.catalog.variant import BLIND, DEFAULT, VariantKey
from mllm_eval.data.samples import Sample
from mllm_eval.data.snapshots import load_samples


def asked_samples(benchmark: Benchmark, data: str, variant: VariantKey) -> Sequence[Sample]:
    """Return the samples of a data pin that a variant asks, in the data set's order.

    For `default@1000` these are the samples that `mllm-eval stats subset --size 1000` counts. Each of the 16 benchmarks
    gives a sixteenth of the 1,000, with strata in proportion. Samples that share an image or a group stay together.
    Raises UserError as `load_samples` does.
    """
    samples = load_samples(benchmark, data, VariantKey(variant.name))
    if variant.subset is None:
        return samples
    from mllm_eval.results import strata
    from mllm_eval.stats import part_of_table

    fields: dict[str, list[str]] = {"id": [], "group": [], "cluster": []}
    named: list[str | None] = []
    for sample in samples:
        for key, values in fields.items():
            values.append(getattr(sample, key))
        named.append(stratum_of(benchmark, sample))
    chosen = part_of_table(fields["cluster"], strata(benchmark.name, named, fields), variant.subset, benchmark.name)
    return [sample for sample, asked in zip(samples, chosen, strict=True) if asked]


def stratum_of(benchmark: Benchmark, sample: Sample) -> str | None:
    """Return the value of the field that the benchmark's setting `stratum` names; None without the setting."""
    stratum = sample.record.get(benchmark.settings.get("stratum", ""))
    return None if stratum is None else str(stratum)


def subset_words(size: int | None, of_table: int | None, benchmarks: int) -> str:
    """Return the sentence about a subset: how many questions each benchmark gives, and the option that shows it."""
    return (f"a subset of {size:,} of {benchmarks} benchmarks is {(size or 0) // benchmarks:,} of each, as the table's "
            f"subset of {of_table:,} has them; `--subset {of_table}` shows its rows")  # fmt: skip


def shown_variants(blind: bool = False, subset: int | None = None, whole: bool = False) -> list[VariantKey]:
    """Return the variants that a table shows, of all questions or of a subset.

    With both `subset` and `whole`, the variants of all questions come first and those of the subset follow.
    """
    plain = [DEFAULT, BLIND] if blind else [DEFAULT]
    parts = [VariantKey.of(one.name, subset) for one in plain]
    return list(dict.fromkeys([*(plain if whole else []), *parts]))
