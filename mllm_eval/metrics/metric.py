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
Group = Callable[[Mapping[str, Any]], tuple[str, int]]

# The library tells types by the first row and writes text: what was no answer travels beside the references.
_FAILED = "prediction_failed"


def metric(
    about: str, needs: Mapping[str, str], rules: Mapping[str, Rule], report: Report, group: Group | None = None
) -> Any:
    """An `evaluate.Metric` class, or None where `evaluate` is not imported.

    A needed field is `type`, `type|null` (there, perhaps null) or `type?` (perhaps not there).
    Its `compute(predictions, references, rules="cambrian")` takes answers (str) and the data set's rows
    (dicts; other fields than `needs` are dropped) and returns the report, the samples' scores and `n_failed`.
    A prediction that is None, NaN or NA is a failed sample: its score is None, and the report counts neither it nor
    what `group` (record -> group, its size) scores together with it. Raises ValueError for one that is no text.
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
            "references": {**{field: feature(kind) for field, kind in needs.items()}, _FAILED: datasets.Value("bool")},
        }
    )

    class Scorer(evaluate.Metric):  # type: ignore[misc]
        def _info(self) -> Any:
            return evaluate.MetricInfo(description=about, citation="", inputs_description=str(needs), features=features)

        def add_batch(self, *, predictions: Any = None, references: Any = None, **more: Any) -> None:
            """Add predictions and references, of which only the needed fields are kept."""
            texts = [_text(prediction, number) for number, prediction in enumerate(predictions)]
            rows = [{field: kept(row.get(field), kind) for field, kind in needs.items()} for row in references]
            if len(texts) != len(rows):
                raise ValueError(f"{len(texts)} predictions to {len(rows)} references; each needs its own")
            for row, text in zip(rows, texts, strict=True):
                row[_FAILED] = text is None
            super().add_batch(predictions=[text or "" for text in texts], references=rows, **more)

        def add(self, *, prediction: Any = None, reference: Any = None, **more: Any) -> None:
            """Add one prediction and its reference."""
            self.add_batch(predictions=[prediction], references=[reference], **more)

        def _compute(self, predictions: Sequence[str], references: Any, rules: str = "cambrian") -> dict[str, Any]:
            scores: list[Any] = []
            rows: list[Mapping[str, Any]] = []
            n_failed = 0
            for row, text in zip(references, predictions, strict=True):
                failed = row.pop(_FAILED)
                n_failed += failed
                scores.append(None if failed else rule_sets[rules](row, text)[0])
                rows.append(row)
            broken = {group(row)[0] for row, score in zip(rows, scores, strict=True) if score is None} if group else ()
            counted = [
                (row, score)
                for row, score in zip(rows, scores, strict=True)
                if score is not None and not (group and group(row)[0] in broken)
            ]
            return {**(report(rules, counted) if counted else {}), "scores": scores, "n_failed": n_failed}

    rule_sets = dict(rules)
    return Scorer


def _text(prediction: Any, number: int) -> str | None:
    """The text of a prediction, None for a missing one: None, a NaN, pandas' NA and NaT."""
    if prediction is None or isinstance(prediction, str):
        return prediction
    try:
        missing = bool(prediction != prediction)
    except (TypeError, ValueError):
        # Neither equal nor unequal to itself is what pandas' NA is; arrays can't say it in one word.
        missing = type(prediction).__name__ == "NAType"
    if missing:
        return None
    kind, said = type(prediction).__name__, " ".join(repr(prediction).split())[:40]
    raise ValueError(f"predictions[{number}] is {kind} {said}; an answer is text, or None where there was none")
