"""The overview page: which run leads and how surely, in words, bars and the table."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mllm_eval.html import NOTHING, Html
from mllm_eval.report.chance import above_chance
from mllm_eval.report.cost import NOTE, cost_of, external_note, untimed_note
from mllm_eval.report.counted import beside, counted_notes, lacking, ways_of
from mllm_eval.report.differences import Difference, sound
from mllm_eval.report.evidence import Scored
from mllm_eval.report.given import one_answer_words
from mllm_eval.report.notes import failed_words
from mllm_eval.report.paper import PublishedRows, published_rows
from mllm_eval.report.scalingtable import Line, crossing_words, crossings, lines, metrics, scaling, scaling_table
from mllm_eval.report.seedtable import seed_table
from mllm_eval.report.site import bigtable, plots
from mllm_eval.report.site.contents import Evidence
from mllm_eval.report.site.figures import write_figure
from mllm_eval.report.site.markup import headline, listed, note, opened, section, sheet
from mllm_eval.report.table import MISSING, printed, signed
from mllm_eval.report.words import ALPHA, NO_BLIND, by_sight, doubt, p_words, sentences, title
from mllm_eval.results import AVERAGE, RunRecord, columns

PUBLISHED = PublishedRows(file="vqa_all.csv", label="{model}", group="Published")


def overview(evidence: Evidence, out: Path, problems: Sequence[str]) -> Html:
    """The body of index.html."""
    if not evidence.entries:
        return _empty() + _table(evidence)
    means = [key for key in evidence.keys if key not in evidence.benchmarks]
    chances = plots.chance_levels(evidence.seeing, means)
    parts = [_headline(evidence, problems)]
    blind = " Ring: the same model without the image." if evidence.blind_pairs else ""
    if means:
        parts.append(section("categories", "By category", write_figure(
            out, "categories", lambda: plots.categories(evidence, means, chances),
            "Bars of AVG and the four categories for each run, with 95 % intervals",
            f"Line: 95 % interval, clustered by image. Dashed: chance.{blind}")))  # fmt: skip
    parts.append(_table(evidence))
    key = Html('<span class="key"><i class="hue{}"></i>{}</span>')
    names = Html(" ").join(key.format(i % 8, run.label) for i, run in enumerate(evidence.seeing))
    parts.append(section("benchmarks", "By benchmark", write_figure(
        out, "benchmarks", lambda: plots.benchmarks(evidence, chances),
        "A dot for each run on each benchmark, with 95 % intervals",
        f"MME is divided by 20. Line: 95 % interval. Dashed tick: chance, or the best guess without the image.{blind}"),
        names))  # fmt: skip
    parts += [_gains(evidence, means), _chance(evidence), _seeds(evidence), _costs(evidence)]
    return Html("\n").join(part for part in parts if part)


def _empty() -> Html:
    return Html(
        '<section class="headline"><h1>No run here yet</h1><p class="lead">Below are the published rows. '
        "<code>make eval ENCODER=mini-dino</code> makes a first run, <code>make report</code> this page anew.</p>"
        "</section>"
    )


def _headline(evidence: Evidence, problems: Sequence[str]) -> Html:
    runs = evidence.seeing
    about = f"{_kinds([run.scored.record for run in runs])}, {_asked(evidence)}, {evidence.rules} rules."
    said = sentences(sound(evidence.differences, [run.scored for run in runs]))
    shown, more = said[:6], said[6:]
    body = listed(shown, "words")
    if more:
        body += opened(f"{len(more)} more sentences", listed(more, "words"))
    notes = [text for text in evidence.table.notes if "One seed" in text or "side by side" in text]
    notes += [f"{run.label}: {words}." for run in runs for words in failed_words(run.scored)]
    notes += [*evidence.left_out, *problems]
    body += NOTHING.join(note(text) for text in notes)
    return Html('<section class="headline"><h1>{}</h1>\n<p class="lead">{}</p>{}</section>').format(
        _unbroken(lead_words(evidence)), about, body
    )


def _kinds(records: Sequence[RunRecord]) -> str:
    """`3 runs of recipe mini with mini-llama; 1 row of imported answers`."""
    named = [f"of {one.external.removeprefix('an ') or f'recipe {one.recipe} with {one.llm}'}" for one in records]
    external = {name for name, one in zip(named, records, strict=True) if one.external}
    counts = Counter(named).items()
    return "; ".join(f"{_counted(n, 'row' if name in external else 'run')} {name}" for name, n in counts)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _asked(evidence: Evidence) -> str:
    """How many benchmarks and questions the runs were asked; the smallest and largest numbers if these differ."""
    benchmarks = sorted({len(run.scored.benchmarks) for run in evidence.seeing})
    questions = sorted({run.scored.counts[1] for run in evidence.seeing})
    every = len(evidence.benchmarks)
    if len(benchmarks) == len(questions) == 1 and benchmarks[0] == every:
        return f"{_counted(every, 'benchmark')} with {_counted(questions[0], 'question')} in all"
    of, many = (" to ".join(f"{one:,}" for one in dict.fromkeys((counts[0], counts[-1])))
                for counts in (benchmarks, questions))  # fmt: skip
    return f"not asked alike: {of} of {_counted(every, 'benchmark')}, {many} questions"


def _unbroken(text: str) -> str:
    """Replaces spaces in intervals and p-values by no-break spaces."""
    return re.sub(r"\[[^]]*\]|p [<=] [\d.]+", lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def lead_words(evidence: Evidence) -> str:
    """A sentence that names the run with the highest AVG, and whether its lead over the second is significant."""
    runs = [run for run in evidence.seeing if AVERAGE in run.scored.values]
    if not runs:
        return f"{', '.join(run.label for run in evidence.seeing)} on {len(evidence.benchmarks)} benchmarks"
    ranked = sorted(runs, key=lambda run: -run.scored.values[AVERAGE])
    best, limits = ranked[0], ranked[0].scored.interval(AVERAGE)
    value = printed(best.scored.values[AVERAGE], 1)
    between = f" [{printed(limits.low, 1)}, {printed(limits.high, 1)}]" if limits else ""
    if len(ranked) < 2:
        return f"{best.label} has AVG {value}{between}."
    said = f"{best.label} has the highest AVG, {value}{between}."
    other = ranked[1]
    difference = _between(evidence.differences, best.label, other.label)
    if difference is None:
        return said
    lead = printed(abs(difference.difference.value), 1)
    verdict, why = "could be chance", ""
    if difference.holm != difference.holm:
        verdict = "was not tested"
    if difference.holm < ALPHA:
        verdict, why = "is more than chance", ""
        if difference.gain is None:
            why = f"; {NO_BLIND}"
        elif not by_sight(difference):
            verdict, why = "is more than chance, but was not shown to come from the images", f"; {doubt(difference)}"
    return f"{said} Its lead of {lead} over {other.label} {verdict} ({p_words(difference.holm)} after correction{why})."


def _between(differences: Sequence[Difference], a: str, b: str) -> Difference | None:
    return next((one for one in differences if one.key == AVERAGE and {one.a, one.b} == {a, b}), None)


def _table(evidence: Evidence) -> Html:
    known = columns()
    rows, shown = list(evidence.table.rows) if evidence.entries else [], None
    if evidence.entries:
        shown = evidence.table.columns
    wanted = shown or bigtable.columns()
    ways = ways_of([PUBLISHED.file], {column.key for column in wanted})
    measured = {row.label: row for row in rows}
    # The switch for published rows also shows the measured rows that count as they do.
    added = [again for run in evidence.seeing
             for again in beside(run.scored, measured[run.label], wanted, True, ways)[1:]]  # fmt: skip
    published = [*added, *(replace(row, group="Published") for row in published_rows(PUBLISHED, wanted))]
    said = [*counted_notes(ways, bool(added)), *lacking([run.scored for run in evidence.seeing], ways)]
    caption = Html("Published rows are of the whole benchmarks at paper scale (Web-SSL, arXiv:2504.01017v1).")
    if evidence.entries and evidence.pin != "hub":
        other = Html(" They do not compare with rows on other data: these were asked on <code>{}</code>.")
        caption += other.format(evidence.pin)
    caption += "".join(f" {text}" for text in said)
    hues = {run.label: i for i, run in enumerate(evidence.seeing)}
    files = {run.label: f"run-{run.scored.record.hash}.html" for run in evidence.entries}
    html = bigtable.html(wanted, rows, published, hues, files, known)
    legend = (
        "Small: 95 % interval, bootstrap clustered by image, pair or circular group. Bold: the best of its column. "
        "A dash: not every member was measured. Failed samples leave the value and show in the last column."
    )
    html += Html('<p class="note published">{}</p>').format(caption) + note(legend if rows else "")
    return section("table", "All scores", html)


def _gains(evidence: Evidence, means: Sequence[str]) -> Html:
    pairs = evidence.blind_pairs
    if not pairs:
        return NOTHING
    keys = list(means) or evidence.benchmarks
    tested = {(one.a, one.b, one.key): one for one in evidence.gains}
    rows = []
    for run, blind in pairs:
        cells = [run.label]
        for key in keys:
            one = tested.get((run.label, blind.label, key))
            cells.append("–" if one is None else _value_and_interval(one))  # noqa: RUF001
        rows.append(cells)
    head = [("", False), *((title(key), True) for key in keys)]
    paired = "Paired on the same questions, 95 % interval. Around 0 the model answers as well without looking."
    table = sheet("gains", "Value with the image minus value without", head, rows, paired)
    return section("gain", "What the image gives", table)


def _value_and_interval(one: Difference) -> str:
    value, low, high = one.difference.value, one.difference.low, one.difference.high
    text = signed(value, 1, typeset=True)
    if math.isnan(low):
        return text
    return text + f" [{printed(low, 1)}, {printed(high, 1)}]".replace("-", "−")  # noqa: RUF001


def _chance(evidence: Evidence) -> Html:
    said = []
    for run in evidence.seeing:
        above = above_chance(run.scored.record, evidence.rules)
        below = [title(one.benchmark) for one in above if not one.above]
        sentence = f"{run.label}: {len(above) - len(below)} of {len(above)} benchmarks above chance at p < {ALPHA:g}"
        said.append(sentence + (f"; not above: {', '.join(below)}." if below else "."))
        said += [f"{run.label}: {words}." for words in [one_answer_words(run.scored)] if words]
    return section("chance", "Above chance", listed(said, "words"))


def _seeds(evidence: Evidence) -> Html:
    table = seed_table([run.scored for run in evidence.seeing])
    if table is None:
        return NOTHING
    head = [("", False), *((column.title, not column.text) for column in table.columns)]
    rows = [
        [f"{row.group}: {row.label}", *(" ".join(filter(None, (c.text, c.interval))) for c in row.cells.values())]
        for row in table.rows
    ]
    return section("seeds", table.title, listed(table.sentences, "words")
                   + sheet("seed-table", table.title, head, rows, " ".join(table.notes)))  # fmt: skip


def _costs(evidence: Evidence) -> Html:
    head = [("", False), ("AVG", True), ("Visual tokens", True), ("Encoder GFLOP / image", True),
            ("LLM GFLOP / question", True), ("Seconds / question", True), ("Training, s", True)]  # fmt: skip
    rows: list[list[str]] = []
    untimed = []
    for run in evidence.seeing:
        cost = cost_of(run.scored.record)
        if not cost.typed:
            untimed.append(run.label)
        numbers = [(cost.encoder_gflop, 3), (cost.llm_gflop, 3), (cost.seconds_a_question, 4), (cost.training_s, 0)]
        rows.append([run.label, printed(run.scored.values.get(AVERAGE), 1), printed(cost.visual_tokens, 0),
                     *(printed(value, digits) for value, digits in numbers)])  # fmt: skip
    # Rows and columns without any value are left out.
    rows = [row for row in rows if any(text != MISSING for text in row[2:])]
    if not rows:
        return NOTHING
    kept = [at for at in range(len(head)) if not at or any(row[at] != MISSING for row in rows)]
    head, rows = [head[at] for at in kept], [[row[at] for at in kept] for row in rows]
    external = [
        run.label for run in evidence.seeing if run.scored.record.external and run.label in {r[0] for r in rows}
    ]
    notes = [NOTE, *([external_note(external)] if external else []), *([untimed_note(untimed)] if untimed else [])]
    return section("cost", "Cost beside score", sheet("costs", "What a score cost", head, rows, " ".join(notes)))


def scaling_page(evidence: Evidence, out: Path) -> Html:
    """The body of scaling.html: the fitted curves of published and measured families."""
    parts = [headline("Score against size", "Least squares on the logarithm of size: what each doubling adds.")]
    runs = [run.scored for run in evidence.seeing]
    for name, curve in scaling().curves.items():
        curves = lines(name, runs=runs)
        shown = [key for key in metrics() if any(line.key == key for line in curves)]
        caption = (
            f"Dashed lines and rings: published ({curve.source}); solid: measured here. "
            "Band: 95 % of the line, wide where points are few."
        )
        alt = f"Scores against {curve.axis.lower()}, a line each family"
        figure = write_figure(out, f"scaling-{name}", partial(plots.curves, curves, shown, name), alt, caption)
        parts.append(section(name, curve.title, figure + _crossings(curves) + _fits(name, curve.title, runs)))
    return Html("\n").join(parts)


def _crossings(fits: Sequence[Line]) -> Html:
    met = crossings(fits)
    sure = [crossing_words(*one) for one in met if one[2].low == one[2].low]
    others = "Of other pairs of lines these points do not say where, or whether, they meet."
    return listed(sure, "words") + note(others if len(sure) < len(met) else "")


def _fits(name: str, heading: str, runs: Sequence[Scored]) -> Html:
    table = scaling_table(name, runs=runs)
    head = [("", False), ("Per doubling", True), ("95 %", True), ("At 1 B", True), ("R²", True), ("Points", True)]
    rows: list[list[str]] = []
    group = ""
    for row in table.rows:
        if row.group != group:
            group = row.group
            rows.append([group])
        slope, own = row.cells["slope"], [row.cells[key].text for key in ("intercept", "r2", "points")]
        rows.append([row.label, slope.text, slope.interval.replace("-", "−"), *own])  # noqa: RUF001
    return sheet(f"fits-{name}", f"Fits: {heading}", head, rows, " ".join(table.notes))
