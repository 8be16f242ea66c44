"""The rows of a stage: read, tokenised, and what they are noted in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mllm_eval.catalog import ConversationData, Stage, TokenGrid
from mllm_eval.data.conversations import ConversationSet
from mllm_eval.data.rowcounts import CHANGED, RowCounts
from mllm_eval.decoding import Decoding
from mllm_eval.errors import UserError
from mllm_eval.model.chat import other_words
from mllm_eval.run import Run
from mllm_eval.storage import locate, results_home, write_atomic, write_json
from mllm_eval.train.rowtokens import ImageReading, TokenisedSet, tokenise
from mllm_eval.train.unreadable import Unreadable

# Bytes of a file of conversations beyond which the index of its rows is kept on disk.
INDEXED = 64 * 2**20


def tokenise_all(
    run: Run, stages: dict[int, Stage], tokenizer: Any, say: Callable[[str], None], processes: int = 1
) -> None:
    """Make the tokens of each stage (by number) and note what its rows are; `say` is told of each.

    Raises UserError for a stage 1 without an image.
    """
    if words := other_words(tokenizer, run.recipe.template):
        say(f"{run.llm.name}: {words}")
    for number, stage in stages.items():
        counts = note_rows(run, number, tokenised(run, stage, tokenizer, processes))
        if number == 1 and counts.text_only and not counts.with_image:
            files = ", ".join(str(locate(data.path)) for data in stage.data)
            raise UserError(
                f"{files}: no row of stage 1 shows an image ({counts.spoken()}), so there is nothing to train the "
                "projector on; name each row's image under `image`"
            )
        say(f"stage {number}: {counts.spoken()}")


def note_rows(run: Run, number: int, data: TokenisedSet) -> RowCounts:
    """In the run's folder: what the rows of a stage are, which were changed and which were left out."""
    stage, folder = (run.recipe.stage1, run.recipe.stage2)[number - 1], run.stage_dir(number)
    unreadable = Unreadable(folder, data)
    listed = unreadable.listed()
    left_out = {**data.left_out, **({"unreadable": len(listed)} if listed else {})}
    if left_out:
        write_json(folder / "left_out.json", {"used": len(data) - len(listed), **left_out})
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in listed)
        write_atomic(folder / "left_out.jsonl", data.listing.read_bytes() + lines.encode())
    if data.changes.stat().st_size:
        with open(data.changes, "rb") as lines_of_changes:
            write_atomic(folder / CHANGED, lines_of_changes)
    used = np.zeros(len(data), np.bool_)
    used[data.usable(run.recipe.positions, data.limits(stage.max_length, run.recipe.dummy_positions))] = True
    if too_long := int(np.count_nonzero(~used)):
        left_out["too long"] = too_long
    used[unreadable.rows()] = False
    shown = np.diff(data.image_offsets) > 0
    with_image, text_only = (int(np.count_nonzero(used & kind)) for kind in (shown, ~shown))
    counts = RowCounts(with_image, text_only, data.changed, left_out)
    counts.write(folder)
    return counts


def check_data(stages: Iterable[Stage]) -> None:
    """UserError where a file of conversations of a stage, or the folder of its images, is not there."""
    for data in (data for stage in stages for data in stage.data):
        path, images = locate(data.path), locate(data.images)
        if not path.is_file():
            raise UserError(f"{path}: no such file of conversations; make or fetch the training data first")
        if not images.is_dir():
            raise UserError(f"{images}: the image root of {path.name} does not exist; correct `images:`")


def conversations_of(data: ConversationData) -> ConversationSet:
    """The conversations of a file as the recipe reads them; the index of a large file is kept on disk."""
    path = locate(data.path)
    index = results_home() / "index" if path.stat().st_size > INDEXED else None
    return ConversationSet(path, locate(data.images), data.rows, data.exclude, data.system == "row", index, data.ignore)


def tokenised(run: Run, stage: Stage, tokenizer: Any, processes: int = 1) -> TokenisedSet:
    """A stage's rows as tokens, made by so many processes where they are not there yet."""
    return tokenise(
        [conversations_of(data) for data in stage.data],
        tokenizer,
        run.weights["llm"],
        run.recipe.template,
        [data.skip_broken for data in stage.data],
        ImageReading(
            live=stage.features == "live",
            how=Decoding(run.recipe.upright, run.recipe.background),
            sized=TokenGrid.of(run.recipe, run.encoder).hide,
        ),
        processes=processes,
    )
