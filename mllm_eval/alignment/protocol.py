"""The protocol of an alignment: one yaml in configs/alignments. No torch."""

from __future__ import annotations

from functools import partial
from typing import Literal

from pydantic import Field, model_validator

from mllm_eval.catalog.folders import folders, load_named
from mllm_eval.config import Strict, load

MetricName = Literal["mutual_knn", "cycle_knn", "lcs_knn", "cka", "unbiased_cka", "cknna"]


class PairsLocation(Strict):
    """The location of images and captions: a folder of parquet files (`path`), or a hub data set at a revision."""

    path: str | None = None
    repo: str | None = None
    revision: str | None = None
    files: str = "*.parquet"

    @model_validator(mode="after")
    def _one_place(self) -> PairsLocation:
        if (self.path is None) == (self.repo is None) or (self.repo is not None and self.revision is None):
            raise ValueError("say either `path`, or `repo` with its `revision`")
        return self


class PairColumns(Strict):
    """The columns of the image and of its caption; of a list of captions the first is used."""

    image: str = "image"
    text: str = "text"


class Alignment(Strict):
    """A protocol of alignment.

    Attributes:
        metric: how similar two layers are; see `mllm_eval.alignment.metrics`.
        neighbours: k of the metrics on nearest neighbours.
        clip: quantile of absolute values at which features are clamped; 1 clamps nothing.
        permutations: number of shuffles in the null distribution of the maximum.
        draws: number of bootstrap draws over images.
        data: pin -> location of its pairs.
    """

    name: str
    version: int = Field(ge=1)
    metric: MetricName = "mutual_knn"
    neighbours: int = Field(default=10, ge=2)
    clip: float = Field(default=0.95, gt=0, le=1)
    permutations: int = Field(default=999, ge=19)
    draws: int = Field(default=2000, ge=100)
    data: dict[str, PairsLocation]
    columns: PairColumns = PairColumns()


def load_alignment(name: str) -> Alignment:
    """The protocol with this name, or in this yaml file. Raises UserError, with similar names, if there is none."""
    return load_named("alignments", name, partial(load, model=Alignment, folders=folders("alignments")))
