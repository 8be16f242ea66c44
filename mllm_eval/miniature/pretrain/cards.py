"""Model cards of the miniature's weights, written from what was measured."""

from __future__ import annotations

from typing import Any

HEADER = """---
license: apache-2.0
library_name: transformers
tags: [mllm_eval, miniature]
---
# {name}

{what}

Made from nothing by `make mini-weights` on CPU; stored as float16. Part of the miniature of `mllm_eval`: a model
of its own small world of rendered pictures (112 x 112), of no use outside it.

"""
WHAT = {
    "mini-random": "A `Dinov2Model` that was never trained: the floor under every comparison of encoders.",
    "mini-dino": (
        "A `Dinov2Model` trained on images alone, no text ever: self-distillation from an exponential mean of itself, "
        "by MoCo v3's contrastive loss between two views and between the patches that show the same spot, half of "
        "them masked, and a light head that redraws the masked ones."
    ),
    "mini-clip": (
        "A `CLIPVisionModel` trained on the same images against their captions: CLIP's contrastive loss on "
        "whole images and FILIP's late interaction between patches and words."
    ),
    "mini-llama": (
        "A `LlamaForCausalLM` that can look things up in text of the miniature's world, with a byte-level BPE "
        "tokenizer; special tokens and chat template as LLaMA-3's."
    ),
}
TASKS = {
    "caption": "answer a question from a caption",
    "copy": "copy three words",
    "letter": "give the letter of an option that is told, one of four",
    "choice": "answer a question from a caption by the letter of its option",
    "open": "answer any question from a caption, yes and no included",
}
PROBES = """
## What can be read from its features

Accuracy in %: logistic regression (and 10 nearest neighbours) on the mean of the patch features, 1,200 fresh
pictures to fit and 400 to test; `random` is mini-random.

| attribute | most common | linear, random | linear | gain | 10-NN, random | 10-NN |
|---|---|---|---|---|---|---|
"""
LOOK_UP = """
## What it can look up in text

Whole greedy answers right, in %, 300 held-out texts each.

| task | % |
|---|---|
"""


def _loss(measured: dict[str, Any]) -> str:
    if "log" not in measured:
        return "\nNever trained.\n"
    first, last = measured["log"]["first"], measured["log"]["last"]
    keys = [key for key in first if key not in ("step", "seconds_per_step")]
    rows = "\n".join(f"| {key} | {first[key]} | {last[key]} |" for key in keys)
    head = f"| | step {first['step']} | step {last['step']} |\n|---|---|---|\n"
    return f"\n## Loss\n\nMeans over the 50 steps before.\n\n{head}{rows}\n"


def encoder_card(name: str, measured: dict[str, Any], floor: dict[str, dict[str, float]]) -> str:
    """Card of an encoder; `floor` are the probes of mini-random."""
    rows = []
    for attribute, got in measured["probes"].items():
        base = floor[attribute]
        cells = [got["chance"], base["linear"], got["linear"], base["knn"], got["knn"]]
        most, linear_0, linear, near_0, near = (f"{100 * c:.1f}" for c in cells)
        gain = f"{100 * (got['linear'] - base['linear']):+.1f}"
        rows.append(f"| {attribute} | {most} | {linear_0} | {linear} | {gain} | {near_0} | {near} |")
    corpus = measured.get("corpus")
    drawn = "drawn afresh at every step"
    if corpus is not None:
        said = f"filter {corpus['level']}, by {corpus['by']}; seed {measured['seed']}"
        drawn = f"{corpus['kept']:,} of a corpus, repeated ({said})"
    facts = (
        f"- parameters: {measured['parameters']:,}\n"
        f"- data: pictures of the miniature's world, {drawn}; {measured['images']:,} images in "
        f"{measured['steps']:,} steps of 64\n"
    )
    return HEADER.format(name=name, what=WHAT[name]) + facts + _loss(measured) + PROBES + "\n".join(rows) + "\n"


def llm_card(measured: dict[str, Any]) -> str:
    """Card of the LLaMA."""
    rows = "\n".join(f"| {TASKS[task]} | {100 * share:.1f} |" for task, share in measured["look_up"].items())
    facts = (
        f"- parameters: {measured['parameters']:,}\n"
        f"- data: text about the world's pictures (captions, layouts, copying, letters), {measured['steps']:,} steps "
        "of 16 conversations\n"
    )
    return HEADER.format(name="mini-llama", what=WHAT["mini-llama"]) + facts + _loss(measured) + LOOK_UP + rows + "\n"
