"""Progress display on stderr. It silences messages of libraries about which a user can do nothing."""

from __future__ import annotations

import logging
import os
import warnings

from mllm_eval.pipeline.progressbar import listener
from mllm_eval.pipeline.reporter import Reporter

NOISY = ("transformers", "accelerate", "DeepSpeed", "deepspeed", "torch", "datasets", "huggingface_hub", "PIL")


def display() -> Reporter:
    """Return a progress display that suits stderr, and silence the logs and warnings of libraries.

    They stay visible if MLLM_EVAL_VERBOSE is set.
    """
    if "MLLM_EVAL_VERBOSE" not in os.environ:
        warnings.filterwarnings("ignore")
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.ERROR)
    reporter = listener()
    assert reporter is not None
    return reporter
