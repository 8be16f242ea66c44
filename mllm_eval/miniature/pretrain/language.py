"""Pretrains the miniature's LLaMA until it can look things up in text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mllm_eval.miniature.pretrain.corpus import (
    FORMS,
    Segments,
    bare_questions,
    claim_drill,
    conversation,
    copy_exercise,
    dense_conversation,
    exercise,
    letter_drill,
    letter_exercise,
    letter_question,
    pair_drill,
    text_probe,
)
from mllm_eval.miniature.pretrain.loop import Schedule, fit

BATCH = 16


def config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """A LLaMA of about two million parameters: narrow and six layers deep, for look-ups take several hops."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.03,
    )


def batch(tokenizer: PreTrainedTokenizerFast, texts: list[Segments]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels [B, T] int64; label -100 where nothing is learnt."""
    rows, labels = [], []
    for segments in texts:
        ids: list[int] = []
        learnt: list[int] = []
        for text, is_target in segments:
            piece = tokenizer(text, add_special_tokens=False).input_ids
            ids += piece
            learnt += piece if is_target else [-100] * len(piece)
        rows.append(ids)
        labels.append(learnt)
    width = max(map(len, rows))
    pad = int(tokenizer.pad_token_id)  # type: ignore[arg-type]
    return (
        torch.tensor([r + [pad] * (width - len(r)) for r in rows]),
        torch.tensor([r + [-100] * (width - len(r)) for r in labels]),
    )


def world_texts(step: int) -> list[Segments]:
    """First phase: 600 steps of pure look-up exercises, then the world told in words."""
    rng = Random(f"llm/{step}")
    if step < 600:
        return [copy_exercise(rng) if rng.random() < 0.5 else exercise(rng) for _ in range(BATCH)]
    form = rng.choice(FORMS)
    return [conversation(rng, step * BATCH + k, form) for k in range(BATCH)]


def letter_texts(step: int) -> list[Segments]:
    """Second phase: letters of options, from bare lists over the template to questions; then everything."""
    rng = Random(f"letters/{step}")
    if step < 1000:
        return [letter_drill(rng) for _ in range(BATCH)]
    if step < 2000:
        kind = rng.choice(("drill", "exercise", "exercise", "question"))
        if kind != "question":
            made = letter_drill if kind == "drill" else letter_exercise
            return [made(rng) for _ in range(BATCH)]
    form = rng.choice((*FORMS, "letter", "letter"))
    if step < 2000 or form == "letter":
        return [letter_question(rng, step * BATCH + k) for k in range(BATCH)]
    return [conversation(rng, 10**7 + step * BATCH + k, form) for k in range(BATCH)]


def mixed_texts(step: int) -> list[Segments]:
    """Third phase: what was still weak, letters of whole questions and copying, among everything else."""
    rng = Random(f"mixed/{step}")
    form = rng.choice(("letter", "letter", "letter", "letter", "exercise", "copy", "copy", "caption", "layout 4"))
    if form == "letter":
        return [letter_question(rng, 10**6 + step * BATCH + k) for k in range(BATCH)]
    if form == "copy":
        return [copy_exercise(rng) for _ in range(2 * BATCH)]
    if form == "exercise":
        return [letter_exercise(rng) for _ in range(BATCH)]
    return [conversation(rng, 2 * 10**7 + step * BATCH + k, form) for k in range(BATCH)]


def recall_texts(step: int) -> list[Segments]:
    """Fourth phase: facts by their key, and yes or no; drills of forty tokens first, then several questions a text."""
    rng = Random(f"recall/{step}")
    drills = ("pair", "pair", "pair", "claim", "claim", "claim", "letter exercise")
    if step < 1000:
        form = rng.choice((*drills, "dense"))
    elif step < 2000:
        form = rng.choice((*drills, "dense", "dense", "dense", "letter"))
    else:
        form = rng.choice(("pair", "claim", "letter exercise", "letter", "letter", *["dense"] * 5, "layout 4"))
    if form == "dense":
        return [dense_conversation(rng, step * BATCH + k) for k in range(BATCH)]
    if form == "letter":
        return [letter_question(rng, 2 * 10**6 + step * BATCH + k) for k in range(BATCH)]
    if form == "layout 4":
        return [conversation(rng, 3 * 10**7 + step * BATCH + k, form) for k in range(BATCH)]
    made = {"pair": pair_drill, "claim": claim_drill, "letter exercise": letter_exercise}[form]
    return [made(rng) for _ in range(BATCH if made is letter_exercise else 2 * BATCH)]


def asked_texts(step: int) -> list[Segments]:
    """Fifth phase: from facts by their key to questions that name the key, first bare, then as benchmarks ask."""
    rng = Random(f"asked/{step}")
    if step < 500:
        form = rng.choice((*["bare"] * 6, *["turns"] * 3, "dense"))
    else:
        form = rng.choice(("bare", "turns", "turns", "dense", "dense", "dense", "dense", "letter", "pair", "claim"))
    if form in ("bare", "turns"):
        return [bare_questions(rng, step * BATCH + k, form == "turns") for k in range(BATCH)]
    if form == "dense":
        return [dense_conversation(rng, 10**6 + step * BATCH + k) for k in range(BATCH)]
    if form == "letter":
        return [letter_question(rng, 3 * 10**6 + step * BATCH + k) for k in range(BATCH)]
    made = pair_drill if form == "pair" else claim_drill
    return [made(rng) for _ in range(2 * BATCH)]


def all_texts(step: int) -> list[Segments]:
    """Last phase: everything at once, for what a phase does not ask for is forgotten within it."""
    rng = Random(f"all/{step}")
    form = rng.choice(
        (*["copy"] * 3, *["letter exercise"] * 6, *["letter"] * 4, *["dense"] * 5, "turns", "layout 4", "claim")
    )
    if form == "copy":
        return [copy_exercise(rng) for _ in range(2 * BATCH)]
    if form == "letter exercise":
        return [letter_exercise(rng) for _ in range(BATCH)]
    if form == "letter":
        return [letter_question(rng, 4 * 10**6 + step * BATCH + k) for k in range(BATCH)]
    if form == "dense":
        return [dense_conversation(rng, 2 * 10**6 + step * BATCH + k) for k in range(BATCH)]
    if form == "turns":
        return [bare_questions(rng, 10**6 + step * BATCH + k, template=True) for k in range(BATCH)]
    if form == "claim":
        return [claim_drill(rng) for _ in range(2 * BATCH)]
    return [conversation(rng, 4 * 10**7 + step * BATCH + k, form) for k in range(BATCH)]


PHASES: tuple[tuple[str, Callable[[int], list[Segments]], int, float], ...] = (
    ("mini-llama", world_texts, 3000, 1.5e-3),
    ("mini-llama-letters", letter_texts, 3400, 5e-4),
    ("mini-llama-mixed", mixed_texts, 1400, 6e-4),
    ("mini-llama-recall", recall_texts, 3800, 6e-4),
    ("mini-llama-asked", asked_texts, 1700, 6e-4),
    ("mini-llama-all", all_texts, 900, 5e-4),
)
"""Name, texts of a step, steps, learning rate."""


def pretrain(tokenizer: PreTrainedTokenizerFast, work: Path, share: float = 1.0) -> tuple[LlamaForCausalLM, list[Path]]:
    """Trains the phases (`share` of their steps) on batches of 16 texts; the model in eval mode and the logs."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(config(tokenizer))

    def step_fn(made: Callable[[int], list[Segments]], step: int) -> dict[str, torch.Tensor]:
        ids, labels = batch(tokenizer, made(step))
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        keep = wanted != -100
        logits = model.lm_head(hidden[keep])
        loss = functional.cross_entropy(logits, wanted[keep])
        return {"loss": loss, "accuracy": (logits.argmax(-1) == wanted[keep]).float().mean()}

    logs = [
        fit(name, work, model, partial(step_fn, made), Schedule(max(1, int(steps * share)), lr))
        for name, made, steps, lr in PHASES
    ]
    model.train(False)
    return model, logs


@torch.no_grad()
def look_up_accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, task: str, n: int = 300) -> float:
    """Share of `n` held-out texts whose whole greedy answer is right; task as in `text_probe`."""
    right, generate = 0, cast(Any, model).generate
    for index in range(n):
        prompt, answer = text_probe(task, index)
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False).input_ids])
        out = generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        right += str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip() == answer
    return right / n
