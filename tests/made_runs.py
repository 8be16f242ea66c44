"""Run folders made up for the tests, as the pipeline leaves them: config, manifest, scores, summaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from places import ROOT

from mllm_eval.catalog import LLM, Encoder, Recipe
from mllm_eval.catalog.variant import VariantKey
from mllm_eval.config import short_hash
from mllm_eval.results import columns
from mllm_eval.run import Run
from mllm_eval.storage import write_json, write_jsonl

Line = dict[str, Any]
TASKS = [
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
]


def encoder(name: str = "mini-dino") -> Encoder:
    return Encoder.model_validate({
        "name": name, "family": "dinov2", "weights": {"path": f"weights/{name}"}, "patch": 14, "width": 128,
        "depth": 6, "params": 1_300_000,
        "preprocessing": {"mode": "pad", "size": 112, "mean": [0.5] * 3, "std": [0.5] * 3},
        "facts": {"pretraining_data": "rendered", "samples_seen": "2M", "supervision": "self"},
    })  # fmt: skip


def recipe(name: str = "mini", tokens: int = 36) -> Recipe:
    stage = {"data": [{"path": "a.jsonl", "images": "images"}], "lr": 1e-3, "batch": 8, "micro_batch": 8,
             "warmup": 0.03, "max_length": 64, "train_llm": False}  # fmt: skip
    return Recipe.model_validate({
        "name": name, "llm": "mini-llama", "template": "llama_3", "tokens": tokens, "data": "mini",
        "dtype": "float32", "seed": 0, "stage1": stage, "stage2": {**stage, "train_llm": True},
    })  # fmt: skip


def llm(name: str = "mini-llama") -> LLM:
    return LLM.model_validate({"name": name, "weights": {"path": f"weights/{name}"}, "params": 2_000_000,
                               "width": 128, "depth": 4, "vocab": 700})  # fmt: skip


def layout(benchmark: str, images: int = 40) -> list[Line]:
    """The samples of a benchmark (id, group, cluster, perhaps stratum), grouped as upstream groups them."""
    declared = columns().benchmarks[benchmark].estimator if benchmark in columns().benchmarks else None
    lines: list[Line] = []
    if declared and declared.get("strata") == "sum":
        for task in [*TASKS, "code_reasoning"]:
            for image in range(max(3, images // 10)):
                for part in ("", "#2"):
                    name = f"{task}/{image:04d}.png"
                    lines.append({"id": name + part, "group": name, "cluster": f"sha-{name}"})
    elif declared and declared.get("strata") == "mean":
        for index in range(images * 2):
            source = "ADE20K" if index % 3 == 0 else "COCO"
            cluster = f"sha-{source}-{index // 2}"
            lines.append({"id": f"{index:04d}", "group": str(index), "cluster": cluster, "stratum": source})
    else:
        for index in range(images * 2):
            lines.append({"id": f"{index:04d}", "group": f"g{index // 2}", "cluster": f"sha-{index // 2}"})
    return lines


def value_of(benchmark: str, lines: list[Line]) -> float:
    """The value by plain loops, as the scoring rules count it: not by the estimator under test."""
    declared = (columns().benchmarks[benchmark].estimator if benchmark in columns().benchmarks else None) or {}
    valid = [line for line in lines if line["score"] is not None]

    def mean(part: list[Line]) -> float:
        return 100 * sum(line["score"] for line in part) / len(part)

    def whole(part: list[Line]) -> float:
        groups: dict[str, list[float]] = {}
        for line in part:
            groups.setdefault(line["group"], []).append(line["score"])
        return 100 * sum(min(scores) == 1 for scores in groups.values()) / len(groups)

    if declared.get("strata") == "sum":
        parts = [[line for line in valid if line["group"].startswith(task + "/")] for task in TASKS]
        return sum(mean(part) + whole(part) for part in parts)
    if declared.get("strata") == "mean":
        sources = sorted({line["stratum"] for line in valid})
        return sum(mean([line for line in valid if line["stratum"] == s]) for s in sources) / len(sources)
    return whole(valid) if declared.get("sample") == 0 else mean(valid)


def write_scores(
    run: Run,
    benchmark: str,
    lines: list[Line],
    rules: str = "cambrian",
    variant: str = "default",
    **changes: Any,
) -> None:
    failed = sum(line["score"] is None for line in lines)
    rows = [{"parsed": "A", "note": "", **line} for line in lines]
    key = VariantKey.parse(variant)
    write_jsonl(run.scores_path(benchmark, rules, key), rows)
    summary = {
        "benchmark": benchmark, "rules": rules, "variant": variant, "n": len(lines), "n_failed": failed,
        "n_unparsed": 0, "value": value_of(benchmark, lines), "reported": {}, "chance": 25.0,
        "protocol": f"{benchmark}@{rules}.v1", "protocol_hash": "0123456789ab",
    }  # fmt: skip
    write_json(run.summary_path(benchmark, rules, key), {**summary, **changes})


def make_run(
    name: str,
    skill: float = 0.5,
    seed: int = 0,
    benchmarks: list[str] | None = None,
    variant: str = "default",
    chosen: Recipe | None = None,
    brain: LLM | None = None,
    better_at: dict[str, float] | None = None,
    reported: dict[str, Any] | None = None,
) -> Run:
    """A run of an encoder that is right with probability `skill`; the same images are hard for everyone."""
    run = Run(encoder(name), chosen or recipe(), brain or llm(), seed, {"encoder": f"e-{name}", "llm": "l"})
    # A made-up run among the results of the checkout would appear in its tables.
    assert not run.folder.is_relative_to(ROOT / "results"), "ask for the fixture `results`"
    run.prepare()
    for benchmark in benchmarks or list(columns().benchmarks):
        rng = np.random.default_rng(int(short_hash([name, seed, benchmark, variant], 8), 16))
        ease = np.random.default_rng(int(short_hash(benchmark, 8), 16))
        level = (better_at or {}).get(benchmark, skill)
        lines = layout(benchmark)
        hard = {cluster: ease.normal(0, 0.15) for cluster in sorted({line["cluster"] for line in lines})}
        for line in lines:
            line["score"] = int(rng.random() < level + hard[line["cluster"]])
        write_scores(run, benchmark, lines, variant=variant, reported=(reported or {}).get(benchmark, {}))
    return run


def folder(run: Run) -> Path:
    return run.folder
