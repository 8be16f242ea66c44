"""MathVista rows: the query holds the hint, the question and the choices."""

from __future__ import annotations

from mllm_eval.data.readers import Reading, Record, Settings, identity, pictures, shown, with_suffix
from mllm_eval.data.settings import Asked, takes


class Hinted(Asked):
    """suffix_open: the instruction for questions without choices."""

    suffix_open: str | None


@takes(Hinted)
def read(record: Record, settings: Settings) -> Reading:
    """`{query}` and an instruction that depends on the kind of question."""
    multiple = record["question_type"] == "multi_choice"
    return Reading(
        id=identity(record, settings),
        images=pictures(record, settings),
        prompt=with_suffix(record["query"], settings["suffix" if multiple else "suffix_open"]),
        target=shown(record.get("answer")),
    )
