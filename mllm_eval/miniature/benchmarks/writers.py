"""The sixteen writers by the name of their benchmark, in the order of the paper's table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mllm_eval.miniature.benchmarks import general, gqa, knowledge, ocr_chart, vision
from mllm_eval.miniature.benchmarks.deck import Deck

Writer = Callable[[Deck, Path], list[float]]
"""Writes a benchmark's files below a folder; gives for each question that is asked the chance of guessing it."""

WRITERS: dict[str, Writer] = {
    "mme": general.mme,
    "mmbench_en": general.mmbench,
    "gqa": gqa.gqa,
    "seed": general.seed,
    "scienceqa": knowledge.scienceqa,
    "mmmu": knowledge.mmmu,
    "mathvista": knowledge.mathvista,
    "ai2d": knowledge.ai2d,
    "chartqa": ocr_chart.chartqa,
    "ocrbench": ocr_chart.ocrbench,
    "textvqa": ocr_chart.textvqa,
    "docvqa": ocr_chart.docvqa,
    "mmvp": vision.mmvp,
    "realworldqa": vision.realworldqa,
    "cvbench_2d": vision.cvbench_2d,
    "cvbench_3d": vision.cvbench_3d,
}
