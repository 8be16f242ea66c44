"""Footnotes on measured rows: failed samples, what the rows share, and what a subset stands for."""

from __future__ import annotations

from collections.abc import Sequence

from mllm_eval.report.evidence import Scored
from mllm_eval.report.words import title
from mllm_eval.results.failed import allowed_share


def failed_words(run: Scored) -> list[str]:
    """A clause for each benchmark of which too many samples failed, in the order of the table."""
    return [
        f"{title(name)}: {failed:,} of {int(run.summaries[name]['n']):,} samples failed, more than "
        f"{100 * allowed_share():g} %, so that it counts in no mean and no sentence"
        for name, failed in run.failing.items()
    ]


def shared_notes(runs: Sequence[Scored]) -> list[str]:
    """Notes on the rules, recipes and LLMs of the measured rows, and on training data that differ between them."""
    rules = sorted({run.rules for run in runs})
    recipes = sorted({f"{run.record.recipe} ({run.record.recipe_hash}), LLM {run.record.llm}" for run in runs})
    notes = [f"Measured: rules {', '.join(rules)}; recipe {'; '.join(recipes)}."]
    if len(recipes) > 1:
        notes.append(
            "Rows of different recipes or LLMs stand side by side: a difference between them is not the encoder's."
        )
    return [*notes, *_data_notes(runs)]


def _data_notes(runs: Sequence[Scored]) -> list[str]:
    """A note for each training file whose content differs between rows; runs that did not record it are skipped."""
    notes = []
    records = {run.record.hash: run.record for run in runs}
    for ref in dict.fromkeys(ref for record in records.values() for ref in record.trained_on):
        contents: dict[str, list[str]] = {}
        for record in records.values():
            if ref in record.trained_on:
                contents.setdefault(record.trained_on[ref], []).append(f"{record.encoder} [{record.hash}]")
        if len(contents) > 1:
            said = "; ".join(f"{content} for {', '.join(members)}" for content, members in contents.items())
            notes.append(f"Trained on different data: {ref} was {said}. A difference may be the data's.")
    return notes


def subset_notes(runs: Sequence[Scored]) -> list[str]:
    """A note on how a subset was drawn and what its interval means; none if no row is of a subset."""
    sizes = sorted({run.subset for run in runs if run.subset})
    if not sizes:
        return []
    asked = " and ".join(f"{size:,}" for size in sizes)
    return [
        f"Subset of {asked}: as many questions of each benchmark, strata in their shares, all questions of an image, "
        "pair or circular group together. [low, high]: the 95 % interval that the subset implies for all questions."
    ]
