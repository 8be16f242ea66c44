"""MMBench rows: hint, question, the options that are not the string "nan"."""

from __future__ import annotations

from mllm_eval.data.readers import Reading, Record, Settings, identity, pictures, shown, with_suffix
from mllm_eval.data.settings import Asked, takes


@takes(Asked)
def read(record: Record, settings: Settings) -> Reading:
    """`{hint}\\n{question} Options:\\nA. ..`; the rotations of a question are one group."""
    hint = record.get("hint")
    text = "" if hint in (None, "nan") else f"{hint}\n"
    options = "".join(f"\n{letter}. {record[letter]}" for letter in "ABCD" if record.get(letter) not in (None, "nan"))
    index = record.get("index")
    return Reading(
        id=identity(record, settings),
        images=pictures(record, settings),
        prompt=with_suffix(f"{text}{record['question']} Options:{options}", settings["suffix"]),
        target=shown(record.get("answer")),
        group=None if index is None else str(index % 1_000_000),
    )
