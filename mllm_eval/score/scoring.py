"""Answers -> scores -> the numbers of the table. Error is not wrong: a failed sample has no score."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.data.samples import Sample
from mllm_eval.score.scorer import Record, Rule, Scorer, load_scorer, protocol, protocol_hash, rules_of
from mllm_eval.shelf import Shelf

FAILED = "failed"
_CRASHES = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Score:
    """A sample's score in [0, 1]; None for a failed sample. parsed is None where nothing could be read."""

    id: str
    score: float | None
    parsed: str | None
    note: str

    def __reduce__(self) -> tuple[type[Score], tuple[str, float | None, str | None, str]]:
        # Many are kept on disk: thrice as fast as what dataclasses do.
        return Score, (self.id, self.score, self.parsed, self.note)


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
) -> Sequence[Score]:
    """The score of every sample, in order, kept on disk; a sample without a prediction (or with None) is failed."""
    rules_of(benchmark, rules)
    rule = load_scorer(benchmark).rules[rules]
    return Shelf(score_one(rule, rules, sample, predictions.get(sample.id)) for sample in samples)


class _Rows(Sequence[tuple[Record, float]]):
    """The records and values of the samples that count: values stand in memory, records where the samples are."""

    def __init__(self, samples: Sequence[Sample], values: Sequence[float]) -> None:
        """`values` are in the order of the samples; those that do not count are NaN."""
        self._samples, self._values = samples, values
        self._length = sum(value == value for value in values)

    def of(self, value: Callable[[Record], float]) -> _Rows:
        """The same records with other values."""
        return _Rows(
            self._samples,
            array("d", (value(sample.record) if own == own else own
                        for sample, own in zip(self._samples, self._values, strict=True))),
        )  # fmt: skip

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[Record, float]]:
        for sample, value in zip(self._samples, self._values, strict=True):
            if value == value:
                yield sample.record, value

    @overload
    def __getitem__(self, index: int) -> tuple[Record, float]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Record, float]]: ...
    def __getitem__(self, index: int | slice) -> tuple[Record, float] | list[tuple[Record, float]]:
        places = [at for at, value in enumerate(self._values) if value == value]
        if isinstance(index, slice):
            return [(self._samples[at].record, self._values[at]) for at in places[index]]
        return self._samples[places[index]].record, self._values[places[index]]


class _Records(Sequence[Record]):
    """The records of rows."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Record]:
        return (record for record, _ in self._rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return [record for record, _ in self._rows[index]] if isinstance(index, slice) else self._rows[index][0]


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
    values = array("d", (math.nan if score.score is None else score.score for score in scores))
    if scorer.group is not None:
        broken = {sample.group for sample, value in zip(samples, values, strict=True) if value != value}
        for at, sample in enumerate(samples):
            if sample.group in broken or (whole is not None and sample.group not in whole):
                values[at] = math.nan
    rows = _Rows(samples, values)
    reported = scorer.report(rules, rows) if rows else {}
    metric, scale = chosen.metric or entry.metric, chosen.scale if chosen.metric else entry.scale
    failed = scored = unparsed = 0
    for score in scores:
        failed += score.score is None and score.note.startswith(FAILED)
        scored += score.score is not None
        unparsed += score.score is not None and score.parsed is None
    return Summary(
        benchmark=benchmark.name,
        rules=rules,
        n=len(scores),
        n_failed=failed,
        n_unparsed=unparsed,
        value=_value(reported, metric, scale),
        reported=reported,
        protocol=protocol(benchmark, rules),
        protocol_hash=protocol_hash(benchmark, rules, variant),
        chance=_chance(benchmark, scorer, rules, rows, metric, scale),
        variant=variant,
        partial=len(rows) < len(scores) or whole is not None,
        n_unscored=len(scores) - failed - scored,
    )


def _value(reported: dict[str, Any], metric: str, scale: float) -> float | None:
    found: Any = reported
    for part in metric.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return None if found is None else float(found) * scale


def _chance(benchmark: Benchmark, scorer: Scorer, rules: str, rows: _Rows, metric: str, scale: float) -> float:
    if rows and scorer.chance is not None and metric == benchmark.rules[rules].metric:
        return scorer.chance(_Records(rows))
    if rows and scorer.guess is not None:
        guessed = scorer.report(rules, rows.of(scorer.guess))
        return _value(guessed, metric, scale) or 0.0
    return benchmark.chance
