"""Results of `mllm-eval align` as data classes, as tables and the report read them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mllm_eval.errors import UserError
from mllm_eval.storage import read_json, results_home

RESULT = "alignment.json"


@dataclass(frozen=True, slots=True)
class Null:
    """The null distribution of the maximum score, from permuted captions.

    mean, high: its mean and 95th percentile. p: p-value of the observed score. permutations: their number.
    """

    mean: float
    high: float
    p: float
    permutations: int

    def calibrated(self, score: float) -> float | None:
        """Rescale a score so that chance is 0 and identical neighbours are 1: (score - mean) / (1 - mean).

        None if chance alone is 1, as it can be with few pairs.
        """
        return (score - self.mean) / (1 - self.mean) if self.mean < 1 else None


@dataclass(frozen=True)
class Aligned:
    """The alignment of an encoder with a language model.

    Attributes:
        scores: of every pair of layers, [blocks, LLM layers].
        score: the largest of `scores`.
        layer, llm_layer: the pair of layers with the largest score, counted from 1 and from 0 (embedding).
        interval: 95 % confidence interval of that pair's score, by a bootstrap over images; None for the kernel
            metrics (CKA, CKNNA), which are no mean over images.
        null: null distribution of `score`; None without permutations, and where `interval` is None.
        calibrated: the score rescaled so that chance is 0 (`Null.calibrated`).
        pairs: number of compared images. failed: the rows that were left out, with reasons.
        llm_base: the LLM from which a run trained this one; empty for a released LLM.
        data: the data pin. pictures: a hash of the compared data. weights: digest of the encoder's weights.
        by_picture: each image's contribution to the best pair's score, in order; None if `interval` is None.
    """

    encoder: str
    llm: str
    protocol: str
    metric: str
    score: float
    layer: int
    llm_layer: int
    scores: list[list[float]]
    interval: tuple[float, float] | None
    null: Null | None
    calibrated: float | None
    pairs: int
    failed: list[str]
    encoder_params: int
    llm_params: int
    summary: str
    llm_base: str = ""
    data: str = ""
    pictures: str = ""
    weights: str = ""
    by_picture: list[float] | None = None

    def row(self) -> dict[str, Any]:
        """Return all fields except `scores` and `by_picture` as plain data."""
        return {name: value for name, value in asdict(self).items() if name not in ("scores", "by_picture")}


def alignments_home() -> Path:
    """Return the folder of all alignment results."""
    return results_home() / "alignment"


def read_aligned(path: Path) -> Aligned:
    """Return the result in a file. Raises UserError where it is missing, damaged or of another format."""
    try:
        return TypeAdapter(Aligned).validate_python(read_json(path))
    except ValidationError as problem:
        first = problem.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {at}: {first['msg']}; delete it and align again") from None


def saved_alignments() -> list[Aligned]:
    """Return every readable result that names the encoder's weights, sorted by encoder and the LLM's size."""
    alignments = []
    for path in sorted(alignments_home().glob(f"*/{RESULT}")):
        try:
            one = read_aligned(path)
        except UserError:
            continue
        if one.weights:
            alignments.append(one)
    return sorted(alignments, key=lambda one: (one.encoder, one.llm_params, one.llm))
