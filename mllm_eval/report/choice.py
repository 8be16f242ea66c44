"""Which runs a table shows that was not told: those of one recipe, and what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mllm_eval.catalog.variant import VariantKey
from mllm_eval.external import unreadable_notes
from mllm_eval.results import RunRecord, hold_to_known_rules, read_run, scored_variants


def one_recipe(
    folders: Sequence[Path], rules: str, mixed: bool = False, variants: Sequence[str] = ("default",)
) -> tuple[list[Path], list[str]]:
    """The runs scored in any of the variants, of the recipe and LLM that most of them share (the latest, of equally
    many; what is no run of an encoder only where nothing else is there), and a note for each kind of run that was left
    out; with `mixed`, those of all recipes. Runs whose config no longer loads can't be among `folders`, and have notes
    of their own.

    Raises UserError for a rule set that no run has scores of, where any has some.
    """
    scored = [folder for folder in folders if set(variants) & set(scored_variants(folder, rules))]
    records = [read_run(folder) for folder in scored]
    kinds: dict[str, list[RunRecord]] = {}
    for record in records:
        kinds.setdefault(record.held_equal, []).append(record)
    if not kinds:
        hold_to_known_rules(folders, rules)
        return [], unreadable_notes()
    best = max(kinds, key=lambda kind: _weight(kinds[kind]))
    notes = []
    for kind, members in kinds.items():
        if kind != best and not mixed:
            named = ", ".join(f"{one.encoder} [{one.hash}]" for one in members)
            if members[0].external:
                what = ", ".join(dict.fromkeys(one.external.removeprefix("a ") for one in members))
                notes.append(f"Left out: {named} ({what}), with which no encoder's run shares a recipe; a report shows "
                             "them with `--runs`, a table with `--mixed-recipes`.")  # fmt: skip
                continue
            notes.append(f"Left out: {named}, of recipe {members[0].recipe} ({members[0].recipe_hash}) with "
                         f"{members[0].llm}.")  # fmt: skip
    if waiting := [folder.name for folder in folders if folder not in scored]:
        notes.append(f"Left out: {', '.join(waiting)}, not scored by {rules} rules yet{_part(variants)}.")
    notes += unreadable_notes()
    kept = records if mixed else kinds[best]
    return [one.folder for one in kept], notes


def _weight(members: Sequence[RunRecord]) -> tuple[bool, int, float]:
    return not members[0].external, len(members), max(_written(one.folder) for one in members)


def _part(variants: Sequence[str]) -> str:
    size = VariantKey.parse(variants[0]).subset
    return f" on the subset of {size:,}" if size else ""


def _written(folder: Path) -> float:
    return max((path.stat().st_mtime for path in (folder / "scores").glob("*.json")), default=0.0)
