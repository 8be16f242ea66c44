"""The page of leaks: counts, scores without leaked samples, both images of each pair, and questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from mllm_eval.errors import UserError
from mllm_eval.html import NOTHING, Html
from mllm_eval.leaks.findings import (
    OWN,
    PICTURED,
    Findings,
    Overlapping,
    overlaps_of,
    read_findings,
    searched_folders,
)
from mllm_eval.report.site.contents import Evidence
from mllm_eval.report.site.markup import headline, listed, note, section, sheet
from mllm_eval.report.table import Table
from mllm_eval.report.withoutleaked import findings_for, leaks_table
from mllm_eval.report.words import title
from mllm_eval.results import columns
from mllm_eval.run import Run
from mllm_eval.storage import write_atomic

FILE = "leaks.html"
FOLDER = "figures/leaks"
# How many questions of a benchmark the page shows; the files hold all.
QUESTIONS = 12
T = TypeVar("T")


@dataclass(frozen=True)
class Leaks:
    """What the page shows.

    own: folder -> the leaks found in the runs' training data. folders: those found in folders of images. overlaps: the
    runs' training images that occur in such folders.
    """

    own: Mapping[str, Findings]
    folders: Sequence[Findings] = ()
    overlaps: Sequence[Overlapping] = ()

    @property
    def any(self) -> bool:
        """Whether anything was looked for."""
        return bool(self.own or self.folders or self.overlaps)


def found_leaks(evidence: Evidence, problems: list[str]) -> Leaks:
    """The findings that concern the runs. Those that can't be read are added to `problems`."""

    def read(what: str, find: Callable[[], T], otherwise: T) -> T:
        try:
            return find()
        except UserError as problem:
            problems.append(f"Leaks of {what} are not shown: {problem}")
            return otherwise

    own: dict[str, Findings] = {}
    overlaps: dict[str, Overlapping] = {}
    for entry in evidence.seeing:
        record = entry.scored.record
        findings = read(entry.label, lambda record=record: findings_for(record), None)  # type: ignore[misc]
        if findings is not None:
            own.setdefault(str(findings.folder), findings)
        if isinstance(record.run, Run):
            recipe = record.run.recipe
            shared: list[Overlapping] = read(entry.label, lambda recipe=recipe: overlaps_of(recipe), [])  # type: ignore[misc]
            overlaps.update({str(one.folder): one for one in shared})
    pins = sorted({entry.scored.record.data for entry in evidence.seeing})
    folders = []
    nothing: list[Path] = []
    for place in read("folders", searched_folders, nothing):
        for pin in pins:
            one = read(place.name, lambda place=place, pin=pin: read_findings(place, pin), None)  # type: ignore[misc]
            if one is not None:
                folders.append(one)
    return Leaks(own, folders, list(overlaps.values()))


def leaks_page(evidence: Evidence, leaks: Leaks, out: Path) -> Html:
    """The body of leaks.html."""
    about = (
        "Pictures and questions of the benchmarks that stand in what the runs were trained on or in a folder of "
        "images, and training images that such a folder holds."
    )
    parts = [headline("Leaks", about)]
    runs = [entry.scored.record for entry in evidence.seeing]
    corpora = [OWN, *dict.fromkeys(_place(one) for one in leaks.folders)]
    for number, corpus in enumerate(corpora):
        key = f"without{number or ''}"
        among = "" if corpus == OWN else f", of {corpus}"
        try:
            # Only the default variant: a subset of the questions would tell less than all of them.
            table = leaks_table(runs, corpus, rules=evidence.rules)
            parts.append(section(key, f"{table.title}{among}", _scores(table, key)))
        except UserError as problem:
            parts.append(section(key, f"Scores without leaked samples{among}", listed([str(problem)])))
    for number, one in enumerate(leaks.own.values()):
        parts += _corpus(one, number, "training", out)
    for number, one in enumerate(leaks.folders, len(leaks.own)):
        parts += _corpus(one, number, "folder", out)
    for number, shared in enumerate(leaks.overlaps):
        parts.append(_overlap(shared, number, out))
    return Html("\n").join(parts)


