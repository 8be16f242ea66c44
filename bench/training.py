"""Time both stages of training against a plain Trainer of transformers, from the same weights.

    python bench/training.py [--shape long|desk] [--threads 1,2] [--steps 6] [--batch 4] [--out FILE]
    python bench/training.py --orders
    python bench/training.py --padding [--batch 512] [--micro 16]

The plain way is transformers' Trainer on its `LlavaForConditionalGeneration` with default settings: rows in random
order, padded to the longest of a batch; the frozen encoder runs in every step; logits are computed at every position.
This project's way is its own trainer on the same model, also in random order: features are read from the store, there
is no padding, and logits and most of the last layer are computed only at targets. Both see the same rows. Before
anything is timed, the losses of one batch are compared.

The encoder has the shape of a CLIP ViT-S/14 at 336 pixels (576 patches and tokens); the LLM is a LLaMA of 8 layers of
width 256. With `--shape desk` the encoder is a ViT-S/14 at 224 pixels, whose 256 patches become 64 tokens, and the LLM
has the shape of SmolLM2-135M (49,152 words); the plain way then resizes the grid before the projector. The tokenizer
has one token per letter. The numbers of tokens of a row are drawn from `drawn.LENGTHS` with a fixed seed.

Printed and written to results/bench/training.json are tokens without padding per CPU second and per wall second, over
all steps but the first. Images are encoded only at the first training that uses them; `cold` includes this time.
`whole last layer` is this project's way with the last layer computed at every position, as an earlier version did.

At the end, or alone with `--orders`, the miniature is trained in each order of rows for comparison (`bench/orders.py`).

With `--padding` nothing is trained: the lengths of 100,000 rows per stage are drawn, and the share of padding is
counted for each order of rows, also for the miniature's batches.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from harness import alone, at_threads, report

from mllm_eval.environment import before_torch, repeatable

before_torch()

import torch  # noqa: E402
from drawn import SHAPES, make_run, padding  # noqa: E402
from orders import compare_orders  # noqa: E402
from transformers import (  # noqa: E402
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from mllm_eval.adapters import load_encoder_model  # noqa: E402
from mllm_eval.adapters.preprocessing import to_pixels  # noqa: E402
from mllm_eval.adapters.projector import grid_edge, resize_grid  # noqa: E402
from mllm_eval.data.conversations import ConversationSet  # noqa: E402
from mllm_eval.decoding import load_image  # noqa: E402
from mllm_eval.features import Features  # noqa: E402
from mllm_eval.model import VLM, assemble, load_llm_model, load_tokenizer, vlm  # noqa: E402
from mllm_eval.model.export import as_llava  # noqa: E402
from mllm_eval.run import Run  # noqa: E402
from mllm_eval.train.batches import Batches, Collator, RowNumbers  # noqa: E402
from mllm_eval.train.order import BatchPlan  # noqa: E402
from mllm_eval.train.rowtokens import TokenisedSet, tokenise  # noqa: E402
from mllm_eval.train.stages import row_shape  # noqa: E402
from mllm_eval.train.trainer import StageTrainer, arguments  # noqa: E402


def tokenised(run: Run, number: int) -> TokenisedSet:
    """The tokenised rows of a stage."""
    (data,) = (run.recipe.stage1 if number == 1 else run.recipe.stage2).data
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    conversations = ConversationSet(Path(data.path), Path(data.images))
    return tokenise([conversations], tokenizer, run.weights["llm"], run.recipe.template)


class Clock:
    """Records CPU and wall time at the end of each step."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, float]] = []

    def __call__(self, step: int) -> None:
        self.ticks.append((time.process_time(), time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        """CPU and wall seconds from the end of the first step to the end of the last."""
        first, last = self.ticks[0], self.ticks[-1]
        return {clock: last[at] - first[at] for at, clock in enumerate(("cpu", "wall"))}


class Ticking(TrainerCallback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock(state.global_step)


class PlainCollator:
    """The usual collator of a LLaVA: rows are padded to the longest, and images are decoded for every batch."""

    def __init__(self, rows: Collator, facts: Any) -> None:
        self.rows = rows
        self.facts = facts
        self.seen: list[int] = []
        self.padded: list[int] = []

    def __call__(self, numbers: Sequence[int]) -> dict[str, Any]:
        rows = [self.rows.row(number) for number in numbers]
        self.seen.append(sum(len(ids) for ids, _ in rows))
        width = max(len(ids) for ids, _ in rows)
        self.padded.append(width * len(rows))
        ids = torch.full((len(rows), width), self.rows.pad_token)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for at, (row, targets) in enumerate(rows):
            own = torch.from_numpy(row.astype(np.int64))
            ids[at, : len(row)], mask[at, : len(row)] = own, 1
            labels[at, : len(row)] = torch.where(torch.from_numpy(targets), own, -100)
        paths = [Path(self.rows.data.images[image][0]) for number in numbers for image in self.rows.images(number)]
        pixels = [torch.from_numpy(to_pixels(load_image(path), self.facts)) for path in paths]
        shown = {"pixel_values": torch.stack(pixels)} if pixels else {}
        return {"input_ids": ids, "labels": labels, "attention_mask": mask, **shown}


def new_model(run: Run, number: int) -> VLM:
    """The model with its encoder at the beginning of a stage. Every call returns the same weights."""
    repeatable(0)
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    model = assemble(run.encoder, run.recipe, load_llm_model(run.llm), tokenizer)
    model.encoder = load_encoder_model(run.encoder)
    model.llm.requires_grad_(number == 2)
    return model.train()


def as_plain(model: VLM, number: int) -> Any:
    """The same weights in transformers' LLaVA class; parameters that the stage does not train are frozen."""
    llava = as_llava(model).train()
    llava.model.vision_tower.requires_grad_(False).eval()
    llava.model.language_model.requires_grad_(number == 2)
    llava.lm_head.requires_grad_(number == 2)
    edge = grid_edge(model.config.tokens)

    def resized(_: Any, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        # LLaVA's class has no option for fewer tokens than patches, so users add the resizing in this place.
        (patches,) = given
        grid = patches.unflatten(1, (grid_edge(patches.shape[1]), -1))
        return (resize_grid(grid, edge).flatten(1, 2),)

    llava.model.multi_modal_projector.register_forward_pre_hook(resized)
    return llava


def compare(run: Run, number: int, features: Features, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one table row for each way to train a stage. Raises AssertionError if their losses differ."""
    stage = run.recipe.stage1 if number == 1 else run.recipe.stage2
    assert stage.steps is not None
    data = tokenised(run, number)
    lengths = np.minimum(data.lengths(run.recipe.tokens), stage.max_length)
    model = new_model(run, number)
    plain = as_plain(model, number)
    facts = row_shape(run, stage, model, model.tokenizer)

    before = time.process_time(), time.perf_counter()
    features.fill(data.refs(np.arange(len(data.images))))
    spent = {"cpu": time.process_time() - before[0], "wall": time.perf_counter() - before[1]}
    features.store.refresh()
    own = Collator(data, features.store, facts)
    usual = PlainCollator(own, run.encoder.preprocessing)
    model.encoder = None

    rows = np.argsort(lengths)[:: max(1, len(lengths) // 3)].tolist()
    with torch.no_grad():
        losses = float(plain(**usual(rows)).loss), float(model(**own(rows)).loss)
    assert abs(losses[0] - losses[1]) < 1e-4 * losses[0], f"stage {number}: losses {losses} differ"
    usual.seen.clear()
    usual.padded.clear()

    def row(way: str, tokens: int, padded: int, seconds: Mapping[str, float]) -> dict[str, Any]:
        rates = {f"tokens_per_{clock}_second": tokens / seconds[clock] for clock in ("cpu", "wall")}
        return {"stage": number, "way": way, "padding": 1 - tokens / padded, **rates, "loss": losses[way != "plain"]}

    options: dict[str, Any] = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    settings = TrainingArguments(
        output_dir=str(folder / f"plain{number}"),
        per_device_train_batch_size=stage.batch,
        max_steps=stage.steps,
        learning_rate=stage.lr,
        remove_unused_columns=False,
        **options,
    )
    clock = Clock()
    trainer = Trainer(
        plain, settings, train_dataset=RowNumbers(np.arange(len(data))), data_collator=usual, callbacks=[Ticking(clock)]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    # The Trainer requests one batch more than it trains on.
    counted = slice(1, stage.steps)
    slow = row("plain", sum(usual.seen[counted]), sum(usual.padded[counted]), clock.seconds())
    yield {**slow, "cpu_speedup": 1.0, "wall_speedup": 1.0}

    plan = BatchPlan(lengths, stage.batch, stage.steps, (0, number), "random")
    taken = range(1, stage.steps)
    tokens = sum(plan.tokens(step) for step in taken)
    padded = sum(int(lengths[plan.rows(step)].max()) * stage.batch for step in taken)

    def fast(way: str, seconds: Mapping[str, float]) -> dict[str, Any]:
        figures = row(way, tokens, padded, seconds)
        rates = [(f"{name}_speedup", f"tokens_per_{name}_second") for name in ("cpu", "wall")]
        return {**figures, **{speedup: figures[rate] / slow[rate] for speedup, rate in rates}}

    def trained(model: VLM) -> dict[str, float]:
        clock = Clock()
        made = arguments(run.recipe, stage, folder / f"own{number}", stage.steps, 0, f"stage {number}")
        made.save_strategy = "no"
        StageTrainer(model, stage, made, Batches(plan, RowNumbers(np.arange(len(data))), own), None, clock).train()
        return clock.seconds()

    with patch.object(vlm, "states_before_targets", whole_last_layer):
        again = new_model(run, number)
        again.encoder = None
        yield fast("features stored, whole last layer", trained(again))
    seconds = trained(model)
    yield fast("features stored", seconds)
    share = tokens / int(lengths.sum())
    yield fast("features stored, cold", {name: value + share * spent[name] for name, value in seconds.items()})


def whole_last_layer(model: Any, embeds: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """The last hidden states at the positions of mask `used`, from a pass that computes all positions."""
    states: torch.Tensor = model(inputs_embeds=embeds).last_hidden_state[used]
    return states


def report_orders(out: Path | None) -> None:
    """Compare the orders of rows in this process; print the table and write it to `out`."""
    with tempfile.TemporaryDirectory(prefix="orders-") as name, patch.dict(os.environ):
        os.environ["MLLM_EVAL_RESULTS"] = f"{name}/results"
        rows = list(compare_orders(Path(name)))
    report("training_orders", {"torch": torch.__version__, "threads": torch.get_num_threads()}, rows, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--shape", choices=SHAPES, default="long", help="of encoder, LLM and rows")
    for option, default in (("steps", 6), ("batch", 4)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--micro", type=int, default=16, help="rows of a micro-batch, for --padding")
    parser.add_argument("--padding", action="store_true", help="count padding, train nothing")
    parser.add_argument("--orders", action="store_true", help="time the orders of rows alone")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.padding:
        batch = asked.batch if asked.batch % asked.micro == 0 else 512
        report("training_padding", {"batch": batch, "micro": asked.micro}, padding(batch, asked.micro), asked.out)
        return
    if asked.orders:
        report_orders(asked.out)
        return
    told = ("threads", "steps", "batch", "shape")
    settings = {**{key: value for key, value in vars(asked).items() if key in told}, "torch": torch.__version__}
    if not alone():
        report("training", settings, at_threads(__file__, asked.threads), asked.out)
        if asked.shape == "long":
            report_orders(asked.out and asked.out.with_stem(f"{asked.out.stem}_orders"))
        return
    shape = SHAPES[asked.shape]
    with tempfile.TemporaryDirectory(prefix="training-") as name:
        folder = Path(name)
        before = os.environ.get("MLLM_EVAL_RESULTS")
        os.environ["MLLM_EVAL_RESULTS"] = str(folder / "results")
        count = max(asked.batch * asked.steps, 24)
        run = make_run(folder, shape, asked.batch, asked.steps, {1: count, 2: count})
        repeatable(0)
        features = Features.of(run)
        rows = [row for number in (1, 2) for row in compare(run, number, features, folder)]
        os.environ.pop("MLLM_EVAL_RESULTS")
        if before is not None:
            os.environ["MLLM_EVAL_RESULTS"] = before
    rows = [{"threads": int(asked.threads), **row} for row in rows]
    report("training", settings, rows, asked.out)


if __name__ == "__main__":
    main()
