"""Whether a stage's features are kept: where they have no room in the store, the encoder runs in its steps instead."""

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
    """The stages, those whose features have no room in the store as `features: live` would have them.

    What was decided for a stage is noted in its folder and stays, so that a stage that goes on goes on alike. The
    features that standardisation is measured on are still taken from the store, or made again where it is full.
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
    """Say what it costs, once."""
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
