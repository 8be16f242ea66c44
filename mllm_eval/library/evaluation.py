"""Evaluates an encoder or an external model on the benchmarks. Only what is missing is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

from mllm_eval import pipeline
from mllm_eval.answers import read_answers
from mllm_eval.catalog import LLM, Benchmark, Encoder, Given, Recipe, load_benchmark
from mllm_eval.catalog.benchmark import answers_variant
from mllm_eval.catalog.variant import BLIND, DEFAULT, VariantKey, size_of_table
from mllm_eval.environment import gpus, settings
from mllm_eval.errors import UserError
from mllm_eval.external import Dtype, ExternalModel
from mllm_eval.pipeline.asked import asked_benchmarks
from mllm_eval.pipeline.progressbar import listener
from mllm_eval.pipeline.reporter import Reporter
from mllm_eval.pipeline.selection import shown_variants
from mllm_eval.report import Table, comparison
from mllm_eval.results import RunRecord, record_of
from mllm_eval.saved import Saved

if TYPE_CHECKING:
    import pandas as pd

    from mllm_eval.html import Html
    from mllm_eval.library.frozen import LoadedEncoder

COLUMNS = ("benchmark", "id", "prediction", "score", "parsed", "note", "group", "cluster", "stratum")


@dataclass(frozen=True)
class Results:
    """A model's answers and their scores. `evaluate` makes it; a notebook shows its table.

    Attributes:
        run: the run or external model; `run.folder` holds its files, `run.hash` is its name.
        benchmarks: the benchmarks that were asked.
        rules: the rule set of the numbers; `under` switches to another one.
        blind: whether the benchmarks were also asked without images.
        subset: size of the table's subset that was asked; None for all questions.
    """

    run: Saved
    benchmarks: tuple[Benchmark, ...]
    rules: str = "cambrian"
    blind: bool = False
    subset: int | None = None

    @classmethod
    def of(cls, run: Saved, rules: str = "cambrian", benchmarks: Sequence[Given | Benchmark] | None = None) -> Results:
        """Results of a saved run on all questions, for these benchmarks or for all that were scored.

        Raises UserError for a benchmark that is not known (any more).
        """
        record = record_of(run)
        scored, unseen = record.summaries(rules), record.summaries(rules, BLIND)
        return cls(run, tuple(map(load_benchmark, benchmarks or scored)), rules, bool(unseen))

    @property
    def record(self) -> RunRecord:
        """The data behind the table, read from the run's current files."""
        return record_of(self.run)

    def under(self, rules: str) -> Results:
        """The same answers, scored by another rule set."""
        return replace(self, rules=rules)

    def table(self, intervals: bool = False) -> Table:
        """A table of its row and its blind row. intervals: with 95 % intervals. Raises UserError if unscored."""
        names = [one.name for one in self.benchmarks]
        variants = shown_variants(self.blind, self.subset)
        table = comparison([self.record], None, self.rules, variants, intervals=intervals, benchmarks=names)
        return replace(table, title=self.run.heading)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per sample, by benchmark and id, for the default variant; see `scores_of`."""
        return self.scores_of()

    def scores_of(self, variant: str = DEFAULT.name) -> pd.DataFrame:
        """One row per sample for a variant (`blind`, ...).

        Columns: benchmark, id, prediction (None: failed), score (0 to 1, NaN: failed), parsed (what was read from the
        prediction), note, group (samples that are scored together), cluster (usually the image: samples of a cluster
        are not independent), stratum (str or None).

        Raises:
            UserError: the variant was not asked, or the rule set has not scored it.
        """
        wanted = VariantKey.of(variant, self.subset)
        # Benchmarks that do not have this variant are left out.
        names = [one.name for one in self.benchmarks if wanted.name == DEFAULT.name or self._has(one.name, wanted)]
        if not names:
            raise UserError(f"{self.run.name}: nothing scored by {self.rules!r} rules ({wanted})")
        frame = self.record.scores(self.rules, wanted, names)
        said: dict[tuple[str, str], str | None] = {}
        for one in self.benchmarks:
            if one.name in names:
                path = self.run.answers_path(one.name, answers_variant(one, wanted, self.run.data))
                for answer in read_answers(path):
                    said[one.name, answer.id] = answer.text if answer.state == "ok" else None
        keys = zip(frame["benchmark"], frame["id"], strict=True)
        frame["prediction"] = [said.get((str(name), str(id_))) for name, id_ in keys]
        return frame[list(COLUMNS)]

    def _has(self, benchmark: str, variant: VariantKey) -> bool:
        return self.run.summary_path(benchmark, self.rules, variant).is_file()

    def __repr__(self) -> str:
        part = f", a subset of {self.subset:,}" if self.subset else ""
        return f"<results of {self.run.name}: {', '.join(one.name for one in self.benchmarks)}{part}>"

    def _repr_html_(self) -> Html:
        return self.table()._repr_html_()


def external_model(
    place: str | PathLike[str], *, data: str = "hub", dtype: str | None = None, batch: int = 1
) -> ExternalModel:
    """Describe a vision-language model that was not trained here, for `evaluate`. Nothing is loaded yet.

    Args:
        place: a folder in the hub's format, or `owner/name[@revision]` that `mllm-eval weights --model` locked.
        data: data pin of the benchmarks, `hub` or `mini`.
        dtype: float32, bfloat16 or float16; by default bfloat16 on a machine with a GPU, otherwise float32.
        batch: questions per batch.

    Raises:
        UserError: neither a folder nor a repository, a folder without a model's config, an unknown dtype, or a
            batch below 1.
    """
    chosen = dtype or ("bfloat16" if gpus() else "float32")
    return ExternalModel.of(fspath(place), data, cast("Dtype", chosen), batch)


class QuestionOptions(TypedDict, total=False):
    """Options for which questions are asked and which scores are shown.

    benchmarks: names, paths to folders, dicts or `mllm_eval.catalog.Benchmark`, one or several; by default those of the
        paper's table.
    subset: ask about this many questions of the chosen benchmarks together, a stratified sample.
    blind: also ask without images.
    rules: the rule set to show, by default `cambrian`. Answers are always scored by all rule sets of a benchmark.
    """

    benchmarks: Given | Benchmark | Sequence[Given | Benchmark] | None
    subset: int | None
    blind: bool
    rules: str


class EvaluationOptions(QuestionOptions, total=False):
    """Options of `QuestionOptions`, and `variants`: further variants to ask (`all` for all that a benchmark has);
    `retry_failed`: ask failed samples again, whatever the reason of the failure."""

    variants: Sequence[str]
    retry_failed: bool


@settings()
def evaluate(
    model: Given | Encoder | LoadedEncoder | ExternalModel,
    *,
    progress: bool | Reporter = False,
    recipe: Given | Recipe | None = None,
    llm: Given | LLM | None = None,
    seed: int | None = None,
    server: str | None = None,
    **asked: Unpack[EvaluationOptions],
) -> Results:
    """Train an encoder's adapter, ask the benchmarks and score the answers, each only if it is missing.

    Results are kept under `results/runs`, so that a second identical call computes nothing.

    Args:
        model: an encoder, as name, path of a yaml file, dict, `mllm_eval.catalog.Encoder` or result of `load_encoder`
            (device and dtype of the latter are not used: the recipe decides); or an `external_model`.
        progress: True prints progress on stderr; a `mllm_eval.pipeline.Reporter` receives it instead.
        recipe, llm, seed: only for encoders; by default recipe `mini`, and the recipe's LLM and seed.
        server: only for encoders: address of a vLLM server that generates the answers.
        asked: `benchmarks`, `subset`, `blind`, `variants`, `rules` and `retry_failed`, see `EvaluationOptions`.

    Raises:
        UserError: an unknown name or bad input. Results computed before the error are kept.
    """
    refuse_unknown("evaluate", asked, EvaluationOptions)
    names, subset, rules = several(asked.get("benchmarks")), asked.get("subset"), asked.get("rules") or "cambrian"
    variants = asked.get("variants", ())
    reporter, blind = listener(progress), asked.get("blind", False) or BLIND.name in variants
    which: pipeline.Selection = {
        "benchmarks": names, "blind": blind, "variants": variants, "subset": subset, "rules": rules,
        "retry_failed": asked.get("retry_failed", False),
    }  # fmt: skip
    if isinstance(model, ExternalModel):
        if given := [name for name, value in (("recipe", recipe), ("llm", llm), ("seed", seed), ("server", server))
                     if value is not None]:  # fmt: skip
            raise UserError(f"{model.label} is an external model: `{given[0]}` is for encoders")
        run: Saved = pipeline.evaluate_external(model, reporter=reporter, **which)
    else:
        encoder, held = facts_of(model), "mini" if recipe is None else recipe
        run = pipeline.evaluate(encoder, held, llm, seed, reporter, server, **which)
    chosen = asked_benchmarks(names, run.data)
    return Results(run, tuple(chosen), rules, blind, table_size(subset, names))


def refuse_unknown(function: str, given: Mapping[str, Any], known: Any) -> None:
    """Raise TypeError for an option that the function does not have, as Python does for an unknown parameter."""
    if unknown := [name for name in given if name not in known.__required_keys__ | known.__optional_keys__]:
        raise TypeError(f"{function}() got an unexpected keyword argument {unknown[0]!r}")


def facts_of(model: Any) -> Any:
    """The yaml's content of a loaded encoder. Any other argument is returned unchanged."""
    facts = getattr(model, "facts", None)
    return facts if isinstance(facts, Encoder) else model


def several(given: Any) -> list[Any] | None:
    """The argument as a list, whether one value or several were given; None if it is None or empty."""
    if given is None:
        return None
    single = isinstance(given, str | PathLike | Mapping | Benchmark) or not isinstance(given, Iterable)
    return [given] if single else list(given) or None


def table_size(subset: int | None, benchmarks: Sequence[Any] | None) -> int | None:
    """Size of the table's subset where these benchmarks have `subset` questions. Raises UserError if too small."""
    names = [load_benchmark(one).name for one in benchmarks] if subset is not None and benchmarks else None
    return size_of_table(subset, names)
