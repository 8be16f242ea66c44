"""What a run cost: visual tokens, floating-point operations and seconds per question, shown next to the scores.

Operations are counted, not measured, by `mllm_eval.operations`, as in `mllm-eval plan`: the encoder blocks that are
run, and projector and LLM on a question that shares its prefix with no other. Seconds are the run's own timings, on
whatever machine it ran.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mllm_eval.catalog.variant import BLIND, DEFAULT, VariantKey
from mllm_eval.errors import UserError
from mllm_eval.operations.count import Asking, Questions, asking, encoding
from mllm_eval.operations.shapes import encoder_shape, known_llama_shape, projector_shape
from mllm_eval.report.table import MISSING, Cell, Column, Row, Table, printed
from mllm_eval.results import RunRecord
from mllm_eval.results.record import Tokens
from mllm_eval.results.timings import Kind
from mllm_eval.run import Run


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one run, over its answers to one variant.

    visual_tokens   LLM positions that an image takes; where padding tokens are hidden, those of an image without
                    padding. For an external model: the mean number of tokens that an image adds to a question; None if
                    no question was asked without its image
    encoder_gflop   GFLOP of one image through the encoder; None for an external model
    llm_gflop       GFLOP of a question of average length through projector and LLM, image tokens included; None for an
                    external model, and without answers
    training_s, features_s, answers_s   total wall seconds; None if the run's timings hold no such step
    questions       number of answered questions
    typed           whether the timings name the kind of each step; if not, all seconds are None
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
        """Wall seconds of features and answers, per question; None if unknown."""
        if self.answers_s is None or not self.questions:
            return None
        return (self.answers_s + (self.features_s or 0.0)) / self.questions


def cost_of(record: RunRecord, variant: VariantKey = DEFAULT) -> Cost:
    """The cost of a run, from its config, timings and answers to `variant`: the default variant or a subset of it.

    Raises UserError for a damaged journal of answers.
    """
    # Requests without images are shorter and would make a question look cheap.
    tokens = record.tokens(variant)
    run = record.run if isinstance(record.run, Run) else None
    work = None if run is None else _work(run, tokens)
    typed = all(one.kind for one in record.timings)

    def seconds(kind: Kind, of: VariantKey | None = None) -> float | None:
        own = [one.seconds for one in record.timings if one.kind == kind and of in (None, one.variant)]
        return sum(own) if own and typed else None

    return Cost(
        visual_tokens=_more_than_blind(record, variant, tokens) if run is None else run.recipe.positions,
        encoder_gflop=None if run is None else encoding(encoder_shape(run.encoder), 1) / 1e9,
        llm_gflop=None if work is None else (work.prompt + work.answer) / 1e9,
        training_s=seconds("training"),
        features_s=seconds("features", variant),
        answers_s=seconds("answers", variant),
        questions=len(tokens.read),
        typed=typed,
    )


def _more_than_blind(record: RunRecord, variant: VariantKey, asked: Tokens) -> float | None:
    """The mean number of tokens that an image adds to a question; None if none was asked without its image."""
    blind = record.tokens(variant.named(BLIND.name))
    # Imported answers have no tokens.
    known = sum(asked.read) > 0 and len(blind.read) == len(asked.read)
    return (sum(asked.read) - sum(blind.read)) / len(asked.read) if known else None


def _work(run: Run, tokens: Tokens) -> Asking | None:
    """Operations of a question of average length; None if nothing was answered."""
    if not tokens.read:
        return None
    # Token counts leave out hidden padding tokens, so an image can't take more positions than its prompt has tokens.
    whole = round(sum(tokens.read) / len(tokens.read))
    image = min(run.recipe.positions, whole)
    answer = max(1, round(sum(tokens.written) / len(tokens.written)))
    joint = projector_shape(run.encoder, run.recipe, run.llm)
    asked = Questions(count=1, images=1, image_tokens=image, text=whole - image, answer=answer)
    return asking(known_llama_shape(run.llm), joint, encoder_shape(run.encoder), asked)


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
    """The note on runs whose timings do not name the kinds of steps."""
    return (
        f"No seconds of {', '.join(runs)}: the timings were written by a version that did not say what each step was."
    )


def external_note(rows: Sequence[str]) -> str:
    """The note on rows of external models."""
    return (
        f"{', '.join(rows)}: of a model that is not this project's no operations are counted; its visual tokens are "
        "what a question has more than without its image, where that was asked."
    )


def with_costs(table: Table, records: Mapping[str, RunRecord]) -> Table:
    """Adds the columns of cost per question to a table's measured rows. `records`: run hash -> run."""
    rows, untimed, external = [], [], []
    for row in table.rows:
        record = records.get(row.facts.get("run", ""))
        cost = None if record is None or row.aside else _known_cost(record, row)
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


def _known_cost(record: RunRecord, row: Row) -> Cost | None:
    try:
        return cost_of(record, VariantKey.parse(row.facts.get("variant", DEFAULT.name)))
    except UserError:
        # A damaged journal of answers hides only the cost: the scores are stored apart from it.
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
