"""The table of alignment scores between encoders and language models, with sentences on the tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from mllm_eval.report.table import MISSING, Cell, Column, Row, Table, printed, score_cell, with_best
from mllm_eval.report.words import ALPHA, p_words
from mllm_eval.results.aligned import Aligned
from mllm_eval.stats import holm, seed_of
from mllm_eval.stats.imageratios import ImagePair, ImageSums, image_pair

DECIMALS = 3
COLUMNS = (
    Column("llm", "LLM", text=True),
    Column("llm_params", "LLM, M", text=True),
    Column("score", "Score", decimals=DECIMALS),
    Column("layer", "Block", text=True),
    Column("llm_layer", "Layer", text=True),
    Column("chance", "Chance", text=True),
    Column("p", "p", text=True),
    Column("calibrated", "Calibrated", decimals=DECIMALS),
)


def alignment_table(alignments: Sequence[Aligned]) -> Table:
    """The table of alignment scores: one row per pair of encoder and LLM.

    The sentences say which encoder is nearer to an LLM, and whether stage 2 brought an LLM nearer to an encoder. Both
    are paired tests over the pictures, corrected together (Holm). `alignments` must not be empty; the notes name the
    protocol and the number of pictures of the first one.
    """
    first = alignments[0]
    rows = [_row(one) for one in alignments]
    same = len({one.metric for one in alignments}) == 1
    said, tests = _sentences(alignments)
    notes = [
        f"{first.protocol}, {', '.join(dict.fromkeys(one.metric for one in alignments))}, "
        f"{first.pairs:,} pictures with captions; the best pair of layers (blocks from 1, layer 0 is the LLM's "
        "embedding)."
    ]
    if any(one.null is not None for one in alignments):
        notes[0] += " Chance: mean maximum over shuffled captions; p of the maximum; calibrated: chance is 0."
    if any(one.interval is not None for one in alignments):
        notes.append("[low, high]: 95 % interval, bootstrap over pictures, of the best pair of layers.")
    if kernels := [one.metric for one in alignments if one.interval is None]:
        notes.append(
            f"{', '.join(dict.fromkeys(kernels))}: no mean over pictures, so without interval, chance, p and tests."
        )
    if tests:
        notes.append(
            f"Tests: values of the best pairs exchanged picture by picture, corrected for {tests} tests (Holm)."
        )
    for one in alignments:
        if one.failed:
            notes.append(f"{one.encoder}, {one.llm}: {len(one.failed)} rows left out, the first: {one.failed[0]}")
        if one.summary != "cls":
            notes.append(
                f"{one.encoder}: its summary is `{one.summary}`, since it has no CLS token or declares another"
            )
    shown = with_best(rows, COLUMNS, "table" if same else "none")
    notes = list(dict.fromkeys(notes))
    return Table("alignment", "Alignment of encoders with language models", COLUMNS, tuple(shown), tuple(notes), said)


def _row(one: Aligned) -> Row:
    chance, p = MISSING, MISSING
    if one.null is not None:
        chance, p = printed(one.null.mean, DECIMALS), p_words(one.null.p).removeprefix("p = ").removeprefix("p ")
    texts = {"llm": one.llm, "llm_params": printed(one.llm_params / 1e6, 1), "layer": str(one.layer),
             "llm_layer": str(one.llm_layer), "chance": chance, "p": p}  # fmt: skip
    cells = {key: Cell(text) for key, text in texts.items()}
    columns = {column.key: column for column in COLUMNS}
    cells["score"] = score_cell(one.score, columns["score"], limits=one.interval)
    cells["calibrated"] = score_cell(one.calibrated, columns["calibrated"])
    return Row(one.encoder, "measured", cells)


def _sentences(alignments: Sequence[Aligned]) -> tuple[tuple[str, ...], int]:
    """Sentences on the paired tests, and the number of tests.

    Two encoders are compared at the same LLM as released. An LLM after stage 2 is compared with the one it started
    from, at the same encoder.
    """
    asked: list[tuple[str, str, str, ImagePair]] = []
    for one, other in combinations(alignments, 2):
        alike = (one.metric, one.protocol, one.pictures) == (other.metric, other.protocol, other.pictures)
        if not alike or not one.pictures or one.by_picture is None or other.by_picture is None:
            continue
        if one.encoder != other.encoder and one.llm == other.llm and not one.llm_base:
            asked.append((f"to {one.llm}", one.encoder, other.encoder, _pair(one, other)))
        if one.encoder == other.encoder and other.llm_base == one.llm:
            asked.append((f"to {one.encoder}", other.llm, one.llm, _pair(other, one)))
        if one.encoder == other.encoder and one.llm_base == other.llm:
            asked.append((f"to {one.encoder}", one.llm, other.llm, _pair(one, other)))
    said = []
    for (where, a, b, pair), p in zip(asked, holm([pair.p for *_, pair in asked]), strict=True):
        value, low, high = (printed(x, DECIMALS) for x in (pair.difference.value, pair.difference.low,
                                                           pair.difference.high))  # fmt: skip
        word = "as near" if not p < ALPHA else "nearer" if pair.difference.value > 0 else "further"
        told = f"{a} and {b} are not told apart by how near they are {where}" if word == "as near" else (
            f"{a} is {'nearer ' + where if word == 'nearer' else 'further from ' + where[3:]} than {b}"
        )  # fmt: skip
        said.append(f"{told} ({value} [{low}, {high}], {p_words(p)}).")
    return tuple(said), len(asked)


def _pair(a: Aligned, b: Aligned) -> ImagePair:
    own, other = (ImageSums.of_scores(np.array(one.by_picture, np.float64)) for one in (a, b))
    return image_pair(own, other, seed=seed_of(a.protocol))
