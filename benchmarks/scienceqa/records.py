"""ScienceQA rows: hint, question, choices; only rows with an image are asked."""

from __future__ import annotations

from mllm_eval.data.readers import Reading, Record, Settings, identity, lettered, pictures, with_suffix
from mllm_eval.data.settings import Asked, takes


@takes(Asked)
def read(record: Record, settings: Settings) -> Reading:
    """`{hint} {question}\\nA. ..`; without an image in the row there is none in the prompt."""
    hint = record.get("hint") or ""
    text = f"{hint} {record['question']}" if hint else str(record["question"])
    answer = record.get("answer")
    images = pictures(record, settings)
    return Reading(
        id=identity(record, settings),
        images=images,
        prompt=with_suffix(text + lettered(record["choices"]), settings["suffix"]),
        target="" if answer is None else chr(ord("A") + answer),
        asked=bool(images),
    )
