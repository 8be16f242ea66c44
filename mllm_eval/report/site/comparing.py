"""The compare page: its frame, and the data that fills it."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from mllm_eval.report.site.evidence import Entry, Evidence
from mllm_eval.report.words import ALPHA, title
from mllm_eval.results import columns


def compare_data(evidence: Evidence, about: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs, benchmarks, values with intervals, and the tests of every pair."""
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
        pairs.setdefault(f"{keys[one.a]}|{keys[one.b]}", []).append([*map(_number, row), *counted])
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
    }


def _higher(a: Entry, b: Entry, name: str) -> tuple[int, int]:
    """How many questions a scores higher, and b, where scores are not only 0 and 1."""
    left, right = a.scored.estimates[name].score, b.scored.estimates[name].score
    return int((left > right).sum()), int((right > left).sum())


def _run(entry: Entry, index: dict[str, int]) -> dict[str, Any]:
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


def compare_page(evidence: Evidence) -> str:
    """The body of compare.html; the script fills it."""
    options = "".join(f'<option value="{escape(e.key)}">{escape(e.label)}</option>' for e in evidence.entries)
    return _FRAME.replace("{options}", options).replace("{alpha}", f"{ALPHA:g}")


_FRAME = """<section class="headline"><h1 id="heading">Two runs compared</h1>
<noscript><p class="note">This page needs JavaScript: it reads the answers from files beside it.</p></noscript>
<form id="pair" class="bar" hidden><label>A <select id="a">{options}</select></label>
<button type="button" id="swap" aria-label="Exchange A and B">⇄</button>
<label>B <select id="b">{options}</select></label></form>
<p class="lead" id="said" aria-live="polite"></p></section>
<section id="differences" aria-labelledby="differences-h" hidden><h2 id="differences-h">Paired differences</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Paired differences"><table id="forest"></table></div>
<p class="note">A minus B on the same questions with its 95 % interval, bootstrap clustered by image; p by permutation
of whole images, corrected (Holm) over all pairs of runs here, runs without images apart. Filled: corrected p below
{alpha}. In the picture MME is divided by 20. The counts are single questions; a click shows them below.</p></section>
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
<dialog id="sample" aria-labelledby="sample-h"></dialog>"""
