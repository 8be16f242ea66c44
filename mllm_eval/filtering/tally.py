"""The counts of a filter: a few kilobytes that suffice for the report of any number of images. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

# Number of bins of p(yes), which have equal width.
BINS = 100
# How many images on each side of the threshold are shown, and how many faults of a kind are named.
SHOWN, NAMED = 12, 20
# If P(yes) + P(no) is less than this, the model mostly answers something else.
LITTLE = 0.5


class NearThreshold(NamedTuple):
    """An image near the threshold: its p(yes), shard and key."""

    p_yes: float
    shard: str
    key: str


@dataclass
class Fault:
    """The faults of one kind: their number, and the first of them in words."""

    count: int = 0
    first: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """Counts over images.

    kept, dropped, failed: number of images by decision. bytes, kept_bytes: bytes of all encoded images, and of the kept
    ones. little: judged images with P(yes) + P(no) below `LITTLE`.

    By bin of p(yes): bins: judged images; labelled: those with a label; true: those labelled yes; total: the sum of
    p(yes) over labelled images.

    right_kept, wrong_kept, right_dropped, wrong_dropped: decisions against labels. near_kept, near_dropped: the images
    nearest to the threshold, nearest first.
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
    near_kept: list[NearThreshold] = field(default_factory=list)
    near_dropped: list[NearThreshold] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)

    @property
    def judged(self) -> int:
        """The number of images that were kept or dropped."""
        return self.kept + self.dropped

    def fault(self, kind: str, said: str) -> None:
        """Counts a fault."""
        fault = self.faults.setdefault(kind, Fault())
        fault.count += 1
        if len(fault.first) < NAMED:
            fault.first.append(said)

    def decide(self, near: NearThreshold, mass: float, keeps: bool, size: int, label: bool | None) -> None:
        """Counts a judged image of `size` bytes."""
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
        """Discards all but the images nearest to the threshold."""
        self.near_kept, self.near_dropped = nearest(self.near_kept, True), nearest(self.near_dropped, False)

    def add(self, other: Tally) -> None:
        """Adds the counts of other images."""
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
        """The counts as plain data."""
        return asdict(self)

    @classmethod
    def of_dict(cls, data: dict[str, Any]) -> Tally:
        """The tally that `to_dict` turned into plain data."""
        plain = dict(data)
        for name in ("near_kept", "near_dropped"):
            plain[name] = [NearThreshold(*one) for one in plain[name]]
        plain["faults"] = {kind: Fault(**one) for kind, one in plain["faults"].items()}
        return cls(**plain)


def nearest(entries: Iterable[NearThreshold], keeps: bool) -> list[NearThreshold]:
    """The images nearest to the threshold: of kept ones those with the lowest p(yes), of dropped ones the highest."""
    return sorted(entries, key=lambda one: (one.p_yes if keeps else -one.p_yes, one.shard, one.key))[:SHOWN]
