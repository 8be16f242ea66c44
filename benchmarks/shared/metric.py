"""A scorer as an `evaluate` metric, made only where that library is asking for one.

`evaluate.load` has imported `evaluate` before it imports a scorer. Whoever calls a scorer's functions
directly never pays for that import: then `metric` makes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Rule = Callable[[Mapping[str, Any], str], tuple[Any, str | None, str]]
Rows = Sequence[tuple[Mapping[str, Any], float]]
Report = Callable[[str, Rows], dict[str, Any]]


def metric(about: str, needs: Mapping[str, str], rules: Mapping[str, Rule], report: Report) -> Any:
    """An `evaluate.Metric` class, or None where `evaluate` is not imported.

    A needed field is `type`, `type|null` (there, perhaps null) or `type?` (perhaps not there).
    Its `compute(predictions, references, rules="cambrian")` takes answers (str) and the data set's rows
    (dicts; other fields than `needs` are dropped) and returns the report and the samples' scores.
    """
    if "evaluate" not in sys.modules:
        return None
    import datasets
    import evaluate

    def feature(kind: str) -> Any:
        kind = kind.split("|")[0].rstrip("?")
        inner = kind.removeprefix("list<").removesuffix(">")
        return [datasets.Value(inner)] if inner != kind else datasets.Value(kind)

    def kept(value: Any, kind: str) -> Any:
        # `evaluate` takes no null for a string in the first row.
        empty: Any = [] if kind.startswith("list<") else "" if kind.startswith("string") else None
        return empty if value is None else value

    features = datasets.Features(
        {
            "predictions": datasets.Value("string"),
            "references": {field: feature(kind) for field, kind in needs.items()},
        }
    )

    class Scorer(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> Any:
            return evaluate.MetricInfo(description=about, citation="", inputs_description=str(needs), features=features)

        def add_batch(self, *, predictions: Any = None, references: Any = None, **more: Any) -> None:
            """Add predictions and references, of which only the needed fields are kept."""
            rows = [{field: kept(row.get(field), kind) for field, kind in needs.items()} for row in references]
            super().add_batch(predictions=predictions, references=rows, **more)

        def add(self, *, prediction: Any = None, reference: Any = None, **more: Any) -> None:
            """Add one prediction and its reference."""
            self.add_batch(predictions=[prediction], references=[reference], **more)

        def _compute(self, predictions: Sequence[str], references: Any, rules: str = "cambrian") -> dict[str, Any]:
            scored = [(row, scores[rules](row, text)[0]) for row, text in zip(references, predictions, strict=True)]
            return {**report(rules, scored), "scores": [score for _, score in scored]}

    scores = dict(rules)
    return Scorer
