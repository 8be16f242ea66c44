"""Filters web images by what can be read in them: a multimodal model answers one yes-no question about each image.

p(yes) is computed from the logits of the first token, in one forward pass per image. A shard of the corpus is filtered
completely or not at all. A filter that was killed therefore resumes and ends with the same bytes, on one machine or
many. See docs/filter.md.
"""

from __future__ import annotations

from mllm_eval.filtering.asking import FilterQuestion, filtering_model
from mllm_eval.filtering.corpus import Corpus, Shard, open_corpus
from mllm_eval.filtering.corpusrun import Filtered, Work, filter_corpus
from mllm_eval.filtering.deciding import FilterSettings, Places
from mllm_eval.filtering.judging import Judge, Judgement
from mllm_eval.filtering.tally import Tally

__all__ = [
    "Corpus",
    "FilterQuestion",
    "FilterSettings",
    "Filtered",
    "Judge",
    "Judgement",
    "Places",
    "Shard",
    "Tally",
    "Work",
    "filter_corpus",
    "filtering_model",
    "open_corpus",
]
