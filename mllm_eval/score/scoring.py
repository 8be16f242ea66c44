"""Turns answers into scores and table values. A failed sample has no score, and is not counted as wrong."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, overload

from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.data.samples import Sample
from mllm_eval.errors import UserError, near
from mllm_eval.score.scorer import (
    Record,
    ScorerModule,
    load_module,
    load_scorer,
    own_code,
    protocol,
    protocol_hash,
    rules_of,
)

FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Score:
    """A sample's score in [0, 1]; None for a failed sample. parsed is None if nothing could be read."""

    id: str
    score: float | None
    parsed: str | None
    note: str

    def __reduce__(self) -> tuple[type[Score], tuple[str, float | None, str | None, str]]:
        # Many scores are pickled to disk; this is three times as fast as the default of dataclasses.
        return Score, (self.id, self.score, self.parsed, self.note)


@dataclass(frozen=True, slots=True)
class Summary:
    """A benchmark's numbers under a rule set.

    value: on the paper's scale (MME: perception, 0-2000); None if nothing could be counted.
    n: all samples. n_failed: samples without an answer, which no number counts. n_unparsed: scored samples from whose
        answer nothing could be read.
    chance: value of blind guessing, computed from these samples if the scorer can do that.
    n_unscored: samples whose gold answer is hidden. n_empty: answers without a visible character; they count as
        answers, because the model ended at once.
    partial: some samples or members of groups are missing; incomplete groups are not counted.
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
    variant: str = DEFAULT.name
    partial: bool = False
    n_unscored: int = field(default=0)
    n_empty: int = field(default=0)


def score_samples(
    benchmark: Benchmark, rules: str, samples: Sequence[Sample], predictions: Mapping[str, str | None]
) -> Sequence[Score]:
    """Score every sample, in order. A sample without a prediction (or with None) is failed.

    Raises UserError as `score_one` does.
    """
    rules_of(benchmark, rules)
    scorer = load_scorer(benchmark)
    return [score_one(benchmark, scorer, rules, sample, predictions.get(sample.id)) for sample in samples]


def _place(benchmark: Benchmark, function: Any) -> str:
    """File and line where a scorer's function is defined."""
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else str(load_module(benchmark).__file__)


def _no_score(result: Any) -> str:
    """What is wrong with the return value of a rule; empty if it is valid."""
    if not isinstance(result, tuple | list) or len(result) != 3:
        return repr(result)[:80]
    score, parsed, note = result
    if score is not None and not (isinstance(score, Real) and 0 <= float(score) <= 1):
        return f"the score {score!r}"
    if parsed is not None and not isinstance(parsed, str):
        return f"{parsed!r} as what was parsed"
    return "" if isinstance(note, str) else f"{note!r} as its note"


class _Rows(Sequence[tuple[Record, float]]):
    """The (record, value) of all samples that count. Values are in memory; records are read from the samples."""

    def __init__(self, samples: Sequence[Sample], values: Sequence[float]) -> None:
        """values: one per sample, NaN for samples that do not count."""
        self._samples, self._values = samples, values
        self._length = sum(value == value for value in values)

    def of(self, value: Callable[[Record], float]) -> _Rows:
        """The same records with the values that a function gives."""
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
    """Only the records of `_Rows`."""

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


def score_one(benchmark: Benchmark, scorer: ScorerModule, rules: str, sample: Sample, prediction: str | None) -> Score:
    """Score one sample.

    Raises:
        UserError: the rule fails, or returns something that is not a score.
    """
    if prediction is None:
        return Score(sample.id, None, None, f"{FAILED}: no prediction")
    with own_code(benchmark, f"rule '{rules}' on sample '{sample.id}'"):
        outcome = scorer.rules[rules](sample.record, prediction)
    if problem := _no_score(outcome):
        said = f"rule '{rules}' on sample '{sample.id}' gives {problem}"
        wanted = "expected (score from 0 to 1, what was parsed or None, a note)"
        raise UserError(f"{_place(benchmark, scorer.rules[rules])}: {benchmark.name}: {said}; {wanted}")
    score, parsed, note = outcome
    score = None if score is None else float(score)
    if parsed is not None:
        # A lone surrogate, which JSON allows, can't be written as UTF-8.
        parsed = parsed[:200].encode("utf-8", "replace").decode()
    return Score(sample.id, score, parsed, note)


