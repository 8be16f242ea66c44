"""For bench/training.py: a run with random weights, random conversations of realistic lengths, and their padding."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from orders import ORDERS
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from mllm_eval.catalog import LLM, Encoder, Recipe
from mllm_eval.model import load_tokenizer
from mllm_eval.run import Run
from mllm_eval.train.batchstats import padding as stats_padding
from mllm_eval.train.order import BatchPlan

# (share, has an image, fewest and most turns, tokens of a question, tokens of an answer). Numbers of tokens are
# log-normal, given by median and sigma. Stage 1: about half of Cambrian-Alignment is ShareGPT4V-PT, whose captions have
# 826 letters on average; the other half is Mini-Gemini's, in which 558 of 1253 thousand rows are one-line captions.
# Stage 2: the lengths of Cambrian-7M are not published. The mixture is an assumption based on its content: short
# answers, several per image; explanations and descriptions; and long text without an image.
Kind = tuple[float, bool, tuple[int, int], tuple[float, float], tuple[float, float]]
LENGTHS: dict[int, list[Kind]] = {
    1: [(0.78, True, (1, 1), (12, 0.3), (180, 0.4)), (0.22, True, (1, 1), (12, 0.3), (14, 0.4))],
    2: [
        (0.65, True, (1, 6), (25, 0.5), (5, 0.6)),
        (0.25, True, (1, 2), (30, 0.5), (140, 0.7)),
        (0.10, False, (1, 3), (60, 1.0), (250, 0.8)),
    ],
}
LONGEST = 2048
HALF = (0.5, 0.5, 0.5)
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>")
LETTERS = "abcdefghijklmnopqrstuvwxyz "


@dataclass(frozen=True)
class Shape:
    """Sizes of encoder and LLM. The defaults are the shape `long`."""

    vision: int = 384
    blocks: int = 12
    size: int = 336
    width: int = 256
    depth: int = 8
    heads: int | None = None
    """Attention heads of the LLM; None: as many as give each head a width of 32."""
    key_heads: int | None = None
    tied: bool = False
    tokens: int | None = None
    """Tokens per image; None: one per patch."""
    vocabulary: int = 32768

    @property
    def patches(self) -> int:
        return (self.size // 14) ** 2


# `desk`: a ViT-S/14 and SmolLM2-135M, as in the recipe `desk`.
SHAPES = {
    "long": Shape(),
    "desk": Shape(size=224, width=576, depth=30, heads=9, key_heads=3, tied=True, tokens=64, vocabulary=49152),
    # Only to test that the script runs; too small for a measurement.
    "tiny": Shape(64, 2, 56, 64, 2, vocabulary=300),
    "tiny-desk": Shape(64, 2, 56, 64, 2, heads=4, key_heads=2, tied=True, tokens=4, vocabulary=300),
}


def make_run(folder: Path, shape: Shape, batch: int, steps: int, rows: Mapping[int, int]) -> Run:
    """A run with random weights and random conversations, with all its files in `folder`.

    rows: stage -> number of its rows.
    """
    torch.manual_seed(0)
    vision = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=shape.vision,
            intermediate_size=4 * shape.vision,
            num_hidden_layers=shape.blocks,
            num_attention_heads=shape.vision // 64 or 1,
            image_size=shape.size,
            patch_size=14,
        )
    )
    vision.save_pretrained(folder / "encoder")
    encoder = Encoder(
        name="vit",
        family="clip",
        weights={"path": str(folder / "encoder")},
        patch=14,
        width=shape.vision,
        depth=shape.blocks,
        params=sum(one.numel() for one in vision.parameters()),
        norm=False,
        summary="cls",
        preprocessing={"mode": "squash", "size": shape.size, "mean": HALF, "std": HALF},
        facts={"pretraining_data": "none", "samples_seen": "0", "supervision": "none"},
    )
    llm = make_llm(folder / "llm", shape)
    stage = {
        "lr": 1e-3,
        "batch": batch,
        "micro_batch": batch,
        "steps": steps,
        "warmup": 0.03,
        "max_length": LONGEST,
    }
    stages = {}
    for number, count in rows.items():
        data = {"path": str(write_rows(folder, number, count)), "images": str(folder / "images")}
        stages[f"stage{number}"] = {**stage, "data": [data], "train_llm": number == 2}
    recipe = Recipe(
        name="bench",
        llm="llama",
        template="llama_3_meta",
        tokens=shape.tokens or shape.patches,
        data="mini",
        dtype="float32",
        seed=0,
        **stages,
    )
    return Run(encoder, recipe, llm, 0)


def make_llm(folder: Path, shape: Shape) -> LLM:
    """A random LLaMA with a tokenizer of letters and special tokens; unused words fill the vocabulary to its size."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token=SPECIAL[4], pad_token=SPECIAL[1])
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=max(shape.vocabulary, len(tokenizer)),
            hidden_size=shape.width,
            intermediate_size=shape.width * 8 // 3,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads or shape.width // 32,
            num_key_value_heads=shape.key_heads,
            tie_word_embeddings=shape.tied,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    params = sum(one.numel() for one in model.parameters())
    facts = {"width": shape.width, "depth": shape.depth, "vocab": model.config.vocab_size}
    return LLM(name="llama", weights={"path": str(folder)}, params=params, **facts)


