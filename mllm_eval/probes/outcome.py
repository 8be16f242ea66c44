"""The result of a probe in memory: each image's contribution, and which head was chosen and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mllm_eval.errors import UserError


@dataclass(slots=True)
class Group:
    """One reading of the encoder: its layers, the chosen settings, and each test image's contribution to the value.

    scores         float32 [N]: 1 or 0 for right or wrong, or an error in metres; nan if the image failed
    inside, union  int32 [N, C]: for each class the pixels in the intersection and the union of mask and prediction
    further        other values to report, by name
    """

    layers: tuple[int, ...]
    chosen: dict[str, object] = field(default_factory=dict)
    scores: NDArray[np.float32] | None = None
    inside: NDArray[np.int32] | None = None
    union: NDArray[np.int32] | None = None
    further: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """All readings of a probe.

    selection  how a head was chosen, in words
    n          number of test images; `broken`: those that failed, with the reason
    n_train    number of images that the heads were trained on, or that vote: without those held out, never drawn, or
               unusable; `left_out`: images to train or select on that can't be used, with the reason
    """

    groups: list[Group]
    selection: str
    n: int
    broken: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    n_train: int = 0


def hold_to_any(measured: int, asked: int, failed: Mapping[str, str], what: str) -> None:
    """Raises UserError if all of the images failed. `failed`: image -> reason; `what` names the kind of images."""
    if asked and not measured:
        raise UserError(f"{next(iter(failed.values()), '')} (and so all {asked:,} {what})")


def chosen_words(selection: str, holdout: float, what: str = "head") -> str:
    """The way a head, or another setting that `what` names, was chosen, in words for a footnote."""
    return {
        "train_holdout": f"{what} chosen on {100 * holdout:g} % of the training images, held out",
        "val": f"{what} chosen on the reported images themselves, as published",
        "none": f"one {what}, as it is after the last step",
    }[selection]
