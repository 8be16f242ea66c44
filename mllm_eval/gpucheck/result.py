"""The result of a check: a value, its bound, and whether the value meets it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Direction = Literal["", ">=", "<=", "=="]
"""How a value must compare with its bound; "" if there is no bound."""
State = Literal["PASS", "FAIL", "SKIP", "SEEN"]
Value = float | int | str | None

HOLDS: dict[str, Callable[[Any, Any], bool]] = {">=": operator.ge, "<=": operator.le, "==": operator.eq}


@dataclass(frozen=True)
class Check:
    """One line of the report.

    group: the check it belongs to. passed: None if it is not judged: it has no bound, it depends on a GPU and this is a
    CPU, or it was skipped. seconds: time since the previous line of the same check. note: why it was skipped or failed,
    or an explanation of the value.
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
        """PASS or FAIL if the value was judged; else SKIP if it was skipped, or SEEN if it was only shown."""
        if self.passed is None:
            return "SKIP" if self.skipped else "SEEN"
        return "PASS" if self.passed else "FAIL"

    def line(self) -> str:
        """The result as a line of text."""
        value = "" if self.value is None else f": {_short(self.value)}{_unit(self.unit)}"
        bound = f" ({self.direction} {_short(self.bound)})" if self.direction else ""
        note = f"; {self.note}" if self.note else ""
        return f"{self.state} {self.group:<10} {self.name}{value}{bound}{note}"

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON data; numbers that are not finite become strings."""
        fields = {**asdict(self), "state": self.state}
        return {key: _finite(value) for key, value in fields.items()}


def holds(value: Value, direction: Direction, bound: Value) -> bool:
    """Whether a value meets its bound. NaN and a missing value never do."""
    return value is not None and bool(HOLDS[direction](value, bound))


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""
