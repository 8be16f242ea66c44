"""Read a run's files of sample scores into data frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mllm_eval.errors import UserError
from mllm_eval.storage import parse_json, read_jsonl

LINE = ("id", "score", "parsed", "note", "group", "cluster")
COLUMNS = ("benchmark", *LINE, "stratum", "content")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read lines as `read_jsonl` does, but parse those of a valid file in one call, in half the time."""
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()] if path.is_file() else []
    try:
        rows = parse_json(b"[%b]" % b",".join(lines), fields_once=False)
    except ValueError:
        return read_jsonl(path)
    sound = lines and len(rows) == len(lines) and all(isinstance(row, dict) for row in rows)
    return rows if sound else read_jsonl(path)


def frame_of(rows: list[dict[str, Any]], path: Path, benchmark: str, expected: int) -> pd.DataFrame:
    """Return the lines of a file of scores (`path`, for errors) as one row per sample, in the order of the ids.

    Columns: benchmark, id, group, cluster, stratum (str or None), score (float, NaN for a failed sample), parsed, note,
    and content (hash of the sample when it was scored, None in files of earlier versions).

    Raises:
        UserError: a missing file or key, a score that is no number from 0 to 1, a duplicate id, or another number of
            samples than `expected`.
    """
    for number, row in enumerate(rows, start=1):
        for key in LINE:
            if key not in row:
                raise UserError(f"{path}:{number}: no {key!r}; make it again with `mllm-eval score`")
        score = row["score"]
        if score is not None and not (isinstance(score, int | float) and 0 <= score <= 1):
            raise UserError(f"{path}:{number}: score {score!r} is not a number from 0 to 1 or null")
    if len(rows) != expected:
        raise UserError(f"{path}: {len(rows)} samples, its summary says {expected}; score it again")
    frame = pd.DataFrame(rows, columns=[*LINE, "stratum", "content"]).astype({"id": str, "group": str, "cluster": str})
    frame["score"] = pd.to_numeric(frame["score"]).astype(float)
    for column in ("stratum", "content"):
        frame[column] = frame[column].astype(object).where(frame[column].notna(), None)
    if frame["id"].duplicated().any():
        raise UserError(f"{path}: sample {frame['id'][frame['id'].duplicated()].iloc[0]!r} comes twice")
    frame.insert(0, "benchmark", benchmark)
    return frame.sort_values("id", kind="stable", ignore_index=True)
