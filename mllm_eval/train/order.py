"""Plan which rows each training step reads, the order of the steps, and the order of rows within a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mllm_eval.catalog import Stage
from mllm_eval.errors import UserError

Order = Literal["random", "modality", "length"]
LastStep = Literal["drop", "fill"]
Rows = NDArray[np.int64]

# Number of batches within which the order `length` sorts rows.
WINDOW = 50


class BatchPlan:
    """The batches of a stage in order, over all epochs. They do not depend on the number of processes.

    Args:
        lengths: int64 [n], tokens of each row.
        batch: rows per step. steps: number of steps. seed: seeds the shuffling, together with the epoch's number.
        order: which rows share a step. `random`: any rows. `modality`: only rows with images, or only rows without.
            As in LLaVA's sampler, which Cambrian-1 uses, the last batch of either kind, full or not, is set aside, and
            both together form the epoch's last one or two steps. `length`: rows of similar length within a window of
            batches. This changes what is learnt, as all steps have the same weight however many targets they have.
        last: what happens to rows left over at the end of an epoch. `drop` skips them in that epoch. `fill` completes
            the last batch with the epoch's first rows, as accelerate's `even_batches` does.
        with_image: bool [n], whether each row shows an image; by default all do.
    """

    def __init__(
        self,
        lengths: Rows,
        batch: int,
        steps: int,
        seed: Sequence[int],
        order: Order = "length",
        last: LastStep = "drop",
        with_image: NDArray[np.bool_] | None = None,
    ) -> None:
        self.lengths = lengths
        self.batch = batch
        self.steps = steps
        self.seed = tuple(seed)
        self.order = order
        self.last = last
        self.with_image = np.ones(len(lengths), np.bool_) if with_image is None else with_image
        self.per_epoch = -(-len(lengths) // batch) if last == "fill" else len(lengths) // batch
        self._epoch = -1
        self._batches: Rows = np.zeros((0, batch), np.int64)

    def rows(self, step: int) -> Rows:
        """Return the row numbers of a step, int64 [batch], longest first.

        Consecutive rows form a micro-batch, and consecutive micro-batches run in parallel on all processes. Sorting
        thus keeps padding small and processes equally busy.
        """
        epoch, within = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._batches = self._shuffled(epoch)
            self._epoch = epoch
        batch: Rows = self._batches[within]
        return batch

    def read(self) -> Rows:
        """Return the numbers of all rows that any step reads, in ascending order."""
        if self.steps > self.per_epoch:
            return np.arange(len(self.lengths))
        return np.unique(np.concatenate([self.rows(step) for step in range(self.steps)]))

    def tokens(self, step: int) -> int:
        """Return the number of tokens of a step, without padding."""
        return int(self.lengths[self.rows(step)].sum())

    def _shuffled(self, epoch: int) -> Rows:
        random = np.random.default_rng([*self.seed, epoch])
        if self.order == "length":
            return self._by_length(random)
        drawn = self._by_modality(random) if self.order == "modality" else random.permutation(len(self.lengths))
        batches = self._whole(drawn).reshape(-1, self.batch)
        return np.take_along_axis(batches, np.argsort(-self.lengths[batches], axis=1, kind="stable"), axis=1)

    def _by_length(self, random: np.random.Generator) -> Rows:
        drawn = self._whole(random.permutation(len(self.lengths)))
        for start in range(0, len(drawn), WINDOW * self.batch):
            window = drawn[start : start + WINDOW * self.batch]
            drawn[start : start + len(window)] = window[np.argsort(-self.lengths[window], kind="stable")]
        batches = drawn.reshape(-1, self.batch)
        return batches[random.permutation(len(batches))]

    def _by_modality(self, random: np.random.Generator) -> Rows:
        kinds = [random.permutation(np.flatnonzero(kind)) for kind in (self.with_image, ~self.with_image)]
        kinds = [rows for rows in kinds if len(rows)]
        if len(kinds) == 1:
            return kinds[0]
        aside = [(len(rows) - 1) // self.batch * self.batch for rows in kinds]
        whole = np.concatenate([rows[:end] for rows, end in zip(kinds, aside, strict=True)]).reshape(-1, self.batch)
        rest = np.concatenate([rows[end:] for rows, end in zip(kinds, aside, strict=True)])
        return np.concatenate([whole[random.permutation(len(whole))].ravel(), np.sort(rest)])

    def _whole(self, drawn: Rows) -> Rows:
        """Return an epoch's rows, cut or extended to a whole number of batches."""
        if self.last == "drop":
            return drawn[: self.per_epoch * self.batch]
        return np.concatenate([drawn, drawn[: self.per_epoch * self.batch - len(drawn)]])


def planned(seed: int, number: int, stage: Stage, lengths: Rows, with_image: NDArray[np.bool_]) -> BatchPlan:
    """Return the plan of a stage for rows of these lengths [n]. Raises UserError where they do not fill one batch."""
    if len(lengths) < stage.batch:
        raise UserError(
            f"stage {number}: {len(lengths)} conversations with an answer within max_length do not fill a batch of "
            f"{stage.batch}"
        )
    steps = stage.steps_for(len(lengths))
    return BatchPlan(lengths, stage.batch, steps, (seed, number), stage.order, stage.last_step, with_image)