def write_rows(folder: Path, stage: int, count: int) -> Path:
    """Write conversations of random lengths (`LENGTHS`) and their images, and return the path of the .jsonl."""
    draw = np.random.default_rng(stage)
    letters = random.Random(stage)
    images = folder / "images"
    images.mkdir(exist_ok=True)

    def text(median: float, sigma: float) -> str:
        return "".join(letters.choices(LETTERS, k=max(1, round(median * np.exp(sigma * draw.standard_normal())))))

    lines = []
    shares = [kind[0] for kind in LENGTHS[stage]]
    for number in range(count):
        _, seen, turns, question, answer = LENGTHS[stage][draw.choice(len(shares), p=shares)]
        said: list[dict[str, str]] = []
        for _ in range(int(draw.integers(turns[0], turns[1] + 1))):
            said += [{"from": "human", "value": text(*question)}, {"from": "gpt", "value": text(*answer)}]
        row: dict[str, Any] = {"conversations": said}
        if seen:
            row["image"] = f"{stage}-{number}.jpg"
            said[0]["value"] = f"<image>\n{said[0]['value']}"
            noise = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(images / row["image"])
        lines.append(json.dumps(row))
    path = folder / f"stage{stage}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def padding(batch: int, micro: int, rows: int = 100_000) -> list[dict[str, Any]]:
    """The share of padding in micro-batches of random lengths and of the miniature's data, for each order of rows."""
    table_rows = []
    for stage in LENGTHS:
        lengths, shown = drawn_lengths(stage, rows), drawn_images(stage, rows)
        for order in ORDERS:
            plan = BatchPlan(lengths, batch, rows // batch, (0, stage), order, "drop", shown)
            share = stats_padding(plan, micro)
            table_rows.append({"rows": f"drawn, stage {stage}", "order": order, "padding": share})
    from mllm_eval.train.stages import prepare_stage

    run = Run.of("mini-dino", "mini")
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    for number, stage in ((1, run.recipe.stage1), (2, run.recipe.stage2)):
        for order in ORDERS:
            one = prepare_stage(run, number, stage.model_copy(update={"order": order}), tokenizer)
            share = stats_padding(one.plan, stage.micro_batch)
            table_rows.append({"rows": f"miniature, stage {number}", "order": order, "padding": share})
    return table_rows


def drawn_lengths(stage: int, rows: int) -> np.ndarray:
    """Tokens per row, int64 [rows], as `write_rows` draws them: 576 per image, without those of the template."""
    draw = np.random.default_rng(stage)
    shares = [kind[0] for kind in LENGTHS[stage]]
    lengths = np.zeros(rows, np.int64)
    for at, kind in enumerate(draw.choice(len(shares), rows, p=shares)):
        _, seen, turns, *texts = LENGTHS[stage][kind]
        count = draw.integers(turns[0], turns[1] + 1)
        text = sum(median * np.exp(sigma * draw.standard_normal(count)).sum() for median, sigma in texts)
        lengths[at] = min(LONGEST, 576 * seen + round(text))
    return lengths


def drawn_images(stage: int, rows: int) -> np.ndarray:
    """Which rows of `drawn_lengths` have an image, bool [rows]."""
    draw = np.random.default_rng(stage)
    kinds = draw.choice(len(LENGTHS[stage]), rows, p=[kind[0] for kind in LENGTHS[stage]])
    return np.array([kind[1] for kind in LENGTHS[stage]])[kinds]
