"""Compare training speed between orders of rows: the miniature on the same rows, at its own batch size and at 512."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mllm_eval.environment import repeatable
from mllm_eval.features import Features
from mllm_eval.model import assemble, load_llm_model, load_tokenizer
from mllm_eval.run import Run
from mllm_eval.train.batches import Batches, Collator, RowNumbers
from mllm_eval.train.batchstats import padding
from mllm_eval.train.order import BatchPlan
from mllm_eval.train.stages import Prepared, prepare_stage, row_shape
from mllm_eval.train.trainer import StageTrainer, arguments

ORDERS: tuple[Any, ...] = ("length", "random", "modality")


class Started(Collator):
    """A collator that notes the CPU time at which the first batch is requested, when the first step begins."""

    began: float | None = None

    def __call__(self, numbers: Sequence[int]) -> dict[str, Any]:
        if self.began is None:
            self.began = time.process_time()
        return super().__call__(numbers)


def compare_orders(
    folder: Path, own_steps: int = 12, large: int = 512, large_steps: int = 2, rounds: int = 3
) -> Iterator[dict[str, Any]]:
    """Yield a table row for each stage, batch size and order. `share` is the speed relative to order `length`.

    Each order trains `rounds` times on the same rows, each row once, and the fastest round counts. Each round begins
    with another order, because the first training of a process finds unused memory. A warm-up before all is not
    counted.
    """
    run = Run.of("mini-dino", "mini")
    features = Features.of(run)
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    for number, stage in ((1, run.recipe.stage1), (2, run.recipe.stage2)):
        one = prepare_stage(run, number, stage, tokenizer)
        for batch, steps in ((stage.batch, own_steps), (large, large_steps)):
            draw = np.random.default_rng(number)
            chosen = np.sort(draw.permutation(len(one.rows))[: batch * steps])
            features.fill(one.data.refs(one.data.images_of(one.rows.rows[chosen])))
            features.store.refresh()
            best = dict.fromkeys(ORDERS, math.inf)
            plans = {order: _plan(one, chosen, batch, steps, order) for order in ORDERS}
            _seconds(
                run, one, chosen[:batch], _plan(one, chosen[:batch], batch, 1, "length"), features, tokenizer, folder
            )
            for turn in range(rounds):
                for order in ORDERS[turn % len(ORDERS) :] + ORDERS[: turn % len(ORDERS)]:
                    spent = _seconds(run, one, chosen, plans[order], features, tokenizer, folder)
                    best[order] = min(best[order], spent)
            for order in ORDERS:
                rate = sum(plans[order].tokens(step) for step in range(steps)) / best[order]
                yield {
                    "stage": number,
                    "batch": batch,
                    "order": order,
                    "padding": padding(plans[order], stage.micro_batch),
                    "tokens_per_cpu_second": rate,
                    "share": best["length"] / best[order],
                }


def _plan(one: Prepared, chosen: Any, batch: int, steps: int, order: Any) -> BatchPlan:
    return BatchPlan(one.plan.lengths[chosen], batch, steps, (0, 0), order, "drop", one.plan.with_image[chosen])


def _seconds(
    run: Run, one: Prepared, chosen: Any, plan: BatchPlan, features: Features, tokenizer: Any, folder: Path
) -> float:
    """CPU seconds of a training, from the beginning of the first step to the end of the last."""
    repeatable(0)
    stage = one.stage.model_copy(update={"batch": plan.batch, "steps": plan.steps, "order": plan.order})
    model = assemble(run.encoder, run.recipe, load_llm_model(run.llm), tokenizer)
    model.llm.requires_grad_(stage.train_llm)
    facts = row_shape(run, stage, model, tokenizer)
    collator = Started(one.data, features.store, facts)
    made = arguments(run.recipe, stage, folder / "orders", plan.steps, 0, f"stage {one.number}")
    made.save_strategy = "no"
    ended: list[float] = []
    rows = RowNumbers(one.rows.rows[chosen])
    StageTrainer(
        model, stage, made, Batches(plan, rows, collator), None, lambda _: ended.append(time.process_time())
    ).train()
    assert collator.began is not None
    return ended[-1] - collator.began
