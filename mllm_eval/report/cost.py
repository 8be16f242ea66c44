"""What a score cost: visual tokens, floating point operations and seconds of a question, beside the score.

Operations are counted, not measured, by `mllm_eval.plan.work`, as `mllm-eval plan` counts them: of the encoder's blocks
those that are run, of the LLM those of a question that is asked alone. Seconds are those of the run's ledger on
whatever machine it ran; what a step was is read from the line's fields, never from its title.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mllm_eval.catalog.variant import VariantKey, of_stem
from mllm_eval.config import load
from mllm_eval.errors import UserError
from mllm_eval.external import is_external
from mllm_eval.plan.shapes import encoder_shape, llama_by_size, llama_shape, projector_shape
from mllm_eval.plan.work import Asking, asking, encoding
from mllm_eval.report.table import MISSING, Cell, Column, Table, printed
from mllm_eval.run import RunConfig
from mllm_eval.storage import iter_jsonl


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run, over its default answers.

    visual_tokens   positions of the LLM that an image takes; where padding is hidden, one without any. Of a finished
                     model, those that a question has more than without its image, where it was asked so, too
    encoder_gflop   of one image through the encoder; None for an external model, whose work is not counted
    llm_gflop       of a question of average length through projector and LLM, image tokens included; likewise
    training_s, features_s, answers_s   wall seconds in all; None where the ledger has no such step
    questions       how many were answered
    typed           whether the ledger says what each step was; without that, no seconds
    """

    visual_tokens: float | None
    encoder_gflop: float | None
    llm_gflop: float | None
    training_s: float | None
    features_s: float | None
    answers_s: float | None
    questions: int
    typed: bool = True

    @property
    def seconds_a_question(self) -> float | None:
        """Wall seconds of features and answers by question."""
        if self.answers_s is None or not self.questions:
            return None
        return (self.answers_s + (self.features_s or 0.0)) / self.questions


def cost_of(folder: Path, variant: str = "default") -> Cost:
    """What a run cost, from its config, its ledger and its answers to a variant: the default, or a subset of it.

    Raises UserError for a damaged config.
    """
    steps = ledger(folder)
    asked, told = _tokens(folder, variant)
    config = None if is_external(folder) else load(folder / "config.yaml", RunConfig)
    work = None if config is None else _work(config, asked, told)
    typed = all("kind" in one for one in steps)

    def seconds(kind: str, **wanted: str) -> float | None:
        own = [one for one in steps if one.get("kind") == kind and wanted.items() <= one.items()]
        return sum(float(one["seconds"]) for one in own) if own and typed else None

    return Cost(
        visual_tokens=_more_than_blind(folder, variant, asked) if config is None else config.recipe.positions,
        encoder_gflop=None if config is None else encoding(encoder_shape(config.encoder), 1) / 1e9,
        llm_gflop=None if work is None else (work.prompt + work.answer) / 1e9,
        training_s=seconds("training"),
        features_s=seconds("features", variant=variant),
        answers_s=seconds("answers", variant=variant),
        questions=len(asked),
        typed=typed,
    )


def _more_than_blind(folder: Path, variant: str, asked: list[int]) -> float | None:
    """Mean tokens that a question has more than the same one without its image; None where that was not asked."""
    blind = _tokens(folder, str(VariantKey.parse(variant).named("blind")))[0]
    # Imported answers have no tokens.
    known = sum(asked) > 0 and len(blind) == len(asked)
    return (sum(asked) - sum(blind)) / len(asked) if known else None


def _tokens(folder: Path, variant: str) -> tuple[list[int], list[int]]:
    """Tokens in and out of each answer that is one."""
    asked, told = [], []
    for path in sorted((folder / "answers").glob("*.jsonl")):
        if of_stem(path.stem)[1] != variant:
            continue  # blind answers would make the question look cheap
        for line in iter_jsonl(path):
            asked.append(int(line.get("tokens_in", 0)))
            told.append(int(line.get("tokens_out", 0)))
    return asked, told


def _work(config: RunConfig, asked: list[int], told: list[int]) -> Asking | None:
    """Of a question of average length; None where nothing was asked."""
    if not asked:
        return None
    try:
        llm = llama_shape(config.llm)
    except UserError:
        # Its yaml has no `architecture` and its weights are elsewhere by now.
        llm = llama_by_size(config.llm)
    # What is hidden of images is in no count of tokens: an image takes at most as many positions as a question has.
    whole = round(sum(asked) / len(asked))
    image = min(config.recipe.positions, whole)
    text = whole - image
    joint = projector_shape(config.encoder, config.recipe, config.llm)
    return asking(llm, joint, encoder_shape(config.encoder), 1, 1, image, text, max(1, round(sum(told) / len(told))))


def ledger(folder: Path) -> list[dict[str, Any]]:
    """The steps of a run's ledger; lines that a crash cut off are left out.

    Lines of versions before `kind` was written have none.
    """
    path, found = folder / "ledger.jsonl", []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "step" in line and isinstance(line.get("seconds"), int | float):
            found.append(line)
    return found


_COLUMNS = (
    Column("visual_tokens", "Visual tokens", decimals=0, better="low", group="Cost of a question"),
    Column("gflop", "GFLOP", decimals=2, better="low", group="Cost of a question"),
    Column("seconds", "Seconds", decimals=4, better="low", group="Cost of a question"),
)
NOTE = (
    "Cost of a question: operations of the encoder's layers that are run on one image and of projector and LLM on "
    "image, question and answer, counted as 2 a weight and token plus attention; seconds of features and answers on "
    "the machine of the run."
)


def untimed_note(runs: Sequence[str]) -> str:
    """What a table says of runs whose ledger has no kinds."""
    return f"No seconds of {', '.join(runs)}: the ledger there is of a version that did not say what each step was."


def external_note(rows: Sequence[str]) -> str:
    """What a table says of rows whose models are not this project's."""
    return (
        f"{', '.join(rows)}: of a model that is not this project's no operations are counted; its visual tokens are "
        "what a question has more than without its image, where that was asked."
    )


def with_costs(table: Table, folders: Mapping[str, Path]) -> Table:
    """The table with what a question cost in each measured row; `folders`: run hash -> folder."""
    rows, untimed, external = [], [], []
    for row in table.rows:
        folder = folders.get(row.facts.get("run", ""))
        cost = None if folder is None or row.aside else _cost(folder, row.facts.get("variant", "default"))
        if cost is not None and cost.encoder_gflop is None:
            external.append(row.label)
        if cost is not None and not cost.typed:
            untimed.append(row.facts["run"])
        rows.append(row if cost is None else replace(row, cells={**row.cells, **_cells(cost)}))
    notes = [
        *table.notes,
        NOTE,
        *([external_note(external)] if external else []),
        *([untimed_note(list(dict.fromkeys(untimed)))] if untimed else []),
    ]
    return replace(table, columns=(*table.columns, *_COLUMNS), rows=tuple(rows), notes=tuple(notes))


def _cost(folder: Path, variant: str) -> Cost | None:
    try:
        return cost_of(folder, variant)
    except UserError:
        return None


def _cells(cost: Cost) -> dict[str, Cell]:
    known = cost.llm_gflop is not None and cost.encoder_gflop is not None
    work = (cost.encoder_gflop or 0.0) + (cost.llm_gflop or 0.0) if known else None
    numbers = {"visual_tokens": cost.visual_tokens, "gflop": work, "seconds": cost.seconds_a_question}
    made = {}
    for column in _COLUMNS:
        value = numbers[column.key]
        made[column.key] = Cell(MISSING if value is None else printed(value, column.decimals), value)
    return made
