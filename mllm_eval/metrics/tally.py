"""Sums over scored rows, in the shapes that the paper's code reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Rows = Sequence[tuple[Mapping[str, Any], float]]


def mean(rows: Rows) -> float:
    """Mean score; 0 for no rows."""
    return sum(score for _, score in rows) / len(rows) if rows else 0.0


def accuracy(rows: Rows) -> dict[str, Any]:
    """{total, correct, accuracy}, accuracy in percent."""
    correct = sum(score for _, score in rows)
    total = float(len(rows))
    return {"total": total, "correct": correct, "accuracy": 100.0 * correct / total if rows else 0.0}


def by_category(rows: Rows, category: Callable[[Mapping[str, Any]], str], word: str = "accuracy") -> dict[str, Any]:
    """{accuracy, total_count, <category>: {<word>, total}}, as fractions, categories as they first come."""
    parts: dict[str, list[tuple[Mapping[str, Any], float]]] = {}
    for row, score in rows:
        parts.setdefault(category(row), []).append((row, score))
    out: dict[str, Any] = {"accuracy": mean(rows), "total_count": float(len(rows))}
    for name, part in parts.items():
        out[name] = {word: mean(part), "total": len(part)}
    return out


def in_groups(rows: Rows, key: Callable[[Mapping[str, Any]], Any]) -> dict[Any, list[float]]:
    """Scores by group, groups as they first come."""
    groups: dict[Any, list[float]] = {}
    for row, score in rows:
        groups.setdefault(key(row), []).append(score)
    return groups


def of_source(rows: Rows) -> dict[str, Any]:
    """{accuracy, total_count, tabulated_x100, per_category}: questions of one source, categories by their `task`."""
    tally = by_category(rows, lambda row: row.get("task") or "")
    share = tally.pop("accuracy")
    tally.pop("total_count")
    return {"accuracy": share, "total_count": len(rows), "tabulated_x100": 100.0 * share, "per_category": tally}
