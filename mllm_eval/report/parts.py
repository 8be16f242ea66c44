"""The parts of a benchmark's value, as its scorer reports them: MME's tasks, SEED's types, OCRBench's categories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.benchmark import RulesRef
from mllm_eval.catalog.variant import VariantKey
from mllm_eval.errors import UserError

# Fields of a report that hold counts of samples, or a value. `accurcay` is spelled as in the paper's code.
COUNTS = ("total", "size", "total_count", "circular_count", "count", "n", "correct")
VALUES = ("accuracy", "accurcay", "score")


@dataclass(frozen=True, slots=True)
class SummaryPart:
    """A part of a report: its name (`task / subtask`), value and number of samples; `more` holds its other numbers."""

    name: str
    value: float | None
    n: int | None
    more: tuple[tuple[str, float], ...] = ()

    @property
    def words(self) -> str:
        """The other numbers as text: `acc_score 57.1, acc_plus_score 28.6`."""
        return ", ".join(f"{name} {number(value)}" for name, value in self.more)


def parts(summary: Mapping[str, Any]) -> list[SummaryPart]:
    """All parts of a summary's report, without the value that the table itself prints.

    A part's value is the field that the benchmark's `metric` names, else its accuracy or score, else its first number.
    Values from 0 to 1 are multiplied by the metric's `scale`. If all parts are then still shares, they are given in
    percent. Fields that are not numbers are skipped.
    """
    reported = summary.get("reported")
    if not isinstance(reported, Mapping):
        return []
    metric, scale = _metric(summary)
    listed = list(_parts(reported, metric, scale, ()))
    shares = [one.value for one in listed if one.n is not None and one.value is not None]
    if all(0 <= value <= 1 for value in shares) and any(0 < value < 1 for value in shares):
        # CV-Bench reports its parts as shares and its value in percent.
        listed = [replace(one, value=100 * one.value) if one.n is not None and one.value is not None else one
                 for one in listed]  # fmt: skip
    return listed


def number(value: float) -> str:
    """A number of a report as text: with three decimals if it is a share, else with one."""
    return f"{value:.3f}" if 0 < abs(value) < 1 else f"{value:,.1f}"


def _metric(summary: Mapping[str, Any]) -> tuple[str, float]:
    try:
        benchmark = load_benchmark(str(summary["benchmark"]))
        chosen = benchmark.variant(VariantKey.parse(str(summary["variant"])))
    except UserError:
        return "accuracy", 1.0
    entry = benchmark.rules.get(str(summary["rules"]), RulesRef(version=1))
    return (chosen.metric, chosen.scale) if chosen.metric else (entry.metric, entry.scale)


def _parts(node: Mapping[str, Any], metric: str, scale: float, path: tuple[str, ...]) -> Iterator[SummaryPart]:
    numbers = {str(key): float(value) for key, value in node.items() if _is_number(value)}
    counts = {key: value for key, value in numbers.items() if key in COUNTS}
    values = {key: _scaled(value, scale) for key, value in numbers.items() if key not in counts}
    if path and (values or counts):
        leaf = metric.rpartition(".")[2]
        main = next((key for key in (leaf, *VALUES, *values) if key in values), None)
        more = tuple((key, value) for key, value in values.items() if key != main)
        n = next((int(counts[key]) for key in COUNTS if key in counts), None)
        if ".".join([*path, main or ""]) != metric:
            yield SummaryPart(" / ".join(path), None if main is None else values[main], n, more)
    elif not path:
        yield from (SummaryPart(key, value, None) for key, value in values.items() if key != metric)
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _parts(value, metric, scale, (*path, str(key)))


def _scaled(value: float, scale: float) -> float:
    return value * scale if scale != 1 and 0 <= value <= 1 else value


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
