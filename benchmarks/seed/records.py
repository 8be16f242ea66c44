"""SEED rows: four choices; rows with several frames are videos and are not asked."""

from __future__ import annotations

from mllm_eval.data.readers import Reading, Record, Settings, identity, lettered, pictures, shown, with_suffix
from mllm_eval.data.settings import Asked, takes


@takes(Asked)
def read(record: Record, settings: Settings) -> Reading:
    """`{question} Options:\\nA. ..` about the only image."""
    frames = record.get("image")
    options = [record[f"choice_{letter}"] for letter in "abcd"]
    return Reading(
        id=identity(record, settings),
        images=pictures(record, settings),
        prompt=with_suffix(f"{record['question']} Options:{lettered(options)}", settings["suffix"]),
        target=shown(record.get("answer")),
        asked=not (isinstance(frames, list) and len(frames) > 1),
    )
