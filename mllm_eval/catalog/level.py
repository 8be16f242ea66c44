"""A filter of an image corpus: a yes/no question. A picture is kept if the answer is yes. No torch."""

from __future__ import annotations

from functools import partial

from pydantic import Field

from mllm_eval.catalog.folders import folders, load_named
from mllm_eval.config import Strict, load


class Published(Strict):
    """Share of pictures that a published filter with the same question kept, and its source."""

    share: float = Field(gt=0, lt=1)
    source: str


class Level(Strict):
    """A filter: one yaml in configs/filters.

    Attributes:
        question: the text after the picture, the same for all pictures.
        threshold: a picture is kept if p(yes) is at least this.
        published: the share that the same question kept elsewhere, shown for comparison.
    """

    name: str
    question: str = Field(min_length=1)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    published: Published | None = None


def load_level(name: str) -> Level:
    """Load a filter by its name in configs/filters, or by the path of a yaml file.

    Raises UserError for an unknown name, with the nearest, and for a mistake in the yaml.
    """
    return load_named("filters", name, partial(load, model=Level, folders=folders("filters")))
