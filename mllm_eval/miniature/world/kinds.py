"""The kinds of pictures by name, and the one function that draws any of them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from mllm_eval.miniature.world import documents, objects, print_
from mllm_eval.miniature.world.picture import Picture

KINDS: dict[str, Callable[[Random], Picture]] = {
    "scene": objects.scene,
    "depth": objects.depth,
    "distance": objects.distance,
    "pattern": objects.pattern,
    "diagram": objects.diagram,
    "sign": print_.sign,
    "signs": print_.signs,
    "number": print_.number,
    "figure": print_.figure,
    "chart": documents.chart,
    "table": documents.table,
    "form": documents.form,
}


def draw(seed: str, index: int, kind: str) -> Picture:
    """The `index`-th picture of a kind in the series `seed`; the same arguments give the same pixels."""
    return KINDS[kind](Random(f"{seed}/{kind}/{index}"))
