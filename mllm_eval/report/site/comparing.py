"""The compare page: its html, and the data that its script shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mllm_eval.html import NOTHING, Html
from mllm_eval.report.differences import Difference
from mllm_eval.report.site.contents import Evidence, MenuEntry
from mllm_eval.report.table import printed
from mllm_eval.report.words import ALPHA, sentences, title
from mllm_eval.results import AVERAGE, columns


def compare_data(evidence: Evidence, about: list[dict[str, Any]]) -> dict[str, Any]:
    """The data of the compare page: runs, benchmarks, values with intervals, and each pair's tests with sentences."""
    known, index = columns(), {run.key: i for i, run in enumerate(evidence.seeing)}
    keys = {entry.label: entry.key for entry in evidence.entries}
    pairs: dict[str, list[list[Any]]] = {}
    entries = {entry.label: entry for entry in evidence.entries}
    for one in (*evidence.differences, *evidence.gains):
        higher = (one.only_a, one.only_b)
        if one.key in evidence.benchmarks and one.only_a is None:
            higher = _higher(entries[one.a], entries[one.b], one.key)
        row = [one.key, one.difference.value, one.difference.low, one.difference.high, one.p, one.holm]
        counted = [*higher, None if one.mcnemar is None else round(one.mcnemar, 4)]
        seen = [*map(_number, _gain(one))] if one.gain else []
        pairs.setdefault(f"{keys[one.a]}|{keys[one.b]}", []).append([*map(_number, row), *counted, *seen])
    said = {}
    for differences, words in ((evidence.differences, sentences), (evidence.gains, _of_one_run)):
        for a, b in dict.fromkeys((one.a, one.b) for one in differences):
            own = [one for one in differences if (one.a, one.b) == (a, b)]
            said[f"{keys[a]}|{keys[b]}"] = " ".join(words(own))
    return {
        "alpha": ALPHA,
        "rules": list(dict.fromkeys(rules for entry in evidence.entries for rules in entry.by_rules)),
        "runs": [_run(entry, index) for entry in evidence.entries],
        "titles": {key: title(key) for key in evidence.keys},
        "scale": {key: known.percent(key) for key in evidence.keys},
        "means": [key for key in evidence.keys if key not in evidence.benchmarks],
        "categories": {key: named.title for key, named in known.categories.items()},
        "benchmarks": about,
        "pairs": pairs,
        "said": said,
    }


def _gain(one: Difference) -> list[float]:
    return (
        [one.gain.difference.value, one.gain.difference.low, one.gain.difference.high, one.gain.holm]
        if one.gain
        else []
    )


def _of_one_run(differences: Sequence[Difference]) -> list[str]:
    """Sentences on the significant differences between a run with and without images."""
    means = [one for one in differences if one.key == AVERAGE or one.key in columns().categories]
    clear = [one for one in means or differences if one.holm < ALPHA]
    if not clear:
        return [f"Nothing here separates {differences[0].a} from {differences[0].b} at p < {ALPHA:g} after Holm."]
    gained = [
        f"{title(one.key)} {'+' if one.difference.value > 0 else ''}{printed(one.difference.value, 1)} "
        f"[{printed(one.difference.low, 1)}, {printed(one.difference.high, 1)}]"
        for one in clear
    ]
    first = differences[0]
    return [f"Seeing the images gives {first.a} {', '.join(gained)} over {first.b}, p < {ALPHA:g} after Holm."]


def _higher(a: MenuEntry, b: MenuEntry, name: str) -> tuple[int, int]:
    """How many questions a scores higher than b, and b higher than a."""
    left, right = a.scored.estimates[name].score, b.scored.estimates[name].score
    return int((left > right).sum()), int((right > left).sum())


def _run(entry: MenuEntry, index: dict[str, int]) -> dict[str, Any]:
    values = {}
    for key, value in entry.scored.values.items():
        limits = entry.scored.interval(key)
        values[key] = [_number(part) for part in ((value, limits.low, limits.high) if limits else (value,))]
    own = index.get(entry.key, index.get(entry.key.removesuffix("-blind"), 0))
    return {"key": entry.key, "label": entry.label, "hue": own % 8, "blind": entry.blind, "values": values,
            "rules": list(entry.by_rules)}  # fmt: skip


def _number(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else float(f"{value:.6g}")


def compare_page(evidence: Evidence) -> Html:
    """The body of compare.html; its script fills it with the data."""
    option = Html('<option value="{}">{}</option>')
    options = NOTHING.join(option.format(one.key, one.label) for one in evidence.entries)
    return _FRAME.format(options=options, alpha=f"{ALPHA:g}")


_FRAME = Html("""<section class="headline"><h1 id="heading">Two runs compared</h1>
<noscript><p class="note">This page needs JavaScript: it reads the answers from files beside it.</p></noscript>
<form id="pair" class="bar" hidden><label>A <select id="a">{options}</select></label>
<button type="button" id="swap" aria-label="Exchange A and B">⇄</button>
<label>B <select id="b">{options}</select></label></form>
<p class="lead" id="said" aria-live="polite"></p></section>
<section id="differences" aria-labelledby="differences-h" hidden><h2 id="differences-h">Paired differences</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Paired differences"><table id="forest"></table></div>
<p class="note">A minus B on the same questions with its 95 % interval, bootstrap clustered by image; p by permutation
of whole images, corrected (Holm) over all pairs of runs here, runs without images apart. Filled: corrected p below
{alpha}. By sight: the difference of the two visual gains (score minus blind score), tested in the same way. The rest
of a difference is there without the images, too. In the picture MME is divided by 20. The counts are single
questions; a click shows them below.</p></section>
<section id="samples" aria-labelledby="samples-h"><h2 id="samples-h">Questions and answers</h2>
<form id="filters" class="bar" hidden>
<label>Benchmark <select id="benchmark"></select></label>
<label>Show <select id="show"></select></label>
<label>Rules <select id="rules"></select></label>
<label class="grow">Search <input id="search" type="search" placeholder="question, answer, id" autocomplete="off">
</label></form>
<p id="count" class="lead" aria-live="polite"></p>
<ol id="list"></ol>
<nav id="pages" class="bar" aria-label="Pages of questions" hidden>
<button type="button" id="previous">← Previous</button><span id="where"></span>
<button type="button" id="next">Next →</button>
</nav></section>
<dialog id="sample" aria-labelledby="sample-h"></dialog>""")
