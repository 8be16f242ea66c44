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
    "mini-dino": "A `Dinov2Model` trained on images alone, no text ever: DINO on class tokens, iBOT on masked patches, "
    "and a light head that redraws masked patches.",
    "mini-clip": "A `CLIPVisionModel` trained on the same images against their captions: CLIP's contrastive loss on "
    "whole images and FILIP's late interaction between patches and words.",
    "mini-llama": "A `LlamaForCausalLM` that can look things up in text of the miniature's world, with a byte-level BPE "
    "tokenizer, special tokens and chat template as LLaMA-3's.",
}


def _log_lines(measured: dict[str, Any]) -> str:
    if "log" not in measured:
        return "Not trained.\n"
    first, last = measured["log"]["first"], measured["log"]["last"]
    rows = [
        f"| {key} | {first[key]} | {last[key]} |" for key in first if key not in ("step", "seconds_per_step")
    ]
    return (
        f"| | step {first['step']} | step {last['step']} |\n|---|---|---|\n"
        + "\n".join(rows)
        + "\n\nMeans over the 50 steps before.\n"
    )


def encoder_card(name: str, measured: dict[str, Any], floor: dict[str, dict[str, float]]) -> str:
    """Card of an encoder; `floor` are the probes of mini-random."""
    rows = []
    for attribute, got in measured["probes"].items():
        base = floor[attribute]
        rows.append(
            f"| {attribute} | {100 * got['chance']:.1f} | {100 * base['linear']:.1f} | "
            f"**{100 * got['linear']:.1f}** | {100 * (got['linear'] - base['linear']):+.1f} | "
            f"{100 * base['knn']:.1f} | {100 * got['knn']:.1f} |"
        )
    return HEADER.format(name=name, what=WHAT[name]) + (
        f"- parameters: {measured['parameters']:,}\n- data: pictures of the miniature's world, drawn afresh at every step; "
        f"{measured['images']:,} images in {measured['steps']:,} steps of 64\n\n## Loss\n\n"
        + _log_lines(measured)
        + "\n## What a linear probe reads\n\nAccuracy in %, 1,200 fresh pictures to fit and 400 to test, on the mean of the "
        "patch features; `random` is mini-random.\n\n"
        "| attribute | most common | linear, random | linear | gain | 10-NN, random | 10-NN |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def llm_card(measured: dict[str, Any]) -> str:
    """Card of the LLaMA."""
    names = {
        "caption": "answer a question from a caption",
        "copy": "copy three words",
        "letter": "give the letter of the right option, from a caption",
        "open": "answer any question from a caption, yes and no included",
    }
    rows = [f"| {names[task]} | {100 * share:.1f} |" for task, share in measured["look_up"].items()]
    return HEADER.format(name="mini-llama", what=WHAT["mini-llama"]) + (
        f"- parameters: {measured['parameters']:,}\n- data: text about the world's pictures, {measured['steps']:,} steps of 16 "
        "conversations; captions, layouts, copying and letters\n\n## Loss\n\n"
        + _log_lines(measured)
        + "\n## What it can look up in text\n\nWhole greedy answers right, in %, 300 held-out texts each.\n\n| task | % |\n"
        "|---|---|\n" + "\n".join(rows) + "\n"
    )
