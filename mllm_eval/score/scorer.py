"""Loads a benchmark's scorer, the module beside its yaml, and computes the name and hash of its protocol."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mllm_eval import metrics
from mllm_eval.catalog.benchmark import Benchmark, RulesRef, folder_of, module_of
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.config import canonical
from mllm_eval.errors import UserError, fault, near
from mllm_eval.storage import sha256_bytes

KINDS: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "int32": int,
    "int64": int,
    "float32": (int, float),
    "float64": (int, float),
    "bool": bool,
}
"""Types of record fields by their names in NEEDS; lists (`list<string>`) are formed from them."""

_SHARED = re.compile(r"^(?:from|import) mllm_eval\.metrics(?:\.(\w+)|\s+import ([^\n]+))", re.MULTILINE)

Record = Mapping[str, Any]
Rule = Callable[[Record, str], tuple[float | None, str | None, str]]
Rows = Sequence[tuple[Record, float]]


@dataclass(frozen=True, slots=True)
class ScorerModule:
    """The functions of a scorer module.

    needs: field -> type of the records it scores. rules: name -> (record, prediction) -> (score in [0, 1],
    what was parsed, note). report: (rules, scored rows) -> the numbers of the table.
    group: record -> (group, number of records in the complete group), for benchmarks that score groups.
    guess: record -> probability that a blind guess is right. chance: records -> value of blind guessing, if the report
    is not a mean of the scores; or metric -> value, if variants use other metrics.
    submission: (record, prediction) -> entry of a file for a scoring server.
    """

    needs: Mapping[str, str]
    rules: Mapping[str, Rule]
    report: Callable[[str, Rows], dict[str, Any]]
    group: Callable[[Record], tuple[str, int]] | None = None
    guess: Callable[[Record], float] | None = None
    chance: Callable[[Sequence[Record]], float | dict[str, float]] | None = None
    submission: Callable[[Record, str], dict[str, Any]] | None = None


def load_scorer(benchmark: Benchmark) -> ScorerModule:
    """Load and check the scorer of a benchmark.

    Raises:
        UserError: its module can't be imported, lacks a part, or has no function for a rule set of the yaml.
    """
    module = load_module(benchmark)
    where = str(module.__file__)
    missing = [part for part in ("NEEDS", "RULES", "report") if not hasattr(module, part)]
    if missing:
        raise UserError(f"benchmark {benchmark.name}: its scorer {where} has no {missing[0]}")
    optional = {part: getattr(module, part, None) for part in ("group", "guess", "chance", "submission")}
    _check(benchmark, module, where, optional)
    return ScorerModule(module.NEEDS, module.RULES, module.report, **optional)


def _check(benchmark: Benchmark, module: ModuleType, where: str, optional: Mapping[str, Any]) -> None:
    for part in ("NEEDS", "RULES"):
        if not isinstance(getattr(module, part), Mapping):
            raise UserError(f"{where}: {part} is {type(getattr(module, part)).__name__}, expected a dict")
    for field, kind in module.NEEDS.items():
        plain = str(kind).removesuffix("|null").removesuffix("?")
        while plain.startswith("list<") and plain.endswith(">"):
            plain = plain[5:-1]
        if plain not in KINDS:
            raise UserError(f"{where}: NEEDS has {field!r} as {kind!r}.{near(plain, KINDS)} Known: {', '.join(KINDS)}")
    for rules in benchmark.rules:
        if rules not in module.RULES:
            named = f"which {folder_of(benchmark) / 'benchmark.yaml'} names under `rules`"
            raise UserError(f"{where}: RULES has no {rules!r}, {named}.{near(rules, module.RULES)}")
    functions = {f"RULES[{name!r}]": rule for name, rule in module.RULES.items()}
    functions |= {"report": module.report, **{part: hook for part, hook in optional.items() if hook is not None}}
    for name, function in functions.items():
        if not callable(function):
            raise UserError(f"{where}: {name} is {type(function).__name__}, expected a function")


@contextmanager
def own_code(benchmark: Benchmark, doing: str) -> Iterator[None]:
    """Turn exceptions of a benchmark's own code in the `with` block into a UserError with file and line.

    UserError and MemoryError pass unchanged. A failing rule must stop the scoring, because a score of 0 would blame
    the answer.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        folders = folder_of(benchmark), Path(str(load_module(benchmark).__file__)).parent
        raise fault(error, f"{benchmark.name}: {doing} fails", *folders) from None


def load_module(benchmark: Benchmark) -> ModuleType:
    """Import the scorer module of a benchmark. Raises UserError if it can't be imported."""
    return module_of(benchmark, benchmark.scorer or benchmark.name)


def rules_of(benchmark: Benchmark, rules: str) -> RulesRef:
    """The yaml's entry of a rule set. Raises UserError with the nearest known name."""
    if rules not in benchmark.rules:
        hint = f"{near(rules, benchmark.rules)} Known: {', '.join(benchmark.rules)}"
        raise UserError(f"{benchmark.name} has no rules '{rules}'.{hint}")
    return benchmark.rules[rules]


def protocol(benchmark: Benchmark, rules: str) -> str:
    """Name and version of a protocol, as `mme@cambrian.v1`. Raises UserError for an unknown rule set."""
    return f"{benchmark.name}@{rules}.v{rules_of(benchmark, rules).version}"


def protocol_hash(benchmark: Benchmark, rules: str, variant: VariantKey = DEFAULT) -> str:
    """12 hex digits over everything that affects scores: the yaml, the variant, and the source of the rules."""
    folder = folder_of(benchmark)
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    if "." in benchmark.scorer:
        sources[benchmark.scorer] = Path(str(load_module(benchmark).__file__)).read_text(encoding="utf-8")
    said = [benchmark.model_dump(mode="json"), rules, benchmark.variant(variant), _with_shared(sources)]
    return sha256_bytes(canonical(said).encode())[:12]


def _with_shared(sources: Mapping[str, str]) -> dict[str, str]:
    """These sources, and those of the `mllm_eval.metrics` modules that they import, directly or indirectly."""
    sources_read, waiting = dict(sources), list(sources.values())
    while waiting:
        for module, names in _SHARED.findall(waiting.pop()):
            for name in [module] if module else re.findall(r"\w+", names):
                path = Path(metrics.__path__[0]) / f"{name}.py"
                if f"metrics.{name}" not in sources_read and path.is_file():
                    sources_read[f"metrics.{name}"] = path.read_text(encoding="utf-8")
                    waiting.append(sources_read[f"metrics.{name}"])
    return sources_read
