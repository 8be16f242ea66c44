"""The record of a run or an external model on disk, from which tables, reports and statistics are made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from mllm_eval.catalog import Encoder
from mllm_eval.catalog.variant import DEFAULT, VariantKey, parse_stem, stem
from mllm_eval.config import short_hash
from mllm_eval.distribution import of_lines
from mllm_eval.errors import UserError, near
from mllm_eval.external import ExternalModel
from mllm_eval.greedy import overruled_words
from mllm_eval.imported import Imported
from mllm_eval.results.probed import Probed, columns_of, probes_of
from mllm_eval.results.probes import Probe, read_probes
from mllm_eval.results.scores import COLUMNS, frame_of, read_lines
from mllm_eval.results.timings import Timing, read_timings
from mllm_eval.run import External, Run, read_manifest
from mllm_eval.saved import Saved, read_saved
from mllm_eval.storage import iter_jsonl

SUMMARY = (
    "benchmark",
    "rules",
    "variant",
    "n",
    "n_failed",
    "n_unparsed",
    "value",
    "protocol",
    "protocol_hash",
    "chance",
)
Summary = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The number of prompt tokens (`read`) and of generated tokens (`written`) of each answer."""

    read: list[int]
    written: list[int]


@dataclass(frozen=True, eq=False)
class RunRecord:
    """The facts about a run or an external model that tables need.

    run: its config. Manifest, probes and timings are read from `folder` at first use and cached.
    held_equal: hash of everything that two rows must share to be compared.
    facts, params: of the encoder, for table columns. A row without an encoder of its own has none: {} and 0.
    external: `an external model` or `imported answers`; empty for a run of this project.
    views: a cache for values that other modules derive from the record.
    """

    run: Saved
    folder: Path
    hash: str
    name: str
    encoder: str
    recipe: str
    recipe_hash: str
    llm: str
    held_equal: str
    seed: int
    facts: dict[str, str]
    data: str
    params: int
    external: str = ""
    views: dict[object, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The content of manifest.json; empty where it is missing or damaged."""
        return read_manifest(self.folder)

    @cached_property
    def probes(self) -> dict[str, Probe]:
        """Column -> result of probes of its encoder on classic vision tasks.

        Results in the run's own folder take precedence. Raises UserError for a file that can't be read.
        """
        return {**columns_of(self.probed.values()), **read_probes(self.folder)}

    @cached_property
    def probed(self) -> dict[Path, Probed]:
        """Folder -> probe result that this project measured for its encoder."""
        if not isinstance(self.run, Run):
            return {}
        return probes_of(self.run.encoder, self.run.weights.get("encoder", ""), self.run.recipe.data)

    @cached_property
    def timings(self) -> list[Timing]:
        """The finished steps with their durations."""
        return read_timings(self.folder)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a reader of its row must know."""
        if isinstance(self.run, ExternalModel):
            words = overruled_words(self.run.overruled)
            return (words,) if words else ()
        if isinstance(self.run, Imported):
            files = self.manifest.get("files", {}).values()
            layouts = sorted({str(one.get("format")) for one in files if isinstance(one, dict)})
            words = f"answers imported from {len(files)} files ({', '.join(layouts)})" if files else "answers imported"
            return (words.replace("1 files", "1 file"),)
        if (kept := self.run.llm.quantisation) is not None:
            return (f"trained from {self.llm} as a GGUF file keeps it ({kept}), not from its released weights",)
        return ()

    @cached_property
    def trained_on(self) -> dict[str, str]:
        """The recipe's name of each training file -> a description of its content (bytes and SHA-256)."""
        noted = {} if self.external else self.manifest.get("trained_on")
        files = noted.items() if isinstance(noted, dict) else ()
        return {str(ref): f"{one['size']:,} bytes of SHA-256 {str(one['sha256'])[:12]}" for ref, one in files
                if isinstance(one, dict) and {"size", "sha256"} <= one.keys()}  # fmt: skip

    @property
    def data_hash(self) -> str:
        """12 hex digits of a hash of `trained_on`; empty where that was not recorded."""
        return short_hash(self.trained_on) if self.trained_on else ""

    @cached_property
    def _answered_lines(self) -> dict[Path, list[dict[str, Any]]]:
        """File of scores -> parsed answer and score of each sample, where its summary does not count the answers."""
        return {}

    @cached_property
    def rules(self) -> list[str]:
        """The rule sets for which it has summaries."""
        return sorted({str(summary.get("rules", "")) for summary in self._summaries("*.json")})

    def scored_by(self, rules: str) -> bool:
        """Whether it has summaries by a rule set."""
        return any(summary.get("rules") == rules for summary in self._summaries(f"*.{rules}.json"))

    def variants(self, rules: str) -> list[VariantKey]:
        """Return the variants for which it has summaries by a rule set, `default` first."""
        named = {str(summary.get("variant", DEFAULT)) for summary in self._summaries(f"*.{rules}.json")}
        return sorted(map(VariantKey.parse, named), key=lambda one: (one != DEFAULT, str(one)))

    def summaries(self, rules: str, variant: VariantKey = DEFAULT) -> dict[str, Summary]:
        """Return benchmark -> summary for a rule set and variant; empty if there are none.

        Raises UserError for a summary that lacks a field, or has text in place of a number.
        """
        own = {}
        for path in self._summary_paths(f"*.{rules}.json"):
            summary = self._read_summary(path)
            missing = [key for key in SUMMARY if key not in summary]
            counts = ("n", "n_failed", "n_unparsed", "value", "chance")
            if strange := [key for key in counts if not isinstance(summary.get(key), int | float | None)]:
                raise UserError(f"{path}: {strange[0]!r} is no number; make it again with `mllm-eval score`")
            if missing:
                raise UserError(f"{path}: no {missing[0]!r}; make it again with `mllm-eval score`")
            if (summary["rules"], summary["variant"]) == (rules, str(variant)):
                own[str(summary["benchmark"])] = summary
        return own

    def scores(
        self, rules: str, variant: VariantKey = DEFAULT, benchmarks: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """Return the scores, one row per sample, with the columns of `frame_of`.

        Benchmarks are in the order given (by default that of `summaries`), samples in the order of their ids.

        Raises:
            UserError: no such scores, or as `frame_of` raises.
        """
        known = self.summaries(rules, variant)
        frames = []
        for name in known if benchmarks is None else benchmarks:
            if name not in known:
                where = self.folder / "scores"
                raise UserError(f"{where}: no {rules} scores of {name!r} ({variant}).{near(name, known)}")
            path = self._lines_path(known[name])
            rows = read_lines(path)
            frames.append(frame_of(rows, path, name, int(known[name]["n"])))
            if not isinstance(known[name].get("given"), dict):
                self._answered_lines[path] = _answered(rows)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)

    def given(self, summary: Summary) -> dict[str, Any]:
        """Return how often each answer was given, as counted by `mllm_eval.distribution`.

        Targets are missing if an older version scored. Raises UserError for an invalid line in the file of scores.
        """
        if isinstance(noted := summary.get("given"), dict):
            return noted
        path = self._lines_path(summary)
        if path not in self._answered_lines:
            self._answered_lines[path] = _answered(read_lines(path) if path.is_file() else [])
        return of_lines(self._answered_lines[path])

    def answers_path(self, benchmark: str, variant: VariantKey = DEFAULT) -> Path:
        """Return the path of its answers to a benchmark."""
        return self.folder / "answers" / f"{stem(benchmark, variant)}.jsonl"

    def tokens(self, variant: VariantKey) -> Tokens:
        """Return the token counts of all answers to a variant, over all benchmarks."""
        tokens = Tokens([], [])
        for path in sorted((self.folder / "answers").glob("*.jsonl")):
            if parse_stem(path.stem)[1] != variant:
                continue
            for line in iter_jsonl(path):
                tokens.read.append(int(line.get("tokens_in", 0)))
                tokens.written.append(int(line.get("tokens_out", 0)))
        return tokens

    @property
    def scored_at(self) -> float:
        """Time of the last writing of a summary, in seconds since 1970; 0 without summaries."""
        return max((path.stat().st_mtime for path in self._summary_paths("*.json")), default=0.0)

    def _lines_path(self, summary: Summary) -> Path:
        named = stem(str(summary["benchmark"]), VariantKey.parse(str(summary["variant"])))
        return self.folder / "scores" / f"{named}.{summary['rules']}.jsonl"

    def _summary_paths(self, pattern: str) -> list[Path]:
        return sorted((self.folder / "scores").glob(pattern))

    def _read_summary(self, path: Path) -> Summary:
        summary = self.run.read_summary(path)
        if not isinstance(summary, dict):
            raise UserError(f"{path}: no {SUMMARY[0]!r}; make it again with `mllm-eval score`")
        return summary

    def _summaries(self, pattern: str) -> list[Summary]:
        return [self._read_summary(path) for path in self._summary_paths(pattern)]


def read_run(folder: Path) -> RunRecord:
    """Return the record of a folder under results/runs.

    Raises UserError if its config is missing or damaged, or its hash is not the folder's name.
    """
    return record_of(read_saved(folder), folder)


def record_of(run: Saved, folder: Path | None = None) -> RunRecord:
    """Return the record of a run or an external model that is already loaded; `folder` defaults to its own."""
    where = run.folder if folder is None else folder
    if isinstance(run, External):
        what = "an external model" if isinstance(run, ExternalModel) else "imported answers"
        # External rows of one data pin share their questions, but nothing else that runs hold equal.
        held_equal = short_hash(["finished", run.data])
        return RunRecord(run, where, where.name, run.name, run.label, "its own", what.removeprefix("an "), "its own",
                         held_equal, 0, {}, run.data, 0, what)  # fmt: skip
    encoder, recipe, llm = run.encoder, run.recipe, run.llm
    words = [run.weights[key] for key in ("tokenizer",) if key in run.weights]
    held_equal = short_hash([recipe.hash, llm.identity(), run.weights.get("llm"), *words])
    return RunRecord(run, where, where.name, run.name, encoder.name, recipe.name, recipe.hash, llm.name, held_equal,
                     run.seed, _facts(encoder), recipe.data, encoder.params)  # fmt: skip


def _answered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"parsed": row["parsed"], "score": row["score"]} for row in rows if {"parsed", "score"} <= row.keys()]


def _facts(encoder: Encoder) -> dict[str, str]:
    return {
        "data": encoder.facts.pretraining_data,
        "samples": encoder.facts.samples_seen,
        "res": str(encoder.preprocessing.size),
        "params": _amount(encoder.params),
        "supervision": encoder.facts.supervision,
    }


def _amount(count: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def reported(summary: Mapping[str, Any], metric: str) -> float | None:
    """Return a number from a summary's further metrics, by its name or a path `a.b`; None if it is missing."""
    value: Any = summary.get("reported")
    for part in metric.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None
