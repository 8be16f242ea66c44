"""Samples and scores as data frames, for use in a notebook without a run and without files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mllm_eval import escaping
from mllm_eval.catalog import Benchmark, Given, load_benchmark
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.data.snapshots import load_samples
from mllm_eval.environment import settings
from mllm_eval.errors import UserError, near
from mllm_eval.html import Html
from mllm_eval.score.answerfiles import line_of
from mllm_eval.score.files import ScoringOptions, score_lines, sentence
from mllm_eval.score.scorer import rules_of
from mllm_eval.score.scoring import Summary

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ScoredPredictions:
    """A benchmark's summary, and one row per sample: id, prediction, score (0 to 1, NaN: failed), parsed, note."""

    summary: Summary
    scores: pd.DataFrame

    @property
    def value(self) -> float | None:
        """The number in a table; None if no sample has a score."""
        return self.summary.value

    def __repr__(self) -> str:
        return f"<{sentence(self.summary)}>"

    def _repr_html_(self) -> Html:
        # pandas escapes HTML in cells, but not characters that change the direction of text.
        cells = Html(escaping.lines(self.scores._repr_html_()))  # type: ignore[operator]
        return Html("<p>{}</p>{}").format(sentence(self.summary), cells)


@settings()
def sample_frame(benchmark: Given | Benchmark, data: str = "mini", variant: str = DEFAULT.name) -> pd.DataFrame:
    """The samples of a benchmark, one row each, in the order of the data set.

    Columns: `id`, `question` (the prompt's text with its suffix, without a template), `gold` (for display; rules read
    the record), `images` (a tuple of `ImageRef`, whose `load()` returns the image), `group` (samples that are scored
    together), `cluster` (samples that are not independent), `record` (the upstream row without image bytes).

    Raises:
        UserError: an unknown benchmark, pin or variant, or data that are missing or can't be read.
    """
    import pandas as pd

    chosen = load_benchmark(benchmark)
    chosen.pin(data)
    rows = [
        (one.id, one.prompt, one.target, one.images, one.group, one.cluster, one.record)
        for one in load_samples(chosen, data, VariantKey.parse(variant))
    ]
    return pd.DataFrame(rows, columns=["id", "question", "gold", "images", "group", "cluster", "record"])


@settings()
def score(
    benchmark: Given | Benchmark,
    predictions: pd.DataFrame | Mapping[str, str | None] | Iterable[Mapping[str, Any]],
    rules: str = "cambrian",
    *,
    data: str = "mini",
    variant: str = DEFAULT.name,
    partial: bool = False,
) -> ScoredPredictions:
    """Score answers to a benchmark in memory, as `mllm-eval score BENCHMARK --answers FILE` scores a file.

    Args:
        predictions: a mapping of id to answer; a frame with columns `id` and `prediction`; or rows like the lines of a
            file. A row may have its own `record`, and then needs no data here. None, NaN and an empty text are failed
            samples. `question`, `prompt`, `gold` and `target` of a frame are compared with the samples; other columns
            are ignored.
        rules: `cambrian`, `robust`, or another rule set of the benchmark's yaml.
        data, variant: the data pin and variant that the answers belong to.
        partial: whether answers to some of the samples are enough.

    Raises:
        UserError: as `mllm-eval score`: repeated, unknown or missing ids, a question or gold answer that differs from
            the sample's, or a rule that fails.
    """
    import pandas as pd

    chosen = load_benchmark(benchmark)
    rules_of(chosen, rules)
    source = f"answers to {chosen.name}"
    lines = [line_of(row, f"{source}, row {number}") for number, row in enumerate(_rows(predictions, source))]
    scored = score_lines(
        chosen, source, lines, ScoringOptions(rules, partial, pin=data, variant=VariantKey.parse(variant))
    )
    rows = [(one.id, _whole(scored.predictions.get(one.id)), one.score, one.parsed, one.note) for one in scored.scores]
    frame = pd.DataFrame(rows, columns=["id", "prediction", "score", "parsed", "note"])
    return ScoredPredictions(scored.summary, frame.astype({"score": "float64"}))


def _whole(text: str | None) -> str | None:
    # A column of texts cannot hold half of a surrogate pair, which JSON allows.
    return None if text is None else text.encode("utf-8", "replace").decode()


READ = ("id", "prediction", "question", "prompt", "gold", "target")


def _rows(answers: Any, source: str) -> list[dict[str, Any]]:
    import pandas as pd

    if isinstance(answers, Mapping):
        return [{"id": name, "prediction": None if text is pd.NA else text} for name, text in answers.items()]
    if not hasattr(answers, "columns"):
        rows: list[Any] = [answers] if isinstance(answers, str) or not isinstance(answers, Iterable) else list(answers)
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise UserError(
                    f"{source}, row {number}: is {type(row).__name__}; an answer belongs to a sample by its id: give "
                    "{id: answer}, a frame with columns id and prediction, or rows with both"
                )
        return [{name: None if value is pd.NA else value for name, value in row.items()} for row in rows]
    for name in ("id", "prediction"):
        if name not in answers.columns:
            raise UserError(f"{source}: column '{name}' is missing.{near(name, map(str, answers.columns))}")
    kept = answers[[name for name in READ if name in answers.columns]]
    if not kept.columns.is_unique:
        raise UserError(f"{source}: a column stands in the frame twice ({', '.join(map(str, kept.columns))})")
    # Missing cells of any dtype become None, and numpy numbers become plain ones, as in a file.
    plain = kept.astype(object).where(kept.notna(), None)
    return [
        {str(name): value.item() if hasattr(value, "item") else value for name, value in row.items()}
        for row in plain.to_dict("records")
    ]
