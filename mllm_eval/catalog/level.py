"""What a corpus is filtered by: a question that a picture is kept for if the answer is yes. No torch."""

from __future__ import annotations

from functools import partial

from pydantic import Field

from mllm_eval.catalog.folders import folders, load_named
from mllm_eval.config import Strict, load


class Published(Strict):
    """The share of the pictures that somebody kept by the same question, and where that is said."""

    share: float = Field(gt=0, lt=1)
    source: str


class Level(Strict):
    """A filter: one yaml in configs/filters.

    Attributes:
        question: the words that stand behind the picture, the same for all.
        threshold: p(yes) from which a picture is kept.
        published: what the same question kept elsewhere, to stand beside one's own share.
    """

    name: str
    question: str = Field(min_length=1)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    published: Published | None = None


def load_level(name: str) -> Level:
    """The filter of a name in configs/filters, or of a path to a yaml file.

    Raises UserError for an unknown name, with the nearest, and a yaml with a mistake.
    """
    return load_named("filters", name, partial(load, model=Level, folders=folders("filters")))
