"""MMVP rows: options as "(a) X (b) Y"; neighbours in index are a pair."""

from __future__ import annotations

from mllm_eval.data.readers import Reading, Record, Settings, identity, pictures, shown, with_suffix
from mllm_eval.data.settings import Asked, takes


@takes(Asked)
def read(record: Record, settings: Settings) -> Reading:
    """`{question} Options:\\nA. X\\nB. Y`."""
    first, *rest = (part.strip().replace("(a)", "A.") for part in str(record["options"]).split("(b)"))
    lines = [first, *(f"B. {part}" for part in rest[:1]), *rest[1:]]
    index = record.get("index")
    return Reading(
        id=identity(record, settings),
        images=pictures(record, settings),
        prompt=with_suffix("\n".join([f"{record['question']} Options:", *lines]), settings["suffix"]),
        target=shown(record.get("answer")),
        group=None if index is None else str((index + 1) // 2),
    )
