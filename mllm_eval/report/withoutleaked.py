"""Scores without leaked samples, shown next to the stored scores, which do not change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mllm_eval import stats
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.errors import UserError
from mllm_eval.leaks.findings import KINDS, OWN, Findings, Kind, findings_of
from mllm_eval.report.comparison import labels
from mllm_eval.report.evidence import Estimate, Scored, limits, read_variants, with_means
from mllm_eval.report.table import Cell, Column, Row, Table, score_cell, signed
from mllm_eval.report.words import title
from mllm_eval.results import AVERAGE, RunRecord, columns
from mllm_eval.run import Run
from mllm_eval.stats import Interval

WORDS: dict[Kind, str] = {
    "pictures": "samples on a picture of which a copy was found",
    "questions": "samples whose question stands in the training text word for word",
    "both": "samples whose question stands word for word in a row with a copy of their picture",
    "either": "samples with a copied picture or a question that stands in the training text",
}
COLUMNS = (
    Column("value", "Score"),
    Column("without", "Without leaked"),
    Column("change", "Change"),
    Column("leaked", "Leaked", decimals=0),
    Column("n", "Samples", decimals=0),
)


@dataclass(frozen=True)
class Without:
    """A run's results without leaked samples.

    `values`: benchmark, category or AVG -> value with its 95 % interval (nan limits if it has none). `leaked`:
    benchmark -> number of samples left out.
    """

    values: dict[str, Interval]
    leaked: dict[str, int]


def without_leaked(run: Scored, leaked: Mapping[str, set[str]]) -> Without:
    """Computes a run's values over the samples that are not leaked. `leaked`: benchmark -> ids of leaked samples.

    A leaked sample counts as a sample without a score; where groups are scored, its whole group is left out. A
    benchmark has no value if it is not in `leaked`, or if nothing is left; neither has a mean that includes it.
    """
    reduced: dict[str, Estimate] = {}
    counts: dict[str, int] = {}
    for name, estimate in run.estimates.items():
        if name not in leaked:
            continue
        gone = estimate.frame["id"].astype(str).isin(leaked[name]).to_numpy(bool)
        counts[name] = int(gone.sum())
        frame = estimate.frame.assign(score=np.where(gone, np.nan, estimate.score))
        reduced[name] = replace(estimate, frame=frame)
    own = {name: one.units.value for name, one in reduced.items()}
    own = {name: value for name, value in own.items() if np.isfinite(value)}
    reduced = {name: reduced[name] for name in own}
    draws = with_means({
        name: stats.distribution([one.units], seed=stats.seed_of(name))[0] for name, one in reduced.items()
    })  # fmt: skip
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    values = {}
    for key, value in {**own, **columns().means(own)}.items():
        bounds = limits(reduced, draws, key, value) if key in draws else None
        values[key] = replace(nothing, value=value) if bounds is None else bounds
    return Without(values, counts)


def findings_for(record: RunRecord, corpus: str = OWN) -> Findings | None:
    """The leaks found in a run's own training data, or in another corpus. Raises UserError as `findings_of` does.

    None if nobody looked for them, or if the run has no training data of its own (external models).
    """
    if corpus == OWN and not isinstance(record.run, Run):
        return None
    return findings_of(record.run.recipe if isinstance(record.run, Run) else None, record.data, corpus)


def leaks_table(
    runs: Sequence[RunRecord],
    corpus: str = OWN,
    kind: str = "pictures",
    rules: str = "cambrian",
    variants: Sequence[VariantKey] = (DEFAULT,),
) -> Table:
    """One row for each benchmark, category and AVG of each run: its score, and its score without leaked samples.

    Raises:
        UserError: no runs, nothing scored by these rules, no findings of leaks, or an unknown kind.
    """
    if kind not in KINDS:
        raise UserError(f"samples can't leak by {kind!r}; known: {', '.join(KINDS)}")
    scored = read_variants(runs, rules, variants)
    rows: list[Row] = []
    notes: list[str] = []
    for run, label in zip(scored, labels(scored), strict=True):
        findings = findings_for(run.record, corpus)
        if findings is None:
            own = run.record.recipe if corpus == OWN else f"--against {corpus}"
            notes.append(f"{label}: nobody has looked for leaks; `mllm-eval leaks {own}` does.")
            continue
        rows += _rows(run, label, findings, kind)
        looked = next(iter(findings.benchmarks.values()))
        notes.append(f"{label}: looked through {looked.corpus} ({looked.images:,} images), copies confirmed by "
                     f"{looked.settings.encoder}.")  # fmt: skip
    if not rows:
        raise UserError(" ".join(notes) or "no runs to show")
    notes = [
        f"Leaked: {WORDS[kind]}. They leave the sums, and where groups are counted their groups do; the stored scores "
        "stay. 95 % intervals, bootstrap clustered by image. A dash: not looked through, or nothing is left.",
        *dict.fromkeys(notes),
    ]
    return Table("leaks", f"Scores without leaked samples: {rules} rules", COLUMNS, tuple(rows), tuple(notes))


def _rows(run: Scored, label: str, findings: Findings, kind: Kind) -> list[Row]:
    leaked = {name: findings.leaked(name, kind) for name in findings.benchmarks}
    left = without_leaked(run, leaked)
    facts = {"run": run.record.hash, "rules": run.rules, "variant": str(run.variant)}
    sizes = {name: int(run.summaries[name]["n"]) for name in run.benchmarks}
    rows = []
    for key in [*run.benchmarks, *(mean for mean in (*columns().categories, AVERAGE) if mean in run.values)]:
        before, after = run.interval(key), left.values.get(key)
        bounds = None if before is None else (before.low, before.high)
        members = [key] if key in sizes else list(columns().members(key))
        known = all(name in left.leaked for name in members)
        cells = {
            "value": score_cell(run.values[key], COLUMNS[0], limits=bounds),
            "without": Cell() if after is None else score_cell(after.value, COLUMNS[1], limits=(after.low, after.high)),
            "change": Cell() if after is None else Cell(signed(after.value - run.values[key], 1)),
            "leaked": Cell(f"{sum(left.leaked[name] for name in members):,}") if known else Cell(),
            "n": Cell(f"{sum(sizes[name] for name in members):,}"),
        }  # fmt: skip
        rows.append(Row(title(key), "measured", cells, label, aside=key not in sizes, facts=facts))
    return rows
