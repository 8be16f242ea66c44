"""Statistics of a stage's batches before training: kinds of rows, their lengths, and padding."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_eval.catalog import Stage
from mllm_eval.data.conversations import Conversation, ConversationSet
from mllm_eval.errors import UserError
from mllm_eval.prompts import IMAGE
from mllm_eval.train.order import BatchPlan, planned
from mllm_eval.train.rowchunks import CHUNK, encode_rows

# A row is of the first kind that applies; a short answer has at most SHORT target tokens.
KINDS = ("text only", "several turns", "one short answer", "one long answer")
SHORT = 16


@dataclass(frozen=True)
class RowFacts:
    """The usable rows of a stage.

    lengths, targets: int64 [n], tokens and target tokens of each row after the cut to `max_length`.
    kinds: int64 [n], indices into `KINDS`. left_out: reason -> number of rows that are not used.
    broken: the error of the first row that cannot be read; None without one.
    """

    lengths: NDArray[np.int64]
    targets: NDArray[np.int64]
    kinds: NDArray[np.int64]
    left_out: dict[str, int] = field(default_factory=dict)
    broken: str | None = None


def row_facts(
    sets: Sequence[ConversationSet],
    tokenizer: Any,
    template: str,
    positions: int,
    max_length: int,
    dummy_positions: int = 0,
) -> RowFacts:
    """Read and tokenise all rows; each image counts as `positions` tokens, and its file is not opened.

    A row without an image is cut `dummy_positions` earlier than `max_length`. A row that cannot be read is only
    counted, as nothing is trained here.
    """
    used: list[tuple[int, int, int]] = []
    left_out: Counter[str] = Counter()
    broken = None
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    for one in sets:
        rows = one.read_from(0)
        for chunk in iter(lambda rows=rows: list(itertools.islice(rows, CHUNK)), []):  # type: ignore[misc]
            kept: list[Conversation] = []
            for row in chunk:
                if isinstance(row, UserError):
                    left_out["broken"] += 1
                    broken = broken or str(row)
                elif row is None:
                    left_out["excluded"] += 1
                elif len(row.masked) == len(row.turns):
                    left_out["masked"] += 1
                else:
                    kept.append(row)
            for row, (ids, learnt) in zip(kept, encode_rows(kept, tokenizer, template), strict=True):
                shown = np.asarray(ids) == image
                ends = np.cumsum(np.where(shown, positions, 1))
                longest = max_length if row.images else max_length - dummy_positions
                targets = int((np.asarray(learnt) & (ends <= longest)).sum())
                if targets:
                    used.append((min(int(ends[-1]), longest), targets, _kind(row, targets)))
                else:
                    left_out["too long"] += 1
    lengths, targets_of, kinds = np.array(used, np.int64).reshape(-1, 3).T
    return RowFacts(lengths, targets_of, kinds, dict(left_out), broken)


def _kind(row: Conversation, targets: int) -> int:
    if not row.images:
        return KINDS.index("text only")
    if len(row.turns) > 1:
        return KINDS.index("several turns")
    return KINDS.index("one short answer" if targets <= SHORT else "one long answer")


def batch_stats(rows: RowFacts, stage: Stage, number: int, seed: int) -> dict[str, Any]:
    """Return statistics of a stage's steps as a dictionary that can be written as JSON; shares lie between 0 and 1.

    share_of_loss: the mean over steps of a kind's share of the step's targets. This is its weight in training, as a
        step's loss is the mean over its targets, and all steps count alike.
    length_cv: coefficient of variation (standard deviation / mean) of the lengths in a step, averaged over steps.
    padding: share of padding among the positions of micro-batches; training skips these positions.

    Raises UserError where the rows do not fill one batch.
    """
    with_image = rows.kinds != KINDS.index("text only")
    plan = planned(seed, number, stage, rows.lengths, with_image)
    steps = [plan.rows(step) for step in range(plan.steps)]
    of_kind = np.array([_targets(rows, step) for step in steps])
    of_step = of_kind.sum(1)
    shares = (of_kind / of_step[:, None]).mean(0)
    lengths = [rows.lengths[step] for step in steps]
    counts = np.bincount(rows.kinds, minlength=len(KINDS))
    return {
        "stage": number,
        "order": plan.order,
        "last_step": plan.last,
        "batch": plan.batch,
        "micro_batch": stage.micro_batch,
        "steps": plan.steps,
        "rows": len(rows.lengths),
        "rows_read": len(plan.read()),
        "with_image": int(with_image.sum()),
        "text_only": int((~with_image).sum()),
        "left_out": rows.left_out,
        "first_broken": rows.broken,
        "kinds": {
            kind: {
                "rows": int(counts[at]),
                "share_of_rows": float(counts[at] / len(rows.kinds)),
                "share_of_loss": float(shares[at]),
            }
            for at, kind in enumerate(KINDS)
        },
        "length_cv": float(np.mean([one.std() / one.mean() for one in lengths])),
        "target_tokens": {
            "min": int(of_step.min()),
            "median": float(np.median(of_step)),
            "max": int(of_step.max()),
        },
        "padding": padding(plan, stage.micro_batch),
    }


def padding(plan: BatchPlan, micro_batch: int) -> float:
    """Return the share of padding, in [0, 1), when each micro-batch of a plan is padded to its longest row."""
    tokens = computed = 0
    for step in range(plan.steps):
        lengths = plan.lengths[plan.rows(step)].reshape(-1, micro_batch)
        tokens += int(lengths.sum())
        computed += int(lengths.max(1).sum()) * micro_batch
    return 1 - tokens / computed


def _targets(rows: RowFacts, step: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the number of target tokens of each kind [len(KINDS)] in a step."""
    return np.bincount(rows.kinds[step], rows.targets[step], len(KINDS)).astype(np.float64)
