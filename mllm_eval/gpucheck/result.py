"""What a check has found: one value, its bound, and what follows."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Direction = Literal["", ">=", "<=", "=="]
"""Which values are right: those at least, at most or equal to the bound; empty where nothing is asked of a value."""
State = Literal["PASS", "FAIL", "SKIP", "SEEN"]
Value = float | int | str | None

HOLDS: dict[str, Callable[[Any, Any], bool]] = {">=": operator.ge, "<=": operator.le, "==": operator.eq}


@dataclass(frozen=True)
class Check:
    """One line of the report.

    group: the check it belongs to. passed: None where it is not judged, because nothing is asked of it, because a
    tiny shape on a CPU says nothing of it, or because it was skipped. seconds: since the check's last line.
    note: why it was skipped or failed, or what explains the value.
    """

    group: str
    name: str
    value: Value = None
    direction: Direction = ""
    bound: Value = None
    unit: str = ""
    passed: bool | None = None
    seconds: float = 0.0
    device: str = ""
    skipped: bool = False
    note: str = ""

    @property
    def state(self) -> State:
        """SKIP is never PASS, and neither is SEEN: a value that was shown and not judged."""
        if self.passed is None:
            return "SKIP" if self.skipped else "SEEN"
        return "PASS" if self.passed else "FAIL"

    def line(self) -> str:
        """For people."""
        value = "" if self.value is None else f": {_short(self.value)}{_unit(self.unit)}"
        bound = f" ({self.direction} {_short(self.bound)})" if self.direction else ""
        note = f"; {self.note}" if self.note else ""
        return f"{self.state} {self.group:<10} {self.name}{value}{bound}{note}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data that is JSON: what is no finite number is its name."""
        fields = {**asdict(self), "state": self.state}
        return {key: _finite(value) for key, value in fields.items()}


def holds(value: Value, direction: Direction, bound: Value) -> bool:
    """Whether a value is right. NaN never is, nor is a missing value."""
    return value is not None and bool(HOLDS[direction](value, bound))


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""
