"""What is counted of decisions: enough for a report of any number of pictures, in a few kilobytes. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

# Bins of p(yes), of equal width.
BINS = 100
# Pictures on either side of the threshold that are shown, and faults of a kind that are named with what was counted.
SHOWN, NAMED = 12, 20
# Below this share of the first token's probability, the model has answered something else than yes or no.
LITTLE = 0.5


class Near(NamedTuple):
    """A picture near the threshold: its p(yes), and where it is."""

    p_yes: float
    shard: str
    key: str


@dataclass
class Fault:
    """Faults of a kind: how many, and the first of them in words."""

    count: int = 0
    first: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """Counts over pictures.

    kept, dropped, failed: pictures by decision. bytes: of all encoded pictures, kept_bytes: of the kept ones.
    little: judged ones of whose first token less than half is yes or no. bins: judged pictures by p(yes); labelled:
    those of them that have a label, true: whose label is yes, total: their sum of p(yes). right_kept, wrong_kept,
    right_dropped, wrong_dropped: decisions against labels. near_kept, near_dropped: nearest to the threshold, the
    nearest first.
    """

    kept: int = 0
    dropped: int = 0
    failed: int = 0
    bytes: int = 0
    kept_bytes: int = 0
    little: int = 0
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    labelled: list[int] = field(default_factory=lambda: [0] * BINS)
    true: list[int] = field(default_factory=lambda: [0] * BINS)
    total: list[float] = field(default_factory=lambda: [0.0] * BINS)
    right_kept: int = 0
    wrong_kept: int = 0
    right_dropped: int = 0
    wrong_dropped: int = 0
    near_kept: list[Near] = field(default_factory=list)
    near_dropped: list[Near] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)

    @property
    def judged(self) -> int:
        """Pictures that were kept or dropped."""
        return self.kept + self.dropped

    def fault(self, kind: str, said: str) -> None:
        """Count a fault."""
        fault = self.faults.setdefault(kind, Fault())
        fault.count += 1
        if len(fault.first) < NAMED:
            fault.first.append(said)

    def decide(self, near: Near, mass: float, keeps: bool, size: int, label: bool | None) -> None:
        """Count a picture of `size` bytes that was judged."""
        place = min(BINS - 1, int(near.p_yes * BINS))
        self.bins[place] += 1
        self.bytes += size
        self.little += mass < LITTLE
        if keeps:
            self.kept += 1
            self.kept_bytes += size
        else:
            self.dropped += 1
        held = self.near_kept if keeps else self.near_dropped
        held.append(near)
        if len(held) > 4 * SHOWN:
            held[:] = nearest(held, keeps)
        if label is not None:
            self.labelled[place] += 1
            self.true[place] += label
            self.total[place] += near.p_yes
            said = f"{'right' if keeps == label else 'wrong'}_{'kept' if keeps else 'dropped'}"
            setattr(self, said, getattr(self, said) + 1)

    def close(self) -> None:
        """Let go of the pictures that are not among the nearest."""
        self.near_kept, self.near_dropped = nearest(self.near_kept, True), nearest(self.near_dropped, False)

    def add(self, other: Tally) -> None:
        """Add what was counted of other pictures."""
        for name in ("kept", "dropped", "failed", "bytes", "kept_bytes", "little"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for side in ("right_kept", "wrong_kept", "right_dropped", "wrong_dropped"):
            setattr(self, side, getattr(self, side) + getattr(other, side))
        for name in ("bins", "labelled", "true", "total"):
            setattr(self, name, [a + b for a, b in zip(getattr(self, name), getattr(other, name), strict=True)])
        self.near_kept += other.near_kept
        self.near_dropped += other.near_dropped
        self.close()
        for kind, fault in other.faults.items():
            own = self.faults.setdefault(kind, Fault())
            own.count += fault.count
            own.first += fault.first[: NAMED - len(own.first)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def of_dict(cls, data: dict[str, Any]) -> Tally:
        """What `to_dict` gave."""
        plain = dict(data)
        for name in ("near_kept", "near_dropped"):
            plain[name] = [Near(*one) for one in plain[name]]
        plain["faults"] = {kind: Fault(**one) for kind, one in plain["faults"].items()}
        return cls(**plain)


def nearest(entries: Iterable[Near], keeps: bool) -> list[Near]:
    """Those nearest to the threshold, of kept ones the lowest and of dropped ones the highest p(yes)."""
    return sorted(entries, key=lambda one: (one.p_yes if keeps else -one.p_yes, one.shard, one.key))[:SHOWN]
