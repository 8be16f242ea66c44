"""A benchmark and a training set of one's own, whose rows, scorer and facts a test may change, and its run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mllm_eval import pipeline
from mllm_eval.cli.app import app
from mllm_eval.data import content
from mllm_eval.generate import runner
from mllm_eval.run import Run
from mllm_eval.storage import read_json

YAML = """\
name: own
title: Own
category: general
chance: 25
data:
  mine: {repo: mine, split: test, path: questions.csv, image_files: "images/{image}"}
columns: {image: string, question: string, answer: string}
reader: mllm_eval.data.readers:question
settings: {suffix: Answer in a word.}
generation: {max_new_tokens: 4}
rules:
  cambrian: {version: 1}
"""
SCORER = """\
NEEDS = {"answer": "string"}


def exact(record, prediction):
    return float(prediction.strip() == record["answer"]), prediction.strip() or None, ""


def report(rules, rows):
    return {"accuracy": 100 * sum(score for _, score in rows) / len(rows)}


RULES = {"cambrian": exact}
"""
ROWS = [{"image": f"{n % 6}.png", "question": f"What is {n}?", "answer": "red"} for n in range(12)]


def set_home(patch: pytest.MonkeyPatch, home: Path) -> None:
    patch.setenv("MLLM_EVAL_DATA", str(home / "data"))
    patch.setenv("MLLM_EVAL_RESULTS", str(home / "results"))
    patch.setenv("MLLM_EVAL_PATH", str(home))


def settle(patch: pytest.MonkeyPatch) -> None:
    """Believe files that were written just now: the tests change them in ways that show."""
    patch.setattr(content, "SETTLED", 0)


def write(home: Path, rows: list[dict[str, str]] = ROWS, scorer: str = SCORER, facts: str = YAML) -> None:
    with (home / "data/mine/questions.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(ROWS[0]))
        table.writeheader()
        table.writerows(rows)
    (home / "benchmarks/own/own.py").write_text(scorer)
    (home / "benchmarks/own/benchmark.yaml").write_text(facts)


def evaluate() -> Run:
    return pipeline.evaluate("tiny-dinov2", "own", benchmarks=["own"])


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


def the_run() -> Run:
    return Run.of("tiny-dinov2", "own")


def summary() -> dict[str, Any]:
    found: dict[str, Any] = read_json(the_run().summary_path("own", "cambrian"))
    return found


def watched(patch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the questions that are asked from now on."""
    asked: list[str] = []
    same_requests = runner.same_requests

    def watch(tasks: Any) -> Any:
        asked.extend(request.id for task in tasks for request in task.pending)
        return same_requests(tasks)

    patch.setattr(runner, "same_requests", watch)
    return asked
