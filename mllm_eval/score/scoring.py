"""Answers -> scores -> the numbers of the table. Error is not wrong: a failed sample has no score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.data.samples import Sample
from mllm_eval.score.scorer import Record, Rule, Scorer, load_scorer, protocol, protocol_hash, rules_of

FAILED = "failed"
_CRASHES = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Score:
    """A sample's score in [0, 1]; None for a failed sample. parsed is None where nothing could be read."""

    id: str
    score: float | None
    parsed: str | None
    note: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A benchmark's numbers under a rule set.

    value: on the scale that the paper prints (MME: perception, 0-2000); None where nothing could be counted.
    n_failed: samples without an answer, which no number counts. n_unparsed: scored, but nothing could be read.
    chance: the value of blind guessing, from these very samples where the scorer can say it.
    n_unscored: samples whose gold is hidden.
    partial: some samples or members of groups are missing; groups that are not whole count nowhere.
    """

    benchmark: str
    rules: str
    n: int
    n_failed: int
    n_unparsed: int
    value: float | None
    reported: dict[str, Any]
    protocol: str
    protocol_hash: str
    chance: float
    variant: str = "default"
    partial: bool = False
    n_unscored: int = field(default=0)


def score_samples(
    benchmark: Benchmark, rules: str, samples: Sequence[Sample], predictions: Mapping[str, str | None]
) -> list[Score]:
    """The score of every sample, in order; a sample without a prediction (or with None) is failed."""
    rules_of(benchmark, rules)
    rule = load_scorer(benchmark).rules[rules]
    return [score_one(rule, rules, sample, predictions.get(sample.id)) for sample in samples]


def score_one(rule: Rule, rules: str, sample: Sample, prediction: str | None) -> Score:
    """One sample's score. Where the rule fails, as the original does in places, it is 0 with a note."""
    if prediction is None:
        return Score(sample.id, None, None, f"{FAILED}: no prediction")
    try:
        score, parsed, note = rule(sample.record, prediction)
    except _CRASHES as error:
        return Score(sample.id, 0.0, None, f"the {rules} rule fails here: {type(error).__name__}: {error}")
    if parsed is not None:
        # A lone surrogate, legal in JSON, can't be written as UTF-8.
        parsed = parsed[:200].encode("utf-8", "replace").decode()
    return Score(sample.id, score, parsed, note)


def summarize(
    benchmark: Benchmark,
    rules: str,
    samples: Sequence[Sample],
    scores: Sequence[Score],
    variant: str = "default",
    whole: set[str] | None = None,
) -> Summary:
    """The numbers over scored samples; of a benchmark that scores groups, over whole groups only.

    `whole` names the groups that are whole; by default those all of whose samples have a score.
    """
    scorer, entry, chosen = load_scorer(benchmark), rules_of(benchmark, rules), benchmark.variant(variant)
    broken = {sample.group for sample, score in zip(samples, scores, strict=True) if score.score is None}
    rows = []
    for sample, score in zip(samples, scores, strict=True):
        alone = scorer.group is None or (sample.group not in broken and (whole is None or sample.group in whole))
        if score.score is not None and alone:
            rows.append((sample.record, score.score))
    reported = scorer.report(rules, rows) if rows else {}
    metric, scale = chosen.metric or entry.metric, chosen.scale if chosen.metric else entry.scale
    failed = sum(score.score is None and score.note.startswith(FAILED) for score in scores)
    scored = [score for score in scores if score.score is not None]
    return Summary(
        benchmark=benchmark.name,
        rules=rules,
        n=len(scores),
        n_failed=failed,
        n_unparsed=sum(score.parsed is None for score in scored),
        value=_value(reported, metric, scale),
        reported=reported,
        protocol=protocol(benchmark, rules),
        protocol_hash=protocol_hash(benchmark, rules, variant),
        chance=_chance(benchmark, scorer, rules, [record for record, _ in rows], metric, scale),
        variant=variant,
        partial=len(rows) < len(scores) or whole is not None,
        n_unscored=len(scores) - failed - len(scored),
    )


def _value(reported: dict[str, Any], metric: str, scale: float) -> float | None:
    found: Any = reported
    for part in metric.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return None if found is None else float(found) * scale


def _chance(
    benchmark: Benchmark, scorer: Scorer, rules: str, records: list[Record], metric: str, scale: float
) -> float:
    if records and scorer.chance is not None and metric == benchmark.rules[rules].metric:
        return scorer.chance(records)
    if records and scorer.guess is not None:
        guessed = scorer.report(rules, [(record, scorer.guess(record)) for record in records])
        return _value(guessed, metric, scale) or 0.0
    return benchmark.chance
