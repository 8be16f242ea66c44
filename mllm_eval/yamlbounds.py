"""Limit the size of yaml files, to more than anyone writes by hand and less than could exhaust memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mllm_eval.errors import UserError

MOST_LETTERS, MOST_PARTS, DEEPEST = 2**21, 2**17, 50
"""Limits of a yaml file: characters, keys and values together, and levels of nesting."""


def refuse_unbounded(text: str, path: Path, loader: Any) -> None:
    """Raise UserError for a yaml text that exceeds the limits, with its aliases expanded, or that contains itself.

    An alias (`*x`) repeats the whole content of its anchor, so a few lines can expand to millions of values.
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
        # The caller's own parsing will report invalid yaml.
        return
