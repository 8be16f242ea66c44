"""A scorer tried on the data set it is for, before anything long is begun: it must not fail after the training."""

from __future__ import annotations

from collections.abc import Sequence

from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.catalog.variant import VariantKey
from mllm_eval.data.samples import Sample
from mllm_eval.score.records import check_fields
from mllm_eval.score.scorer import load_scorer
from mllm_eval.score.scoring import score_one, summarize


def try_scorer(benchmark: Benchmark, samples: Sequence[Sample], variants: Sequence[VariantKey], whole: bool) -> None:
    """Score the first sample by every rule set, answered by its gold, by a letter and by nothing.

    With `whole`, `samples` are all of the data set, and the reports that the variants show are made of them too, as
    if each had the first one's score.

    Raises:
        UserError: a field that the scorer needs is missing, a function of it fails or gives what is no score, or the
            report lacks what the yaml calls its `metric`.
    """
    scorer, first = load_scorer(benchmark), samples[0]
    check_fields(scorer, first.record, f"{benchmark.name}, sample '{first.id}'")
    for rules in benchmark.rules:
        scores = [score_one(benchmark, scorer, rules, first, said) for said in (first.target, "A", "")]
        for variant in variants if whole else ():
            summarize(benchmark, rules, samples, [scores[0]] * len(samples), variant)
