"""Decide whether a stage's features fit into the feature store; if not, the encoder runs in every training step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_eval.distributed import decided
from mllm_eval.features.eviction import VARIABLE, available
from mllm_eval.storage import write_json
from mllm_eval.train.encoding import missing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mllm_eval.features import Features
    from mllm_eval.run import Run
    from mllm_eval.train.rowtokens import TokenisedSet
    from mllm_eval.train.stages import Prepared

log = logging.getLogger(__name__)


def with_room(run: Run, prepared: Sequence[Prepared], features: Features) -> list[Prepared]:
    """Return the stages; those whose features do not fit into the store are changed as if they set `features: live`.

    The decision is recorded in the stage's folder, so that a resumed stage continues in the same way. Features for
    the statistics of standardisation still come from the store, or are computed again where it is full.
    """
    live = decided(lambda: _without_room(run, prepared, features))
    return [_live(one) if one.number in live else one for one in prepared]


def _live(one: Prepared) -> Prepared:
    stage = one.stage.model_copy(update={"features": "live"})
    return replace(one, stage=stage, images=np.intersect1d(one.images, one.measured))


def _without_room(run: Run, prepared: Sequence[Prepared], features: Features) -> list[int]:
    row = features.store.image_bytes
    kept: list[tuple[TokenisedSet, NDArray[np.int64]]] = []
    stages = []
    for one in prepared:
        if one.stage.features == "live":
            continue
        note = run.stage_dir(one.number) / "features.json"
        if not note.is_file():
            both = [*kept, (one.data, one.images)]
            needed = missing(features.store, both) * row
            room = available(features.store.root)
            if needed <= room:
                kept = both
                continue
            write_json(note, _tell(one, needed, room))
        stages.append(one.number)
    return stages


def _tell(one: Prepared, needed: int, room: int) -> dict[str, Any]:
    """Log once what encoding in every step costs, and return the record of the decision."""
    runs = max(1.0, one.plan.steps / one.plan.per_epoch)
    encodings = round(len(one.images) * runs)
    log.warning(
        "stage %d: its features would take %.1f GB more, %.1f GB are left for features (%s): the encoder runs in "
        "every step instead, about %s images encoded in this stage of every run instead of %s once for all runs",
        one.number,
        needed / 1e9,
        room / 1e9,
        VARIABLE,
        f"{encodings:,}",
        f"{len(one.images):,}",
    )
    return {"features": "live", "images": len(one.images), "bytes_needed": needed, "bytes_left": room}
