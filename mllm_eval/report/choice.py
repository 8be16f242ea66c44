"""Which runs a table shows by default: those of one recipe. Sentences name the runs that are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.results import RunRecord, hold_to_known_rules


@dataclass(frozen=True, slots=True)
class Choice:
    """The runs to show, and a sentence for each kind of run that is left out."""

    runs: list[RunRecord]
    left_out: list[str]


def choose_one_recipe(
    records: Sequence[RunRecord], rules: str, mixed: bool = False, variants: Sequence[VariantKey] = (DEFAULT,)
) -> Choice:
    """Chooses, from the runs scored in any of `variants`, those that share one recipe and LLM.

    The recipe and LLM with the most runs are taken; of several with equally many, the one scored last. External models
    are taken only if nothing else is scored. With `mixed`, all scored runs are taken.

    Raises UserError if no run has scores by `rules`, but some have scores by other rules.
    """
    scored = [record for record in records if set(variants) & set(record.variants(rules))]
    kinds: dict[str, list[RunRecord]] = {}
    for record in scored:
        kinds.setdefault(record.held_equal, []).append(record)
    if not kinds:
        hold_to_known_rules(records, rules)
        return Choice([], [])
    best = max(kinds, key=lambda kind: _weight(kinds[kind]))
    left_out = []
    for kind, members in kinds.items():
        if kind != best and not mixed:
            named = ", ".join(f"{one.encoder} [{one.hash}]" for one in members)
            if members[0].external:
                what = ", ".join(dict.fromkeys(one.external.removeprefix("an ") for one in members))
                left_out.append(f"Left out: {named} ({what}), with which no encoder's run shares a recipe; a report "
                                "shows them with `--runs`, a table with `--mixed-recipes`.")  # fmt: skip
                continue
            left_out.append(f"Left out: {named}, of recipe {members[0].recipe} ({members[0].recipe_hash}) with "
                            f"{members[0].llm}.")  # fmt: skip
    if waiting := [record.hash for record in records if record not in scored]:
        left_out.append(f"Left out: {', '.join(waiting)}, not scored by {rules} rules yet{_part(variants)}.")
    return Choice(scored if mixed else kinds[best], left_out)


def _weight(members: Sequence[RunRecord]) -> tuple[bool, int, float]:
    return not members[0].external, len(members), max(one.scored_at for one in members)


def _part(variants: Sequence[VariantKey]) -> str:
    size = variants[0].subset
    return f" on the subset of {size:,}" if size else ""
