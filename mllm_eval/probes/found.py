"""What a probe found, before it is written: the numbers of every image, and what was chosen and why."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mllm_eval.errors import UserError


@dataclass(slots=True)
class Group:
    """One reading of the encoder: which layers, what was chosen, and each test image's part of the value.

    scores [N]: 1 or 0 for right or wrong, or an error in metres; nan where the image failed.
    inside, union [N, C]: of each class the pixels where mask and prediction agree, and where either has it.
    """

    layers: tuple[int, ...]
    chosen: dict[str, object] = field(default_factory=dict)
    scores: NDArray[np.float32] | None = None
    inside: NDArray[np.int32] | None = None
    union: NDArray[np.int32] | None = None
    further: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Found:
    """All readings of a probe. `selection` says in words how a head was chosen; `broken` names images that failed."""

    groups: list[Group]
    selection: str
    n: int
    broken: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    n_train: int = 0


def hold_to_any(measured: int, asked: int, first: str, what: str) -> None:
    """UserError where every one of some images failed: there is nothing to measure."""
    if asked and not measured:
        raise UserError(f"{first} (and so all {asked:,} {what})")


def chosen_words(selection: str, holdout: float) -> str:
    """How a head was chosen, for a footnote."""
    return {
        "train_holdout": f"head chosen on {100 * holdout:g} % of the training images, held out",
        "val": "head chosen on the reported images themselves, as published",
        "none": "one head, as it is after the last step",
    }[selection]
