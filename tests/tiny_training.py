"""A run whose training takes a second, and what its log says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_models import make_conversations, make_encoder, make_llm, make_recipe

from mllm_eval.catalog import LLM, Encoder
from mllm_eval.run import Run
from mllm_eval.train import train


def make_run(folder: Path, **changes: Any) -> Run:
    data, images = make_conversations(folder / "data")
    encoder = make_encoder(folder / "encoder")
    return Run(encoder, make_recipe(data, images, **changes), make_llm(folder / "llm"), 3)


def log_of(run: Run, stage: int) -> list[dict[str, Any]]:
    lines = (run.stage_dir(stage) / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def train_with(llm: LLM, tmp_path: Path, encoder: Encoder | None = None, **changes: Any) -> None:
    data, images = make_conversations(tmp_path / "data")
    run = Run(encoder or make_encoder(tmp_path / "encoder"), make_recipe(data, images, **changes), llm, 0)
    run.prepare()
    train(run)
