"""The details of each value on a run's page: its parts, the answers given, and answers against golds."""

from __future__ import annotations

from mllm_eval.distribution import one_answer
from mllm_eval.html import NOTHING, Html
from mllm_eval.report.evidence import Scored
from mllm_eval.report.given import confusion, most_frequent, one_answer_words
from mllm_eval.report.parts import number, parts
from mllm_eval.report.site.markup import note, opened, section, sheet
from mllm_eval.report.words import title


def behind(scored: Scored) -> Html:
    """The section: a warning if one answer makes up most of the answers, and foldable details of each benchmark."""
    words = one_answer_words(scored)
    lead = note(f"{words[0].upper()}{words[1:]}." if words else "")
    parts_ = (_of(scored, name) for name in scored.benchmarks)
    return section("behind", "Behind each value", NOTHING.join((lead, *parts_)))


def _of(scored: Scored, name: str) -> Html:
    summary = scored.summaries[name]
    own, given = parts(summary), scored.record.given(summary)
    head, rows = confusion(given)
    golds = f" Golds: {most_frequent({'answers': given['golds']})}." if given.get("golds") else ""
    shown = note(f"Answers: {most_frequent(given)}.{golds}")
    if own:
        lines = [[part.name, "" if part.value is None else number(part.value), "" if part.n is None else f"{part.n:,}",
                  part.words] for part in own]  # fmt: skip
        columns = [("", False), ("Value", True), ("n", True), ("Beside it", False)]
        kept = [at for at in range(4) if at < 2 or any(line[at] for line in lines)]
        shown += sheet(f"parts-{name}", f"Parts of {title(name)}", [columns[at] for at in kept],
                       [[line[at] for at in kept] for line in lines])  # fmt: skip
    if rows:
        legend = "Rows: the gold. Columns: what was read from the answer."
        shown += sheet(f"confusion-{name}", f"{title(name)}: golds against answers",
                       [(text, at > 0) for at, text in enumerate(head)], rows, legend)  # fmt: skip
    said = [f"{len(own)} parts"] if own else []
    said += ["golds against answers"] if rows else []
    said += [f"{most} in {share:.0%} of answers" for most, share in [one_answer(given) or ("", 0.0)] if most]
    about = f": {', '.join(said)}" if said else ""
    return opened(title(name) + about, shown)
