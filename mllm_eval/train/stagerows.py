"""Read and tokenise the rows of a stage, and record in the run's folder what they are."""

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

# Size in bytes above which a conversation file's index of rows is cached on disk.
INDEXED = 64 * 2**20


def tokenise_all(
    run: Run, stages: dict[int, Stage], tokenizer: Any, say: Callable[[str], None], processes: int = 1
) -> None:
    """Tokenise the rows of each stage (keyed by number), record what they are, and report each stage by `say`.

    Raises UserError for a stage 1 without any image, and as `tokenise` does.
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
    """Write to the run's folder how many rows a stage uses, and which were changed or left out; return the counts."""
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
    """Raise UserError where a stage's conversation file or its image folder is missing."""
    for data in (data for stage in stages for data in stage.data):
        path, images = locate(data.path), locate(data.images)
        if not path.is_file():
            raise UserError(f"{path}: no such file of conversations; make or fetch the training data first")
        if not images.is_dir():
            raise UserError(f"{images}: the image root of {path.name} does not exist; correct `images:`")


def conversations_of(data: ConversationData) -> ConversationSet:
    """Return the conversations of a file as the recipe reads them; the index of a large file is cached on disk."""
    path = locate(data.path)
    index = results_home() / "index" if path.stat().st_size > INDEXED else None
    return ConversationSet(path, locate(data.images), data.rows, data.exclude, data.system == "row", index, data.ignore)


def tokenised(run: Run, stage: Stage, tokenizer: Any, processes: int = 1) -> TokenisedSet:
    """Return a stage's tokenised rows; `processes` tokenise them if the cache lacks them. Raises as `tokenise`."""
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
