"""Does a trained run look at its images? The loss of rows that it never trained on, with their images and with others'.

    MLLM_EVAL_PATH=docs/examples/desk python docs/examples/desk/sight.py RUN [--rows 128]

RUN is a run's name, or the beginning of one (`mllm-eval ls runs`). For each file of stage 2 the script draws rows that
neither stage has read. It prints the mean loss of their target tokens with the right image of each row, and with the
image of the next row, in nats. A model that ignores images has the same loss twice.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from transformers.utils import logging

from mllm_eval.model import load_checkpoint
from mllm_eval.saved import saved_run
from mllm_eval.storage import locate
from mllm_eval.train.batches import Collator, RowShape
from mllm_eval.train.stages import Prepared, load_tokenizer, prepare_stage

BATCH = 8


def rows_of(stage: Prepared) -> set[int]:
    """The numbers of the rows that a stage reads, over all its files."""
    return {int(stage.rows.rows[row]) for step in range(stage.plan.steps) for row in stage.plan.rows(step)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--rows", type=int, default=128, help="of each file")
    asked = parser.parse_args()
    logging.disable_progress_bar()
    run = saved_run(asked.run)
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    stages = {1: run.recipe.stage1, 2: run.recipe.stage2}
    one = prepare_stage(run, 2, stages[2], tokenizer)
    model = load_checkpoint(run.checkpoint)
    shape = RowShape(
        model.config.image_token_id, model.image_tokens, tokenizer.pad_token_id, stages[2].max_length, model.grid
    )
    collator = Collator(one.data, run.encoder.preprocessing, shape)
    dtype = getattr(torch, run.recipe.dtype)
    first = 0
    for data in stages[2].data:
        with open(locate(data.path), "rb") as file:
            count = sum(1 for _ in file)
        read = rows_of(one)
        if [data] == stages[1].data:
            read |= {first + row for row in rows_of(prepare_stage(run, 1, stages[1], tokenizer))}
        left = np.array([row for row in range(first, first + count) if row not in read])
        if not len(left):
            print(f"{data.path}: all {count:,} rows were trained on, none is left to try")
            first += count
            continue
        drawn = np.random.default_rng(0).choice(left, min(asked.rows, len(left)), replace=False)
        sums, tokens = np.zeros(2), 0
        for at in range(0, len(drawn), BATCH):
            batch = collator(drawn[at : at + BATCH].tolist())
            pixels, labels = batch["pixel_values"], batch["labels"]
            here = int((labels[:, 1:] != -100).sum())
            with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                for place, images in enumerate((pixels, pixels.roll(1, 0))):
                    loss = model(input_ids=batch["input_ids"], pixel_values=images, labels=labels).loss
                    sums[place] += here * float(loss)
            tokens += here
        own, others = sums / tokens
        losses = f"{own:.3f} with the right image, {others:.3f} with another"
        print(f"{data.path}: {len(drawn)} rows, {tokens:,} tokens, {losses}")
        first += count


if __name__ == "__main__":
    main()
