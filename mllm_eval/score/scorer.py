"""A benchmark's scorer: the functions of the module beside its yaml, and the name and hash of its protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mllm_eval.catalog.benchmark import Benchmark, RulesRef, folder_of, module_of
from mllm_eval.config import canonical
from mllm_eval.errors import UserError, near
from mllm_eval.storage import sha256_bytes

Record = Mapping[str, Any]
Rule = Callable[[Record, str], tuple[float | None, str | None, str]]
Rows = Sequence[tuple[Record, float]]


@dataclass(frozen=True, slots=True)
class Scorer:
    """What a scorer module offers.

    needs: field -> type of the records it scores. rules: name -> (record, prediction) -> (score in [0, 1],
    what was parsed, note). report: (rules, scored rows) -> the numbers of the table.
    group: record -> (group, how many records make it whole), for benchmarks that score groups.
    guess: record -> share of blind guesses that are right. chance: records -> value of blind guessing, where
    the report is no mean of the scores. submission: (record, prediction) -> entry of a file for a server.
    """

    needs: Mapping[str, str]
    rules: Mapping[str, Rule]
    report: Callable[[str, Rows], dict[str, Any]]
    group: Callable[[Record], tuple[str, int]] | None = None
    guess: Callable[[Record], float] | None = None
    chance: Callable[[Sequence[Record]], float] | None = None
    submission: Callable[[Record, str], dict[str, Any]] | None = None


def load_scorer(benchmark: Benchmark) -> Scorer:
    """The scorer of a benchmark; UserError when its module lacks something."""
    name = benchmark.scorer or benchmark.name
    module = module_of(benchmark, name)
    missing = [part for part in ("NEEDS", "RULES", "report") if not hasattr(module, part)]
    if missing:
        raise UserError(f"benchmark {benchmark.name}: its scorer {name}.py has no {missing[0]}")
    optional = {part: getattr(module, part, None) for part in ("group", "guess", "chance", "submission")}
    return Scorer(module.NEEDS, module.RULES, module.report, **optional)


def rules_of(benchmark: Benchmark, rules: str) -> RulesRef:
    """The yaml's entry of a rule set; UserError with the nearest name otherwise."""
    if rules not in benchmark.rules:
        hint = f"{near(rules, benchmark.rules)} Known: {', '.join(benchmark.rules)}"
        raise UserError(f"{benchmark.name} has no rules '{rules}'.{hint}")
    return benchmark.rules[rules]


def protocol(benchmark: Benchmark, rules: str) -> str:
    """Name and version, as `mme@cambrian.v1`."""
    return f"{benchmark.name}@{rules}.v{rules_of(benchmark, rules).version}"


def protocol_hash(benchmark: Benchmark, rules: str, variant: str = "default") -> str:
    """12 hex digits over all that decides the score: the yaml, the variant, and the source of the rules."""
    folder = folder_of(benchmark)
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    said = [benchmark.model_dump(mode="json"), rules, benchmark.variant(variant), sources]
    return sha256_bytes(canonical(said).encode())[:12]
