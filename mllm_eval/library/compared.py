"""Compares several models on the same questions: one table, and a significance test for every difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, Unpack

from mllm_eval.catalog import LLM, Encoder, Given, Recipe, load_encoder, load_llm, load_recipe
from mllm_eval.catalog.variant import BLIND, DEFAULT, VariantKey
from mllm_eval.environment import settings
from mllm_eval.errors import UserError
from mllm_eval.external import ExternalModel
from mllm_eval.imported import Imported
from mllm_eval.library.evaluation import (
    QuestionOptions,
    Results,
    evaluate,
    facts_of,
    refuse_unknown,
    several,
    table_size,
)
from mllm_eval.pipeline.asked import asked_benchmarks, baseline_asked, rules_asked
from mllm_eval.pipeline.reporter import Reporter
from mllm_eval.pipeline.selection import shown_variants
from mllm_eval.report import Table, comparison, sentences
from mllm_eval.report.comparison import held_equal, labels, row_of, tested
from mllm_eval.report.differences import Difference
from mllm_eval.report.evidence import draw_together, read_variants
from mllm_eval.results import RunRecord
from mllm_eval.run import Run
from mllm_eval.saved import Saved

if TYPE_CHECKING:
    import pandas as pd

    from mllm_eval.html import Html
    from mllm_eval.library.frozen import LoadedEncoder

COLUMNS = (
    "a", "b", "column", "difference", "low", "high", "p", "holm", "only_a", "only_b", "mcnemar",
    "gain", "gain_low", "gain_high", "gain_p", "gain_holm",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Several results side by side. `compare` makes it; a notebook shows its table.

    Scores are read when they are first needed, and then kept: later changes to the runs' files do not show.

    Attributes:
        results: one for each model, in the order given.
        rules: the rule set of the numbers.
        baseline: the row (label, encoder or hash) that all others are compared with; None for every pair.
        mixed_recipes: whether rows with different recipes may be in one table.
    """

    results: tuple[Results, ...]
    rules: str = "cambrian"
    baseline: str | None = None
    mixed_recipes: bool = False

    def table(self, intervals: bool = False) -> Table:
        """A table with one row per result, and one per blind result, and sentences about the differences.

        intervals: show 95 % confidence intervals. Raises UserError for recipes or protocols that differ, or an unknown
        baseline.
        """
        return comparison(self._records, self.baseline, self.rules, self._variants, intervals=intervals,
                          mixed_recipes=self.mixed_recipes, benchmarks=self._names)  # fmt: skip

    @cached_property
    def differences(self) -> pd.DataFrame:
        """One row for each pair of results and each column of the table, tested on the samples that both answered.

        Columns: a, b (labels of rows), column (benchmark, category or AVG), difference (a - b in the table's points),
        low, high (95 % confidence interval), p (permutation test), holm (p corrected for all rows by Holm), only_a,
        only_b, mcnemar (samples that only a or only b has right, and McNemar's p; missing unless scores are 0 or 1),
        and gain, gain_low, gain_high, gain_p, gain_holm: the same for the visual gains, if both were asked blind.

        Raises UserError as `table` does.
        """
        import pandas as pd

        rows = [
            (one.a, one.b, one.key, one.difference.value, one.difference.low, one.difference.high, one.p, one.holm,
             one.only_a, one.only_b, one.mcnemar, *_gain(one))
            for one in self._tested
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=list(COLUMNS))

    @property
    def sentences(self) -> list[str]:
        """The differences in words. Raises UserError as `table` does."""
        return sentences(self._tested)

    @cached_property
    def _tested(self) -> list[Difference]:
        scored = read_variants(self._records, self.rules, self._variants, self._names)
        held_equal(scored, self.mixed_recipes)
        names = labels(scored)
        draw_together(scored)
        return tested(scored, names, None if self.baseline is None else row_of(self.baseline, scored, names))

    @cached_property
    def _records(self) -> list[RunRecord]:
        # Kept, so that the table, the differences and the sentences share the scores that were read and their draws.
        return [one.record for one in self.results]

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(benchmark.name for one in self.results for benchmark in one.benchmarks))

    @property
    def _variants(self) -> list[VariantKey]:
        shown = (shown_variants(one.blind, one.subset) for one in self.results)
        return sorted({one for own in shown for one in own}, key=lambda one: (one.name == BLIND.name, str(one)))

    def __repr__(self) -> str:
        return f"<comparison of {', '.join(one.run.name for one in self.results)}>"

    def _repr_html_(self) -> Html:
        return self.table()._repr_html_()


def _gain(one: Difference) -> tuple[float | None, ...]:
    if one.gain is None:
        return (None,) * 5
    return one.gain.difference.value, one.gain.difference.low, one.gain.difference.high, one.gain.p, one.gain.holm


@settings()
def compare(
    models: Sequence[Given | Encoder | LoadedEncoder | Results | Saved],
    *,
    progress: bool | Reporter = False,
    recipe: Given | Recipe | None = None,
    llm: Given | LLM | None = None,
    seed: int | None = None,
    baseline: str | None = None,
    mixed_recipes: bool = False,
    **questions: Unpack[QuestionOptions],
) -> Comparison:
    """Evaluate several models under one recipe, where results are missing, and compare them.

    Args:
        models: anything that `evaluate` accepts, its results, and saved runs.
        progress, recipe, llm, seed: as for `evaluate`.
        baseline: a row (encoder, label or hash) that all others are compared with; by default every pair is compared.
        mixed_recipes: allow rows with different recipes, such as external models next to encoders.
        questions: `benchmarks`, `subset`, `blind` and `rules`, as for `evaluate`.

    Raises:
        UserError: bad input. All names are checked before anything is computed.
    """
    if isinstance(models, str | PathLike | Mapping) or not isinstance(models, Iterable) or not models:
        raise UserError("say what to compare: a list of encoders, models or results")
    refuse_unknown("compare", questions, QuestionOptions)
    asked, rules = several(questions.get("benchmarks")), questions.get("rules") or "cambrian"
    there: list[Any] = []
    for model in models:
        if isinstance(model, Run | Imported):
            there.append(Results.of(model, rules, asked))
        else:
            there.append(facts_of(model))
    VariantKey.of(DEFAULT.name, table_size(questions.get("subset"), asked))
    chosen = load_recipe("mini" if recipe is None else recipe)
    if llm is not None:
        load_llm(llm)
    own: list[str] = []
    for model in there:
        if isinstance(model, Results):
            own += [model.run.encoder.name if isinstance(model.run, Run) else str(getattr(model.run, "label", ""))]
            continue
        pin = model.data_pin if isinstance(model, ExternalModel) else chosen.data
        own += [model.label if isinstance(model, ExternalModel) else load_encoder(model).name]
        asked_benchmarks(asked, pin)
        rules_asked(rules, asked, pin)
    baseline_asked(baseline, own)
    compared = []
    for model in there:
        if isinstance(model, Results):
            compared.append(model)
        elif isinstance(model, ExternalModel):
            compared.append(evaluate(model, progress=progress, **questions))
        else:
            compared.append(evaluate(model, progress=progress, recipe=chosen, llm=llm, seed=seed, **questions))
    return Comparison(tuple(compared), rules, baseline, mixed_recipes)
