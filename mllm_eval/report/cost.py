"""What a score cost: visual tokens, floating point operations and seconds of a question, beside the score.

Operations are counted, not measured: 2 per weight and token, and 4 * depth * width * tokens**2 for attention
(Kaplan et al. 2020, arXiv 2001.08361, section 2.1). The encoder sees an image once; the LLM reads image and
question and writes the answer. Seconds are those of the run's ledger on whatever machine it ran.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mllm_eval.catalog import LLM, Encoder
from mllm_eval.config import load
from mllm_eval.errors import UserError
from mllm_eval.report.table import MISSING, Cell, Column, Table, printed
from mllm_eval.run import RunConfig
from mllm_eval.storage import iter_jsonl


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run, over its default answers.

    visual_tokens   tokens the LLM reads of an image
    encoder_gflop   of one image through the encoder
    llm_gflop       of one question through the LLM, image tokens included, on average
    training_s, features_s, answers_s   wall seconds in all; None where the ledger has no such step
    questions       how many were answered
    """

    visual_tokens: int
    encoder_gflop: float
    llm_gflop: float | None
    training_s: float | None
    features_s: float | None
    answers_s: float | None
    questions: int

    @property
    def seconds_a_question(self) -> float | None:
        """Wall seconds of features and answers by question."""
        if self.answers_s is None or not self.questions:
            return None
        return (self.answers_s + (self.features_s or 0.0)) / self.questions


def encoder_flops(encoder: Encoder) -> float:
    """Floating point operations of one image through the encoder, of all its patches at its own resolution."""
    return _flops(encoder.params, encoder.depth, encoder.width, (encoder.preprocessing.size // encoder.patch) ** 2)


def llm_flops(llm: LLM, tokens: float) -> float:
    """Floating point operations of `tokens` through the LLM, read or written."""
    return _flops(llm.params, llm.depth, llm.width, tokens)


def _flops(params: float, depth: int, width: int, tokens: float) -> float:
    return 2.0 * params * tokens + 4.0 * depth * width * tokens**2


def cost_of(folder: Path) -> Cost:
    """What a run cost, from its config, its ledger and its answers. Raises UserError for a damaged config."""
    config = load(folder / "config.yaml", RunConfig)
    questions, tokens = 0, 0
    for path in sorted((folder / "answers").glob("*.jsonl")):
        if "." in path.stem:
            continue  # a variant: blind answers would make the question look cheap
        for line in iter_jsonl(path):
            questions += 1
            tokens += int(line.get("tokens_in", 0)) + int(line.get("tokens_out", 0))
    steps = ledger(folder)
    return Cost(
        visual_tokens=config.recipe.tokens,
        encoder_gflop=encoder_flops(config.encoder) / 1e9,
        llm_gflop=llm_flops(config.llm, tokens / questions) / 1e9 if questions else None,
        training_s=_seconds(steps, "training"),
        features_s=_seconds(steps, "features:"),
        answers_s=_seconds(steps, "answers:"),
        questions=questions,
    )


def ledger(folder: Path) -> list[dict[str, Any]]:
    """The steps of a run's ledger; lines that a crash cut off are left out."""
    path, found = folder / "ledger.jsonl", []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "step" in line and isinstance(line.get("seconds"), int | float):
            found.append(line)
    return found


def _seconds(steps: list[dict[str, Any]], kind: str) -> float | None:
    own = [float(one["seconds"]) for one in steps if str(one["step"]).startswith(kind) and "(" not in str(one["step"])]
    return sum(own) if own else None


_COLUMNS = (
    Column("visual_tokens", "Visual tokens", decimals=0, better="low", group="Cost of a question"),
    Column("gflop", "GFLOP", decimals=2, better="low", group="Cost of a question"),
    Column("seconds", "Seconds", decimals=4, better="low", group="Cost of a question"),
)
NOTE = (
    "Cost of a question: operations of the encoder on one image and of the LLM on image, question and answer, counted "
    "as 2 a weight and token plus attention; seconds of features and answers on the machine of the run."
)


def with_costs(table: Table, folders: Mapping[str, Path]) -> Table:
    """The table with what a question cost in each measured row; `folders`: run hash -> folder."""
    rows = []
    for row in table.rows:
        folder = folders.get(row.facts.get("run", ""))
        rows.append(row if folder is None or row.aside else replace(row, cells={**row.cells, **_cells(folder)}))
    return replace(table, columns=(*table.columns, *_COLUMNS), rows=tuple(rows), notes=(*table.notes, NOTE))


def _cells(folder: Path) -> dict[str, Cell]:
    try:
        cost = cost_of(folder)
    except UserError:
        return {}
    work = None if cost.llm_gflop is None else cost.encoder_gflop + cost.llm_gflop
    numbers = {"visual_tokens": float(cost.visual_tokens), "gflop": work, "seconds": cost.seconds_a_question}
    made = {}
    for column in _COLUMNS:
        value = numbers[column.key]
        made[column.key] = Cell(MISSING if value is None else printed(value, column.decimals), value)
    return made
