"""Find faults of a benchmark's data and scorer before any long computation begins."""

from __future__ import annotations

from collections.abc import Sequence

from mllm_eval.catalog import Benchmark
from mllm_eval.catalog.variant import VariantKey
from mllm_eval.data.snapshots import first_sample, load_samples
from mllm_eval.pipeline.runscores import DataStates, answered, settled
from mllm_eval.run import RunFolder


def unsettled(
    run: RunFolder, benchmark: Benchmark, variants: Sequence[VariantKey], states: DataStates
) -> list[VariantKey]:
    """Return the variants that may still lack answers or scores, after trying the scorer on their data.

    The state of their data is recorded in `states`. Raises UserError as `rehearse` does.
    """
    from mllm_eval.score import load_scorer

    load_scorer(benchmark)
    left = [variant for variant in variants if not settled(run, benchmark, variant, states)]
    for variant in left:
        states.of(benchmark, variant)
    if left:
        # Where everything is answered, scoring follows at once, so one row is enough to try the scorer on.
        whole = not all(answered(run, benchmark, variant) for variant in left)
        rehearse(benchmark, run.data, left, whole)
    return left


def rehearse(benchmark: Benchmark, pin: str, variants: Sequence[VariantKey], whole: bool = True) -> None:
    """Try a benchmark's scorer on all rows of local data with `whole`, else on the first row.

    Hub data are locked, so their first row is enough in both cases.

    Raises:
        UserError: rows that can't be read, or a scorer that can't score them.
    """
    from mllm_eval.score.trial import try_scorer

    for name in dict.fromkeys(benchmark.pin_name(pin, variant) for variant in variants):
        own = [variant for variant in variants if benchmark.pin_name(pin, variant) == name]
        if whole and benchmark.data[name].source == "local":
            try_scorer(benchmark, load_samples(benchmark, pin, own[0]), own, whole=True)
        else:
            try_scorer(benchmark, [first_sample(benchmark, pin, own[0])], own, whole=False)
