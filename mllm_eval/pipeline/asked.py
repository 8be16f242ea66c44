"""Resolve the names that a user gives to benchmarks and variants."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mllm_eval.catalog import Benchmark, Given, load_benchmark, names, paper_benchmarks
from mllm_eval.catalog.benchmark import GENERIC
from mllm_eval.catalog.variant import DEFAULT
from mllm_eval.errors import UserError, near


def asked_benchmarks(asked: Sequence[Given | Benchmark] | None, pin: str) -> list[Benchmark]:
    """Return the benchmarks with these names, files or objects.

    Without `asked`: the benchmarks of the paper's table that have data for this pin.

    Raises:
        UserError: an unknown name, or a benchmark without data for this pin.
    """
    if asked:
        benchmarks_found = list({one.name: one for one in map(load_benchmark, asked)}.values())
        for benchmark in benchmarks_found:
            benchmark.pin(pin)
        return benchmarks_found
    here = set(names("benchmarks"))
    benchmarks_found = [load_benchmark(name) for name in paper_benchmarks() if name in here]
    return [benchmark for benchmark in benchmarks_found if pin in benchmark.data]


def asked_variants(asked: Sequence[Benchmark], wanted: Sequence[str]) -> dict[str, list[str]]:
    """Return benchmark name -> the variants to ask: `default`, and each wanted variant that the benchmark has.

    `all` stands for all variants that a benchmark defines itself.

    Raises:
        UserError: a variant that no benchmark has.
    """
    known = dict.fromkeys(name for benchmark in asked for name in (*GENERIC, *benchmark.variants))
    for name in wanted:
        if name not in (*known, "all"):
            raise UserError(f"no benchmark asked has a variant {name!r}.{near(name, known)} Known: {', '.join(known)}")
    chosen = {}
    for benchmark in asked:
        own = [*GENERIC, *benchmark.variants]
        every = list(benchmark.variants) if "all" in wanted else []
        chosen[benchmark.name] = list(dict.fromkeys([DEFAULT.name, *(n for n in wanted if n in own), *every]))
    return chosen


def rules_asked(rules: str, benchmarks: Sequence[Given | Benchmark] | None, pin: str) -> None:
    """Raise UserError, with the nearest known name, where none of the chosen benchmarks has this rule set."""
    known = dict.fromkeys(name for benchmark in asked_benchmarks(benchmarks, pin) for name in benchmark.rules)
    if known and rules not in known:
        raise UserError(f"no benchmark asked has rules {rules!r}.{near(rules, known)} Known: {', '.join(known)}")


def baseline_asked(baseline: str | None, own: Sequence[str]) -> None:
    """Raise UserError for a baseline that is neither a run hash nor begins with one of these encoder names."""
    if baseline is None or re.fullmatch(r"[0-9a-f]{12}", baseline) or any(map(baseline.startswith, own)):
        return
    raise UserError(f"no row {baseline!r} to compare with.{near(baseline, own)}")
