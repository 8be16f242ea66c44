"""`mllm-eval recipes`: lists recipes, shows one, and counts what its training batches would hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mllm_eval.console import say

if TYPE_CHECKING:
    from mllm_eval.catalog import Recipe, Stage
    from mllm_eval.data.conversations import ConversationSet


def recipes(
    name: Annotated[str | None, typer.Argument(help="name, or path to a yaml file; default: all")] = None,
    batches: Annotated[
        bool, typer.Option("--batches", help="instead: statistics of the batches of each stage; nothing is trained")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="with --batches: conversations (.jsonl or .json) instead of the recipe's")
    ] = None,
    llm: Annotated[str | None, typer.Option(help="with --batches: LLM of the tokenizer; default: the recipe's")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per line")] = False,
) -> None:
    """List the recipes, show all fields of one, or count what its training batches would hold.

    --batches tokenises the conversations and prints for each stage: rows by kind and their share of the loss, how much
    lengths vary within a step, target tokens per step, padding, and rows that are left out.

    \b
      mllm-eval recipes cambrian                all fields, and which of them are assumed
      mllm-eval recipes mini --batches
      mllm-eval recipes webssl-paper --batches --data my.jsonl --llm mini-llama --json
    """
    import json

    from mllm_eval.catalog import load_recipe, names
    from mllm_eval.errors import UserError

    if not batches and (data is not None or llm is not None):
        raise UserError("--data and --llm belong to --batches; add it")
    if name is None:
        if batches:
            raise UserError("--batches needs the name of a recipe; `mllm-eval ls recipes` lists them")
        for one in names("recipes"):
            recipe = load_recipe(one)
            say(json.dumps({"name": one, **facts_of(recipe)}) if as_json else f"{one:<16} {_line(recipe)}")
        return
    recipe = load_recipe(name)
    if not batches:
        _show(recipe, as_json)
        return
    stages = batches_of(recipe, data, llm)
    if as_json:
        say(json.dumps({"recipe": recipe.name, "hash": recipe.hash, "stages": stages}))
        return
    for stage in stages:
        _tell(stage)


def facts_of(recipe: Recipe) -> dict[str, Any]:
    """All fields of a recipe as JSON-serialisable values, with its hash and its assumed fields and their sources."""
    return {**recipe.model_dump(mode="json", exclude={"assumptions", "name"}), "hash": recipe.hash,
            "assumed": recipe.assumed()}  # fmt: skip


def _line(recipe: Recipe) -> str:
    stages = (recipe.stage1, recipe.stage2)
    said = [f"stage {number}: lr {stage.lr:g}, batch {stage.batch}, order {stage.order}"
            for number, stage in enumerate(stages, 1)]  # fmt: skip
    return "; ".join([f"{recipe.llm}, {recipe.tokens} tokens", *said])


def _show(recipe: Recipe, as_json: bool) -> None:
    import json

    import yaml

    if as_json:
        say(json.dumps({"name": recipe.name, **facts_of(recipe)}))
    else:
        say(yaml.safe_dump({"name": recipe.name, **facts_of(recipe)}, sort_keys=False, width=120), end="")


def batches_of(recipe: Recipe, data: Path | None = None, llm: str | None = None) -> list[dict[str, Any]]:
    """Statistics of the batches of both stages: one dict of `mllm_eval.train.batchstats.batch_stats` per stage.

    data: conversations (.jsonl or .json) instead of the recipe's. llm: name of the LLM whose tokenizer counts tokens;
    default: the recipe's.

    Raises UserError for files that are missing or hold no conversation, and for rows that do not fill one batch.
    """
    from mllm_eval.catalog import load_llm
    from mllm_eval.model import load_tokenizer
    from mllm_eval.train.batchstats import batch_stats, row_facts

    tokenizer = load_tokenizer(load_llm(llm or recipe.llm), recipe.template)
    listed = []
    for number, stage in enumerate((recipe.stage1, recipe.stage2), 1):
        sets = _sets(stage, data)
        cut = stage.max_length, recipe.dummy_positions
        rows = row_facts(sets, tokenizer, recipe.template, recipe.positions, *cut)
        listed.append(batch_stats(rows, stage, number, recipe.seed))
    return listed


def _sets(stage: Stage, data: Path | None) -> list[ConversationSet]:
    from mllm_eval.data.conversations import ConversationSet
    from mllm_eval.storage import locate

    if data is not None:
        return [ConversationSet(data, data.parent)]
    listed = []
    for one in stage.data:
        path = locate(one.path)
        keeps = one.system == "row"
        listed.append(ConversationSet(path, path.parent, one.rows, one.exclude, keeps, ignore=one.ignore))
    return listed


def _tell(stage: dict[str, Any]) -> None:
    read, rows = stage["rows_read"], stage["rows"]
    say(
        f"stage {stage['stage']}: order {stage['order']}, {stage['steps']:,} steps of {stage['batch']} rows in "
        f"micro-batches of {stage['micro_batch']}, last_step {stage['last_step']}"
    )
    say(
        f"  {rows:,} rows, {stage['with_image']:,} with image, {stage['text_only']:,} text only"
        + (f"; {read:,} of them are read" if read < rows else "")
    )
    say(f"  {'kind':<18} {'rows':>10} {'of rows':>9} {'of loss':>9}")
    for kind, one in stage["kinds"].items():
        say(f"  {kind:<18} {one['rows']:>10,} {one['share_of_rows']:>9.1%} {one['share_of_loss']:>9.1%}")
    targets = stage["target_tokens"]
    say(f"  lengths in a step vary by {stage['length_cv']:.3f} (standard deviation over mean)")
    say(
        f"  target tokens a step: {targets['min']:,} at least, {targets['median']:,.0f} as median, "
        f"{targets['max']:,} at most"
    )
    say(f"  padding: {stage['padding']:.1%} of the positions")
    if stage["left_out"]:
        say("  left out: " + ", ".join(f"{count:,} rows ({why})" for why, count in sorted(stage["left_out"].items())))
    if stage["first_broken"]:
        say(f"  first broken row: {stage['first_broken']}")
