"""Samples and scores as data frames: a benchmark in a notebook, without a run and without files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mllm_eval.catalog import load_benchmark
from mllm_eval.data.snapshots import load_samples
from mllm_eval.errors import UserError, near
from mllm_eval.score.answerfiles import line_of
from mllm_eval.score.files import score_lines
from mllm_eval.score.scorer import rules_of
from mllm_eval.score.scoring import Summary

if TYPE_CHECKING:
    import pandas as pd


class ScoredFrame(NamedTuple):
    """A benchmark's numbers, and a row a sample: id, prediction, score (NaN: failed), parsed, note."""

    summary: Summary
    scores: pd.DataFrame


def sample_frame(benchmark: str, data: str = "mini", variant: str = "default") -> pd.DataFrame:
    """The samples of a benchmark, a row each, in the data set's order.

    Columns: `id`, `question` (the text that is asked, its suffix included, without a template), `gold` (to show; the
    rules read the record), `images` (a tuple of `ImageRef`, `load()` gives the image), `group` (samples that are scored
    together), `cluster` (samples that are not independent), `record` (the upstream row without image bytes).

    Raises:
        UserError: an unknown benchmark, pin or variant, or data that are not here or can't be read.
    """
    import pandas as pd

    chosen = load_benchmark(benchmark)
    chosen.pin(data)
    rows = [
        (one.id, one.prompt, one.target, one.images, one.group, one.cluster, one.record)
        for one in load_samples(chosen, data, variant)
    ]
    return pd.DataFrame(rows, columns=["id", "question", "gold", "images", "group", "cluster", "record"])


def score_frame(
    benchmark: str,
    answers: pd.DataFrame | Mapping[str, str | None],
    rules: str = "cambrian",
    data: str = "mini",
    variant: str = "default",
    partial: bool = False,
) -> ScoredFrame:
    """Score answers to a benchmark in memory, as `mllm-eval score BENCHMARK --answers FILE` scores a file.

    Args:
        answers: id -> answer, or a frame with columns `id` and `prediction`; None, NaN and an empty text are failed
            samples. `question`, `prompt`, `gold` and `target` of a frame are held against the samples; further columns
            are not read.
        rules: `cambrian`, `robust`, or another that the benchmark's yaml has.
        partial: answers to some of the samples are enough.

    Raises:
        UserError: what `mllm-eval score` refuses too: ids twice, unknown or missing, a question or gold that is not the
            sample's, a rule that fails.
    """
    import pandas as pd

    chosen = load_benchmark(benchmark)
    rules_of(chosen, rules)
    chosen.pin(data)
    source = f"answers to {chosen.name}"
    lines = [line_of(row, f"{source}, row {number}") for number, row in enumerate(_rows(answers, source))]
    scored = score_lines(chosen, source, lines, rules, partial, data, variant)
    found = [(one.id, scored.predictions.get(one.id), one.score, one.parsed, one.note) for one in scored.scores]
    frame = pd.DataFrame(found, columns=["id", "prediction", "score", "parsed", "note"])
    return ScoredFrame(scored.summary, frame.astype({"score": "float64"}))


READ = ("id", "prediction", "question", "prompt", "gold", "target")


def _rows(answers: pd.DataFrame | Mapping[str, str | None], source: str) -> list[dict[str, Any]]:

    if isinstance(answers, Mapping):
        return [{"id": name, "prediction": text} for name, text in answers.items()]
    for name in ("id", "prediction"):
        if name not in answers.columns:
            raise UserError(f"{source}: column '{name}' is missing.{near(name, map(str, answers.columns))}")
    kept = answers[[name for name in READ if name in answers.columns]]
    if not kept.columns.is_unique:
        raise UserError(f"{source}: a column stands in the frame twice ({', '.join(map(str, kept.columns))})")
    # Missing cells of any dtype are None; numbers are plain, as they are in a file.
    plain = kept.astype(object).where(kept.notna(), None)
    return [
        {str(name): value.item() if hasattr(value, "item") else value for name, value in row.items()}
        for row in plain.to_dict("records")
    ]
