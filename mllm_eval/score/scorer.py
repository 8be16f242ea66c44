"""A benchmark's scorer: the functions of the module beside its yaml, and the name and hash of its protocol."""

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
"""Types of fields of records, by their names in NEEDS; `list<string>` and the like are made of them."""

_SHARED = re.compile(r"^(?:from|import) mllm_eval\.metrics(?:\.(\w+)|\s+import ([^\n]+))", re.MULTILINE)

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
    the report is no mean of the scores; or metric -> value, where variants count by other metrics.
    submission: (record, prediction) -> entry of a file for a server.
    """

    needs: Mapping[str, str]
    rules: Mapping[str, Rule]
    report: Callable[[str, Rows], dict[str, Any]]
    group: Callable[[Record], tuple[str, int]] | None = None
    guess: Callable[[Record], float] | None = None
    chance: Callable[[Sequence[Record]], float | dict[str, float]] | None = None
    submission: Callable[[Record, str], dict[str, Any]] | None = None


def load_scorer(benchmark: Benchmark) -> Scorer:
    """The scorer of a benchmark.

    Raises:
        UserError: its module can't be imported, lacks something, or has no function for a rule set of the yaml.
    """
    module = load_module(benchmark)
    where = str(module.__file__)
    missing = [part for part in ("NEEDS", "RULES", "report") if not hasattr(module, part)]
    if missing:
        raise UserError(f"benchmark {benchmark.name}: its scorer {where} has no {missing[0]}")
    optional = {part: getattr(module, part, None) for part in ("group", "guess", "chance", "submission")}
    _check(benchmark, module, where, optional)
    return Scorer(module.NEEDS, module.RULES, module.report, **optional)


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
    """Somebody's own function in the `with` block: what it raises is its fault, told with file and line.

    Raises UserError in place of any exception but those that say it themselves. A scorer is asked for the score of
    what a model said, and not for 0 where it can't give it.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        folders = folder_of(benchmark), Path(str(load_module(benchmark).__file__)).parent
        raise fault(error, f"{benchmark.name}: {doing} fails", *folders) from None


def load_module(benchmark: Benchmark) -> ModuleType:
    """The module that a benchmark's scorer is."""
    return module_of(benchmark, benchmark.scorer or benchmark.name)


def rules_of(benchmark: Benchmark, rules: str) -> RulesRef:
    """The yaml's entry of a rule set; UserError with the nearest name otherwise."""
    if rules not in benchmark.rules:
        hint = f"{near(rules, benchmark.rules)} Known: {', '.join(benchmark.rules)}"
        raise UserError(f"{benchmark.name} has no rules '{rules}'.{hint}")
    return benchmark.rules[rules]


def protocol(benchmark: Benchmark, rules: str) -> str:
    """Name and version, as `mme@cambrian.v1`."""
    return f"{benchmark.name}@{rules}.v{rules_of(benchmark, rules).version}"


def protocol_hash(benchmark: Benchmark, rules: str, variant: VariantKey = DEFAULT) -> str:
    """12 hex digits over all that decides the score: the yaml, the variant, and the source of the rules."""
    folder = folder_of(benchmark)
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    if "." in benchmark.scorer:
        sources[benchmark.scorer] = Path(str(load_module(benchmark).__file__)).read_text(encoding="utf-8")
    said = [benchmark.model_dump(mode="json"), rules, benchmark.variant(variant), _with_shared(sources)]
    return sha256_bytes(canonical(said).encode())[:12]


def _with_shared(sources: Mapping[str, str]) -> dict[str, str]:
    """These sources, and those of `mllm_eval.metrics` that they import, and that these import in turn."""
    sources_read, waiting = dict(sources), list(sources.values())
    while waiting:
        for module, names in _SHARED.findall(waiting.pop()):
            for name in [module] if module else re.findall(r"\w+", names):
                path = Path(metrics.__path__[0]) / f"{name}.py"
                if f"metrics.{name}" not in sources_read and path.is_file():
                    sources_read[f"metrics.{name}"] = path.read_text(encoding="utf-8")
                    waiting.append(sources_read[f"metrics.{name}"])
    return sources_read
