"""States in sentences what the tests found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.errors import UserError
from mllm_eval.report.differences import Difference
from mllm_eval.report.table import printed
from mllm_eval.results import AVERAGE, columns
from mllm_eval.stats import Interval

ALPHA = 0.01
NO_BLIND = "no blind rows: what the wording alone gives is not taken off"
GAINS = (
    '"Beats": the visual gains (score minus blind score, paired, clustered by image) differ the same way too, '
    "corrected for their own number (Holm)."
)


def p_words(p: float) -> str:
    """`p < 0.001`, or p with three decimals; `p unknown` if it is nan (too few images for a test)."""
    if math.isnan(p):
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def stars(p: float) -> str:
    """`***` below 0.001, `**` below 0.01, `*` below 0.05, else nothing."""
    return "*" * sum(p < level for level in (0.05, 0.01, 0.001))


def variant_words(variant: VariantKey) -> str:
    """A variant as part of a row's label: "" for the default, `blind`, or `blind, subset of 1,000`."""
    said = [] if variant.name == DEFAULT.name else [variant.name]
    return ", ".join([*said, f"subset of {variant.subset:,}"] if variant.subset else said)


def title(key: str) -> str:
    """The heading of a column, from columns.yaml or a benchmark's own yaml; else the key itself."""
    named = columns().named()
    if key in named:
        return named[key].title
    try:
        return load_benchmark(key).title
    except UserError:
        return key


def sentences(differences: Sequence[Difference], alpha: float = ALPHA) -> list[str]:
    """Sentences on where each pair of runs differs in AVG and the categories, and which pairs do not differ.

    If no category is complete, the benchmarks are named instead. Each number is the difference with its 95 % interval;
    each p is corrected for all tests together.

    "Beats" requires that the visual gains differ too. Otherwise the sentence says how much the runs differ without
    images, or that they were not asked without images.
    """
    said: list[str] = []
    apart: dict[str, list[tuple[str, str]]] = {}
    for a, b in dict.fromkeys((one.a, one.b) for one in differences):
        own = [one for one in differences if (one.a, one.b) == (a, b)]
        means = [one for one in own if one.key == AVERAGE or one.key in columns().categories]
        spoken, kind = (means, "category") if means else (own, "benchmark")
        clear = [one for one in spoken if one.holm < alpha]
        if not clear:
            apart.setdefault(kind, []).append((a, b))
        for winner, loser, sign in ((a, b, 1), (b, a, -1)):
            ahead = [one for one in clear if one.difference.value * sign > 0]
            won = [_part(one, sign) for one in ahead if by_sight(one, alpha)]
            unknown = [_part(one, sign) for one in ahead if one.gain is None]
            if won:
                said.append(f"{winner} beats {loser} on {_joined(won)}.")
            if unknown:
                said.append(f"{winner} beats {loser} on {_joined(unknown)} ({NO_BLIND}).")
            said += [
                f"{winner} is above {loser} on {_part(one, sign)}, but not by sight: {doubt(one)}."
                for one in ahead
                if one.gain and not by_sight(one, alpha)
            ]
    return [
        *said,
        *(f"No {kind} separates {_pairs(pairs)} at p < {alpha:g} after Holm." for kind, pairs in apart.items()),
    ]


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """`a from b`, `a from b or c; d from e`, or `any two of a, b, c`."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    if len(names) > 2 and len(pairs) == len(names) * (len(names) - 1) // 2:
        return f"any two of {', '.join(names)}"
    left, said = list(pairs), []
    while left:
        hub = max(names, key=lambda name: sum(name in pair for pair in left))
        others = [b if a == hub else a for a, b in left if hub in (a, b)]
        said.append(f"{hub} from {_either(others)}" if len(others) > 1 else f"{left[0][0]} from {left[0][1]}")
        left = [pair for pair in left if hub not in pair] if len(others) > 1 else left[1:]
    return "; ".join(said)


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def by_sight(one: Difference, alpha: float = ALPHA) -> bool:
    """Whether the visual gains differ significantly in the same direction as the scores."""
    return one.gain is not None and one.gain.holm < alpha and one.gain.difference.value * one.difference.value > 0


def doubt(one: Difference) -> str:
    """Why a difference is not attributed to sight: the difference without images, and that of the visual gains."""
    if one.gain is None:
        return NO_BLIND
    return f"{apart_words(one.difference.value, one.gain.difference)}, {p_words(one.gain.holm)} after Holm"


def apart_words(value: float, gain: Interval) -> str:
    """The two parts of a difference, signed for the higher run: without images, and in visual gain."""
    sign = 1 if value >= 0 else -1
    low, high = sorted((sign * gain.low, sign * gain.high))
    wording = printed(sign * (value - gain.value), 1)
    apart = f"without the image the two differ as well, by {wording}; " if float(wording) > 0 else ""
    between = "" if math.isnan(low) else f" [{printed(low, 1)}, {printed(high, 1)}]"
    return f"{apart}visual gains differ by {printed(sign * gain.value, 1)}{between}"


def _part(one: Difference, sign: int) -> str:
    low, high = sorted((sign * one.difference.low, sign * one.difference.high))
    size = printed(abs(one.difference.value), 1)
    return f"{title(one.key)} by {size} [{printed(low, 1)}, {printed(high, 1)}], {p_words(one.holm)} after Holm"


def _joined(parts: Iterable[str]) -> str:
    listed = list(parts)
    return listed[0] if len(listed) == 1 else "; on ".join(listed)
