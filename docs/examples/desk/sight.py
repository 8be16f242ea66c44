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

from mllm_eval.model import IGNORED, load_checkpoint
from mllm_eval.saved import saved_run
from mllm_eval.train.batches import Collator
from mllm_eval.train.stages import Prepared, load_tokenizer, prepare_stage, row_shape

BATCH = 8


def read_by(one: Prepared) -> set[tuple[str, int]]:
    """The rows that the steps of a stage read: file, and line in it."""
    rows = [int(one.rows.rows[row]) for step in range(one.plan.steps) for row in one.plan.rows(step)]
    return {(str(one.data.files[number]), line) for number, line in one.data.origin[rows].tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--rows", type=int, default=128, help="of each file")
    asked = parser.parse_args()
    logging.disable_progress_bar()
    run = saved_run(asked.run)
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    one = prepare_stage(run, 2, run.recipe.stage2, tokenizer)
    read = read_by(one) | read_by(prepare_stage(run, 1, run.recipe.stage1, tokenizer))
    model = load_checkpoint(run.checkpoint)
    collator = Collator(one.data, run.encoder.preprocessing, row_shape(run, one.stage, model, tokenizer))
    dtype = getattr(torch, run.recipe.dtype)
    for number, path in enumerate(map(str, one.data.files)):
        rows = np.flatnonzero(one.data.origin[:, 0] == number)
        left = [row for row in rows if (path, int(one.data.origin[row, 1])) not in read]
        if not left:
            print(f"{path}: all {len(rows):,} rows were trained on, none is left to try")
            continue
        drawn = np.random.default_rng(0).choice(left, min(asked.rows, len(left)), replace=False)
        sums, tokens = np.zeros(2), 0
        for at in range(0, len(drawn), BATCH):
            batch = collator(drawn[at : at + BATCH].tolist())
            pixels, labels = batch["pixel_values"], batch["labels"]
            here = int((labels[:, 1:] != IGNORED).sum())
            with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                for place, images in enumerate((pixels, pixels.roll(1, 0))):
                    loss = model(input_ids=batch["input_ids"], pixel_values=images, labels=labels).loss
                    sums[place] += here * float(loss)
            tokens += here
        own, others = sums / tokens
        losses = f"{own:.3f} with the right image, {others:.3f} with another"
        print(f"{path}: {len(drawn)} rows, {tokens:,} tokens, {losses}")


if __name__ == "__main__":
    main()
