"""TextVQA rows: the data set's own OCR result goes into the prompt."""

from __future__ import annotations

from mllm_eval.data.readers import Reading, Record, Settings, identity, pictures, shown, with_suffix
from mllm_eval.data.settings import Asked, takes


class Read(Asked):
    """ocr_tokens: whether the data set's OCR result stands in the prompt. answer: column of the golds."""

    ocr_tokens: bool
    answer: str


@takes(Read)
def read(record: Record, settings: Settings) -> Reading:
    """`{question}\\nReference OCR tokens: a, b`; the tokens can be left out by a setting."""
    text = str(record["question"])
    if settings["ocr_tokens"]:
        tokens = record["ocr_tokens"]
        text += "\nReference OCR tokens:" + (f" {', '.join(tokens)}" if tokens else "")
    return Reading(
        id=identity(record, settings),
        images=pictures(record, settings),
        prompt=with_suffix(text, settings["suffix"]),
        target=shown(record.get("answers")),
    )
