"""What a yaml file may hold at most: far more than anyone writes by hand, far less than harms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mllm_eval.errors import UserError

MOST_LETTERS, MOST_PARTS, DEEPEST = 2**21, 2**17, 50
"""Letters, keys and values, and levels of lists and mappings in each other, of a yaml file that is read."""


def refuse_unbounded(text: str, path: Path, loader: Any) -> None:
    """Raise UserError for a yaml that is longer, deeper or of more parts than one that is written by hand.

    An alias (`*x`) stands for all that its anchor has: a few lines can be millions of parts, or hold themselves.
    """
    if len(text) > MOST_LETTERS:
        raise UserError(f"{path}: {len(text):,} letters; a yaml file of at most {MOST_LETTERS:,} is read")
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []
    parts = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            where = f"{path}:{event.start_mark.line + 1}" if event.start_mark else str(path)
            if isinstance(event, yaml.AliasEvent):
                if any(anchor == event.anchor for anchor, _ in opened):
                    raise UserError(f"{where}: *{event.anchor} stands within what it stands for; write it out")
                parts += sizes.get(event.anchor or "", 1)
            elif isinstance(event, yaml.NodeEvent):
                parts += 1
            if isinstance(event, yaml.CollectionStartEvent):
                opened.append((event.anchor, parts))
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = opened.pop()
                sizes[str(anchor)] = parts - before + 1
            if len(opened) > DEEPEST or parts > MOST_PARTS:
                raise UserError(f"{where}: more than {DEEPEST} levels, or {MOST_PARTS:,} parts, aliases written out")
    except yaml.YAMLError:
        # What is wrong with it is said by who reads it.
        return
