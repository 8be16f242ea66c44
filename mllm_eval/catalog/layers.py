"""Which encoder layers a probe reads, from its yaml or the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from mllm_eval.errors import UserError, near

Layers = Literal["last", "last4", "even4"]
DEFAULT_LAYERS = "default"
"""How the layers are named that a protocol reads if no others are asked for."""


def chosen_layers(asked: Layers | list[int] | str, depth: int, where: str) -> list[tuple[int, ...]]:
    """Return the blocks to read, numbered from 1: one tuple of blocks, or for `all` one tuple for each block.

    asked: `last`, `last4`, `even4`, `all`, or block numbers (a list, or a text with commas), negative from the end.
    where: the start of error messages. Raises UserError for anything else and for blocks that do not exist.
    """
    if asked == "all":
        return [(number,) for number in range(1, depth + 1)]
    if asked == "last":
        return [(depth,)]
    if asked == "last4":
        return [tuple(range(max(1, depth - 3), depth + 1))]
    if asked == "even4":
        return [tuple(sorted({max(1, int(depth * part / 4 + 0.5)) for part in range(1, 5)}))]
    given = asked.split(",") if isinstance(asked, str) else asked
    try:
        numbers = [int(one) for one in given]
    except ValueError:
        known = ("last", "last4", "even4", "all")
        raise UserError(f"{where}: no layers {asked!r}.{near(str(asked), known)} Known: {', '.join(known)}, or numbers "
                        "of blocks with commas") from None  # fmt: skip
    chosen = sorted({number + depth + 1 if number < 0 else number for number in numbers})
    if not chosen or not 1 <= chosen[0] <= chosen[-1] <= depth:
        raise UserError(f"{where}: layers {asked}: the encoder has blocks 1 to {depth}")
    return [tuple(chosen)]


def layers_name(read: Sequence[Sequence[int]], usual: Layers | list[int], depth: int) -> str:
    """Return how the blocks of `read` (as `chosen_layers` returns them) are named: alike, however they were asked for.

    `default` if they are the protocol's `usual` ones in an encoder of `depth` blocks, else a keyword, else numbers with
    commas.
    """
    groups = [tuple(one) for one in read]
    try:
        if groups == chosen_layers(usual, depth, ""):
            return DEFAULT_LAYERS
    except UserError:
        # The encoder has fewer blocks than the protocol names, so that other ones had to be asked for.
        pass
    named = (name for name in (*get_args(Layers), "all") if groups == chosen_layers(name, depth, ""))
    return next(named, ",".join(str(number) for group in groups for number in group))
