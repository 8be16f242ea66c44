"""The command line's display: progress on stderr, and no word of a library that no user can act on."""

from __future__ import annotations

import logging
import os
import warnings

from mllm_eval.pipeline.progressbar import listener
from mllm_eval.pipeline.reporter import Reporter

NOISY = ("transformers", "accelerate", "DeepSpeed", "deepspeed", "torch", "datasets", "huggingface_hub", "PIL")


def display() -> Reporter:
    """The display that fits stderr. Library logs and warnings that no user can act on are silenced."""
    if "MLLM_EVAL_VERBOSE" not in os.environ:
        warnings.filterwarnings("ignore")
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.ERROR)
    reporter = listener()
    assert reporter is not None
    return reporter
