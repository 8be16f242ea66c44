"""Pretrains the miniature's LLaMA until it can look things up in text."""

from __future__ import annotations

from pathlib import Path
from random import Random

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mllm_eval.miniature.pretrain.corpus import (
    FORMS,
    Segments,
    conversation,
    copy_exercise,
    exercise,
    text_probe,
)
from mllm_eval.miniature.pretrain.loop import fit

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


def texts(step: int, warm: int) -> list[Segments]:
    """The texts of a step: pure look-up exercises first, then the world."""
    rng = Random(f"llm/{step}")
    if step < warm:
        return [copy_exercise(rng) if rng.random() < 0.5 else exercise(rng) for _ in range(BATCH)]
    form = rng.choice(FORMS)
    return [conversation(rng, step * BATCH + k, form) for k in range(BATCH)]


def pretrain(
    tokenizer: PreTrainedTokenizerFast, work: Path, steps: int, warm: int = 600, lr: float = 1.5e-3
) -> tuple[LlamaForCausalLM, Path]:
    """Trains for `steps` steps of 16 texts; returns the model in eval mode and the log."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(config(tokenizer))

    def step_fn(step: int) -> dict[str, torch.Tensor]:
        ids, labels = batch(tokenizer, texts(step, warm))
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        keep = wanted != -100
        logits = model.lm_head(hidden[keep])
        loss = functional.cross_entropy(logits, wanted[keep])
        accuracy = (logits.argmax(-1) == wanted[keep]).float().mean()
        return {"loss": loss, "accuracy": accuracy}

    log = fit("mini-llama", work, model, step_fn, steps=steps, lr=lr, warmup=100)
    return model.eval(), log


@torch.no_grad()
def look_up_accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, task: str, n: int = 300) -> float:
    """Share of `n` held-out texts whose whole greedy answer is right; task as in `text_probe`."""
    right = 0
    for index in range(n):
        prompt, answer = text_probe(task, index)
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False).input_ids])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        right += tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip() == answer
    return right / n