def summarize(
    benchmark: Benchmark,
    rules: str,
    samples: Sequence[Sample],
    scores: Sequence[Score],
    variant: VariantKey = DEFAULT,
    whole: set[str] | None = None,
    empty: int = 0,
) -> Summary:
    """Compute a benchmark's numbers from scores. If it scores groups, only complete groups count.

    whole: names of the complete groups; by default all groups whose samples all have a score. empty: number of empty
    answers (`count_empty`). Raises UserError if the scorer's functions fail or return something unexpected.
    """
    scorer, entry, chosen = load_scorer(benchmark), rules_of(benchmark, rules), benchmark.variant(variant)
    values = array("d", (math.nan if score.score is None else score.score for score in scores))
    if scorer.group is not None:
        broken = {sample.group for sample, value in zip(samples, values, strict=True) if value != value}
        for at, sample in enumerate(samples):
            if sample.group in broken or (whole is not None and sample.group not in whole):
                values[at] = math.nan
    rows = _Rows(samples, values)
    reported = _reported(benchmark, scorer, rules, rows) if rows else {}
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
        value=_value(benchmark, reported, metric, scale) if rows else None,
        reported=reported,
        protocol=protocol(benchmark, rules),
        protocol_hash=protocol_hash(benchmark, rules, variant),
        chance=_chance(benchmark, scorer, rules, rows, metric, scale),
        variant=str(variant),
        partial=len(rows) < len(scores) or whole is not None,
        n_unscored=len(scores) - failed - scored,
        n_empty=empty,
    )


def count_empty(predictions: Iterable[str | None]) -> int:
    """Number of texts without a visible character; None, a failed sample, does not count."""
    return sum(text is not None and not text.strip() for text in predictions)


def _reported(benchmark: Benchmark, scorer: ScorerModule, rules: str, rows: _Rows) -> dict[str, Any]:
    with own_code(benchmark, f"`report` of rules '{rules}'"):
        reported: Any = scorer.report(rules, rows)
    where = _place(benchmark, scorer.report)
    if not isinstance(reported, dict):
        kind = type(reported).__name__
        raise UserError(f"{where}: {benchmark.name}: `report` gives {kind}, expected a dict")
    try:
        json.dumps(reported, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {benchmark.name}: `report` gives what is no JSON ({error})") from None
    return reported


def _value(benchmark: Benchmark, reported: dict[str, Any], metric: str, scale: float) -> float | None:
    """The reported number that `metric` names, times `scale`; None if it is None. Raises UserError if it is missing."""
    value: Any = reported
    where = f"{load_module(benchmark).__file__}: {benchmark.name}: `report`"
    for part in metric.split("."):
        if not isinstance(value, dict) or part not in value:
            known = sorted(map(str, value)) if isinstance(value, dict) else []
            said = f"{where} has no {part!r}, which the yaml names as `metric: {metric}`."
            raise UserError(f"{said}{near(part, known)} It has: {', '.join(known) or 'nothing there'}")
        value = value[part]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise UserError(f"{where} gives {value!r} as {metric!r}, expected a number")
    return float(value) * scale


def _chance(benchmark: Benchmark, scorer: ScorerModule, rules: str, rows: _Rows, metric: str, scale: float) -> float:
    with own_code(benchmark, "`chance` or `guess`"):
        by_chance: Any = scorer.chance(_Records(rows)) if rows and scorer.chance is not None else {}
        if not isinstance(by_chance, Mapping):
            by_chance = {benchmark.rules[rules].metric: by_chance}
        if metric in by_chance:
            return float(by_chance[metric])
        guesses = rows.of(scorer.guess) if rows and scorer.guess is not None else None
    if guesses is not None:
        return _value(benchmark, _reported(benchmark, scorer, rules, guesses), metric, scale) or 0.0
    return benchmark.chance
