"""The page of leaks: counts, scores without leaked samples, both images of each pair, and questions."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from mllm_eval.errors import UserError
from mllm_eval.html import NOTHING, Html
from mllm_eval.leaks.findings import Findings
from mllm_eval.report.site.contents import Evidence
from mllm_eval.report.site.markup import headline, listed, note, section, sheet
from mllm_eval.report.table import Table
from mllm_eval.report.withoutleaked import findings_for, leaks_table
from mllm_eval.report.words import title
from mllm_eval.results import columns
from mllm_eval.storage import write_atomic

FILE = "leaks.html"
FOLDER = "figures/leaks"
# How many pairs and questions of a benchmark the page shows; the files hold all.
PAIRS, QUESTIONS = 24, 12


def found_leaks(evidence: Evidence, problems: list[str]) -> dict[str, Findings]:
    """Folder -> the leaks found in the runs' training data. Findings that can't be read are added to `problems`."""
    by_folder: dict[str, Findings] = {}
    for entry in evidence.seeing:
        try:
            own = findings_for(entry.scored.record)
        except UserError as problem:
            problems.append(f"Leaks of {entry.label} are not shown: {problem}")
            continue
        if own is not None:
            by_folder.setdefault(str(own.folder), own)
    return by_folder


def leaks_page(evidence: Evidence, by_folder: dict[str, Findings], out: Path) -> Html:
    """The body of leaks.html."""
    about = "Pictures and questions of the benchmarks that stand in what the runs were trained on."
    parts = [headline("Leaks", about)]
    runs = [entry.scored.record for entry in evidence.seeing]
    try:
        # Only the default variant: a subset of the questions would tell less than all of them.
        table = leaks_table(runs, rules=evidence.rules)
        parts.append(section("without", table.title, _scores(table)))
    except UserError as problem:
        parts.append(section("without", "Scores without leaked samples", listed([str(problem)])))
    for number, one in enumerate(by_folder.values()):
        parts += _corpus(one, number, out)
    return Html("\n").join(parts)


def _scores(table: Table) -> Html:
    head = [("", False), *((column.title, not column.text) for column in table.columns)]
    rows: list[list[str]] = []
    group = None
    for row in table.rows:
        if row.group != group:
            group = row.group
            rows.append([group])
        rows.append([row.label, *(" ".join(filter(None, (one.text, one.interval))) for one in row.cells.values())])
    return sheet("without-sheet", table.title, head, rows, " ".join(table.notes))


def _corpus(findings: Findings, number: int, out: Path) -> list[Html]:
    order = [*columns().benchmarks, *findings.benchmarks]
    every = sorted(findings.benchmarks.values(), key=lambda one: order.index(one.benchmark))
    first = every[0]
    head = [("", False), ("Pictures", True), ("Near by hash", True), ("Copied pictures", True), ("Samples", True),
            ("Leaked samples", True), ("Questions standing", True), ("Both", True), ("False alarms", True)]  # fmt: skip
    rows = [
        [
            title(one.benchmark), f"{one.pictures:,}", f"{one.candidates:,}", f"{one.leaked_pictures:,}",
            f"{one.samples:,}", f"{one.leaked['pictures']:,}",
            "–" if one.standing is None else f"{one.leaked['questions']:,}",  # noqa: RUF001
            f"{one.leaked['both']:,}", "–" if one.alarm is None else f"{one.alarm:.2g}",  # noqa: RUF001
        ]
        for one in every
    ]  # fmt: skip
    counted = (
        f"{first.images:,} images of {first.corpus}. Near by hash: at most {first.settings.radius} of 64 bits apart in "
        f"any of {first.settings.views} views. Copied: {first.settings.encoder} confirms one. False alarms: the "
        "share of pairs of different pictures of the benchmark, those that look most alike, over the threshold."
    )
    if first.broken_images or first.broken_rows:
        reasons = "; ".join((*first.broken_rows_first[:1], *first.broken_images_first[:1]))
        counted += (
            f" Left out: {first.broken_images:,} images and {first.broken_rows:,} rows that can't be read ({reasons})."
        )
    key = f"c{number}"
    counts = sheet(f"{key}-sheet", "Counts", head, rows, counted)
    parts = [section(f"{key}-counts", f"Found in {first.corpus}", counts)]
    for one in every:
        body = NOTHING
        if one.pairs:
            cards = (_card(pair, findings, out) for pair in islice(findings.pairs(one.benchmark), PAIRS))
            body += Html('<ul class="pairs">{}</ul>').format(NOTHING.join(cards))
            if one.pairs > PAIRS:
                path = findings.folder / f"{one.benchmark}.pairs.jsonl"
                body += note(f"{PAIRS} of {one.pairs:,} pairs, the most similar; all are in {path}.")
        if one.standing:
            body += _questions(findings.questions(one.benchmark), one.standing)
        if body:
            parts.append(section(f"{key}-{one.benchmark}", title(one.benchmark), body))
    return parts


def _card(pair: dict[str, Any], findings: Findings, out: Path) -> Html:
    shown = NOTHING.join(_picture(str(pair.get(key, "")), what, findings, out)
                    for key, what in (("picture_thumb", "benchmark"), ("image_thumb", "training")))  # fmt: skip
    more = int(pair["n_samples"]) - 1
    ids = str(pair["samples"][0]) + (f" and {more} more" if more else "")
    about = f"sample {ids}; {pair['view']}, {pair['distance']} bits, similarity {pair['similarity']:.3f}"
    return Html("<li><div>{}</div><p>{}<br>{}</p></li>").format(shown, about, pair["image"])


def _picture(name: str, what: str, findings: Findings, out: Path) -> Html:
    path = findings.folder / "thumbs" / Path(name).name
    if not name or not path.is_file():
        return Html('<div class="picture none">{}: no picture kept</div>').format(what)
    place = f"{FOLDER}/{findings.folder.parent.parent.name}/{path.name}"
    if not (out / place).is_file():
        write_atomic(out / place, path.read_bytes())
    return Html(
        '<figure><img loading="lazy" src="{place}" alt="{what}"><figcaption>{what}</figcaption></figure>'
    ).format(place=place, what=what)  # fmt: skip


def _questions(rows: Iterable[dict[str, Any]], many: int) -> Html:
    shown = [
        f"{row['question']} (rows: {row['rows']:,}, samples: {row['n_samples']:,})" for row in islice(rows, QUESTIONS)
    ]
    left = f", the rarest {len(shown)}" if many > len(shown) else ""
    return Html(
        '<p class="standing">{:,} questions stand in the training text word for word{}:</p>{}'
    ).format(many, left, listed(shown))  # fmt: skip
