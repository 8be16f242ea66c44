"""Results of alignment as values: what `mllm-eval align` writes, and what tables and the report read."""

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
    """Maxima of shuffled captions: their mean, their 95th percentile, and p of the observed one."""

    mean: float
    high: float
    p: float
    permutations: int

    def calibrated(self, score: float) -> float:
        """0 where chance is, 1 for the same neighbours everywhere."""
        return (score - self.mean) / (1 - self.mean)


@dataclass(frozen=True)
class Aligned:
    """What was measured of an encoder and a language model.

    Attributes:
        scores: of every pair of layers, [blocks, LLM layers]; `layer`, `llm_layer` count from 1 and from 0 (embedding).
        score: the largest of them.
        interval: 95 % limits of the best pair's value, by a bootstrap over pictures; None for metrics that are no mean.
        null: of the maximum; None where no permutation was asked for, and for other metrics than mutual k-NN.
        calibrated: score with chance at 0.
        pairs, failed: pictures compared, and rows left out with the reason.
        llm_base: the LLM that stage 2 of a run changed into this one; empty for an LLM as it is released.
        data, pictures, weights: the pin, a hash of what was compared, and the digest of the encoder's weights.
        by_picture: the best pair's value of each picture, in order; None where `interval` is.
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
        """All of it but the grid of scores and what each picture adds, as plain data."""
        return {name: value for name, value in asdict(self).items() if name not in ("scores", "by_picture")}


def alignments_home() -> Path:
    """The folder of all results of alignment."""
    return results_home() / "alignment"


def read_aligned(path: Path) -> Aligned:
    """The result in a file. Raises UserError where it is missing, damaged or of another form."""
    try:
        return TypeAdapter(Aligned).validate_python(read_json(path))
    except ValidationError as problem:
        first = problem.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {at}: {first['msg']}; delete it and align again") from None


def saved_alignments() -> list[Aligned]:
    """Every readable result that says which weights it is of, by encoder, then the smallest LLM first."""
    alignments = []
    for path in sorted(alignments_home().glob(f"*/{RESULT}")):
        try:
            one = read_aligned(path)
        except UserError:
            continue
        if one.weights:
            alignments.append(one)
    return sorted(alignments, key=lambda one: (one.encoder, one.llm_params, one.llm))
