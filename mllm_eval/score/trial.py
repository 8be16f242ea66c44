"""Tries a scorer on its data set before a long computation, so that it does not fail after the training."""

from __future__ import annotations

from collections.abc import Sequence

from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.catalog.variant import VariantKey
from mllm_eval.data.samples import Sample
from mllm_eval.score.records import check_fields
from mllm_eval.score.scorer import load_scorer
from mllm_eval.score.scoring import score_one, summarize


def try_scorer(benchmark: Benchmark, samples: Sequence[Sample], variants: Sequence[VariantKey], whole: bool) -> None:
    """Score the first sample under every rule set, with its gold answer, a letter and an empty text.

    With `whole`, `samples` are the complete data set, and the reports of the variants are computed as well, as if
    every sample had the first one's score.

    Raises:
        UserError: a needed field is missing, a function of the scorer fails or returns something that is not a score,
            or the report lacks the yaml's `metric`.
    """
    scorer, first = load_scorer(benchmark), samples[0]
    check_fields(scorer, first.record, f"{benchmark.name}, sample '{first.id}'")
    for rules in benchmark.rules:
        scores = [score_one(benchmark, scorer, rules, first, said) for said in (first.target, "A", "")]
        for variant in variants if whole else ():
            summarize(benchmark, rules, samples, [scores[0]] * len(samples), variant)
