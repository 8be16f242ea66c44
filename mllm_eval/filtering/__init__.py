"""Web images filtered by what can be read in them: a multimodal model answers one question about each of a corpus.

p(yes) is read from the first token's logits, one forward pass an image. A shard of the corpus is filtered whole or not
at all, so that a filter that was killed goes on and ends with the same bytes, on one machine or many. docs/filter.md
"""

from __future__ import annotations

from mllm_eval.filtering.asking import Question, filtering_model
from mllm_eval.filtering.corpus import Corpus, Shard, open_corpus
from mllm_eval.filtering.corpusrun import Filtered, Work, filter_corpus
from mllm_eval.filtering.deciding import Asked, Places
from mllm_eval.filtering.judging import Judge, Judgement
from mllm_eval.filtering.tally import Tally

__all__ = [
    "Asked",
    "Corpus",
    "Filtered",
    "Judge",
    "Judgement",
    "Places",
    "Question",
    "Shard",
    "Tally",
    "Work",
    "filter_corpus",
    "filtering_model",
    "open_corpus",
]