def _place(findings: Findings) -> str:
    """The name of a corpus's folder under results/leaks."""
    return findings.folder.parent.parent.name


def _scores(table: Table, key: str) -> Html:
    head = [("", False), *((column.title, not column.text) for column in table.columns)]
    rows: list[list[str]] = []
    group = None
    for row in table.rows:
        if row.group != group:
            group = row.group
            rows.append([group])
        rows.append([row.label, *(" ".join(filter(None, (one.text, one.interval))) for one in row.cells.values())])
    return sheet(f"{key}-sheet", table.title, head, rows, " ".join(table.notes))


def _corpus(findings: Findings, number: int, what: str, out: Path) -> list[Html]:
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
            place = f"{FOLDER}/{_place(findings)}"
            pairs = islice(findings.pairs(one.benchmark), PICTURED)
            cards = (_card(pair, findings.folder / "thumbs", ("benchmark", what), place, out) for pair in pairs)
            body += _cards(cards, one.pairs, findings.folder / f"{one.benchmark}.pairs.jsonl")
        if one.standing:
            body += _questions(findings.questions(one.benchmark), one.standing)
        if body:
            parts.append(section(f"{key}-{one.benchmark}", title(one.benchmark), body))
    return parts


def _overlap(shared: Overlapping, number: int, out: Path) -> Html:
    one = shared.counts
    counted = (
        f"{one.copied:,} of {one.images:,} training images are among the {one.others:,} images of {one.against}. "
        f"{one.candidates:,} pairs of hashes are at most {one.settings.radius} of 64 bits apart; "
        f"{one.settings.encoder} confirms {one.pairs:,}."
    )
    if one.broken_images or one.broken_rows or one.broken_others:
        reasons = (*one.broken_rows_first[:1], *one.broken_images_first[:1], *one.broken_others_first[:1])
        counted += (
            f" Left out: {one.broken_images:,} images and {one.broken_rows:,} rows of the training data and "
            f"{one.broken_others:,} images of the folder that can't be read ({'; '.join(reasons)})."
        )
    place = f"{FOLDER}/{shared.folder.parents[1].name}-{shared.folder.name}"
    cards = (
        _card(pair, shared.folder / "thumbs", ("training", "folder"), place, out)
        for pair in islice(shared.pairs(), PICTURED)
    )
    body = note(counted) + _cards(cards, one.pairs, shared.folder / "pairs.jsonl")
    return section(f"o{number}", f"Training images of {one.recipe} in {one.against}", body)


def _cards(cards: Iterable[Html], pairs: int, path: Path) -> Html:
    """The cards of the most similar of so many pairs, and where all are."""
    body = Html('<ul class="pairs">{}</ul>').format(NOTHING.join(cards))
    if pairs > PICTURED:
        body += note(f"{PICTURED} of {pairs:,} pairs, the most similar; all are in {path}.")
    return body


def _card(pair: dict[str, Any], thumbs: Path, kinds: tuple[str, str], place: str, out: Path) -> Html:
    """Both pictures of a pair. kinds: what they are. place: where the report keeps them, below `out`."""
    shown = NOTHING.join(
        _picture(str(pair.get(key, "")), kind, thumbs, place, out)
        for key, kind in zip(("picture_thumb", "image_thumb"), kinds, strict=True)
    )
    alike = f"{pair['distance']} bits, similarity {pair['similarity']:.3f}"
    if "samples" not in pair:
        return Html("<li><div>{}</div><p>{}<br>{}<br>{}</p></li>").format(shown, alike, pair["image"], pair["other"])
    more = int(pair["n_samples"]) - 1
    ids = str(pair["samples"][0]) + (f" and {more} more" if more else "")
    about = f"sample {ids}; {pair['view']}, {alike}"
    return Html("<li><div>{}</div><p>{}<br>{}</p></li>").format(shown, about, pair["image"])


def _picture(name: str, what: str, thumbs: Path, place: str, out: Path) -> Html:
    path = thumbs / Path(name).name
    if not name or not path.is_file():
        return Html('<div class="picture none">{}: no picture kept</div>').format(what)
    place = f"{place}/{path.name}"
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
