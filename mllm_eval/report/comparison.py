"""The table that compares runs, with intervals, tests and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from mllm_eval.catalog.variant import BLIND, DEFAULT, VariantKey
from mllm_eval.errors import UserError, near
from mllm_eval.report.differences import Difference, RunPair, differences, sound
from mllm_eval.report.evidence import Scored, draw_together, read_blind, read_variants
from mllm_eval.report.notes import failed_words, shared_notes, subset_notes
from mllm_eval.report.probetable import probe_words
from mllm_eval.report.table import Cell, Column, Row, Table, score_cell, with_best, with_deltas
from mllm_eval.report.words import GAINS, sentences, stars, title, variant_words
from mllm_eval.results import AVERAGE, RunRecord, columns


def score_columns(own: Sequence[str], decimals: int = 1) -> tuple[Column, ...]:
    """Columns for the benchmarks in `own`: AVG, the categories, the paper's benchmarks by category, then all others.

    AVG and the categories are left out if `own` holds none of the paper's benchmarks.
    """
    known = columns()
    shown = []
    if any(name in known.benchmarks for name in own):
        shown.append(Column(AVERAGE, known.average.title, decimals=decimals))
        shown += [Column(key, named.title, decimals=decimals) for key, named in known.categories.items()]
    for key, named in known.benchmarks.items():
        if key in own:
            group = known.categories[named.category].title
            shown.append(Column(key, named.title, decimals=decimals, better=named.better, group=group))
    others = [name for name in own if name not in known.benchmarks]
    shown += [Column(name, title(name), decimals=decimals, group="Other") for name in others]
    return tuple(shown)


def classic_columns(runs: Sequence[Scored], decimals: int = 1) -> tuple[Column, ...]:
    """Columns for the classic-vision probes that at least one of the runs has."""
    return tuple(
        Column(key, named.title, False, named.decimals or decimals, named.better, "Classic vision")
        for key, named in columns().classic.items()
        if any(key in run.record.probes for run in runs)
    )


def labels(runs: Sequence[Scored]) -> list[str]:
    """A label for each row: the encoder and variant, with LLM, recipe, seed and hash where these tell rows apart."""
    names = []
    for run in runs:
        twins = [r.record for r in runs if (r.record.encoder, r.variant) == (run.record.encoder, run.variant)]
        extra = [words] if (words := variant_words(run.variant)) else []
        extra += [getattr(run.record, key) for key in ("llm", "recipe") if len({getattr(r, key) for r in twins}) > 1]
        extra += [f"seed {run.record.seed}"] * (len({r.seed for r in twins}) > 1)
        names.append(f"{run.record.encoder} ({', '.join(extra)})" if extra else run.record.encoder)
    return [
        f"{name} [{run.record.hash}]" if names.count(name) > 1 else name for name, run in zip(names, runs, strict=True)
    ]


def held_equal(runs: Sequence[Scored], mixed_recipes: bool) -> None:
    """Raises UserError if the runs differ in recipe, LLM or protocol, since scores then differ by more than the
    encoder.

    `mixed_recipes` permits different recipes and LLMs, but not different protocols.
    """
    kinds = {
        run.record.held_equal: f"{run.record.recipe} ({run.record.recipe_hash}) with {run.record.llm}" for run in runs
    }
    if len(kinds) > 1 and not mixed_recipes:
        raise UserError(
            f"the runs do not share one recipe and LLM: {'; '.join(sorted(kinds.values()))}. "
            "Choose one, or ask for mixed recipes."
        )
    for name in dict.fromkeys(name for run in runs for name in run.benchmarks):
        protocols = {
            str(run.summaries[name]["protocol_hash"])
            for run in runs
            if name in run.summaries and run.plain == DEFAULT.name
        }
        if len(protocols) > 1:
            raise UserError(
                f"{name} was scored by different protocols ({', '.join(sorted(protocols))}); score all runs again"
            )


def measured_row(run: Scored, label: str, shown: Sequence[Column], intervals: bool) -> Row:
    """The row of a run, with its footnotes. Intervals are shown if `intervals` is set, and always for a subset."""
    cells = {}
    # Probes measure the encoder alone, so they do not belong in a row without images.
    probes = run.record.probes if run.plain == DEFAULT.name else {}
    for column in shown:
        if column.text:
            cells[column.key] = Cell(run.record.facts.get(column.key, ""))
            continue
        if probe := probes.get(column.key):
            cells[column.key] = score_cell(probe.value, column, limits=probe.interval if intervals else None)
            continue
        limits = run.interval(column.key) if intervals or run.subset else None
        between = (limits.low, limits.high) if limits else None
        cells[column.key] = score_cell(run.values.get(column.key), column, limits=between)
        if failed := run.failing.get(column.key):
            cells[column.key] = replace(cells[column.key], failed=f"({failed:,} failed)")
    ok, total, unparsed = run.counts
    record = run.record
    part = f", a subset of {run.subset:,} questions" if run.subset else ""
    seed = "" if record.external else f", seed {record.seed}"
    about = f"run {record.hash}{seed}{part}, {ok}/{total} answers scored"
    if unparsed:
        about += f", {unparsed} of them unparsed"
    if run.empty:
        about += f", {run.empty} of them empty"
    absent = [n for n in columns().benchmarks if n not in run.values or n in run.failing]
    if absent and len(absent) < len(columns().benchmarks):
        about += f"; no AVG without {', '.join(columns().benchmarks[n].title for n in absent)}"
    about += "".join(f"; {words}" for words in failed_words(run))
    facts = {
        "run": record.hash,
        "encoder": record.encoder,
        "recipe": record.recipe,
        "recipe_hash": record.recipe_hash,
        "data_hash": record.data_hash,
        "llm": record.llm,
        "seed": "" if record.external else str(record.seed),
        "rules": run.rules,
        "variant": str(run.variant),
        "subset": str(run.subset or ""),
        "n_ok": str(ok),
        "n": str(total),
        "n_unparsed": str(unparsed),
        "n_empty": str(run.empty),
    }
    named = columns().classic
    probed = [f"{named[key].title}: n {one.n:,}, {one.how}" for key, one in probes.items() if key in cells]
    return Row(
        label, "measured", cells, aside=run.plain != DEFAULT.name, notes=(about, *record.notes, *probed), facts=facts
    )


def comparison(
    runs: Sequence[RunRecord],
    baseline: str | None = None,
    rules: str = "cambrian",
    variants: Sequence[VariantKey] = (DEFAULT, BLIND),
    intervals: bool = False,
    mixed_recipes: bool = False,
    benchmarks: Sequence[str] | None = None,
) -> Table:
    """The table of runs: one row per run and variant (such as blind), over all benchmarks or those in `benchmarks`.

    `baseline` is a row's label, an encoder or a run's hash. With it, each row shows its difference to that row, with
    stars where it is significant. Without it, the sentences compare every pair of runs.

    Raises:
        UserError: nothing scored, different recipes or protocols, or an unknown baseline.
    """
    return compare_scored(read_variants(runs, rules, variants, benchmarks), baseline, intervals, mixed_recipes)


def compare_scored(
    scored: Sequence[Scored],
    baseline: str | None = None,
    intervals: bool = False,
    mixed_recipes: bool = False,
    heading: str = "Comparison of encoders",
) -> Table:
    """The table that `comparison` makes, from evidence that was already read."""
    held_equal(scored, mixed_recipes)
    names = labels(scored)
    base = None if baseline is None else row_of(baseline, scored, names)
    if intervals or len({run.record.hash for run in scored}) > 1:
        draw_together(scored)
    shown = score_columns(list(dict.fromkeys(name for run in scored for name in run.benchmarks)))
    # A mean that no row has gets no column; a footnote of each row names the missing benchmarks.
    shown = tuple(one for one in shown if one.group or any(one.key in run.values for run in scored))
    shown += classic_columns(scored)
    rows = [measured_row(run, name, shown, intervals) for run, name in zip(scored, names, strict=True)]
    sizes = list(dict.fromkeys(run.subset for run in scored))
    if len(sizes) > 1:
        rows = [
            replace(row, group=f"Subset of {run.subset:,}" if run.subset else "All questions")
            for row, run in zip(rows, scored, strict=True)
        ]
    rows = with_best(rows, shown, "group" if len(sizes) > 1 else "table")
    notes = [*shared_notes(scored), *subset_notes(scored)]
    if base is not None:
        rows = with_deltas(rows, shown, names[base])
    differing = tested(scored, names, base)
    if base is not None and differing:
        rows = [_marked(row, differing) for row in rows]
        notes.append(
            f"Differences to {names[base]}; *, **, ***: p < 0.05, 0.01, 0.001 by a permutation test, "
            f"clustered by image, corrected for {len(differing)} tests (Holm)."
        )
    trained = [run.record for run in scored if run.plain == DEFAULT.name and not run.record.external]
    if differing and len({record.seed for record in trained}) == 1:
        notes.append("One seed each: what training again would change is in no interval or p-value here.")
    if intervals and None in sizes:
        notes.append("[low, high]: 95 % interval, bootstrap clustered by image, pair or circular group.")
    if single := list(dict.fromkeys(title(name) for run in scored for name in run.single)):
        notes.append(
            f"No interval and no test where all questions, or all of a stratum, are on one image: {', '.join(single)}."
        )
    if any(one.gain for one in differing):
        notes.append(GAINS)
    said = [*_blind_words(scored, names), *sentences(sound(differing, scored))]
    said += probe_words([run.record for run in scored if run.plain == DEFAULT.name])
    return Table("compare", heading, shown, tuple(rows), tuple(notes), tuple(said))


def tested(runs: Sequence[Scored], names: Sequence[str], base: int | None = None) -> list[Difference]:
    """Tests each pair of rows with images, or each row against row `base`; only rows of the same subset are compared.

    `names` are the rows' labels.
    """
    plain = [i for i, run in enumerate(runs) if run.plain == DEFAULT.name]
    pairs = combinations(plain, 2) if base is None else ((i, base) for i in plain if i != base)
    alike = [(i, j) for i, j in pairs if runs[i].subset == runs[j].subset]
    return differences([RunPair(names[i], runs[i], names[j], runs[j]) for i, j in alike], blind_rows(runs, names))


def blind_rows(runs: Sequence[Scored], names: Sequence[str]) -> dict[str, Scored]:
    """Label -> the same run asked without images, for the runs that were asked blind."""
    shown = {(run.record.hash, run.subset): run for run in runs if run.plain == BLIND.name}
    blind_of = {
        name: shown.get((run.record.hash, run.subset)) or read_blind(run)
        for run, name in zip(runs, names, strict=True)
        if run.plain == DEFAULT.name
    }
    return {name: blind for name, blind in blind_of.items() if blind}


def row_of(baseline: str, runs: Sequence[Scored], names: Sequence[str]) -> int:
    """The index of the row with this label, encoder or run hash. Raises UserError if there is none."""
    for index, (run, name) in enumerate(zip(runs, names, strict=True)):
        if baseline == name or (run.plain == DEFAULT.name and baseline in (run.record.encoder, run.record.hash)):
            return index
    raise UserError(f"no row {baseline!r} to compare with.{near(baseline, names)}")


def _marked(row: Row, tested: Sequence[Difference]) -> Row:
    cells = dict(row.cells)
    for one in tested:
        if one.a == row.label and one.key in cells:
            cells[one.key] = replace(cells[one.key], marks=stars(one.holm))
    return replace(row, cells=cells)


def _blind_words(runs: Sequence[Scored], names: Sequence[str]) -> list[str]:
    said = []
    for run, name in zip(runs, names, strict=True):
        if run.plain != BLIND.name:
            continue
        for other, seeing in zip(runs, names, strict=True):
            if (other.record.hash, other.subset, other.plain) == (run.record.hash, run.subset, DEFAULT.name):
                both = [key for key in other.values if key in run.values]
                # Where AVG is not available, the sentence gives the gain on each benchmark instead.
                spoken = [AVERAGE] if AVERAGE in both else [key for key in both if key in other.benchmarks]
                gains = [f"{other.values[key] - run.values[key]:+.1f} {title(key)}" for key in spoken]
                if gains:
                    said.append(f"Seeing the images gives {seeing} {', '.join(gains)} over {name}.")
    return said
